"""Values and validity of pixels: bands, palettes, complex values, scales, masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import UserError
from .geo import rasterio
from .opening import alpha_band, palette_of


class PixelReader:
    """Reads chosen bands of a raster, and which of their pixels are valid.

    Args:
        file: the open raster.
        dataset: what will be read: the raster, or a warped version of it, which may have an alpha
            band more.
        bands: see :class:`~facenet_d2.scenes.raster.Raster`.
        name: name of the raster for messages.

    Attributes:
        bands: numbers of the bands.
        dtype: ``uint8`` or ``float32``, the type of the values.
        bits: bits per value.
        stored_dtype: type of the values in the file.
        is_complex: whether the values are magnitudes of complex ones.
        palette: ``(256, 4)`` uint8, red, green, blue and alpha of each value, or None.

    Raises:
        UserError: if the raster has no such band.
    """

    def __init__(self, file: Any, dataset: Any, bands: Sequence[int] | None, name: str) -> None:
        self.palette = palette_of(file)
        self._alpha = alpha_band(dataset)
        if self.palette is None:
            self.bands = _chosen_bands(bands, file.count, self._alpha, name)
        else:
            self.bands = _chosen_bands(bands, 3, None, name)
        self._colours = [band - 1 for band in self.bands]
        # A palette has a single band in the file.
        self._stored_bands = list(self.bands) if self.palette is None else [1]
        self._all_bands = range(1, file.count + 1)
        stored = [band - 1 for band in self._stored_bands]
        types = [file.dtypes[band] for band in stored]
        self.stored_dtype = types[0]
        self._is_uniform = len(set(types)) == 1
        self.is_complex = any(kind.startswith("complex") for kind in types)
        scales = np.array([file.scales[band] for band in stored])[:, None, None]
        offsets = np.array([file.offsets[band] for band in stored])[:, None, None]
        self._scaling = (scales, offsets) if (scales != 1).any() or (offsets != 0).any() else None
        is_8_bit = set(types) == {"uint8"} and self._scaling is None
        self.dtype = np.dtype(np.uint8 if is_8_bit else np.float32)
        self.bits = 8 if self.palette is not None else max(_bits(file, b) for b in stored)

    @property
    def first_band(self) -> int:
        """Number of the first band in the file that is read."""
        return self._stored_bands[0]

    def read(
        self,
        dataset: Any,
        masks: Any,
        window: tuple[float, float, float, float],
        shape: tuple[int, int],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read a window and resample it.

        Args:
            dataset: the raster, its warped version, or an overview.
            masks: the same at any resolution, for an internal or sidecar mask.
            window: left, top, width and height in pixels of ``dataset``, within it.
            shape: height and width of the result.

        Returns:
            values: ``(bands, height, width)`` of type :attr:`dtype`; finite.
            valid: ``(height, width)`` bool.
        """
        place = rasterio.windows.Window(*window)
        resampling = rasterio.enums.Resampling
        kind = resampling.bilinear if self.palette is None else resampling.nearest
        values = np.empty(
            (len(self._stored_bands), *shape), np.complex64 if self.is_complex else self.dtype
        )
        if self._is_uniform:
            dataset.read(self._stored_bands, out=values, window=place, resampling=kind)
        else:
            for band, out in zip(self._stored_bands, values):
                dataset.read(band, out=out, window=place, resampling=kind)
        valid = self._declared_valid(dataset, masks, place, shape)
        if self.palette is not None:
            colours = self.palette[values[0]]
            valid &= colours[..., 3] > 0
            values = np.moveaxis(colours, -1, 0)[self._colours]
        if self.is_complex:
            values = np.abs(values)
        if self._scaling is not None:
            scales, offsets = self._scaling
            values = (values * scales + offsets).astype(np.float32)
        if values.dtype != np.uint8:
            finite = np.isfinite(values)
            valid &= finite.all(axis=0)
            values[~finite] = 0
        return values, valid

    def _declared_valid(
        self, dataset: Any, masks: Any, window: Any, shape: tuple[int, int]
    ) -> np.ndarray:
        """Return ``(height, width)`` bool, by alpha band, mask and no-data values.

        A resampled pixel is valid if the pixel at its centre is.
        """

        def mask(band: int) -> np.ndarray:
            values: np.ndarray = dataset.read_masks(band, window=window, out_shape=shape)
            return values > 0

        valid = np.ones(shape, bool)
        kinds = rasterio.enums.MaskFlags
        if self._alpha is not None:
            # GDAL does not use the alpha bands of signed and floating-point rasters as masks.
            valid &= dataset.read(self._alpha, window=window, out_shape=shape) > 0
        flags = dataset.mask_flag_enums
        if kinds.per_dataset in flags[self.first_band - 1] and self._alpha is None:
            x, y = masks.width / dataset.width, masks.height / dataset.height
            place = rasterio.windows.Window(
                window.col_off * x, window.row_off * y, window.width * x, window.height * y
            )
            valid &= masks.read_masks(self.first_band, window=place, out_shape=shape) > 0
        chosen = sorted(set(self._stored_bands))
        if not any(kinds.nodata in flags[band - 1] for band in chosen):
            return valid
        any_valid = np.zeros(shape, bool)
        for band in chosen:
            has_value = mask(band)
            if not _may_be_measured(dataset.nodatavals[band - 1], dataset.dtypes[band - 1]):
                valid &= has_value
            any_valid |= has_value
        for band in self._all_bands:
            if band not in chosen and band != self._alpha and not any_valid.all():
                any_valid |= mask(band)
        return valid & any_valid


def _chosen_bands(
    bands: Sequence[int] | None, available: int, alpha: int | None, name: str
) -> tuple[int, ...]:
    if bands is None:
        chosen = tuple(i for i in range(1, available + 1) if i != alpha)
        if not chosen:
            raise UserError(f"{name} has only an alpha band.")
        return chosen
    if not bands or not all(isinstance(band, int | np.integer) for band in bands):
        raise UserError(f"The bands are {bands!r}; they must be numbers that start at 1.")
    for band in bands:
        if not 1 <= band <= available:
            raise UserError(f"{name} has no band {band}; its bands are 1 to {available}.")
    return tuple(int(band) for band in bands)


def _bits(file: Any, index: int) -> int:
    bits = file.tags(index + 1, ns="IMAGE_STRUCTURE").get("NBITS")
    return int(bits) if bits else 8 * itemsize(file.dtypes[index])


def itemsize(dtype: str) -> int:
    """Return the bytes of a value; numpy lacks one of GDAL's types."""
    return 4 if dtype == "complex_int16" else np.dtype(dtype).itemsize


def _may_be_measured(nodata: float | None, dtype: str) -> bool:
    return nodata is None or nodata == 0 or dtype.startswith("uint")
