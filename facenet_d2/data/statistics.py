"""Statistics of the values of a data set's images: stretch, mean and standard deviation by band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..parallel import parallel_map
from ..scenes.stretch import Stretch, StretchRule
from .readers import PillowReader, RasterReader

# Number of pixels of all images together that percentiles come from.
SAMPLED_PIXELS = 2**22


@dataclass
class BandMoments:
    """Moments of the values of each band, which can be added.

    Attributes:
        count: number of pixels.
        mean: mean of each band, ``(bands,)`` float64.
        squares: sum of the squared deviations from the mean, ``(bands,)`` float64.
    """

    count: int
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> BandMoments:
        """Return the moments of ``(bands, pixels)`` values."""
        values = values.astype(np.float64)
        count = values.shape[1]
        mean = values.mean(axis=1) if count else np.zeros(len(values))
        return cls(count, mean, ((values - mean[:, None]) ** 2).sum(axis=1))

    def __add__(self, other: BandMoments) -> BandMoments:
        # Chan, Golub and LeVeque (1979): exact also if the mean is large and the deviation small.
        count = self.count + other.count
        if not count:
            return self
        difference = other.mean - self.mean
        mean = self.mean + difference * (other.count / count)
        between = difference**2 * (self.count * other.count / count)
        return BandMoments(count, mean, self.squares + other.squares + between)

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation of each band, ``(bands,)``."""
        deviation: np.ndarray = np.sqrt(self.squares / self.count)
        return deviation


def measure_bands(
    files: Sequence[str | Path], reader: PillowReader | RasterReader, *, workers: int = 0
) -> BandMoments:
    """Measure the valid pixels of images, as the network gets them.

    Args:
        files: the images.
        reader: reader of the images.
        workers: number of processes; 0 to work in this process.

    Raises:
        UserError: if an image cannot be used, or no pixel is valid.
    """
    parts: dict[int, BandMoments] = dict(
        parallel_map(
            partial(_moments, reader),
            files,
            workers=workers,
            description="Measuring",
            unit="image",
        )
    )
    # The order of the sum does not depend on that of the processes.
    moments = [parts[i] for i in range(len(files)) if parts[i].count]
    if not moments:
        raise UserError("The images have no valid pixels to measure.")
    total = moments[0]
    for part in moments[1:]:
        total += part
    return total


def _moments(reader: PillowReader | RasterReader, file: str | Path) -> BandMoments:
    if isinstance(reader, RasterReader):
        values, valid = reader.read_values(file)
        return BandMoments.of(reader.stretch.apply(values, valid)[:, valid])
    image = reader(file)
    return BandMoments.of(image.reshape(-1, image.shape[2]).T)


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
    samples = dict(
        parallel_map(
            partial(_sample, reader, most),
            files,
            workers=workers,
            description="Sampling",
            unit="image",
        )
    )
    found = [samples[i] for i in range(len(files)) if samples[i].size]
    if not found:
        raise UserError("The images have no valid pixels to measure.")
    return rule.fit_samples(found)


def _sample(reader: RasterReader, most: int, file: str | Path) -> np.ndarray:
    values, valid = reader.read_values(file)
    pixels = values[:, valid].astype(np.float32)
    step = max(1, -(-pixels.shape[1] // most))
    return pixels[:, ::step]
