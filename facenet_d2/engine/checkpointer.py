"""Saving and loading of checkpoints."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from safetensors.torch import load_file

from ..errors import UserError
from ..files import disk_errors_of_torch, replaced, write_whole
from ..unpickling import load_arrays, load_tensors
from ..weights import PRETRAINED, bottom_up_parameters, inflate_stem, refine_mask_features
from .cli import VALUE_ERRORS

logger = logging.getLogger(__name__)

BEST = "model_best"
"""Name of the checkpoint with the best evaluation; runs are not resumed from it."""

# File names of Detectron2's periodic checkpoints.
PERIODIC = re.compile(r"model_(\d+|final)\.pth")


class CheckpointError(ValueError):
    """Raised if a checkpoint cannot be read or belongs to another model."""


class DamagedCheckpointError(CheckpointError):
    """Raised if a checkpoint cannot be read, or contains infinite or NaN weights."""


def resumable_checkpoints(folder: str | Path) -> list[Path]:
    """Return the checkpoints that a run can be resumed from, the best one first.

    The first is the one tagged in ``last_checkpoint``. The others, newest first, are alternatives
    if it is missing or damaged. Without ``last_checkpoint`` there are none, so a run whose file is
    removed starts from the beginning.
    """
    folder = Path(folder)
    tag = folder / "last_checkpoint"
    if not tag.is_file():
        return []
    files = [f for f in folder.glob("model_*.pth") if PERIODIC.fullmatch(f.name)]
    files.sort(key=lambda f: f.stat().st_mtime_ns, reverse=True)
    # Only a name in this folder counts, not a path to a file from elsewhere.
    name = tag.read_text(errors="replace").strip()
    return sorted(files, key=lambda f: f.name != name)


class ModelCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic writes, rejecting checkpoints of other models.

    If a run is killed while it saves, the disk is full, or the power fails, the previous checkpoint
    and the tag in ``last_checkpoint`` stay valid.

    Attributes:
        complete: whether a checkpoint must contain every parameter of the model; otherwise one
            parameter is enough.
        image_format: ``INPUT.FORMAT``, the order of the colours that the weights expect.
    """

    complete = False
    image_format = "BGR"

    def _load_file(self, filename: str) -> Any:
        """Read a checkpoint or pretrained weights, without executing code in the file."""
        try:
            return self._read(Path(filename))
        except Exception as error:  # Damaged files make torch raise errors of many types.
            raise DamagedCheckpointError(_typed_reason(error)) from error

    @staticmethod
    def _read(file: Path) -> dict[str, Any]:
        if file.suffix == ".safetensors":
            state = load_file(file)
            return {
                "model": {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
            }
        if file.suffix == ".pkl":
            content = load_arrays(file)
            if "model" in content and "__author__" in content:
                return content
            # Weights of Caffe2; those of detectors are under "blobs".
            blobs = content.get("blobs", content)
            state = {k: v for k, v in blobs.items() if not k.endswith("_momentum")}
            return {"model": state, "__author__": "Caffe2", "matching_heuristics": True}
        content = load_tensors(file)
        if file.suffix == ".pyth":
            # Weights of pycls.
            state = content["model_state"]
            state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
            return {"model": state, "__author__": "pycls", "matching_heuristics": True}
        return content if "model" in content else {"model": content}

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if not isinstance(checkpoint.get("model"), dict):
            raise CheckpointError('it has no model state under "model"')
        _check_finite(checkpoint["model"])
        if not self.complete:
            inflate_stem(checkpoint["model"], self.model, self.image_format)
            refine_mask_features(checkpoint["model"], self.model)
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
        with (
            replaced(file, durable=True) as temporary,
            disk_errors_of_torch(),
            temporary.open("wb") as stream,
        ):
            torch.save(content, stream)
        if name != BEST:
            self.tag_last_checkpoint(file.name)

    def has_checkpoint(self) -> bool:
        """Return whether there is a checkpoint to resume from."""
        return bool(resumable_checkpoints(self.save_dir))

    def get_checkpoint_file(self) -> str:
        """Return the checkpoint to resume from; empty if there is none."""
        return str(next(iter(resumable_checkpoints(self.save_dir)), ""))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Record the checkpoint from which a run is resumed."""
        write_whole(Path(self.save_dir) / "last_checkpoint", last_filename_basename, durable=True)


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def _check_finite(state: dict[str, Any]) -> None:
    for name, value in state.items():
        tensor = torch.as_tensor(value)
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise DamagedCheckpointError(f"{name} has infinite or NaN values")


def load_checkpoint(
    checkpointer: ModelCheckpointer,
    cfg: CfgNode,
    *,
    resume: bool = False,
    complete: bool = False,
) -> None:
    """Load the last checkpoint of ``OUTPUT_DIR`` if resuming, otherwise ``MODEL.WEIGHTS``.

    If ``complete`` is False, the stem of three-channel weights is inflated to the channels of the
    model's images, and a mask head of stride 4 becomes one of stride 2, see
    :func:`~facenet_d2.weights.inflate_stem` and :func:`~facenet_d2.weights.refine_mask_features`.

    Args:
        checkpointer: checkpointer of the model.
        cfg: config of the model.
        resume: whether to resume the run in ``OUTPUT_DIR``.
        complete: whether the weights must contain the whole model, which is always required when
            resuming; otherwise a part is enough, for example a backbone.

    Raises:
        UserError: If the weights cannot be downloaded or read, or belong to another model.
    """
    candidates = resumable_checkpoints(checkpointer.save_dir) if resume else []
    checkpointer.complete = complete or bool(candidates)
    for number, file in enumerate(candidates):
        try:
            checkpointer.load(str(file))
            return
        except DamagedCheckpointError as error:
            if file == candidates[-1]:
                raise UserError(f"checkpoint {file} cannot be loaded ({error}).") from error
            logger.warning(
                "Checkpoint %s cannot be loaded (%s); resuming from %s instead.",
                file,
                error,
                candidates[number + 1].name,
            )
        except VALUE_ERRORS as error:
            raise UserError(
                f"checkpoint {file} cannot be resumed with this config ({_reason(error)}); use the "
                f"settings in {file.with_name('config.yaml')}, or another OUTPUT_DIR."
            ) from error
    path = cfg.MODEL.WEIGHTS
    checkpointer.image_format = cfg.INPUT.FORMAT
    try:
        if path:
            _fetch(checkpointer, path)
        checkpointer.load(path, checkpointables=[])
    except VALUE_ERRORS as error:
        raise UserError(
            f"weights {path} cannot be loaded ({_reason(error)}); set MODEL.WEIGHTS to a "
            "checkpoint of this model, or to '' to train from scratch."
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


def _typed_reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _fetch(checkpointer: ModelCheckpointer, path: str) -> None:
    """Download or convert weights named by a URL; iopath caches the result."""
    try:
        local = checkpointer.path_manager.get_local_path(path)
    except Exception as error:  # Network, archive and package errors of many types.
        raise CheckpointError(_typed_reason(error)) from error
    if not Path(local).is_file():
        raise CheckpointError("the file does not exist")
