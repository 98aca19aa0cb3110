"""Files of the checkout that an installed package does not contain."""

from __future__ import annotations

from pathlib import Path

from .errors import UserError

REPOSITORY = Path(__file__).resolve().parents[1]


def configs() -> Path:
    """Return the folder ``configs``.

    Raises:
        UserError: if the package was installed without the checkout.
    """
    return _in_checkout("configs")


def train_net() -> Path:
    """Return ``train_net.py``.

    Raises:
        UserError: if the package was installed without the checkout.
    """
    return _in_checkout("train_net.py")


def _in_checkout(name: str) -> Path:
    path = REPOSITORY / name
    if not path.exists():
        raise UserError(
            f"{path} does not exist: facenet_d2 is installed without its checkout. Clone the "
            "repository and install it with pip install --editable."
        )
    return path
