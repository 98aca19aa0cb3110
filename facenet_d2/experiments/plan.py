"""Plan of the trainings for a table: its rows, their configs, and the folders of the runs."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from ..engine import Trainer, load_config, read_config
from ..engine.cli import user_errors
from ..engine.num_classes import keys_of_other_models, num_classes_key
from ..errors import UserError
from ..files import write_whole
from .choice import Protocol
from .paper import Row, Table
from .runs import Run, flatten, read_run, read_settings

# Keys that do not affect what is trained.
IGNORED_KEYS = ("OUTPUT_DIR", "MODEL.DEVICE")
# Keys that reproduce.py sets itself, and the options to set them with.
OPTION_OF_KEY = {"OUTPUT_DIR": "--output", "SEED": "--seeds"}
MAX_LISTED_KEYS = 5
# Detectron2's periodic checkpoints, named by the last iteration before them, counted from 0.
CHECKPOINT = re.compile(r"model_(\d+)\.pth")


@dataclass(frozen=True)
class PlannedRow:
    """Row with its complete config.

    Attributes:
        row: row of the paper's table, or a model that is not in the table.
        cfg: frozen config; its SEED and OUTPUT_DIR are not those of the runs.
        settings: flattened config, as a run records it: ``{"SOLVER.BASE_LR": 0.01, ...}``.
        changes: differences between the row's model file and the baseline's:
            ``{key: (baseline's value, row's value)}``.
    """

    row: Row
    cfg: CfgNode
    settings: dict[str, Any]
    changes: dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Job:
    """Training run of a row with a seed."""

    row: Row
    seed: int
    output: Path

    @property
    def config_file(self) -> Path:
        """Config that merges protocol and model file, shared by the row's runs."""
        return self.output / self.row.config.stem / "row.yaml"

    @property
    def folder(self) -> Path:
        """OUTPUT_DIR of the run."""
        return self.output / self.row.config.stem / f"seed{self.seed}"

    def finished(self) -> Run | None:
        """Return the run if it is completely trained and evaluated, else None."""
        if not (self.folder / "metrics.json").is_file():
            return None
        try:
            return read_run(self.folder)
        except UserError:
            return None

    def saved_iterations(self, total: int) -> int:
        """Return the number of iterations in the last checkpoint; 0 without a checkpoint.

        Args:
            total: number of iterations of the complete run.
        """
        tag = self.folder / "last_checkpoint"
        if not tag.is_file():
            return 0
        names = [tag.read_text().strip()]
        if names == ["model_best.pth"]:
            # Earlier versions tagged it too, but its name does not tell the iteration.
            names = [p.name for p in self.folder.glob("model_*.pth")]
        if "model_final.pth" in names:
            return total
        numbers = [int(match[1]) for name in names if (match := CHECKPOINT.fullmatch(name))]
        return max(numbers, default=-1) + 1


@dataclass(frozen=True)
class TrainingPlan:
    """Trainings of the rows of a table.

    Attributes:
        table: table of the paper.
        protocol: config that the rows share.
        overrides: KEY VALUE pairs for all rows.
        rows: rows to train in the table's order, including the baseline.
        jobs: runs in the order of training: all rows with the first seed, the baseline first, then
            all rows with the next seed.
    """

    table: Table
    protocol: Protocol
    overrides: tuple[str, ...]
    rows: tuple[PlannedRow, ...]
    jobs: tuple[Job, ...]

    def write_configs(self) -> None:
        """Write the config of each row to its folder."""
        for job in self.jobs:
            job.config_file.parent.mkdir(parents=True, exist_ok=True)
            write_row_config(self.protocol.file, job.row.config, job.config_file)

    def check_folders(self) -> None:
        """Check that existing runs in the folders have the settings of this plan.

        Raises:
            UserError: if they do not; runs of different settings are never mixed.
        """
        planned = {r.row.name: r for r in self.rows}
        for job in self.jobs:
            _check_recorded(job, planned[job.row.name])


def write_row_config(protocol: Path, model: Path, file: Path) -> None:
    """Write a config that merges a model file into a protocol config.

    Args:
        protocol: path of the protocol config.
        model: path of the model file, whose values take precedence.
        file: path of the config to write.
    """
    bases = [str(protocol.resolve()), str(model.resolve())]
    write_whole(file, f"_BASE_: {json.dumps(bases)}\n")


def make_plan(
    table: Table,
    rows: Sequence[Row],
    protocol: Protocol,
    seeds: Sequence[int],
    output: Path,
    overrides: Sequence[str] = (),
) -> TrainingPlan:
    """Load the configs of all rows as for training, and check them.

    Nothing is written. The annotation files must exist, the images need not.

    Args:
        table: table of the paper.
        rows: rows from :func:`choose_rows`.
        protocol: config from :func:`find_protocol`.
        seeds: seeds of each row's runs.
        output: parent of the rows' folders.
        overrides: KEY VALUE pairs for all rows.

    Raises:
        UserError: if a config, an override or the data set is wrong.
    """
    for key in overrides[::2]:
        if key in OPTION_OF_KEY:
            raise UserError(f"{key} cannot be overridden: use {OPTION_OF_KEY[key]}.")
    # Read the protocol first, so that an error names it and not a temporary file.
    read_config(protocol.file, overrides)
    loaded: dict[str, CfgNode] = {}
    first = [r for r in rows if r.name == table.baseline]
    order = first + [r for r in rows if r not in first]
    with tempfile.TemporaryDirectory() as folder:
        for row in order:
            file = Path(folder, f"{row.model}.yaml")
            write_row_config(protocol.file, row.config, file)
            # An error in the baseline's config is one of the protocol, the data or an override.
            with nullcontext() if row in first else _naming(row):
                loaded[row.name] = load_config(file, overrides, train=True)
            _check_tests(loaded[row.name], protocol)
    baseline = loaded[table.baseline]
    settings = {n: dict(flatten(yaml.safe_load(cfg.dump()))) for n, cfg in loaded.items()}
    planned = []
    for row in rows:
        changes = _changes(row, table, loaded, settings) if loaded[row.name] != baseline else {}
        planned.append(PlannedRow(row, loaded[row.name], settings[row.name], changes))
    jobs = [Job(row, seed, output) for seed in seeds for row in order]
    return TrainingPlan(table, protocol, tuple(overrides), tuple(planned), tuple(jobs))


@contextmanager
def _naming(row: Row) -> Iterator[None]:
    """Name the row in error messages."""
    try:
        with user_errors("its config cannot be used"):
            yield
    except UserError as error:
        raise UserError(f"row {row.name}: {error}") from error


def _check_tests(cfg: CfgNode, protocol: Protocol) -> None:
    if len(cfg.DATASETS.TEST) != 1:
        raise UserError(
            f"DATASETS.TEST of {protocol.file} is {tuple(cfg.DATASETS.TEST)}; a table needs "
            "exactly one data set to evaluate on."
        )


def check_models(rows: Iterable[PlannedRow]) -> None:
    """Build the model of each row on the CPU, which detects wrong values before any training.

    Raises:
        UserError: if the model of a row cannot be built; the message names the row.
    """
    for planned in rows:
        cfg = planned.cfg.clone()
        cfg.defrost()
        cfg.MODEL.DEVICE = "cpu"
        with _naming(planned.row):
            Trainer.build_model(cfg)


def _changes(
    row: Row, table: Table, loaded: dict[str, CfgNode], settings: dict[str, dict[str, Any]]
) -> dict[str, tuple[Any, Any]]:
    baseline = table.row(table.baseline)
    ours, theirs = settings[row.name], settings[baseline.name]
    own_keys = set(_keys(row.config)) | set(_keys(baseline.config))
    # Numbers of classes come from the data; their keys depend on the model.
    counts = {num_classes_key(loaded[r.name])[0] for r in (row, baseline)}
    counts.add("MODEL.POINT_HEAD.NUM_CLASSES")
    changes = {}
    for key in sorted(ours.keys() | theirs.keys()):
        # A key that only one of them has belongs to another Detectron2 project, such as PointRend;
        # its defaults are not a change.
        unknown = key not in ours or key not in theirs
        if key in counts or ours.get(key) == theirs.get(key) or (unknown and key not in own_keys):
            continue
        if key not in own_keys:
            raise UserError(
                f"row {row.name} and {baseline.name} differ in {key} ({ours[key]!r} and "
                f"{theirs[key]!r}), which neither {row.config} nor {baseline.config} sets."
            )
        changes[key] = (theirs.get(key), ours.get(key))
    return changes


def _keys(file: Path) -> list[str]:
    """Return the keys that a model file sets."""
    return [key for key, _ in flatten(CfgNode.load_yaml_with_base(str(file)))]


def _check_recorded(job: Job, planned: PlannedRow) -> None:
    folder = job.folder
    way_out = f"choose another --output, or remove {folder}"
    trained = [p.name for p in (folder / "metrics.json", *folder.glob("*.pth")) if p.is_file()]
    record = folder / "config.yaml"
    if not record.is_file() or not record.stat().st_size:
        # A run that was killed before its first file is harmless.
        if trained:
            raise UserError(
                f"{folder} contains {trained[0]} of a training, but no config.yaml with its "
                f"settings; {way_out}."
            )
        return
    recorded = read_settings(folder)
    expected = planned.settings | {"SEED": job.seed}
    # A protocol can get keys of new models without affecting the runs of other models.
    ignored = keys_of_other_models(planned.cfg)
    keys = sorted(
        k
        for k in recorded.keys() | expected.keys()
        if k not in IGNORED_KEYS
        and not k.startswith(ignored)
        and recorded.get(k) != expected.get(k)
    )
    if keys:
        listed = [f"{k} {recorded.get(k)!r} there, {expected.get(k)!r} now" for k in keys]
        if len(keys) > MAX_LISTED_KEYS:
            listed[MAX_LISTED_KEYS:] = [f"and {len(keys) - MAX_LISTED_KEYS} more"]
        raise UserError(
            f"{folder} was trained with other settings: {'; '.join(listed)}. "
            f"Runs of different settings are not mixed: {way_out}."
        )
