"""Finished training runs: their metrics and settings, and comparisons between runs."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import get_cfg

from ..config import add_facenet_config, rename_keys
from ..engine.run_record import read_sessions
from ..errors import UserError

# Keys that may differ between the runs of a row.
RUN_KEYS = ("SEED", "OUTPUT_DIR")
SEED_FOLDER = re.compile(r"seed\d+")


@dataclass(frozen=True)
class Run:
    """Finished training run.

    Attributes:
        folder: OUTPUT_DIR of the run, or a copy of its files.
        settings: flattened ``config.yaml``: ``{"SOLVER.BASE_LR": 0.01, ...}``.
        events: lines of ``metrics.json`` in order.
        devices: names of the devices of all sessions, without repetition.
        seconds: total time including evaluations; None if it was not recorded.
    """

    folder: Path
    settings: dict[str, Any]
    events: list[dict[str, float]]
    devices: list[str]
    seconds: float | None

    @property
    def seed(self) -> int:
        return self.settings["SEED"]

    @property
    def test_sets(self) -> tuple[str, ...]:
        """Names that tell apart the metrics of several data sets; ("",) for a single data set."""
        return _test_sets(self.settings)

    def metrics(self, test_set: str = "") -> dict[str, float]:
        """Return the metrics after the last iteration: ``{"segm/AP": ..., "bbox/AP": ..., ...}``.

        Args:
            test_set: one of :attr:`test_sets`.
        """
        prefix = f"{test_set}/" if test_set else ""
        last = next(e for e in reversed(self.events) if f"{prefix}segm/AP" in e)
        own = {k.removeprefix(prefix): v for k, v in last.items() if k.startswith(prefix)}
        return {k: v for k, v in own.items() if k.startswith(("segm/", "bbox/"))}

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Return the iterations at which ``key`` was recorded, and its values."""
        points = {int(e["iteration"]): e[key] for e in self.events if key in e}
        return list(points), list(points.values())


def _test_sets(settings: dict[str, Any]) -> tuple[str, ...]:
    # Detectron2 puts the data set's name before a metric's only if there are several data sets.
    names = tuple(settings.get("DATASETS.TEST", ()))
    return names if len(names) > 1 else ("",)


def read_run(folder: str | Path) -> Run:
    """Read a finished run from an OUTPUT_DIR of ``train_net.py``.

    Raises:
        UserError: if the folder does not contain a run, or an unfinished one.
    """
    folder = Path(folder)
    for name in ("metrics.json", "config.yaml"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is not a training run: it has no {name}.")
    file = folder / "metrics.json"
    events = []
    content = file.read_text(errors="replace")
    lines = content.splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
            event["iteration"] += 0
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if number == len(lines) and not content.endswith("\n"):
                # A killed process, or a full disk, leaves a last line without its end.
                break
            raise UserError(
                f"{file}, line {number} is damaged ({' '.join(str(error).split())}); remove the "
                "line."
            ) from error
        events.append(event)
    settings = read_settings(folder)
    for test_set in _test_sets(settings):
        key = f"{test_set}/segm/AP" if test_set else "segm/AP"
        evaluated = max((e["iteration"] for e in events if key in e), default=0)
        if evaluated < settings["SOLVER.MAX_ITER"]:
            of = f" on {test_set}" if test_set else ""
            raise UserError(
                f"{folder} is not finished: its masks were last evaluated{of} after iteration "
                f"{evaluated} of {settings['SOLVER.MAX_ITER']}."
            )
    sessions = read_sessions(folder)
    return Run(
        folder,
        settings,
        events,
        list(dict.fromkeys(s["device"] for s in sessions)),
        sum(s["seconds"] for s in sessions) if sessions else None,
    )


def read_settings(folder: Path) -> dict[str, Any]:
    """Read and flatten the ``config.yaml`` of a run: ``{"SOLVER.BASE_LR": 0.01, ...}``.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        recorded = yaml.safe_load((folder / "config.yaml").read_text())
        if not isinstance(recorded, dict):
            raise ValueError("its config.yaml is truncated or not a config")
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{folder} cannot be read: {' '.join(str(error).split())}.") from error
    rename_keys(recorded)
    # The defaults of keys that are newer than the run keep the behaviour it had.
    defaults = get_cfg()
    add_facenet_config(defaults)
    return dict(flatten(defaults)) | dict(flatten(recorded))


def flatten(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Iterate over the leaves of nested settings with their dotted keys."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def setting_differences(a: Run, b: Run) -> dict[str, tuple[Any, Any]]:
    """Return the settings in which two runs differ, apart from seed and output folder."""
    keys = [k for k in (a.settings | b.settings) if k not in RUN_KEYS]
    pairs = {k: (a.settings.get(k), b.settings.get(k)) for k in keys}
    return {k: pair for k, pair in pairs.items() if pair[0] != pair[1]}


def group_runs(folders: Sequence[str | Path]) -> dict[str, list[Run]]:
    """Read runs and group them by row, sorted by seed.

    Folders ``ROW/seed1``, ``ROW/seed2``, ... are runs of the row ``ROW``. Any other folder is a row
    by itself.

    Raises:
        UserError: if runs of a row have the same seed or differ in more than the seed.
    """
    rows: dict[str, list[Run]] = {}
    for folder in folders:
        run = read_run(folder)
        path = run.folder.resolve()
        name = path.parent.name if SEED_FOLDER.fullmatch(path.name) else path.name
        rows.setdefault(name, []).append(run)
    for name, runs in rows.items():
        runs.sort(key=lambda r: r.seed)
        for run in runs[1:]:
            wrong = setting_differences(runs[0], run)
            if wrong:
                raise UserError(
                    f"{name}: {run.folder} and {runs[0].folder} differ in more than their seed: "
                    f"{', '.join(sorted(wrong))}."
                )
        if len({r.seed for r in runs}) < len(runs):
            raise UserError(f"{name}: two of its runs have the same seed.")
    return rows


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation, which is NaN for a single value."""
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return statistics.fmean(values), spread


def paired_gains(
    baseline: Sequence[Run], runs: Sequence[Run], key: str, test_set: str = ""
) -> list[float]:
    """Return the differences of a metric to the baseline's run with the same seed, by seed."""
    of_seed = {r.seed: r.metrics(test_set)[key] for r in baseline}
    return [r.metrics(test_set)[key] - of_seed[r.seed] for r in runs if r.seed in of_seed]
