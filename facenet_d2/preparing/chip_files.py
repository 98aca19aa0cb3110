"""Pixels of chips, read from rasters and written as PNG or GeoTIFF."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from affine import Affine
from PIL import Image

from ..errors import UserError
from ..files import replaced
from ..scenes.geo import gdal_settings, rasterio
from ..scenes.opening import open_dataset
from ..scenes.raster import Raster
from .chips import Chip, ChipJob, ChipSettings
from .patches import write_png

# Types of values that are kept in GeoTIFFs; all others become float32.
_KEPT_TYPES = ("uint8", "uint16", "int16")


class ChipPixels(NamedTuple):
    """Pixels of a chip.

    Attributes:
        values: ``(bands, height, width)`` as they are stored in the file.
        valid: ``(height, width)`` bool, pixels with data.
        labelled: ``(height, width)`` bool, pixels in the area of interest.
    """

    values: np.ndarray
    valid: np.ndarray
    labelled: np.ndarray


def stored_type(raster: Raster) -> np.dtype[Any]:
    """Return the type of the values in GeoTIFF chips: the raster's own if it needs no conversion.

    Values with scales or offsets, complex ones, and those of 32 bits or more become float32.
    """
    if raster.dtype == np.uint8:
        return np.dtype(np.uint8)
    with open_dataset(raster.path) as file:
        chosen = [band - 1 for band in raster.bands]
        types = {file.dtypes[i] for i in chosen}
        plain = all(file.scales[i] == 1 and file.offsets[i] == 0 for i in chosen)
    if plain and types <= set(_KEPT_TYPES):
        common = np.result_type(*types)
        if common.name in _KEPT_TYPES:
            return common
    return np.dtype(np.float32)


def read_chip(raster: Raster, chip: Chip, settings: ChipSettings, dtype: Any) -> ChipPixels:
    """Read the pixels of a chip as they are stored.

    Args:
        raster: the scene.
        chip: the chip.
        settings: settings of the chips.
        dtype: type of the values.
    """
    values, valid = raster.read(chip.window, within_area=not settings.keep_outside)
    labelled = valid
    if raster.area is not None and settings.keep_outside:
        labelled = raster.area.mask(chip.window)
    if settings.format == "png":
        values = settings.stretch.apply(values, valid)
    if dtype != np.float32:
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return ChipPixels(values.astype(dtype), valid, labelled)


def chip_type(raster: Raster, settings: ChipSettings) -> np.dtype[Any]:
    """Return the type of the values in the files of chips."""
    return np.dtype(np.uint8) if settings.format == "png" else stored_type(raster)


def write_chips(job: ChipJob) -> None:
    """Write the chips of a job that do not exist yet.

    Raises:
        UserError: if the scene cannot be read.
        OSError: if a file cannot be written.
    """
    todo = [chip for chip in job.chips if not (job.folder / chip.split / chip.name).is_file()]
    if not todo:
        return
    with job.site.open(job.settings) as raster:
        dtype = chip_type(raster, job.settings)
        for chip in todo:
            path = job.folder / chip.split / chip.name
            pixels = read_chip(raster, chip, job.settings, dtype)
            fills = dtype == np.uint8 and len(pixels.values) in (1, 3)
            if fills:
                for band, fill in zip(pixels.values, job.fill):
                    band[~pixels.valid] = fill
            if job.settings.format == "png":
                image = np.moveaxis(pixels.values, 0, -1)
                write_png(path, Image.fromarray(image[..., 0] if image.shape[2] == 1 else image))
            else:
                _write_tiff(path, pixels, chip, raster, masked=not fills)


def _write_tiff(path: Path, pixels: ChipPixels, chip: Chip, raster: Raster, masked: bool) -> None:
    values = pixels.values
    profile = {
        "driver": "GTiff",
        "count": len(values),
        "height": values.shape[1],
        "width": values.shape[2],
        "dtype": values.dtype.name,
        "crs": raster.crs,
        "transform": raster.transform @ Affine.translation(*chip.window[:2]),
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "deflate",
        "predictor": 3 if values.dtype.kind == "f" else 2,
        "photometric": "RGB" if values.dtype == np.uint8 and len(values) == 3 else "MINISBLACK",
        # Otherwise GDAL takes the second or fourth band for alpha.
        "alpha": "NO",
    }
    try:
        with (
            replaced(path) as temporary,
            gdal_settings(),
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(temporary, "w", **profile) as file,
        ):
            file.write(values)
            if masked and not pixels.valid.all():
                file.write_mask(pixels.valid)
    except rasterio.errors.RasterioError as error:
        raise UserError(f"{path} cannot be written ({error}).") from error
