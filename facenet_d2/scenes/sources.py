"""Names of rasters: files, folders, globs, URLs, and other names that GDAL opens."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..inputs import find_files

RASTER_SUFFIXES = (
    *(".tif", ".tiff", ".vrt", ".jp2", ".j2k", ".img", ".ntf", ".nc", ".bil", ".grd", ".hgt"),
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp"),
)
# Folders that are themselves a raster.
FOLDER_SUFFIXES = (".zarr", ".safe")

# https://..., /vsicurl/..., NETCDF:"file.nc":variable, or the XML of a VRT.
_GDAL_NAME = re.compile(r"/vsi\w+/|\w+://|[A-Z][A-Z0-9_]+:|\s*<VRTDataset")
_URL = re.compile(r"(?:/vsicurl/)?(https?://.*)", re.IGNORECASE)


def find_rasters(patterns: Sequence[str], option: str = "--input") -> list[str]:
    """Expand files, folders and glob patterns to a list of rasters without duplicates.

    A folder is replaced by the rasters in it, sorted by name; its other files are ignored. URLs and
    names with a prefix of GDAL, such as ``s3://``, ``/vsizip/`` or ``NETCDF:``, are returned as
    they are.

    Args:
        patterns: files, folders, glob patterns, URLs, and names that GDAL opens.
        option: command-line option that the patterns were given to, for error messages.

    Raises:
        UserError: if a pattern matches nothing, or a folder is not readable or contains no rasters.
    """
    found: list[str] = []
    for pattern in patterns:
        if is_gdal_name(pattern):
            found.append(pattern)
        else:
            files = find_files(
                [pattern],
                option,
                kind="rasters",
                suffixes=RASTER_SUFFIXES,
                folder_suffixes=FOLDER_SUFFIXES,
            )
            found.extend(map(str, files))
    return list(dict.fromkeys(found))


def is_gdal_name(name: str) -> bool:
    """Return whether a name is a URL or has a prefix that only GDAL understands."""
    return _GDAL_NAME.match(name) is not None


def url_of(name: str) -> str | None:
    """Return the http or https URL that a name refers to, or None."""
    match = _URL.fullmatch(name)
    return match[1] if match else None


def public_name(name: str) -> str:
    """Return a name for messages and metadata, without the credentials that a URL may contain."""
    if "://" not in name:
        return name
    return re.sub(r"(://)[^/@]*@", r"\1", name.partition("?")[0])
