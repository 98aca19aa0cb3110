#!/usr/bin/env python3
"""Tables and curves of training runs, rows of several seeds compared with a baseline.

  summarize_runs.py output/solov2/seed* output/facenet/seed* --plot curves.png
  summarize_runs.py model_zoo/nwpu_vhr10/*/seed* --update MODEL_ZOO.md --plot docs/images/curves.png

A run is an OUTPUT_DIR of train_net.py, of which config.yaml, metrics.json and run.json are read.
Runs that lie in one folder are one row and may differ in nothing but their seed; the first row is
the baseline, unless --baseline names another. Figures are those of the last iteration, never of the
best one. --update puts the tables between the lines "<!-- runs: begin -->" and "<!-- runs: end -->"
of a file.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import facenet_d2.compat  # noqa: F401  isort: skip
import matplotlib as mpl
from matplotlib.figure import Figure

from facenet_d2 import UserError
from facenet_d2.engine import run_command
from facenet_d2.engine.setup import check_writable
from facenet_d2.evaluation.runs import Run, differences, gains, group_runs, mean_and_spread
from facenet_d2.files import write_whole

BEGIN, END = "<!-- runs: begin -->", "<!-- runs: end -->"
FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
KEYS = [f"segm/{f}" for f in FIGURES] + [f"bbox/{f}" for f in FIGURES]
TITLES = [f"{'mask' if k.startswith('segm') else 'box'} {k[5:]}" for k in KEYS]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    parser.add_argument("--baseline", help="the row that the others are compared with")
    parser.add_argument("--update", type=Path, metavar="FILE.md", help="put the tables there")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw losses and AP there")
    return parser.parse_args()


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first column is text and whose others are figures."""
    align = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, align, *rows))


def with_spread(values: Sequence[float], sign: str = "") -> str:
    mean, spread = mean_and_spread(values)
    return f"{mean:{sign}.2f}" + ("" if math.isnan(spread) else f" ± {spread:.2f}")


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"


def comparison(rows: dict[str, list[Run]], baseline: str) -> str:
    """Mean and spread of each row, and what it gains on the baseline with the same seeds."""
    lines = []
    for name, runs in rows.items():
        figures = [with_spread([r.figures[k] for r in runs]) for k in KEYS]
        lines.append([f"`{name}`", str(len(runs)), *figures])
        if name != baseline:
            paired = [gains(rows[baseline], runs, k) for k in KEYS]
            if paired[0]:
                changes = [with_spread(p, "+") for p in paired]
                lines.append(["*gain, seed by seed*", str(len(paired[0])), *changes])
    return table(["row", "seeds", *TITLES], lines)


def tables(rows: dict[str, list[Run]], baseline: str) -> str:
    runs = [(name, run) for name, of_row in rows.items() for run in of_row]
    every = [
        [
            f"`{name}`",
            str(run.seed),
            ", ".join(run.devices) or "?",
            duration(run.seconds),
            *(f"{run.figures[k]:.2f}" for k in KEYS),
        ]
        for name, run in runs
    ]
    prefix = "segm/AP-"
    classes = list(dict.fromkeys(k for _, run in runs for k in run.figures if k.startswith(prefix)))
    by_class = [
        [f"`{name}`", str(run.seed), *(f"{run.figures[k]:.2f}" for k in classes)]
        for name, run in runs
    ]
    sections = [
        "Mean ± standard deviation over the seeds:",
        comparison(rows, baseline),
        "Every run, evaluated after its last iteration:",
        table(["row", "seed", "device", "time", *TITLES], every),
        "Mask AP of each class:",
        table(
            ["row", "seed", *(k.removeprefix(prefix).replace("_", " ") for k in classes)], by_class
        ),
    ]
    for name, of_row in rows.items():
        if name == baseline:
            continue
        changed = differences(rows[baseline][0], of_row[0])
        listed = [f"- `{k}`: `{a!r}` → `{b!r}`" for k, (a, b) in sorted(changed.items())]
        title = f"All that is set otherwise, `{baseline}` → `{name}`:"
        sections.append("\n\n".join([title, "\n".join(listed)]))
    return "\n\n".join(sections)


def update(file: Path, content: str) -> None:
    """Replace what stands between the two marks.

    Raises:
        UserError: where the file, or one of the marks, is not there.
    """
    if not file.is_file():
        raise UserError(f"--update {file} does not exist.")
    text = file.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(f'--update {file} needs the lines "{BEGIN}" and "{END}", once each.')
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    write_whole(file, f"{before}{BEGIN}\n\n{content}\n\n{END}{after}")


def plot(rows: dict[str, list[Run]], file: Path) -> None:
    """Losses and AP over the iterations; one colour a row, one line a seed."""
    panels = {
        "loss_category": "category loss",
        "loss_mask": "mask loss",
        "segm/AP": "mask AP",
        "segm/AP50": "mask AP50",
    }
    figure = Figure(figsize=(13, 3.4), layout="constrained")
    colors = mpl.colormaps["tab10"].colors
    for axes, (key, title) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for color, (name, runs) in zip(colors, rows.items()):
            for number, run in enumerate(runs):
                label = name if number == 0 else None
                marker = "o" if "/" in key else None
                axes.plot(
                    *run.curve(key), color=color, label=label, marker=marker, alpha=0.7, lw=1.2
                )
        axes.set(title=title, xlabel="iteration")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(rows), frameon=False)
    figure.savefig(file, dpi=110)


def main() -> None:
    args = parse_args()
    if args.plot:
        if args.plot.suffix.lower() not in (".png", ".jpg", ".pdf", ".svg"):
            raise UserError(f"--plot {args.plot}: name a .png, .jpg, .pdf or .svg file.")
        check_writable(args.plot.parent)
    rows = group_runs(args.runs)
    baseline = args.baseline or next(iter(rows))
    if baseline not in rows:
        raise UserError(f"--baseline {baseline}: the rows are {', '.join(rows)}.")
    rows = {baseline: rows[baseline]} | rows
    content = tables(rows, baseline)
    if args.update:
        update(args.update, content)
        print(f"Tables of {sum(map(len, rows.values()))} runs in {args.update}")
    else:
        print(content)
    if args.plot:
        plot(rows, args.plot)
        print(f"Curves in {args.plot}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_command(main))
