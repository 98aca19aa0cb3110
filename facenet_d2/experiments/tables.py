"""Markdown tables of figures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .runs import mean_and_spread

# What stands where there is no figure.
NONE = "\N{EN DASH}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first column is text and whose others are figures."""
    align = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, align, *rows))


def with_spread(values: Sequence[float], sign: str = "") -> str:
    """The mean and, of several, the standard deviation; a dash where there is none.

    Args:
        values: one a seed; NaN where COCO's evaluation has no objects of a size.
        sign: "+" puts it before positive numbers too.
    """
    if not values or any(map(math.isnan, values)):
        return NONE
    mean, spread = mean_and_spread(values)
    return f"{mean:{sign}.2f}" + ("" if math.isnan(spread) else f" ± {spread:.2f}")


def duration(seconds: float | None) -> str:
    """In hours and minutes; a short time in minutes and seconds."""
    if seconds is None:
        return "?"
    if seconds < 600:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"
