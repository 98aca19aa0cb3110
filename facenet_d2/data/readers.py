"""Readers of images: Pillow for 8-bit colours, GDAL for any bands and bits.

GDAL is used if the config has ``INPUT.BANDS`` or ``INPUT.STRETCH``. Training, evaluation,
prediction and the checker use the same reader, so that they see the same values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from detectron2.config import CfgNode
from detectron2.data.detection_utils import convert_image_to_rgb

from ..errors import UserError
from ..scenes.stretch import Stretch, StretchRule
from ..wording import counted
from .images import MAX_PIXELS, ImageError, read_image, size_problem


class ImageReader(Protocol):
    """Interface of the readers of images."""

    def __call__(self, file: str | Path) -> np.ndarray:
        """Return the image of a file, ``(H, W, C)``.

        Raises:
            ImageError: if the file cannot be used.
        """

    def size_problem(self, file: str | Path, entry: dict[str, Any]) -> str | None:
        """Read an image and compare its size with its entry; see :func:`.images.size_problem`."""

    def picture(self, image: np.ndarray) -> np.ndarray:
        """Return an image of this reader for display, ``(H, W, 3)`` uint8, RGB."""


class PillowReader:
    """Reads 8-bit images by :func:`~facenet_d2.data.images.read_image`."""

    def __init__(self, image_format: str = "BGR") -> None:
        """
        Args:
            image_format: ``INPUT.FORMAT``.
        """
        self.image_format = image_format

    def __call__(self, file: str | Path) -> np.ndarray:
        return read_image(file, self.image_format)

    def size_problem(self, file: str | Path, entry: dict[str, Any]) -> str | None:
        return size_problem(file, entry)

    def picture(self, image: np.ndarray) -> np.ndarray:
        shown: np.ndarray = convert_image_to_rgb(image, self.image_format)
        return np.ascontiguousarray(shown).astype(np.uint8)


class RasterReader:
    """Reads images of any bands and bits as float32, with the same stretch for all of them.

    Georeferences and EXIF orientations are ignored. Pixels that are invalid (see
    :meth:`facenet_d2.scenes.raster.Raster.read`) get the mean of their band, which the network sees
    as 0.
    """

    def __init__(
        self,
        *,
        bands: tuple[int, ...] = (),
        stretch: str = "",
        pixel_mean: tuple[float, ...],
        image_format: str = "BGR",
    ) -> None:
        """
        Args:
            bands: numbers of the bands, starting at 1; if empty, all but the alpha band.
            stretch: rule of the stretch with fixed bounds, see
                :class:`~facenet_d2.scenes.stretch.StretchRule`; if empty, only images of 8 bits are
                accepted, and left as they are.
            pixel_mean: mean of each band after the stretch; its length is the number of bands.
            image_format: "BGR" or "RGB", the colours of the first three bands for pictures.

        Raises:
            UserError: if the stretch is not a rule, has no fixed bounds, or is for another number
                of bands, or rasterio is not installed.
        """
        self.bands = bands
        self.pixel_mean = np.array(pixel_mean, dtype=np.float32)
        self.is_stretched = bool(stretch)
        self.stretch = _fixed_stretch(stretch, len(pixel_mean)) if stretch else Stretch()
        self.image_format = image_format
        # rasterio, which this module imports, is only installed with the extra [geo].
        from ..scenes.raster import Raster

        self._open = Raster

    def __call__(self, file: str | Path) -> np.ndarray:
        """Return ``(H, W, bands)`` float32, contiguous."""
        values, valid = self.read_values(file)
        image = np.moveaxis(self.stretch.apply(values, valid), 0, 2).astype(np.float32, order="C")
        image[~valid] = self.pixel_mean
        return image

    def read_values(self, file: str | Path) -> tuple[np.ndarray, np.ndarray]:
        """Read an image without stretching it.

        Returns:
            values: ``(bands, H, W)``.
            valid: ``(H, W)`` bool.

        Raises:
            ImageError: if the file is missing, damaged or too large, lacks a band, or has more than
                8 bits without a stretch.
        """
        path = Path(file)
        if not path.is_file():
            reason = "it is not a file" if path.exists() else "it does not exist"
            raise ImageError("image-missing", reason, str(file))
        try:
            with self._open(path, bands=self.bands or None, on_map=False) as raster:
                reason = self._problem(raster)
                if reason:
                    raise ImageError("image-bands", reason, str(file))
                if raster.height * raster.width > MAX_PIXELS:
                    reason = f"it has more than {MAX_PIXELS:,} pixels; cut it into patches"
                    raise ImageError("image-large", reason, str(file))
                return raster.read((0, 0, raster.width, raster.height))
        except ImageError:
            raise
        except UserError as error:
            reason = str(error).rstrip(".")
            for name, short in ((f"{file}: ", ""), (f"'{file}'", "it"), (str(file), "it")):
                reason = reason.replace(name, short)
            raise ImageError("image-unreadable", reason, str(file)) from error
        except MemoryError as error:
            reason = "it does not fit into memory; cut it into patches"
            raise ImageError("image-large", reason, str(file)) from error

    def _problem(self, raster: Any) -> str:
        """Return why a raster does not suit the config, or an empty text."""
        count, expected = len(raster.bands), len(self.pixel_mean)
        if count != expected:
            return (
                f"it has {counted(count, 'band')}, but MODEL.PIXEL_MEAN has "
                f"{counted(expected, 'value')}; choose bands with INPUT.BANDS"
            )
        if not self.is_stretched and (raster.dtype != np.uint8 or raster.bits != 8):
            return (
                f"its values are {raster.stored_dtype} and not of 8 bits; set INPUT.STRETCH, which "
                "tools/compute_statistics.py computes from a data set"
            )
        return ""

    def size_problem(self, file: str | Path, entry: dict[str, Any]) -> str | None:
        height, width = self.read_values(file)[1].shape
        if (width, height) == (entry["width"], entry["height"]):
            return None
        return f"is {width}x{height} pixels, but annotated as {entry['width']}x{entry['height']}"

    def picture(self, image: np.ndarray) -> np.ndarray:
        shown = image[..., :3] if image.shape[2] >= 3 else image[..., :1].repeat(3, axis=2)
        if self.image_format == "BGR":
            shown = shown[..., ::-1]
        return np.ascontiguousarray(shown.clip(0, 255).round().astype(np.uint8))


def _fixed_stretch(text: str, count: int) -> Stretch:
    """Return the stretch of a rule with fixed bounds for a number of bands."""
    rule = StretchRule.parse(text)
    if rule.kind == "none":
        return Stretch()
    if rule.kind == "percentile":
        raise UserError(
            f"INPUT.STRETCH is {text!r}, but percentiles differ from image to image; "
            f'tools/compute_statistics.py --stretch "{text}" computes fixed bounds from a data set.'
        )
    if len(rule.low) not in (1, count):
        raise UserError(
            f"INPUT.STRETCH is for {counted(len(rule.low), 'band')}, but MODEL.PIXEL_MEAN has "
            f"{counted(count, 'value')}; it must have one bound, or one for each band."
        )
    low, high = (b * count if len(b) == 1 else b for b in (rule.low, rule.high))
    return Stretch(low, high, rule.decibels, str(rule))


def uses_raster_reader(cfg: CfgNode) -> bool:
    """Return whether a config reads images with GDAL instead of Pillow."""
    return bool(cfg.INPUT.BANDS or cfg.INPUT.STRETCH)


def build_reader(cfg: CfgNode) -> PillowReader | RasterReader:
    """Return the reader of a config.

    Raises:
        UserError: if ``INPUT.STRETCH`` is not a stretch with fixed bounds for the bands.
    """
    if not uses_raster_reader(cfg):
        return PillowReader(cfg.INPUT.FORMAT)
    return RasterReader(
        bands=tuple(cfg.INPUT.BANDS),
        stretch=cfg.INPUT.STRETCH,
        pixel_mean=tuple(cfg.MODEL.PIXEL_MEAN),
        image_format=cfg.INPUT.FORMAT,
    )
