"""Opening of rasters with GDAL, and georeferencing by ground control points or RPC."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .geo import GDAL_ERRORS, gdal_settings, known_crs, rasterio, reason
from .sources import FOLDER_SUFFIXES, is_gdal_name, public_name

logger = logging.getLogger(__name__)


def open_dataset(path: str, **options: Any) -> Any:
    """Open a raster with rasterio.

    Args:
        path: a file, a URL, or another name that GDAL opens.
        options: options of the format's driver.

    Raises:
        UserError: if the raster is missing, cannot be reached, or is not a raster that the
            installed GDAL reads, or consists of several rasters.
    """
    name = public_name(path)
    is_file = not is_gdal_name(path)
    if is_file and not Path(path).exists():
        raise UserError(f"{name}: no such file.")
    if is_file and Path(path).is_dir() and Path(path).suffix.lower() not in FOLDER_SUFFIXES:
        raise UserError(f"{name} is a folder, not a raster.")
    try:
        with gdal_settings(), warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            dataset = rasterio.open(path, **options)
    except GDAL_ERRORS as error:
        raise UserError(_opening_problem(path, name, is_file, error)) from error
    if dataset.count == 0:
        parts = dataset.subdatasets
        dataset.close()
        if parts:
            raise UserError(
                f"{name} consists of {len(parts)} rasters; name one of them: "
                f"{', '.join(parts[:8])}{', ...' if len(parts) > 8 else ''}"
            )
        raise UserError(f"{name} contains no bands.")
    return dataset


def _opening_problem(path: str, name: str, is_file: bool, error: BaseException) -> str:
    # GDAL repeats the name, with the credentials that a URL may contain.
    why = reason(error).replace(path, name)
    if not is_file:
        return f"{name} cannot be opened: {why}."
    suffix = Path(path).suffix.lower().lstrip(".")
    known = rasterio.drivers.raster_driver_extensions()
    hint = ""
    if suffix and suffix not in known:
        hint = f"; the installed GDAL may lack a driver for .{suffix} files: convert it to GeoTIFF"
    return f"{name} is not a raster that GDAL can read: {why}{hint}."


def place(dataset: Any, path: str) -> tuple[Any, Any, Any]:
    """Georeference the pixels of a raster.

    A raster with only ground control points or rational polynomial coefficients (RPC) is warped: to
    the reference system of its points if that is projected, in whatever unit, otherwise to a UTM
    zone; pixels are square on the ground. RPC are evaluated at their height offset. Pixels outside
    of the warped raster are invalid. Other rasters are left as they are.

    Args:
        dataset: an open raster.
        path: its name.

    Returns:
        the dataset or a warped version, its affine transform, and its coordinate reference system,
        which is None for a raster without one. Without any place, the transform is the identity.

    Raises:
        UserError: if the raster cannot be warped.
    """
    name = public_name(path)
    if not dataset.transform.is_identity:
        crs = known_crs(dataset.crs)
        if crs is None:
            logger.warning(
                f"{name} has no coordinate reference system; results have the coordinates of its "
                "own transform."
            )
        return dataset, dataset.transform, crs
    options: dict[str, Any] = {}
    points, crs = dataset.gcps
    rpc = dataset.rpcs
    if points and crs:
        method = f"{len(points)} ground control points"
        options["SRC_METHOD"] = "GCP_POLYNOMIAL"
        if not crs.is_projected:
            middle = points[len(points) // 2]
            crs = _utm(middle.x, middle.y)
    elif rpc is not None:
        method = "RPC"
        crs = _utm(rpc.long_off, rpc.lat_off)
        options.update(SRC_METHOD="RPC", RPC_HEIGHT=rpc.height_off)
    else:
        logger.warning(f"{name} is not georeferenced; results have pixel coordinates.")
        return dataset, dataset.transform, None
    if dataset.nodata is None and alpha_band(dataset) is None:
        options["add_alpha"] = True
    # By default, GDAL chooses for each window an overview of the file, the scale of the filter, and
    # an approximation of the coordinates: windows would not agree where they overlap.
    dataset = open_dataset(path, overview_level="NONE")
    options.update(tolerance=0, XSCALE=1, YSCALE=1)
    kinds = rasterio.enums.Resampling
    kind = kinds.bilinear if palette_of(dataset) is None else kinds.nearest
    try:
        with gdal_settings():
            warped = rasterio.vrt.WarpedVRT(dataset, crs=crs, resampling=kind, **options)
    except (*GDAL_ERRORS, ValueError) as error:
        raise UserError(f"{name} cannot be warped by its {method}: {reason(error)}.") from error
    logger.info(f"{name} is warped to {crs.to_string()} by its {method}.")
    return warped, warped.transform, warped.crs


def _utm(longitude: float, latitude: float) -> Any:
    """Return the UTM zone of a point, or the polar system UPS beyond 84 degrees."""
    south = 100 if latitude < 0 else 0
    zone = int((longitude + 180) % 360 // 6) + 1 if abs(latitude) <= 84 else 61
    return rasterio.crs.CRS.from_epsg(32600 + south + zone)


def alpha_band(dataset: Any) -> int | None:
    """Return the number of the alpha band, or None."""
    alpha = rasterio.enums.ColorInterp.alpha
    return next((i for i, c in enumerate(dataset.colorinterp, 1) if c == alpha), None)


def palette_of(dataset: Any) -> np.ndarray | None:
    """Return ``(256, 4)`` uint8, the colour and alpha of each value, or None without a palette."""
    palette = rasterio.enums.ColorInterp.palette
    if dataset.colorinterp[0] != palette or dataset.dtypes[0] != "uint8":
        return None
    colours = np.zeros((256, 4), np.uint8)
    for value, colour in dataset.colormap(1).items():
        colours[value] = colour
    return colours
