#!/usr/bin/env python3
"""Make tables and curves of training runs, and compare rows with several seeds to a baseline.

  summarize_runs.py output/solov2/seed* output/facenet/seed* --plot curves.png
  summarize_runs.py model_zoo/nwpu_vhr10/*/seed* --update MODEL_ZOO.md --plot docs/images/curves.png

A run is an OUTPUT_DIR of train_net.py, or its files config.yaml, metrics.json and run.json.
Folders ROW/seed1, ROW/seed2, ... are the runs of one row and may differ only in their seed; any
other folder is a row by itself. The first row is the baseline, unless --baseline names another.
Metrics are those after the last iteration, not the best ones. --update writes the tables between
the lines "<!-- runs: begin -->" and "<!-- runs: end -->" of a file.
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
from facenet_d2.experiments.runs import Run, group_runs, paired_gains, setting_differences
from facenet_d2.experiments.tables import format_duration, markdown_table, with_spread
from facenet_d2.files import replaced, write_whole

BEGIN, END = "<!-- runs: begin -->", "<!-- runs: end -->"
KEYS = [f"{task}/{metric}" for task in ("segm", "bbox") for metric in METRICS]
TITLES = [f"{'mask' if k.startswith('segm') else 'box'} {k[5:]}" for k in KEYS]
CLASS_PREFIX = "segm/AP-"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    parser.add_argument("--baseline", help="row that the others are compared with")
    parser.add_argument("--update", type=Path, metavar="FILE.md", help="file for the tables")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="file for curves of losses and AP"
    )
    return parser.parse_args()


def test_sets_of(rows: dict[str, list[Run]]) -> tuple[str, ...]:
    """Return the test sets, see :attr:`Run.test_sets`, which all rows must share.

    Raises:
        UserError: if they do not.
    """
    of_rows = {name: runs[0].test_sets for name, runs in rows.items()}
    if len(set(of_rows.values())) > 1:
        listed = "; ".join(
            f"{name}: {', '.join(filter(None, sets)) or 'a single one'}"
            for name, sets in of_rows.items()
        )
        raise UserError(f"the rows cannot be compared, since their test sets differ: {listed}.")
    return next(iter(of_rows.values()))


def mean_table(rows: dict[str, list[Run]], baseline: str, test_set: str) -> str:
    """Make the table of means, spreads, and gains over the baseline's runs with the same seeds."""
    lines = []
    for name, runs in rows.items():
        cells = [with_spread([r.metrics(test_set)[k] for r in runs]) for k in KEYS]
        lines.append([f"`{name}`", str(len(runs)), *cells])
        if name != baseline:
            gains = [paired_gains(rows[baseline], runs, k, test_set) for k in KEYS]
            if gains[0]:
                cells = [with_spread(g, "+") for g in gains]
                lines.append(["*gain, seed by seed*", str(len(gains[0])), *cells])
    return markdown_table(["row", "seeds", *TITLES], lines)


def run_table(runs: list[tuple[str, Run]], test_set: str) -> str:
    lines = [
        [
            f"`{name}`",
            str(run.seed),
            ", ".join(run.devices) or "?",
            format_duration(run.seconds),
            *(with_spread([run.metrics(test_set)[k]]) for k in KEYS),
        ]
        for name, run in runs
    ]
    return markdown_table(["row", "seed", "device", "time", *TITLES], lines)


def class_table(runs: list[tuple[str, Run]], test_set: str) -> str:
    metrics = [run.metrics(test_set) for _, run in runs]
    keys = list(dict.fromkeys(k for m in metrics for k in m if k.startswith(CLASS_PREFIX)))
    lines = [
        [f"`{name}`", str(run.seed), *(with_spread([m.get(k, math.nan)]) for k in keys)]
        for (name, run), m in zip(runs, metrics, strict=True)
    ]
    classes = [k.removeprefix(CLASS_PREFIX).replace("_", " ") for k in keys]
    return markdown_table(["row", "seed", *classes], lines)


def make_tables(rows: dict[str, list[Run]], baseline: str) -> str:
    runs = [(name, run) for name, of_row in rows.items() for run in of_row]
    sections = []
    for test_set in test_sets_of(rows):
        on = f" on {test_set}" if test_set else ""
        sections += [
            f"Mean ± standard deviation over the seeds{on}:",
            mean_table(rows, baseline, test_set),
            f"Every run, evaluated after its last iteration{on}:",
            run_table(runs, test_set),
            f"Mask AP of each class{on}:",
            class_table(runs, test_set),
        ]
    for name, of_row in rows.items():
        if name == baseline:
            continue
        changed = setting_differences(rows[baseline][0], of_row[0])
        listed = [f"- `{k}`: `{a!r}` → `{b!r}`" for k, (a, b) in sorted(changed.items())]
        title = f"All changed settings, `{baseline}` → `{name}`:"
        sections.append("\n\n".join([title, "\n".join(listed)]))
    return "\n\n".join(sections)


def panels(test_sets: tuple[str, ...]) -> list[Panel]:
    """Return the axes of the curves: losses, then AP and AP50 of each test set."""
    found = [Panel("loss_category", "category loss"), Panel("loss_mask", "mask loss")]
    for test_set in test_sets:
        prefix, of = (f"{test_set}/", f", {test_set}") if test_set else ("", "")
        found += [Panel(f"{prefix}segm/{m}", f"mask {m}{of}") for m in ("AP", "AP50")]
    return found


def update_file(file: Path, content: str) -> None:
    """Replace the text between the lines :data:`BEGIN` and :data:`END`.

    Raises:
        UserError: if the file or one of the lines does not exist.
    """
    if not file.is_file():
        raise UserError(f"--update {file} does not exist.")
    text = file.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(f'--update {file} must contain the lines "{BEGIN}" and "{END}" once each.')
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    write_whole(file, f"{before}{BEGIN}\n\n{content}\n\n{END}{after}")


def main() -> None:
    args = parse_args()
    if args.plot:
        if args.plot.suffix.lower() not in (".png", ".jpg", ".pdf", ".svg"):
            raise UserError(f"--plot {args.plot}: give a .png, .jpg, .pdf or .svg file.")
        check_writable(args.plot.parent)
    rows = group_runs(args.runs)
    baseline = args.baseline or next(iter(rows))
    if baseline not in rows:
        raise UserError(f"--baseline {baseline}: the rows are {', '.join(rows)}.")
    rows = {baseline: rows[baseline]} | rows
    content = make_tables(rows, baseline)
    if args.update:
        update_file(args.update, content)
        print(f"Tables of {sum(map(len, rows.values()))} runs in {args.update}")
    else:
        print(content)
    if args.plot:
        with replaced(args.plot) as temporary:
            draw_curves(rows, panels(test_sets_of(rows)), temporary)
        print(f"Curves in {args.plot}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_command(main))
