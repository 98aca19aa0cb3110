"""Curves of training runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from .runs import Run


@dataclass(frozen=True)
class Panel:
    """One of the axes of a figure.

    Attributes:
        key: what of ``metrics.json`` is drawn.
        title: stands above.
        log: whether its axis is logarithmic; otherwise it starts at 0.
    """

    key: str
    title: str
    log: bool = False


def draw_curves(
    rows: Mapping[str, Sequence[Run]], panels: Sequence[Panel], file: str | Path
) -> None:
    """What was recorded over the iterations; one colour a row, one line a seed.

    Args:
        rows: the runs of each, by the name that the legend gives it.
        panels: side by side.
        file: to be written, of a format that its suffix says.
    """
    # Ten colours, as many as can be told apart; later rows have them again with a broken line.
    colors = mpl.colormaps["tab10"].colors
    styles = [(color, style) for style in ("-", "--", ":") for color in colors]
    legend_lines = -(-len(rows) // 6)
    figure = Figure(figsize=(13, 3.1 + 0.3 * max(1, legend_lines)), layout="constrained")
    every_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    lines = {}
    for axes, panel in zip(every_axes, panels, strict=True):
        for (color, style), (name, runs) in zip(styles, rows.items()):
            for run in runs:
                iterations, values = run.curve(panel.key)
                # Evaluations are few and far between; a single point has no line.
                marker = "o" if "/" in panel.key or len(values) < 3 else None
                (lines[name],) = axes.plot(
                    iterations,
                    values,
                    color=color,
                    linestyle=style,
                    marker=marker,
                    markersize=4,
                    alpha=0.7,
                    lw=1.2,
                )
        axes.set(title=panel.title, xlabel="iteration")
        if panel.log:
            _scale_by_factors(axes)
        else:
            axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.legend(
        lines.values(),
        lines.keys(),
        loc="outside lower center",
        ncols=min(6, max(1, len(rows))),
        frameon=False,
    )
    figure.savefig(file, dpi=110)


def _scale_by_factors(axes: Axes) -> None:
    """A logarithmic axis with plain numbers, of which at least one lies within its range."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low / 1.3, high * 1.3)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
