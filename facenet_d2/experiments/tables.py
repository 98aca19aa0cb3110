"""Markdown tables and the numbers in their cells."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .runs import mean_and_spread

# Placeholder for a missing value.
MISSING_VALUE = "\N{EN DASH}"


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, padded: bool = False
) -> str:
    """Return a Markdown table whose first column is text and whose other columns are numbers.

    Args:
        header: titles of the columns.
        rows: cells of each row.
        padded: pad the cells so that the columns line up in a terminal.
    """
    align = ["---"] + ["---:"] * (len(header) - 1)
    lines = [list(header), align, *map(list, rows)]
    if padded:
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        lines = [
            [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]
            for row in lines
        ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_spread(values: Sequence[float], sign: str = "") -> str:
    """Format the mean of several values and, if there are several, their standard deviation.

    Args:
        values: one value per seed; NaN if COCO's evaluation has no objects of a size.
        sign: "+" to print the sign of positive numbers too.

    Returns:
        Text such as "12.00 ± 2.00", or :data:`MISSING_VALUE` without values or with a NaN.
    """
    if not values or any(map(math.isnan, values)):
        return MISSING_VALUE
    mean, spread = mean_and_spread(values)
    return f"{mean:{sign}.2f}" + ("" if math.isnan(spread) else f" ± {spread:.2f}")


def format_duration(seconds: float | None) -> str:
    """Format a time as hours and minutes, or as minutes and seconds below ten minutes."""
    if seconds is None:
        return "?"
    if seconds < 600:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"
