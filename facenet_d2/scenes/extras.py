"""Packages of the optional extra ``[geo]``."""

from __future__ import annotations

import importlib

from ..errors import UserError


def require_geo() -> None:
    """Check that the packages of the extra ``[geo]`` are installed.

    Raises:
        UserError: If rasterio or pyogrio is missing.
    """
    for package in ("rasterio", "pyogrio"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserError(
                f"{package} cannot be imported ({error}); scenes and vector files need it: "
                "pip install 'facenet_d2[geo]', or pip install -e '.[geo]' in the checkout."
            ) from error
