"""Trained models of this package, loaded with ``MODEL.WEIGHTS zoo://NAME``.

NAME is the name of the config that the model was trained with. The files are safetensors in
float16, written by ``tools/publish_weights.py``. MODEL_ZOO.md lists their results and licences.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

PREFIX = "zoo://"
WEIGHTS = Path(__file__).parent / "weights"


def names() -> list[str]:
    """Return the names of the available models."""
    return sorted(file.stem for file in WEIGHTS.glob("*.safetensors"))


class ZooHandler(PathHandler):
    """Resolves ``zoo://NAME`` to a local file."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        file = WEIGHTS / f"{path.removeprefix(PREFIX)}.safetensors"
        if not file.is_file():
            raise ValueError(f"{path} does not exist; available models are {names()}")
        return str(file)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return (WEIGHTS / f"{path.removeprefix(PREFIX)}.safetensors").is_file()

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return PathManager.open(self._get_local_path(path), mode)


PathManager.register_handler(ZooHandler())
