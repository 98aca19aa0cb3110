"""Trained weights that come with the package, as ``MODEL.WEIGHTS zoo://NAME``.

NAME is that of the config the model was trained with, ``facenet_lite0_384_36ep`` for instance. The
files are safetensors in float16; ``tools/publish_weights.py`` writes them. MODEL_ZOO.md says what
each reaches, and on what terms it may be used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

PREFIX = "zoo://"
WEIGHTS = Path(__file__).parent / "weights"


def names() -> list[str]:
    """Names of the trained models that are there."""
    return sorted(file.stem for file in WEIGHTS.glob("*.safetensors"))


class ZooHandler(PathHandler):
    """Gives the local file of ``zoo://NAME``."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        file = WEIGHTS / f"{path.removeprefix(PREFIX)}.safetensors"
        if not file.is_file():
            raise ValueError(f"{path}: the trained models that are there are {names()}")
        return str(file)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return (WEIGHTS / f"{path.removeprefix(PREFIX)}.safetensors").is_file()

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return PathManager.open(self._get_local_path(path), mode)


PathManager.register_handler(ZooHandler())
