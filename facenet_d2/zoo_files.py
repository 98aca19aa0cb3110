"""Files of the model zoo by name: the configs, and the weights of models trained with them.

The name of a config is its path in ``configs``, with or without ``.yaml``, for example
``NWPU-VHR10/facenet_lite0_384_36ep``. The folder can be omitted if no other folder contains a
config of this name. A trained model has the name of its config. Its weights, a file of safetensors
in float16, are written by ``tools/publish_weights.py`` and loaded with ``MODEL.WEIGHTS
zoo://NAME``. MODEL_ZOO.md lists results and licences.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

from .errors import UserError
from .paths import configs

PREFIX = "zoo://"
WEIGHTS = Path(__file__).parent / "model_zoo" / "weights"


class UnknownModelError(UserError, RuntimeError):
    """Raised for a name that the model zoo does not contain; Detectron2's raises RuntimeError."""


def config_names() -> list[str]:
    """Return the names of all configs that describe a model with its data and schedule."""
    files = (file.relative_to(configs()) for file in configs().rglob("*.yaml"))
    return sorted(
        file.with_suffix("").as_posix()
        for file in files
        # The others are parts of configs.
        if not file.name.startswith("Base-") and file.parts[0] != "models"
    )


def trained_names() -> list[str]:
    """Return the names of the trained models."""
    files = WEIGHTS.rglob("*.safetensors")
    return sorted(file.relative_to(WEIGHTS).with_suffix("").as_posix() for file in files)


def config_file(name: str) -> Path:
    """Return the file of a config, which may also be a part such as ``models/facenet``.

    Args:
        name: name of the config; ``configs/NAME.yaml``, the path in the checkout, is one as well.

    Raises:
        UnknownModelError: if there is no such config, or several have this name.
    """
    name = _short(name)
    file = configs() / f"{name}.yaml"
    if file.is_file() and ".." not in file.parts and not Path(name).is_absolute():
        return file
    return configs() / f"{_full_name(name, config_names(), 'config')}.yaml"


def trained_name(name: str) -> str:
    """Return the full name of a trained model.

    Args:
        name: name of the model or of its config.

    Raises:
        UnknownModelError: if there is no such model, or several have this name.
    """
    name, known = _short(name), trained_names()
    # Weights without a folder belong to the only config of their name.
    without_folder = name.rpartition("/")[2]
    if name not in known and _namesakes(without_folder, config_names()) == [name]:
        name = without_folder
    return _full_name(name, known, "trained model")


def weights_file(name: str) -> Path:
    """Return the weights of a trained model; see :func:`trained_name`."""
    return WEIGHTS / f"{trained_name(name)}.safetensors"


def _short(name: str) -> str:
    return name.removeprefix(PREFIX).removeprefix("configs/").removesuffix(".yaml")


def _namesakes(name: str, names: Sequence[str]) -> list[str]:
    return [other for other in names if other.rpartition("/")[2] == name]


def _full_name(name: str, names: Sequence[str], kind: str) -> str:
    """Return the name among ``names`` that equals ``name``, or only lacks its folder."""
    found = [name] if name in names else _namesakes(name, names)
    if len(found) == 1:
        return found[0]
    if found:
        raise UnknownModelError(
            f"{kind}s of the model zoo called {name} are {', '.join(found)}; add the folder."
        )
    similar = ", ".join(names if len(names) < 10 else get_close_matches(name, names))
    hint = f"; similar names: {similar}" if similar else ""
    raise UnknownModelError(f"{kind} {name[:300]!r} is not in the model zoo{hint}.")


class ZooHandler(PathHandler):
    """Resolves ``zoo://NAME`` to a local file."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return str(weights_file(path.removeprefix(PREFIX)))

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        try:
            weights_file(path.removeprefix(PREFIX))
        except UnknownModelError:
            return False
        return True

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return PathManager.open(self._get_local_path(path), mode)


PathManager.register_handler(ZooHandler())
