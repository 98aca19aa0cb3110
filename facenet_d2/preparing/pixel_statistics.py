"""Mean and standard deviation of each band, combined from parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class PixelStatistics:
    """Statistics of the pixels of one or more chips.

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
