"""Checkpoints: written whole or not at all, and loaded into the model they are of."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..errors import UserError
from ..weights import PRETRAINED, bottom_up_parameters


class ModelCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, which writes beside and renames, and refuses another model's file.

    A run that is killed, or whose disk is full, while it saves keeps the checkpoint of the same
    name that was there.

    Attributes:
        complete: whether a file must have every parameter of the model; otherwise one is enough.
    """

    complete = False

    def _load_file(self, filename: str) -> Any:
        """Also reads safetensors, as the model zoo's files are."""
        if not filename.endswith(".safetensors"):
            return super()._load_file(filename)
        return {
            "model": {
                name: value.float() if value.is_floating_point() else value
                for name, value in load_file(filename).items()
            }
        }

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        result = super()._load_model(checkpoint)
        wrong = [*result.missing_keys, *(key for key, *_ in result.incorrect_shapes)]
        everything = len(self.model.state_dict())
        if wrong and (self.complete or len(wrong) == everything):
            raise ValueError(
                f"{len(wrong)} of the model's {everything} parameters are not in it, or of another "
                f"shape: {_some(wrong)}"
            )
        # Weights of a bottom-up network must cover all of it: layers at random between pretrained
        # ones are easily overlooked.
        if str(checkpoint.get("__author__", "")).startswith(PRETRAINED):
            left = bottom_up_parameters(wrong)
            if left:
                raise ValueError(
                    f"{len(left)} parameters of the model's bottom-up network are not in it, or of "
                    f"another shape: {_some(left)}"
                )
        # Some checkpoints of Detectron2's have these two, which come from the config.
        foreign = [k for k in result.unexpected_keys if k not in ("pixel_mean", "pixel_std")]
        if foreign and self.complete:
            raise ValueError(
                f"{len(foreign)} of its parameters are not the model's: {_some(foreign)}"
            )
        return result

    def save(self, name: str, **kwargs: Any) -> None:
        """
        Args:
            name: of the checkpoint, without ``.pth``.
            kwargs: saved with it.
        """
        if not (self.save_dir and self.save_to_disk):
            return
        beside = Path(self.save_dir) / f"{name}.new.pth"
        previous = self.get_checkpoint_file() if self.has_checkpoint() else None
        try:
            super().save(beside.stem, **kwargs)
            beside.replace(beside.with_name(f"{name}.pth"))
            self.tag_last_checkpoint(f"{name}.pth")
        except BaseException:
            beside.unlink(missing_ok=True)
            if previous is not None:
                self.tag_last_checkpoint(Path(previous).name)
            raise


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


# What torch, pickle, iopath and Detectron2 raise for files that are missing, cut or something else.
LOADING_ERRORS = (
    AssertionError,
    AttributeError,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)


def load_checkpoint(
    checkpointer: ModelCheckpointer,
    cfg: CfgNode,
    *,
    resume: bool = False,
    complete: bool = False,
) -> None:
    """Load the last checkpoint of ``OUTPUT_DIR`` when resuming, else ``MODEL.WEIGHTS``.

    Args:
        checkpointer: of the model.
        cfg: its config.
        resume: continue the run in ``OUTPUT_DIR``.
        complete: the weights must be those of the whole model, as when resuming; otherwise some of
            it is enough, a backbone for example.

    Raises:
        UserError: where the weights cannot be fetched or read, or are not this model's.
    """
    resuming = resume and checkpointer.has_checkpoint()
    path = checkpointer.get_checkpoint_file() if resuming else cfg.MODEL.WEIGHTS
    checkpointer.complete = complete or resuming
    try:
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    except LOADING_ERRORS as error:
        way_out = (
            f"remove {cfg.OUTPUT_DIR}/last_checkpoint to start the run anew"
            if resuming
            else "set MODEL.WEIGHTS to a checkpoint of this model, or '' to start from scratch"
        )
        raise UserError(
            f"weights {path} cannot be loaded ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}); {way_out}."
        ) from error
