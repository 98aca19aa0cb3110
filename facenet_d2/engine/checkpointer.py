"""Saving and loading of checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from safetensors.torch import load_file

from ..errors import UserError
from ..files import replaced, write_whole
from ..weights import PRETRAINED, bottom_up_parameters
from .cli import VALUE_ERRORS

BEST = "model_best"
"""Name of the checkpoint with the best evaluation; runs are not resumed from it."""


class CheckpointError(ValueError):
    """Raised if a checkpoint cannot be read or belongs to another model."""


class ModelCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic writes, rejecting checkpoints of other models.

    If a run is killed while it saves, or the disk is full, the previous checkpoint and the tag in
    ``last_checkpoint`` stay valid.

    Attributes:
        complete: whether a checkpoint must contain every parameter of the model; otherwise one
            parameter is enough.
    """

    complete = False

    def _load_file(self, filename: str) -> Any:
        """Read a checkpoint of Detectron2 or, in safetensors format, of the model zoo."""
        try:
            if not filename.endswith(".safetensors"):
                return super()._load_file(filename)
            state = load_file(filename)
        except Exception as error:  # Damaged files make torch raise errors of many types.
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise CheckpointError(reason) from error
        return {
            "model": {
                name: value.float() if value.is_floating_point() else value
                for name, value in state.items()
            }
        }

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if not isinstance(checkpoint.get("model"), dict):
            raise CheckpointError('it has no model state under "model"')
        result = super()._load_model(checkpoint)
        wrong = [*result.missing_keys, *(key for key, *_ in result.incorrect_shapes)]
        total = len(self.model.state_dict())
        if wrong and (self.complete or len(wrong) == total):
            raise CheckpointError(
                f"{len(wrong)} of the model's {total} parameters are missing or have another "
                f"shape: {_some(wrong)}"
            )
        # Randomly initialised layers between pretrained ones would go unnoticed.
        if str(checkpoint.get("__author__", "")).startswith(PRETRAINED):
            missing = bottom_up_parameters(wrong)
            if missing:
                raise CheckpointError(
                    f"{len(missing)} parameters of the model's bottom-up network are missing or "
                    f"have another shape: {_some(missing)}"
                )
        # Detectron2's checkpoints may contain these two, which the config sets here.
        foreign = [k for k in result.unexpected_keys if k not in ("pixel_mean", "pixel_std")]
        if foreign and self.complete:
            raise CheckpointError(
                f"{len(foreign)} of its parameters are not in the model: {_some(foreign)}"
            )
        return result

    def save(self, name: str, **kwargs: Any) -> None:
        """Save model, optimizer and scheduler, and tag the checkpoint as the last one.

        Args:
            name: file name without ``.pth``. ``model_best`` is not tagged.
            kwargs: further entries of the checkpoint.
        """
        if not (self.save_dir and self.save_to_disk):
            return
        content = {
            "model": self.model.state_dict(),
            **{key: value.state_dict() for key, value in self.checkpointables.items()},
            **kwargs,
        }
        file = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", file)
        with replaced(file) as temporary:
            torch.save(content, temporary)
        if name != BEST:
            self.tag_last_checkpoint(file.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Record the checkpoint from which a run is resumed."""
        write_whole(Path(self.save_dir) / "last_checkpoint", last_filename_basename)


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def load_checkpoint(
    checkpointer: ModelCheckpointer,
    cfg: CfgNode,
    *,
    resume: bool = False,
    complete: bool = False,
) -> None:
    """Load the last checkpoint of ``OUTPUT_DIR`` if resuming, otherwise ``MODEL.WEIGHTS``.

    Args:
        checkpointer: checkpointer of the model.
        cfg: config of the model.
        resume: whether to resume the run in ``OUTPUT_DIR``.
        complete: whether the weights must contain the whole model, which is always required when
            resuming; otherwise a part is enough, for example a backbone.

    Raises:
        UserError: If the weights cannot be downloaded or read, or belong to another model.
    """
    resuming = resume and checkpointer.has_checkpoint()
    path = checkpointer.get_checkpoint_file() if resuming else cfg.MODEL.WEIGHTS
    checkpointer.complete = complete or resuming
    try:
        if path:
            _fetch(checkpointer, path)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    except VALUE_ERRORS as error:
        remedy = (
            f"remove {cfg.OUTPUT_DIR}/last_checkpoint to start the run from the beginning"
            if resuming
            else "set MODEL.WEIGHTS to a checkpoint of this model, or to '' to train from scratch"
        )
        reason = " ".join(str(error).split())[:500] or type(error).__name__
        raise UserError(f"weights {path} cannot be loaded ({reason}); {remedy}.") from error


def _fetch(checkpointer: ModelCheckpointer, path: str) -> None:
    """Download or convert weights named by a URL; iopath caches the result."""
    try:
        local = checkpointer.path_manager.get_local_path(path)
    except Exception as error:  # Network, archive and package errors of many types.
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise CheckpointError(reason) from error
    if not Path(local).is_file():
        raise CheckpointError("the file does not exist")
