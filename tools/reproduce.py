#!/usr/bin/env python3
"""Train and evaluate the rows of one of the paper's tables, and compare the metrics.

  reproduce.py --table 8
  reproduce.py --table 3 --rows FACENet YOLACT mask_rcnn --seeds 1 2 3 --num-gpus 2
  reproduce.py --table 3 --schedule lite0_384
  reproduce.py --table 5 --dataset synthetic --schedule R_18_demo SOLVER.MAX_ITER 100
  reproduce.py --table 2 --dataset harbour.yaml --dry-run

All rows share a protocol, a config with data, schedule, backbone and image sizes:
configs/DATASET/solov2_SCHEDULE.yaml or a config of your own. Each row merges its model file,
configs/models/MODEL.yaml, into it. --schedule lite0_384 is the light protocol, for CPUs, on every
published data set; for a data set of your own, base your config on configs/Base-lite0_384.yaml.
Runs are written to OUTPUT/MODEL/seedN, with their log in train.log. Tables with the same --output
share runs.

Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 saves a checkpoint and stops. The same command resumes an
interrupted run and does not repeat finished ones. Runs with other settings are never mixed in: the
command reports them and stops.

OUTPUT/tableN.md, with all settings, and the curves in OUTPUT/tableN.png are written after each run.
The exit code is 1 if a row failed, and 128 plus the signal's number after a signal.
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
from facenet_d2.engine.lock import locked
from facenet_d2.engine.setup import check_writable
from facenet_d2.experiments import (
    OPTION_OF_KEY,
    Report,
    TrainingPlan,
    check_models,
    choose_rows,
    find_protocol,
    make_plan,
    run_training,
    shell_line,
    training_command,
)
from facenet_d2.experiments.choice import DEFAULT_SCHEDULE
from facenet_d2.experiments.paper import TABLES
from facenet_d2.experiments.runs import Run
from facenet_d2.experiments.tables import format_duration, with_spread
from facenet_d2.signals import StopRequested

# Keys of overrides; no row has such a name.
KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")
OUTPUT_ROOT = Path("output/reproduce")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tables = "; ".join(f"{n}: {t.title}" for n, t in TABLES.items())
    parser.add_argument("--table", type=int, choices=TABLES, required=True, help=tables)
    parser.add_argument(
        "--dataset",
        metavar="NAME|FILE.yaml",
        help="folder in configs, or a config of your own (default: the table's data set)",
    )
    parser.add_argument(
        "--schedule",
        help="backbone and schedule, or the beginning of the name (default: "
        f"{DEFAULT_SCHEDULE}); a wrong one lists all",
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        metavar="ROW",
        help="rows of the table or files in configs/models; the baseline is always included",
    )
    parser.add_argument(
        "--seeds", nargs="+", default=["1"], metavar="N", help="seeds of each row (default: 1)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help=f"output folder (default: {OUTPUT_ROOT}/DATASET_SCHEDULE)",
    )
    parser.add_argument(
        "--num-gpus", type=int, default=1, metavar="N", help="GPUs of each training"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, write the rows' configs and print the commands without training",
    )
    parser.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    parser.add_argument(
        "overrides",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="config overrides for all rows, after all options",
    )
    args = parser.parse_args()
    args.overrides = [o for o in args.overrides if o != "--"]
    for option in ("rows", "seeds"):
        # An option with several values also takes the overrides after it.
        values = getattr(args, option) or []
        keys = (("." in v and KEY.fullmatch(v)) or v in OPTION_OF_KEY for v in values)
        first = next((i for i, is_key in enumerate(keys) if is_key), None)
        if first:
            setattr(args, option, values[:first])
            args.overrides = values[first:] + args.overrides
    if not all(seed.isdecimal() for seed in args.seeds):
        parser.error(f"--seeds {' '.join(args.seeds)}: seeds must be integers of at least 0")
    args.seeds = list(dict.fromkeys(map(int, args.seeds)))
    if args.num_gpus < 1:
        parser.error("--num-gpus must be at least 1; omit it to run on the CPU")
    return args


def print_commands(plan: TrainingPlan, num_gpus: int) -> None:
    """Print the commands that would be run, as lines for a shell."""
    iterations = {r.row.name: r.cfg.SOLVER.MAX_ITER for r in plan.rows}
    for job in plan.jobs:
        what = f"{job.row.name}, seed {job.seed}"
        total = iterations[job.row.name]
        done = job.saved_iterations(total)
        if job.finished():
            print(f"# {what}: finished, in {job.folder}")
        else:
            left = f"{total} iterations" + (f", {done} of them done" if done else "")
            command = shell_line(training_command(job, num_gpus, plan.overrides))
            print(f"# {what}: {left}\n{command}")


def train_unfinished(
    plan: TrainingPlan, report: Report, num_gpus: int, lock_descriptor: int
) -> None:
    """Train the unfinished runs and write the report after each of them."""
    iterations = {r.row.name: r.cfg.SOLVER.MAX_ITER for r in plan.rows}
    for number, job in enumerate(plan.jobs, 1):
        what = f"[{number}/{len(plan.jobs)}] {job.row.name}, seed {job.seed}"
        if job in report.runs:
            log(f"{what}: finished already, {format_ap(report.runs[job])}; in {job.folder}")
            continue
        verb = "resumes" if (job.folder / "last_checkpoint").is_file() else "starts"
        log_file = job.folder / "train.log"
        log(f"{what}: {verb} in {job.folder}, log {log_file}")
        start = time.monotonic()
        error = run_training(
            job,
            num_gpus=num_gpus,
            overrides=plan.overrides,
            iterations=iterations[job.row.name],
            lock_descriptor=lock_descriptor,
            progress=sys.stderr,
        )
        run = None if error else job.finished()
        if run is None:
            report.failures[job] = error
            log(f"{what}: failed: {error} (log: {log_file})", file=sys.stderr)
        else:
            report.runs[job] = run
            log(f"{what}: done in {format_duration(time.monotonic() - start)}, {format_ap(run)}")
        report.write()


def format_ap(run: Run) -> str:
    return f"AP {with_spread([run.metrics()['segm/AP']])}"


def log(text: str, file: TextIO | None = None) -> None:
    # Flushed, since a training takes hours and the output may be redirected to a file.
    print(text, file=file, flush=True)


def typed_command() -> list[str]:
    """Return the words of this command."""
    program, *arguments = sys.argv
    by_name = program.startswith("facenet ")
    return [*(program.split() if by_name else [Path(sys.executable).name, program]), *arguments]


def main() -> int:
    args = parse_args()
    table = TABLES[args.table]
    protocol = find_protocol(args.dataset or table.dataset, args.schedule)
    rows = choose_rows(table, args.rows)
    check_num_gpus(args.num_gpus)
    output = args.output or OUTPUT_ROOT / protocol.name
    plan = make_plan(table, rows, protocol, args.seeds, output, args.overrides)
    plan.check_folders()
    unfinished = {j.row.name for j in plan.jobs if not j.finished()}
    check_models(r for r in plan.rows if r.row.name in unfinished)
    check_writable(output)
    if args.dry_run:
        plan.write_configs()
        print_commands(plan, args.num_gpus)
        return 0
    report = Report(args.table, plan, shell_line(typed_command()))
    interrupted = 0
    with locked(output, "--output") as lock_descriptor:
        # Another process may have trained here before this one got the lock.
        plan.check_folders()
        plan.write_configs()
        report.runs = {job: run for job in plan.jobs if (run := job.finished())}
        try:
            train_unfinished(plan, report, args.num_gpus, lock_descriptor)
        except StopRequested as error:
            interrupted = error.signum
        report.write()
    print(f"\n{report.markdown()}\n\nIn {', '.join(map(str, report.existing_files()))}")
    if interrupted:
        log("interrupted; run the same command again to resume", file=sys.stderr)
    if args.json:
        print(json.dumps(report.json()))
    return 128 + interrupted if interrupted else int(bool(report.failures))


if __name__ == "__main__":
    sys.exit(run_command(main))
