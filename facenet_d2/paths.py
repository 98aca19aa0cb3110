"""Configs and commands: in the checkout next to the package, or in the package if it is installed.

``setup.py`` copies them into the wheel.
"""

from __future__ import annotations

import os
from pathlib import Path

from .errors import UserError

PACKAGE = Path(__file__).resolve().parent
REPOSITORY = PACKAGE.parent


def configs() -> Path:
    """Return the folder of the configs.

    Raises:
        UserError: if it does not exist.
    """
    return _find("configs", PACKAGE / "model_zoo" / "configs")


def train_net() -> Path:
    """Return ``train_net.py``.

    Raises:
        UserError: if it does not exist.
    """
    return _find("train_net.py", PACKAGE / "commands" / "train_net.py")


def _find(name: str, installed: Path) -> Path:
    if installed.exists():
        return installed
    path = REPOSITORY / name
    if not path.exists():
        raise UserError(
            f"neither {installed} nor {path} exists: facenet_d2 is not installed completely. "
            "Install its wheel, or the checkout with pip install --editable."
        )
    return path


def check_writable(folder: str | Path) -> Path:
    """Create a folder and check that it is writable.

    Raises:
        UserError: If it is not.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write_probe_{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"output folder {folder} is not writable ({error.strerror}); choose another."
        ) from error
    return folder
