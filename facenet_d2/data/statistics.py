"""Statistics of the values of a data set's images: stretch, mean and standard deviation by band."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..errors import UserError
from ..parallel import parallel_map
from ..scenes.stretch import Stretch, StretchRule
from .readers import PillowReader, RasterReader

# Number of pixels of all images together that percentiles come from.
SAMPLED_PIXELS = 2**22
NO_PIXELS = "The images have no valid pixels to measure."

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class PixelStatistics:
    """Statistics of the pixels of one or more images.

    Attributes:
        count: number of pixels.
        mean: ``(bands,)`` float64.
        squares: ``(bands,)`` float64, sum of the squared differences from the mean.
    """

    count: int
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> PixelStatistics:
        """Return the statistics of ``(bands, pixels)`` values."""
        values = values.astype(np.float64)
        if not values.shape[1]:
            return cls(0, np.zeros(len(values)), np.zeros(len(values)))
        mean = values.mean(axis=1)
        return cls(values.shape[1], mean, np.square(values - mean[:, None]).sum(axis=1))

    @classmethod
    def combined(cls, parts: Iterable[PixelStatistics]) -> PixelStatistics:
        """Return the statistics of all pixels of some parts, by Chan's formula."""
        filled = [part for part in parts if part.count]
        count = sum(part.count for part in filled)
        if not count:
            return cls(0, np.zeros(0), np.zeros(0))
        mean = np.sum([part.count * part.mean for part in filled], axis=0) / count
        squares = [part.squares + part.count * (part.mean - mean) ** 2 for part in filled]
        return cls(count, mean, np.sum(squares, axis=0))

    @property
    def std(self) -> np.ndarray:
        """Standard deviation, ``(bands,)``."""
        deviation: np.ndarray = np.sqrt(self.squares / max(1, self.count))
        return deviation

    def to_dict(self) -> dict[str, Any]:
        """Return the statistics as JSON values."""
        return {
            "count": self.count,
            "mean": self.mean.tolist(),
            "squares": self.squares.tolist(),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> PixelStatistics:
        """Return the statistics of :meth:`to_dict`."""
        return cls(content["count"], np.array(content["mean"]), np.array(content["squares"]))


def measure_bands(
    files: Sequence[str | Path], reader: PillowReader | RasterReader, *, workers: int = 0
) -> PixelStatistics:
    """Measure the valid pixels of images, as the network gets them.

    Args:
        files: the images.
        reader: reader of the images.
        workers: number of processes; 0 to work in this process.

    Raises:
        UserError: if an image cannot be used, or no pixel is valid.
    """
    parts = _in_order(partial(_measure, reader), files, workers, "Measuring")
    total = PixelStatistics.combined(parts)
    if not total.count:
        raise UserError(NO_PIXELS)
    return total


def _in_order(
    function: Callable[[Any], ResultT], files: Sequence[str | Path], workers: int, title: str
) -> list[ResultT]:
    """Apply a function to files in several processes; the order of the results is theirs."""
    results = dict(parallel_map(function, files, workers=workers, description=title, unit="image"))
    return [results[i] for i in range(len(files))]


def _measure(reader: PillowReader | RasterReader, file: str | Path) -> PixelStatistics:
    if isinstance(reader, RasterReader):
        values, valid = reader.read_values(file)
        return PixelStatistics.of(reader.stretch.apply(values, valid)[:, valid])
    image = reader(file)
    return PixelStatistics.of(image.reshape(-1, image.shape[2]).T)


def fit_stretch(
    files: Sequence[str | Path], rule: StretchRule, reader: RasterReader, *, workers: int = 0
) -> Stretch:
    """Return the stretch of a rule for all images together.

    Percentiles are those of about four million valid pixels, equally many of each image.

    Args:
        files: the images.
        rule: the rule.
        reader: reader of the images, whose own stretch is not used.
        workers: number of processes; 0 to work in this process.

    Raises:
        UserError: if an image cannot be used, no pixel is valid, or a band has no positive values
            for decibels.
    """
    most = max(1, SAMPLED_PIXELS // max(1, len(files)))
    samples = _in_order(partial(_sample, reader, most), files, workers, "Sampling")
    found = [sample for sample in samples if sample.size]
    if not found:
        raise UserError(NO_PIXELS)
    return rule.fit_samples(found)


def _sample(reader: RasterReader, most: int, file: str | Path) -> np.ndarray:
    values, valid = reader.read_values(file)
    pixels = values[:, valid].astype(np.float32)
    step = max(1, -(-pixels.shape[1] // most))
    return pixels[:, ::step]
