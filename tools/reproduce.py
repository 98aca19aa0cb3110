#!/usr/bin/env python3
"""Train and evaluate the rows of one of the paper's tables, and set the figures beside the paper's.

  reproduce.py --table 8
  reproduce.py --table 3 --rows FACENet YOLACT mask_rcnn --seeds 1 2 3 --num-gpus 2
  reproduce.py --table 5 --dataset synthetic --schedule R_18_demo SOLVER.MAX_ITER 100
  reproduce.py --table 2 --dataset harbour.yaml --dry-run

All rows share a protocol (data, schedule, backbone, sizes), configs/DATASET/solov2_SCHEDULE.yaml or
a config of your own; each row puts its model on it, configs/models/MODEL.yaml. A run lies in
OUTPUT/MODEL/seedN, its log in train.log there; tables with the same --output share runs.

The same command goes on where it was stopped: what is finished is not trained again. Ctrl-C lets
the training save a checkpoint first. Runs of other settings than these are never mixed in.

Written after each run: OUTPUT/tableN.md, with all settings, and the curves, OUTPUT/tableN.png. The
exit code is 1 where a row failed, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path
from typing import TextIO

import facenet_d2.compat  # noqa: F401  isort: skip
from facenet_d2.engine import run_command
from facenet_d2.engine.devices import check_num_gpus
from facenet_d2.engine.setup import check_writable
from facenet_d2.experiments import (
    OPTIONS,
    Plan,
    Report,
    check_models,
    choose_rows,
    command_of,
    find_protocol,
    lock,
    make_plan,
    shell_line,
    train,
)
from facenet_d2.experiments.paper import TABLES
from facenet_d2.experiments.runs import Run
from facenet_d2.experiments.tables import duration, with_spread

# What a KEY of an override looks like, and no row's name.
KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")
ROOT = Path("output/reproduce")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tables = "; ".join(f"{n}: {t.title}" for n, t in TABLES.items())
    parser.add_argument("--table", type=int, choices=TABLES, required=True, help=tables)
    parser.add_argument(
        "--dataset",
        metavar="NAME|FILE.yaml",
        help="a folder of configs, or a config of your own (default: the table's data set)",
    )
    parser.add_argument(
        "--schedule", help="R_101_36ep by default; a wrong one lists those that are there"
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        metavar="ROW",
        help="names of the table's rows, or of files in configs/models; the baseline is always in",
    )
    parser.add_argument("--seeds", nargs="+", default=["1"], metavar="N", help="(default: 1)")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help=f"(default: {ROOT}/DATASET_SCHEDULE)"
    )
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="of each training")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check all, write the rows' configs, print the commands, and train nothing",
    )
    parser.add_argument("--json", action="store_true", help="print the result as a line of JSON")
    parser.add_argument(
        "overrides",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="settings for all rows, as of train_net.py; options come before them",
    )
    args = parser.parse_args()
    args.overrides = [o for o in args.overrides if o != "--"]
    for option in ("rows", "seeds"):
        # Overrides that stand after an option with several values.
        values = getattr(args, option) or []
        keys = (("." in v and KEY.fullmatch(v)) or v in OPTIONS for v in values)
        first = next((i for i, is_key in enumerate(keys) if is_key), None)
        if first:
            setattr(args, option, values[:first])
            args.overrides = values[first:] + args.overrides
    if not all(seed.isdecimal() for seed in args.seeds):
        parser.error(f"--seeds {' '.join(args.seeds)}: they are whole numbers, 0 or more")
    args.seeds = list(dict.fromkeys(map(int, args.seeds)))
    if args.num_gpus < 1:
        parser.error("--num-gpus must be at least 1; on a CPU leave it out")
    return args


def dry_run(plan: Plan, num_gpus: int) -> None:
    """Print what would be done, as lines for a shell."""
    for job in plan.jobs:
        what = f"{job.row.name}, seed {job.seed}"
        if job.finished():
            print(f"# {what}: finished, in {job.folder}")
        else:
            print(f"# {what}:\n{shell_line(command_of(job, num_gpus, plan.overrides))}")


def train_all(plan: Plan, report: Report, num_gpus: int, hold: int) -> None:
    """Train what is not finished; the report is written after each run."""
    iterations = {r.row.name: r.cfg.SOLVER.MAX_ITER for r in plan.rows}
    for number, job in enumerate(plan.jobs, 1):
        what = f"[{number}/{len(plan.jobs)}] {job.row.name}, seed {job.seed}"
        if job in report.runs:
            say(f"{what}: finished already, {ap_of(report.runs[job])}; in {job.folder}")
            continue
        verb = "goes on" if (job.folder / "last_checkpoint").is_file() else "starts"
        log = job.folder / "train.log"
        say(f"{what}: {verb} in {job.folder}, log {log}")
        start = time.monotonic()
        error = train(
            job,
            num_gpus=num_gpus,
            overrides=plan.overrides,
            iterations=iterations[job.row.name],
            hold=hold,
            progress=sys.stderr,
        )
        run = None if error else job.finished()
        if run is None:
            report.failures[job] = error
            say(f"{what}: failed: {error} (log: {log})", file=sys.stderr)
        else:
            report.runs[job] = run
            say(f"{what}: done in {duration(time.monotonic() - start)}, {ap_of(run)}")
        report.write()


def ap_of(run: Run) -> str:
    return f"AP {with_spread([run.figures['segm/AP']])}"


def say(text: str, file: TextIO | None = None) -> None:
    # At once, also into a file: it is all that is seen for hours.
    print(text, file=file, flush=True)


def main() -> int:
    args = parse_args()
    table = TABLES[args.table]
    protocol = find_protocol(args.dataset or table.dataset, args.schedule)
    rows = choose_rows(table, args.rows)
    check_num_gpus(args.num_gpus)
    output = args.output or ROOT / protocol.name
    plan = make_plan(table, rows, protocol, args.seeds, output, args.overrides)
    plan.check_folders()
    unfinished = {j.row.name for j in plan.jobs if not j.finished()}
    check_models(r for r in plan.rows if r.row.name in unfinished)
    check_writable(output)
    if args.dry_run:
        plan.write_configs()
        dry_run(plan, args.num_gpus)
        return 0
    report = Report(args.table, plan, shell_line([Path(sys.executable).name, *sys.argv]))
    interrupted = False
    with lock(output) as hold:
        # Once more: another process may have trained here before this one had the lock.
        plan.check_folders()
        plan.write_configs()
        report.runs = {job: run for job in plan.jobs if (run := job.finished())}
        try:
            train_all(plan, report, args.num_gpus, hold)
        except KeyboardInterrupt:
            interrupted = True
        report.write()
    print(f"\n{report.markdown()}\n\nIn {', '.join(map(str, report.written()))}")
    if interrupted:
        say("interrupted; the same command goes on", file=sys.stderr)
    if args.json:
        print(json.dumps(report.json()))
    return 130 if interrupted else int(bool(report.failures))


if __name__ == "__main__":
    sys.exit(run_command(main))
