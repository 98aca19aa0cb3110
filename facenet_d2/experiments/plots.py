"""Training curves."""

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
    """Axes of a figure.

    Attributes:
        key: key in ``metrics.json`` of the values to draw.
        title: title above the axes.
        log: whether the vertical axis is logarithmic; otherwise it starts at 0.
    """

    key: str
    title: str
    log: bool = False


def draw_curves(
    rows: Mapping[str, Sequence[Run]], panels: Sequence[Panel], file: str | Path
) -> None:
    """Draw recorded values over the iterations, with one colour per row and one line per seed.

    Args:
        rows: runs of each row by the row's name in the legend.
        panels: axes from left to right.
        file: image to write; its suffix determines the format.
    """
    # Ten colours can be told apart; further rows use them again with another line style.
    colors = [mpl.colormaps["tab10"](i) for i in range(10)]
    styles = [(color, style) for style in ("-", "--", ":") for color in colors]
    legend_lines = -(-len(rows) // 6)
    figure = Figure(
        figsize=(max(13, 3.25 * len(panels)), 3.1 + 0.3 * max(1, legend_lines)),
        layout="constrained",
    )
    every_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    lines = {}
    for axes, panel in zip(every_axes, panels, strict=True):
        for (color, style), (name, runs) in zip(styles, rows.items()):
            for run in runs:
                iterations, values = run.curve(panel.key)
                # There are few evaluations, and a line through a single point is invisible.
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
    """Make the vertical axis logarithmic, with plain numbers and at least one tick in range."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low / 1.3, high * 1.3)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
