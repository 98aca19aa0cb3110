"""Rasters of any kind, read in windows of their working grid."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .area import Area, AreaOnGrid, file_of_area
from .geo import GDAL_ERRORS, gdal_settings, reason, reserve_block_cache
from .opening import open_dataset, place
from .pixels import PixelReader, itemsize
from .sources import is_gdal_name, public_name
from .versions import version_of
from .working_grid import ground_pixel_size, make_grid

logger = logging.getLogger(__name__)

# Left, top, right and bottom in pixels of the working grid; right and bottom are exclusive.
Window = tuple[int, int, int, int]


class Raster:
    """A raster that is read in windows; a context manager that closes it.

    Everything is measured in pixels of the *working grid*: the grid of the file, or, with
    ``pixel_size`` or ``scale``, that grid with larger or smaller pixels. Its axes are always those
    of the file, also where these are rotated or point south. Resampling is bilinear with the
    triangle filter of Pillow, which Detectron2 resizes images with, and starts from the overview
    that is next in size. Palettes use the nearest pixel.

    A palette is expanded to red, green and blue. Complex values are read as their magnitude. Scales
    and offsets that the file declares are applied. A file with only ground control points or RPC is
    warped, see :func:`~facenet_d2.scenes.opening.place`.

    A raster can be passed to other processes, by fork or pickle; each opens the file again. Threads
    may share it, but read one after the other.

    Args:
        path: a file, a URL, or another name that GDAL opens.
        bands: numbers of the bands to read, starting at 1, in this order; by default all but the
            alpha band. The colours of a palette are 1 to 3.
        pixel_size: side of a pixel of the working grid on the ground, in metres. Pixels that are
            not square on the ground, as those in degrees, become square.
        scale: pixels of the working grid per pixel of the file, instead of ``pixel_size``.
        area: area of interest; pixels whose centres are outside of it are invalid.
        on_map: whether to georeference the pixels; if not, they are those of the file, even if it
            has ground control points or RPC, and ``crs`` is None.

    Attributes:
        path: the path as given.
        name: the path without credentials, for messages.
        bands: numbers of the bands.
        height: number of rows.
        width: number of columns.
        transform: affine transform from (column, row) of pixel corners to coordinates in ``crs``;
            the identity for a raster without a place.
        crs: coordinate reference system (``rasterio.crs.CRS``) or None.
        dtype: type of the values that :meth:`read` returns: ``uint8`` if the file has 8 bits and no
            scales, otherwise ``float32``.
        bits: bits per value in the file; 8 for a palette.
        stored_dtype: type of the values in the file.
        pixel_metres: width and height of a pixel on the ground, or None if they are unknown.
        area: the area of interest on the working grid, or None.

    Raises:
        UserError: if the raster cannot be opened, lacks a band, or has no pixel size where
            ``pixel_size`` needs one, or if the area of interest is outside.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        bands: Sequence[int] | None = None,
        pixel_size: float | None = None,
        scale: float | None = None,
        area: Area | None = None,
        on_map: bool = True,
    ) -> None:
        self.path = str(path)
        self.name = public_name(self.path)
        self._settings: dict[str, Any] = {
            "bands": bands,
            "pixel_size": pixel_size,
            "scale": scale,
            "area": area,
            "on_map": on_map,
        }
        _check_sizes(pixel_size, scale)
        self._open()

    def reduced(self, factor: float) -> Raster:
        """Open the raster again with pixels that are ``factor`` times as large, without the area.

        Factors up to 1.01 leave the pixels as they are.
        """
        pixel_size, scale = self._settings["pixel_size"], self._settings["scale"]
        if pixel_size is not None:
            pixel_size *= factor
        else:
            scale = (scale or 1.0) / factor
        return Raster(
            self.path,
            bands=self.bands,
            pixel_size=pixel_size,
            scale=scale,
            on_map=self._settings["on_map"],
        )

    def _open(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._reserved_bytes = 0
        self._file = self._dataset = self._masks = open_dataset(self.path)
        try:
            transform, self.crs = self._file.transform, None
            if self._settings["on_map"]:
                self._dataset, transform, self.crs = place(self._file, self.path)
            self._is_warped = self._dataset is not self._file
            self._choose_bands()
            self._choose_grid(transform)
            self._choose_overview()
            area = self._settings["area"]
            grid = (self.height, self.width, self.transform, self.crs)
            self.area: AreaOnGrid | None = area.on_grid(self.name, *grid) if area else None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        for dataset in (self._dataset, self._masks, self._file):
            dataset.close()

    def __enter__(self) -> Raster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self._settings)

    def _choose_bands(self) -> None:
        self._pixels = PixelReader(self._file, self._dataset, self._settings["bands"], self.name)
        self.bands, self.dtype = self._pixels.bands, self._pixels.dtype
        self.bits, self.stored_dtype = self._pixels.bits, self._pixels.stored_dtype
        if self._pixels.is_complex and self._is_warped:
            raise UserError(
                f"{self.name} has complex values, and ground control points or RPC; warp it to a "
                "map projection as amplitudes first."
            )
        if self._file.tags().get("EXIF_Orientation", "1") not in ("0", "1"):
            logger.warning(f"{self.name}: the orientation that its EXIF data declares is ignored.")

    def _choose_grid(self, transform: Any) -> None:
        height, width = self._dataset.shape
        size = ground_pixel_size(self.crs, transform, height, width) if self.crs else None
        scale = self._settings["scale"] or 1.0
        scales = (scale, scale)
        pixel_size = self._settings["pixel_size"]
        if pixel_size is not None:
            if size is None:
                raise UserError(
                    f"{self.name} has no coordinate reference system that gives its pixels a size "
                    "in metres; give a scale instead of the pixel size."
                )
            scales = (size[0] / pixel_size, size[1] / pixel_size)
        self.height, self.width, self.transform, self._ratio = make_grid(
            height, width, transform, scales
        )
        self.pixel_metres = size and (size[0] * self._ratio[0], size[1] * self._ratio[1])
        if self._pixels.is_complex and self._ratio != (1.0, 1.0):
            raise UserError(
                f"{self.name} has complex values, which cannot be resampled; convert it to "
                "amplitudes first."
            )

    def _choose_overview(self) -> None:
        """Open the smallest overview that still has the resolution of the working grid."""
        self._masks = self._dataset
        if self._is_warped or self._ratio == (1.0, 1.0):
            return
        # GDAL would choose an overview for each window; windows of different sizes would not agree.
        self._dataset = self._masks = open_dataset(self.path, overview_level="NONE")
        if self._pixels.palette is not None:
            return
        factors = self._file.overviews(self._pixels.first_band)
        fitting = [i for i, factor in enumerate(factors) if factor <= min(self._ratio) * 1.001]
        if not fitting:
            return
        self._dataset = open_dataset(self.path, overview_level=f"{fitting[-1]}only")
        x, y = self._dataset.width / self._file.width, self._dataset.height / self._file.height
        self._ratio = (self._ratio[0] * x, self._ratio[1] * y)
        # The overviews of a COG have masks. Those of other files may lack them: these overviews
        # then seem to be valid everywhere.
        if self._file.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG":
            self._masks = self._dataset

    @property
    def sources(self) -> tuple[str, ...]:
        """Paths of the files that it is read from, sidecar files and the area included."""
        area: Area | None = self._settings["area"]
        own = () if area is None else (file_of_area(area.name),)
        return (*self._file.files, *own)

    @property
    def rgb_bands(self) -> tuple[int, int, int] | None:
        """Numbers of the red, green and blue band as the file declares them, or None."""
        if self._pixels.palette is not None:
            return 1, 2, 3
        colours = [colour.name for colour in self._file.colorinterp]
        try:
            red, green, blue = (colours.index(name) + 1 for name in ("red", "green", "blue"))
        except ValueError:
            return None
        return red, green, blue

    def read(self, window: Window, *, within_area: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Read a window, which may reach beyond the scene.

        A pixel is invalid outside of the scene and of the area of interest, where the alpha band or
        the mask of the file is 0, where a value is not finite, and where the file has no data. A
        no-data value of an unsigned band, and the value 0, can also be measured: they make a pixel
        invalid where all bands of the file have them, as in GDAL's dataset mask. Other no-data
        values, such as -9999, make it invalid where one of the chosen bands has them.

        Args:
            window: left, top, right and bottom; right and bottom are exclusive.
            within_area: whether pixels outside of the area of interest are invalid.

        Returns:
            values: ``(bands, height, width)`` of type :attr:`dtype`; 0 where invalid.
            valid: ``(height, width)`` bool.

        Raises:
            UserError: if the window cannot be read, for example because the file is truncated.
        """
        left, top, right, bottom = window
        shape = (bottom - top, right - left)
        values = np.zeros((len(self.bands), *shape), self.dtype)
        valid = np.zeros(shape, bool)
        inner = max(left, 0), max(top, 0), min(right, self.width), min(bottom, self.height)
        if inner[0] >= inner[2] or inner[1] >= inner[3]:
            return values, valid
        inside = self.area.mask(inner) if self.area and within_area else None
        if inside is not None and not inside.any():
            return values, valid
        part, mask = self._read_inside(inner)
        if inside is not None:
            mask &= inside
        part[:, ~mask] = 0
        rows, columns = (
            slice(inner[1] - top, inner[3] - top),
            slice(inner[0] - left, inner[2] - left),
        )
        values[:, rows, columns] = part
        valid[rows, columns] = mask
        return values, valid

    def _read_inside(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        if os.getpid() != self._process:
            # The position in the file is shared with the parent process.
            self._open()
        left, top, right, bottom = window
        x, y = self._ratio
        # Rounding must not move the end of the window beyond the file.
        width = min((right - left) * x, self._dataset.width - left * x)
        height = min((bottom - top) * y, self._dataset.height - top * y)
        source = (left * x, top * y, width, height)
        try:
            with self._lock, gdal_settings():
                self._reserve(height)
                return self._pixels.read(
                    self._dataset, self._masks, source, (bottom - top, right - left)
                )
        except GDAL_ERRORS as error:
            raise UserError(
                f"{self.name}: columns {left} to {right - 1} of rows {top} to {bottom - 1} cannot "
                f"be read ({reason(error)}); the file may be damaged or incomplete."
            ) from error

    def _reserve(self, height: float) -> None:
        """Keep the rows of a window in GDAL's cache for the windows beside it.

        Otherwise each window of a file in strips decodes the full width of its rows.
        """
        dataset = self._dataset
        block_height, block_width = dataset.block_shapes[0]
        rows = min(dataset.height, height + 2 * block_height)
        row_bytes = dataset.width * sum(itemsize(dtype) for dtype in dataset.dtypes)
        # Of a warped raster, the file's and the warped blocks are kept.
        size = int(rows * row_bytes * (2.2 if self._is_warped else 1.1))
        if size <= self._reserved_bytes:
            return
        self._reserved_bytes = size
        if not reserve_block_cache(size) and block_width == dataset.width:
            logger.warning(
                f"{self.name} is stored in strips, and {rows:.0f} rows of it do not fit into a "
                "quarter of the memory; reading it will be slow. Convert it with gdal_translate "
                "-of COG."
            )

    def fingerprint(self) -> dict[str, Any]:
        """Return what identifies the content of the raster and how it is read, as JSON values.

        Results of two runs may be combined only if the fingerprints are equal. Local files are
        identified by size and time of modification, remote ones by their ETag, others by the values
        in their centre.

        Raises:
            UserError: if the centre cannot be read.
        """
        is_file = not is_gdal_name(self.path)
        version = version_of(self.path, self._file.files)
        if version is None:
            left, top = max(0, self.width // 2 - 128), max(0, self.height // 2 - 128)
            window = (left, top, left + 256, top + 256)
            centre, _ = self.read(window, within_area=False)
            version = hashlib.sha256(centre.tobytes()).hexdigest()
        return {
            "path": os.path.abspath(self.path) if is_file else self.name,
            "version": version,
            "height": self.height,
            "width": self.width,
            "transform": list(self.transform)[:6],
            "crs": self.crs.to_wkt() if self.crs else None,
            "bands": list(self.bands),
            "dtype": self._pixels.stored_dtype,
            "area": self.area.digest if self.area else None,
        }


def _reopen(path: str, settings: dict[str, Any]) -> Raster:
    return Raster(path, **settings)


def _check_sizes(pixel_size: float | None, scale: float | None) -> None:
    if pixel_size is not None and scale is not None:
        raise UserError("Both pixel size and scale are given; choose one.")
    for value, what in ((pixel_size, "pixel size"), (scale, "scale")):
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"The {what} is {value}; it must be a positive number.")
