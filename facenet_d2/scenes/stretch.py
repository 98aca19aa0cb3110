"""Contrast stretches: from the values of a raster to the 0 to 255 that networks are trained with.

A :class:`StretchRule` is what the user writes, such as "percentile 1 99". With the values of one or
more scenes it becomes a :class:`Stretch`, which is the same for all pixels of a scene, and for
training and inference if both use its dictionary.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from .sampling import sample_pixels

if TYPE_CHECKING:
    from .raster import Raster

logger = logging.getLogger(__name__)

DEFAULT_PERCENTILES = (1.0, 99.0)
SYNTAX = (
    '"none", "range LOW HIGH", "percentile P Q", or for SAR "db amplitude" or "db intensity", '
    "followed by a range in decibels or by percentiles; each number may be a list with one for "
    "each band, such as 0,0,0"
)

# Decibels of a value v are FACTOR * log10(v): amplitudes are square roots of intensities.
_DECIBEL_FACTORS = {"amplitude": 20, "intensity": 10}


@dataclass(frozen=True)
class Stretch:
    """A linear stretch of each band, of values or of their decibels.

    The result is 255 * (v - low) / (high - low), clipped to 0 and 255 and not rounded. Without
    bounds, values are left as they are.

    Args:
        low: value of each band that becomes 0.
        high: value of each band that becomes 255.
        decibels: "amplitude" or "intensity" if v, ``low`` and ``high`` are decibels of such values;
            values that are not positive become 0. Otherwise "".
        rule: rule that the bounds come from, for the record.

    Raises:
        UserError: if the bounds differ in number, are not finite or in the wrong order.
    """

    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    decibels: str = ""
    rule: str = field(default="none", compare=False)

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high):
            raise UserError(
                f"Stretch: {len(self.low)} lower bounds, but {len(self.high)} upper ones."
            )
        for low, high in zip(self.low, self.high):
            if not -math.inf < low < high < math.inf:
                raise UserError(
                    f"Stretch: the bounds {low:g} and {high:g} must be finite and in ascending "
                    "order."
                )
        if self.decibels not in ("", *_DECIBEL_FACTORS) or (self.decibels and not self.low):
            raise UserError(
                f'Stretch: decibels are "{self.decibels}" with {len(self.low)} bounds; they must '
                'be of an "amplitude" or "intensity" and need bounds.'
            )

    @property
    def is_identity(self) -> bool:
        """Whether values are left as they are."""
        return not self.low

    def apply(self, values: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
        """Stretch the values of a window.

        Args:
            values: ``(bands, height, width)``.
            valid: ``(height, width)`` bool; the result is 0 elsewhere. By default, where all values
                are finite.

        Returns:
            float32 from 0 to 255, of the same shape; ``values`` itself if they are left as they
            are.

        Raises:
            UserError: if the number of bands differs.
        """
        if self.is_identity:
            return values
        if len(values) != len(self.low):
            raise UserError(
                f"The stretch has bounds for {len(self.low)} bands, but {len(values)} are read."
            )
        if valid is None:
            valid = np.isfinite(values).all(axis=0)
        result = np.where(valid, values, 0).astype(np.float32)
        if self.decibels:
            result = _to_decibels(result, self.decibels)
        for band, low, high in zip(result, self.low, self.high):
            band -= np.float32(low)
            band *= np.float32(255 / (high - low))
        np.clip(result, 0, 255, out=result)
        result[:, ~valid] = 0
        return result

    def as_rule(self) -> StretchRule:
        """Return the rule that sets the same bounds for other scenes."""
        kind = "none" if self.is_identity else "range"
        return StretchRule(kind, self.low, self.high, self.decibels)

    def to_dict(self) -> dict[str, Any]:
        """Return the stretch as JSON values."""
        if self.is_identity:
            return {"kind": "none"}
        return {
            "kind": "range",
            "low": list(self.low),
            "high": list(self.high),
            "decibels": self.decibels,
            "rule": self.rule,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Stretch:
        """Return the stretch of :meth:`to_dict`.

        Raises:
            UserError: if the content is not that of a stretch.
        """
        if dict(content) == {"kind": "none"}:
            return cls()
        try:
            if content["kind"] != "range" or content["decibels"] not in ("", *_DECIBEL_FACTORS):
                raise ValueError("unknown kind")
            low, high = (tuple(map(float, content[key])) for key in ("low", "high"))
            if not low:
                raise ValueError("no bounds")
            decibels, rule = content["decibels"], str(content["rule"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{dict(content)} does not describe a stretch ({error!r}).") from error
        return cls(low, high, decibels, rule)


@dataclass(frozen=True)
class StretchRule:
    """How the bounds of a stretch are chosen.

    Args:
        kind: "none", "range" or "percentile".
        low: lower bounds or percentiles; a single one is that of all bands.
        high: upper bounds or percentiles.
        decibels: see :class:`Stretch`.
    """

    kind: str = "none"
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    decibels: str = ""

    @classmethod
    def parse(cls, text: str) -> StretchRule:
        """Return the rule that a text describes.

        Raises:
            UserError: with the syntax, if the text is not a rule.
        """
        words = text.split()
        decibels = ""
        try:
            if words[:1] == ["db"]:
                decibels = words[1]
                _DECIBEL_FACTORS[decibels]
                words = words[2:] or ["percentile", *map(str, DEFAULT_PERCENTILES)]
                if len(words) == 2:
                    words = ["range", *words]
            elif words == ["none"]:
                return cls()
            kind, first, second = words
            low, high = _numbers(first), _numbers(second)
            count = max(len(low), len(high))
            if kind not in ("range", "percentile") or {len(low), len(high)} - {1, count}:
                raise ValueError
            rule = cls(kind, _spread(low, count), _spread(high, count), decibels)
        except (ValueError, IndexError, KeyError) as error:
            raise UserError(f'"{text}" is not a stretch; it must be {SYNTAX}.') from error
        rule._check(text)
        return rule

    def _check(self, text: str) -> None:
        for low, high in zip(self.low, self.high):
            if not -math.inf < low < high < math.inf:
                raise UserError(
                    f'Stretch "{text}": {low:g} and {high:g} must be finite and in ascending order.'
                )
            if self.kind == "percentile" and not 0 <= low < high <= 100:
                raise UserError(f'Stretch "{text}": percentiles must be between 0 and 100.')

    def __str__(self) -> str:
        if self.kind == "none":
            return "none"
        prefix = f"db {self.decibels} " if self.decibels else ""
        return f"{prefix}{self.kind} {_text(self.low)} {_text(self.high)}"

    def fit(self, rasters: Sequence[Raster]) -> Stretch:
        """Return one stretch for one or more scenes.

        Percentiles are those of the pixels that :func:`sample_pixels` returns for all scenes
        together. Where both percentiles of a band are equal, as in a constant band, the upper bound
        is the lower one + 1.

        Args:
            rasters: at least one; their bands are the same.

        Raises:
            UserError: if the rule is for another number of bands, or a scene has no valid pixels.
        """
        count = len(rasters[0].bands)
        if self.kind == "none":
            return Stretch()
        if len(self.low) not in (1, count):
            raise UserError(
                f'Stretch "{self}" is for {len(self.low)} bands, but {rasters[0].name} is read '
                f"with {count}."
            )
        if self.kind == "percentile":
            return self.fit_samples([sample_pixels(raster) for raster in rasters])
        low, high = _spread(self.low, count), _spread(self.high, count)
        return Stretch(low, high, self.decibels, str(self))

    def fit_samples(self, samples: Sequence[np.ndarray]) -> Stretch:
        """Return the stretch of a rule of percentiles for samples of values.

        Args:
            samples: values of valid pixels, ``(bands, pixels)`` each; at least one pixel in all.

        Raises:
            UserError: if the numbers of bands differ from one another or from the rule's, or a band
                has no positive values for decibels.
        """
        count = len(samples[0])
        if {len(sample) for sample in samples} != {count}:
            raise UserError("Scenes with different numbers of bands cannot have a common stretch.")
        if len(self.low) not in (1, count):
            raise UserError(
                f'Stretch "{self}" is for {len(self.low)} bands, but the images have {count}.'
            )
        low, high = _spread(self.low, count), _spread(self.high, count)
        bounds = [
            self._percentiles([sample[band] for sample in samples], low[band], high[band])
            for band in range(count)
        ]
        low, high = tuple(a for a, _ in bounds), tuple(b for _, b in bounds)
        return Stretch(low, high, self.decibels, str(self))

    def _percentiles(
        self, samples: Sequence[np.ndarray], low: float, high: float
    ) -> tuple[float, float]:
        values = np.concatenate(samples).astype(np.float64)
        if self.decibels:
            values = _to_decibels(values[values > 0], self.decibels)
            if not len(values):
                raise UserError("A band without positive values has no decibels.")
        bottom, top = (float(value) for value in np.percentile(values, [low, high]))
        return bottom, top if top > bottom else bottom + 1


def default_rule(raster: Raster) -> StretchRule:
    """Return the rule for a raster whose stretch is not given.

    Values of 8 bits are left as they are. Those of fewer bits, such as masks of 1 bit, are scaled
    so that their largest possible value becomes 255. Others are stretched from the 1st to the 99th
    percentile, and this is logged.
    """
    if raster.dtype == np.uint8:
        return (
            StretchRule()
            if raster.bits == 8
            else StretchRule("range", (0.0,), (float(2**raster.bits - 1),))
        )
    rule = StretchRule("percentile", DEFAULT_PERCENTILES[:1], DEFAULT_PERCENTILES[1:])
    logger.warning(
        f"{raster.name} does not have 8 bits: its values are stretched from the 1st to the 99th "
        "percentile of the scene. The stretch that the network was trained with is better."
    )
    return rule


def _to_decibels(values: np.ndarray, kind: str) -> np.ndarray:
    factor = values.dtype.type(_DECIBEL_FACTORS[kind])
    with np.errstate(divide="ignore", invalid="ignore"):
        decibels: np.ndarray = factor * np.log10(np.maximum(values, 0))
    return decibels


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split(","))


def _spread(numbers: tuple[float, ...], count: int) -> tuple[float, ...]:
    return numbers * count if len(numbers) == 1 else numbers


def _text(numbers: tuple[float, ...]) -> str:
    return ",".join(repr(number).removesuffix(".0") for number in numbers)
