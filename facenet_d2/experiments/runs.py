"""Finished training runs: their figures, their settings, and what lies between them."""

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

from ..config import add_facenet_config
from ..errors import UserError
from ..files import read_json

# What may differ between the runs of a row.
OWN = ("SEED", "OUTPUT_DIR")
SEED_FOLDER = re.compile(r"seed\d+")


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        folder: its OUTPUT_DIR, or what was kept of it.
        settings: its ``config.yaml``, flattened: ``{"SOLVER.BASE_LR": 0.01, ...}``.
        events: the lines of its ``metrics.json``, in order.
        devices: what it ran on.
        seconds: how long, evaluations included; None where it was not recorded.
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
    def figures(self) -> dict[str, float]:
        """Of the last evaluation, which is that of the last iteration: ``{"segm/AP": ...}``."""
        last = next(e for e in reversed(self.events) if "segm/AP" in e)
        return {k: v for k, v in last.items() if k.startswith(("segm/", "bbox/"))}

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Iterations, and what was recorded under ``key`` at them."""
        points = {e["iteration"]: e[key] for e in self.events if key in e}
        return list(points), list(points.values())


def read_run(folder: str | Path) -> Run:
    """What ``train_net.py`` left in its OUTPUT_DIR.

    Raises:
        UserError: where it is no run, or not finished.
    """
    folder = Path(folder)
    for name in ("metrics.json", "config.yaml"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is no training run: it has no {name}.")
    file = folder / "metrics.json"
    events = []
    for number, line in enumerate(file.read_text(errors="replace").splitlines(), start=1):
        try:
            events.append(json.loads(line))
        except ValueError as error:
            raise UserError(
                f"{file}, line {number}: {' '.join(str(error).split())}; the line is damaged: "
                "remove it, or the run's folder to train it again."
            ) from error
    settings = read_settings(folder)
    evaluated = max((e["iteration"] for e in events if "segm/AP" in e), default=0)
    if evaluated < settings["SOLVER.MAX_ITER"]:
        raise UserError(
            f"{folder} is not finished: its masks were last evaluated after iteration {evaluated} "
            f"of {settings['SOLVER.MAX_ITER']}."
        )
    stretches = read_stretches(folder)
    return Run(
        folder,
        settings,
        events,
        list(dict.fromkeys(s["device"] for s in stretches)),
        sum(s["seconds"] for s in stretches) if stretches else None,
    )


def read_settings(folder: Path) -> dict[str, Any]:
    """A run's ``config.yaml``, flattened: ``{"SOLVER.BASE_LR": 0.01, ...}``.

    Raises:
        UserError: where it cannot be read.
    """
    try:
        recorded = yaml.safe_load((folder / "config.yaml").read_text())
        if not isinstance(recorded, dict):
            raise ValueError("its config.yaml is cut off or something else")
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{folder} cannot be read: {' '.join(str(error).split())}.") from error
    # Keys that came after the run have kept what it did as their defaults.
    defaults = get_cfg()
    add_facenet_config(defaults)
    return dict(flat(defaults)) | dict(flat(recorded))


def read_stretches(folder: Path) -> list[dict[str, Any]]:
    """What a run's ``run.json`` says of each of its stretches; nothing where there is none.

    Raises:
        UserError: where it cannot be read.
    """
    if not (folder / "run.json").is_file():
        return []
    record, problem = read_json(folder / "run.json")
    if problem:
        raise UserError(f"{folder / 'run.json'}: {problem}.")
    return record["stretches"]


def flat(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested settings, with their dotted keys."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differences(a: Run, b: Run) -> dict[str, tuple[Any, Any]]:
    """The settings of two runs that are not equal, but for seed and output folder."""
    keys = [k for k in (a.settings | b.settings) if k not in OWN]
    pairs = {k: (a.settings.get(k), b.settings.get(k)) for k in keys}
    return {k: pair for k, pair in pairs.items() if pair[0] != pair[1]}


def group_runs(folders: Sequence[str | Path]) -> dict[str, list[Run]]:
    """The runs of each row, seeds in order.

    Folders ``ROW/seed1``, ``ROW/seed2``, ... are of the row ``ROW``; another folder is a row by
    itself, with its own name.

    Raises:
        UserError: where runs of a row differ in more than their seed, or have the same.
    """
    rows: dict[str, list[Run]] = {}
    for folder in folders:
        run = read_run(folder)
        place = run.folder.resolve()
        of_several = SEED_FOLDER.fullmatch(place.name)
        rows.setdefault(place.parent.name if of_several else place.name, []).append(run)
    for name, runs in rows.items():
        runs.sort(key=lambda r: r.seed)
        for run in runs[1:]:
            wrong = differences(runs[0], run)
            if wrong:
                raise UserError(
                    f"{name}: {run.folder} and {runs[0].folder} differ in more than their seed: "
                    f"{', '.join(sorted(wrong))}."
                )
        if len({r.seed for r in runs}) < len(runs):
            raise UserError(f"{name}: two of its runs have the same seed.")
    return rows


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the sample standard deviation, which is NaN for a single value."""
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return statistics.fmean(values), spread


def gains(baseline: Sequence[Run], others: Sequence[Run], key: str) -> list[float]:
    """By how much a figure is better than the baseline's of the same seed, seeds in order."""
    of_seed = {r.seed: r.figures[key] for r in baseline}
    return [r.figures[key] - of_seed[r.seed] for r in others if r.seed in of_seed]
