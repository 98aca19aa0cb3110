#!/usr/bin/env python3
"""Tables and curves of training runs, rows of several seeds compared with a baseline.

  summarize_runs.py output/solov2/seed* output/facenet/seed* --plot curves.png
  summarize_runs.py model_zoo/nwpu_vhr10/*/seed* --update MODEL_ZOO.md --plot docs/images/curves.png

A run is an OUTPUT_DIR of train_net.py, of which config.yaml, metrics.json and run.json are read.
Folders ROW/seed1, ROW/seed2, ... are the runs of one row and may differ in nothing but their seed;
another folder is a row by itself. The first row is the baseline, unless --baseline names another.
Figures are those of the last iteration, never of the best one. --update puts the tables between the
lines "<!-- runs: begin -->" and "<!-- runs: end -->" of a file.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import facenet_d2.compat  # noqa: F401  isort: skip
from facenet_d2 import UserError
from facenet_d2.engine import run_command
from facenet_d2.engine.setup import check_writable
from facenet_d2.evaluation import METRICS
from facenet_d2.experiments.plots import Panel, draw_curves
from facenet_d2.experiments.runs import Run, differences, gains, group_runs
from facenet_d2.experiments.tables import duration, table, with_spread
from facenet_d2.files import write_whole

BEGIN, END = "<!-- runs: begin -->", "<!-- runs: end -->"
KEYS = [f"{task}/{metric}" for task in ("segm", "bbox") for metric in METRICS]
PANELS = (
    Panel("loss_category", "category loss"),
    Panel("loss_mask", "mask loss"),
    Panel("segm/AP", "mask AP"),
    Panel("segm/AP50", "mask AP50"),
)
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
            *(with_spread([run.figures[k]]) for k in KEYS),
        ]
        for name, run in runs
    ]
    prefix = "segm/AP-"
    classes = list(dict.fromkeys(k for _, run in runs for k in run.figures if k.startswith(prefix)))
    by_class = [
        [
            f"`{name}`",
            str(run.seed),
            *(with_spread([run.figures.get(k, math.nan)]) for k in classes),
        ]
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
        draw_curves(rows, PANELS, args.plot)
        print(f"Curves in {args.plot}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_command(main))
