"""Packages of the optional extra ``[geo]``."""

from __future__ import annotations

import importlib


def require_geo() -> None:
    """Check that the packages of the extra ``[geo]`` are installed.

    Raises:
        UserError: If rasterio or pyogrio is missing.
    """
    importlib.import_module(f"{__package__}.geo")
