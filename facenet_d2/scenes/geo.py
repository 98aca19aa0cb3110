"""rasterio and pyogrio, the packages of the extra ``[geo]``, and the settings of GDAL.

Modules import both packages from here, so that a missing one is reported in one place. Importing
this module raises a :class:`UserError` if one is missing.
"""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager
from typing import Any

from ..errors import UserError

try:
    import pyogrio
    import pyogrio.errors
    import pyogrio.raw
    import rasterio
    import rasterio.env
    import rasterio.errors
    import rasterio.features
    import rasterio.vrt
    import rasterio.warp
    from rasterio._err import CPLE_BaseError
except ImportError as error:
    raise UserError(
        f"Geo-referenced scenes need rasterio and pyogrio ({error}); install them with: "
        "pip install 'facenet_d2[geo]'"
    ) from error

__all__ = [
    "GDAL_ERRORS",
    "gdal_settings",
    "known_crs",
    "pyogrio",
    "rasterio",
    "reason",
    "reserve_block_cache",
]

# Python prints warnings of loggers that nobody handles; GDAL's become the reasons of a UserError.
logging.getLogger("rasterio").addHandler(logging.NullHandler())

# What rasterio raises for files that GDAL cannot open, read, warp or transform.
GDAL_ERRORS = (
    rasterio.errors.RasterioError,
    rasterio.errors.CRSError,
    CPLE_BaseError,
    OSError,
)

# GDAL would wait for a server without limit.
_NETWORK_SETTINGS = {
    "GDAL_HTTP_CONNECTTIMEOUT": 20,
    "GDAL_HTTP_LOW_SPEED_TIME": 60,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1,
    "GDAL_HTTP_MAX_RETRY": 3,
    "GDAL_HTTP_RETRY_DELAY": 1,
}
_MIN_BLOCK_CACHE = 64 << 20

_block_cache = _MIN_BLOCK_CACHE


def gdal_settings() -> AbstractContextManager[Any]:
    """Return a context for calls of rasterio, with limits of time for remote files.

    Settings that the user has made, in the environment or by ``rasterio.Env``, have precedence.
    """
    current = rasterio.env.getenv() if rasterio.env.hasenv() else {}
    settings = {
        key: value
        for key, value in _NETWORK_SETTINGS.items()
        if key not in os.environ and key not in current
    }
    environment: AbstractContextManager[Any] = rasterio.Env(**settings)
    return environment


def reserve_block_cache(size: int) -> bool:
    """Let GDAL keep decoded blocks of at least ``size`` bytes, within a quarter of the memory.

    GDAL's own limit is 5 % of the memory: too little for the rows of a wide scene on a small
    machine, where each strip would be decoded once for each tile, and a lot on a large one. The
    limit is global and is never lowered again. A ``GDAL_CACHEMAX`` of the user has precedence.

    Returns:
        whether so much memory is available.
    """
    global _block_cache
    if "GDAL_CACHEMAX" in os.environ or (
        rasterio.env.hasenv() and "GDAL_CACHEMAX" in rasterio.env.getenv()
    ):
        return True
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    _block_cache = max(_block_cache, min(size, limit))
    rasterio.env.set_gdal_config("GDAL_CACHEMAX", _block_cache)
    return size <= limit


def known_crs(crs: Any) -> Any:
    """Return a coordinate reference system as ``rasterio.crs.CRS``, or None if it is unknown.

    Args:
        crs: a system, its text, or None. GeoPackages without a system name one that is "undefined".

    Raises:
        rasterio.errors.CRSError: if the text is not a reference system.
    """
    if not crs:
        return None
    crs = rasterio.crs.CRS.from_user_input(crs)
    text = crs.to_wkt()
    return None if not text or '"Undefined ' in text else crs


def reason(error: BaseException) -> str:
    """Return GDAL's description of an error without line breaks and full stop."""
    # The message of a failed read only refers to its cause.
    cause = error.__cause__ or error
    text = getattr(cause, "errmsg", None) or str(cause) or type(cause).__name__
    return " ".join(text.split()).rstrip(".")
