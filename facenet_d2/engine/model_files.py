"""Where a model is found: in the model zoo, in the folder of a training run, or in files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..errors import UserError
from ..zoo_files import UnknownModelError, config_file, trained_names, weights_file
from .checkpointer import BEST, resumable_checkpoints

WEIGHTS_SUFFIX = ".safetensors"
"""Suffix of weights in the model zoo, which contain their config."""


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model.

    Attributes:
        config: config file, or weights that contain a config.
        weights: checkpoint or weights; None for those that the config names.
    """

    config: Path
    weights: Path | None


def find_config(source: str | Path) -> Path:
    """Return the file of a config.

    Args:
        source: config file, folder of a training run, weights that contain their config, or name of
            a config in the model zoo.

    Raises:
        UserError: if there is no such file, or its folder has no config.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.yaml").is_file():
            raise UserError(
                f"folder {path} contains no config.yaml; name a config file, or the OUTPUT_DIR of "
                "a training run."
            )
        return path / "config.yaml"
    if path.is_file():
        return path
    try:
        return config_file(str(source))
    except UnknownModelError as error:
        if str(source) in trained_names():
            return weights_file(str(source))
        raise UserError(
            f"config file {source} does not exist or is not a file, and {error}"
        ) from error


def find_model(source: str | Path, *, with_weights: bool = True) -> ModelFiles:
    """Return the files of a trained model.

    Args:
        source: one of

            - name of a trained model in the model zoo;
            - folder of a training run, its ``OUTPUT_DIR``: the best checkpoint, or the last one if
              the run was not evaluated;
            - checkpoint in such a folder;
            - weights that contain their config, as those of the model zoo do;
            - config file, whose ``MODEL.WEIGHTS`` are the weights.
        with_weights: whether weights are required; if not, a config is enough.

    Raises:
        UserError: if there is no such model.
    """
    path = Path(source).expanduser()
    if path.suffix == ".onnx":
        raise UserError(
            f"{path} is an exported model; use facenet_d2.runtime.OnnxPredictor, or --weights on "
            "the command line."
        )
    if path.is_file() and path.suffix == ".pth":
        return ModelFiles(find_config(path.parent), path)
    if path.is_file() or not with_weights:
        config = find_config(source)
        return ModelFiles(config, config if config.suffix == WEIGHTS_SUFFIX else None)
    if path.is_dir():
        return ModelFiles(find_config(path), _checkpoint(path))
    try:
        weights = weights_file(str(source))
    except UnknownModelError as error:
        raise UserError(_without_model(source, error)) from error
    return ModelFiles(weights, weights)


def _without_model(source: str | Path, error: UnknownModelError) -> str:
    try:
        config = config_file(str(source))
    except UnknownModelError:
        return f"config file {source} does not exist or is not a file, and {error}"
    return f"{error} For the config {config}, name a checkpoint of your own in MODEL.WEIGHTS."


def _checkpoint(folder: Path) -> Path:
    """Return the best checkpoint of a run, or its last one."""
    last = resumable_checkpoints(folder)
    for file in (folder / f"{BEST}.pth", *last, folder / "model_final.pth"):
        if file.is_file():
            return file
    raise UserError(f"folder {folder} contains no checkpoint of its run, such as {BEST}.pth.")


def stored_config(weights: Path) -> str:
    """Return the text of the config that weights contain.

    Raises:
        UserError: if the file cannot be read or contains no config.
    """
    try:
        with safe_open(weights, "pt") as file:
            text = (file.metadata() or {}).get("config", "")
    except (SafetensorError, OSError) as error:
        raise UserError(f"weights {weights} cannot be read ({error}).") from error
    if not text:
        raise UserError(
            f"weights {weights} contain no config, unlike those that tools/publish_weights.py "
            "writes; name a config file, and the weights in MODEL.WEIGHTS."
        )
    return text
