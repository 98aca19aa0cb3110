"""What is to be trained for a table: its rows, the config of each, and the folders of the runs."""

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
from ..engine.num_classes import num_classes_key
from ..errors import UserError
from ..files import write_whole
from .choice import Protocol
from .paper import Row, Table
from .runs import Run, flat, read_run, read_settings

# What says where a run was made, not what was trained.
PLACES = ("OUTPUT_DIR", "MODEL.DEVICE")
# Keys that this tool sets itself, and the option that is there for it.
OPTIONS = {"OUTPUT_DIR": "--output", "SEED": "--seeds"}
MOST_KEYS = 5
# Detectron2's names of a run's checkpoints, by the iteration they were saved after, from 0.
CHECKPOINT = re.compile(r"model_(\d+)\.pth")


@dataclass(frozen=True)
class PlannedRow:
    """A row with all that it is trained with.

    Attributes:
        row: of the paper's table, or one of its kind without figures.
        cfg: its config, frozen; SEED and OUTPUT_DIR are not those of its runs.
        settings: the same as it will be recorded, flattened: ``{"SOLVER.BASE_LR": 0.01, ...}``.
        changes: what its model file sets otherwise than the baseline's: ``{key: (baseline's,
            its own)}``.
    """

    row: Row
    cfg: CfgNode
    settings: dict[str, Any]
    changes: dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Job:
    """A run: a row with a seed."""

    row: Row
    seed: int
    output: Path

    @property
    def config_file(self) -> Path:
        """Protocol and model file in one, shared by the row's runs."""
        return self.output / self.row.model / "row.yaml"

    @property
    def folder(self) -> Path:
        """Its OUTPUT_DIR."""
        return self.output / self.row.model / f"seed{self.seed}"

    def finished(self) -> Run | None:
        """The run, if it has been trained and evaluated to its end."""
        if not (self.folder / "metrics.json").is_file():
            return None
        try:
            return read_run(self.folder)
        except UserError:
            return None

    def saved(self, total: int) -> int:
        """Iterations, of ``total``, after which its last checkpoint was saved; 0 without one."""
        tag = self.folder / "last_checkpoint"
        name = tag.read_text().strip() if tag.is_file() else ""
        if name == "model_final.pth":
            return total
        number = CHECKPOINT.fullmatch(name)
        return int(number[1]) + 1 if number else 0


@dataclass(frozen=True)
class Plan:
    """All that is to be trained.

    Attributes:
        table: of the paper.
        protocol: the config that the rows share.
        overrides: KEY VALUE pairs, for all rows.
        rows: in the table's order, the baseline among them.
        left_out: rows of the table that this project has no model for; empty where rows were asked
            for by name.
        jobs: in the order to train them in: one seed of all rows, the baseline's first, then the
            next.
    """

    table: Table
    protocol: Protocol
    overrides: tuple[str, ...]
    rows: tuple[PlannedRow, ...]
    left_out: tuple[Row, ...]
    jobs: tuple[Job, ...]

    def write_configs(self) -> None:
        """Write the config of each row into its folder."""
        for job in self.jobs:
            job.config_file.parent.mkdir(parents=True, exist_ok=True)
            compose(self.protocol.file, job.row.config, job.config_file)

    def check_folders(self) -> None:
        """See that what lies in the runs' folders was trained with the settings of this plan.

        Raises:
            UserError: where it was not; runs of different settings are never mixed.
        """
        settings = {r.row.name: r.settings for r in self.rows}
        for job in self.jobs:
            _check_recorded(job, settings[job.row.name])


def compose(protocol: Path, model: Path, file: Path) -> None:
    """Write a config that is the protocol with a model file put on it."""
    bases = [str(protocol.resolve()), str(model.resolve())]
    write_whole(file, f"_BASE_: {json.dumps(bases)}\n")


def make_plan(
    table: Table,
    rows: Sequence[Row],
    protocol: Protocol,
    seeds: Sequence[int],
    output: Path,
    overrides: Sequence[str] = (),
) -> Plan:
    """Load the configs of all rows as they would be trained, and check them.

    Nothing is written. Only the data's annotation files need be there.

    Args:
        table: of the paper.
        rows: as :func:`choose_rows` gives them.
        protocol: as :func:`find_protocol` gives it.
        seeds: of each row's runs.
        output: the folder that the rows' folders lie in.
        overrides: KEY VALUE pairs, for all rows.

    Raises:
        UserError: where a config, an override, or the data is at fault.
    """
    for key in overrides[::2]:
        if key in OPTIONS:
            raise UserError(f"{key} is not to be overridden: use {OPTIONS[key]}.")
    # The file itself first: an error then names it, not the config that is made of it.
    read_config(protocol.file, overrides)
    wanted = [r for r in rows if r.model is not None]
    loaded: dict[str, CfgNode] = {}
    first = [r for r in wanted if r.name == table.baseline]
    with tempfile.TemporaryDirectory() as folder:
        for row in first + [r for r in wanted if r not in first]:
            file = Path(folder, f"{row.model}.yaml")
            compose(protocol.file, row.config, file)
            # What is wrong with the baseline is wrong with the protocol, the data or an override.
            with nullcontext() if row in first else _naming(row):
                loaded[row.name] = load_config(file, overrides, train=True)
            _check_tests(loaded[row.name], protocol)
    baseline = loaded[table.baseline]
    settings = {n: dict(flat(yaml.safe_load(cfg.dump()))) for n, cfg in loaded.items()}
    planned = []
    for row in wanted:
        changes = _changes(row, table, loaded, settings) if loaded[row.name] != baseline else {}
        planned.append(PlannedRow(row, loaded[row.name], settings[row.name], changes))
    order = first + [r for r in wanted if r not in first]
    jobs = [Job(row, seed, output) for seed in seeds for row in order]
    left_out = tuple(r for r in rows if r.model is None)
    return Plan(table, protocol, tuple(overrides), tuple(planned), left_out, tuple(jobs))


@contextmanager
def _naming(row: Row) -> Iterator[None]:
    """Name the row in what goes wrong."""
    try:
        with user_errors("its config cannot be used"):
            yield
    except UserError as error:
        raise UserError(f"row {row.name}: {error}") from error


def _check_tests(cfg: CfgNode, protocol: Protocol) -> None:
    if len(cfg.DATASETS.TEST) != 1:
        raise UserError(
            f"DATASETS.TEST of {protocol.file} is {tuple(cfg.DATASETS.TEST)}; a table is of one "
            "data set to evaluate on."
        )


def check_models(rows: Iterable[PlannedRow]) -> None:
    """Build the model of each row on the CPU, so that a wrong value is found at once.

    Raises:
        UserError: naming the row whose config describes no model.
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
    # Taken from the data, under a key that depends on the model.
    counts = {num_classes_key(loaded[r.name])[0] for r in (row, baseline)}
    counts.add("MODEL.POINT_HEAD.NUM_CLASSES")
    changes = {}
    for key in sorted(ours.keys() | theirs.keys()):
        # A key that only one has comes with a model of another project; its defaults are no change.
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
    """The keys that a model file sets."""
    return [key for key, _ in flat(CfgNode.load_yaml_with_base(str(file)))]


def _check_recorded(job: Job, settings: dict[str, Any]) -> None:
    folder = job.folder
    way_out = f"choose another --output, or remove {folder}"
    trained = [p.name for p in (folder / "metrics.json", *folder.glob("*.pth")) if p.is_file()]
    record = folder / "config.yaml"
    if not record.is_file() or not record.stat().st_size:
        # A run that was killed at its very start has left nothing that could be mixed.
        if trained:
            raise UserError(
                f"{folder} has a training's {trained[0]}, but no config.yaml that says with which "
                f"settings; {way_out}."
            )
        return
    recorded = read_settings(folder)
    expected = settings | {"SEED": job.seed}
    keys = sorted(
        k
        for k in recorded.keys() | expected.keys()
        if k not in PLACES and recorded.get(k) != expected.get(k)
    )
    if keys:
        listed = [f"{k} {recorded.get(k)!r} there, {expected.get(k)!r} now" for k in keys]
        more = f"; and {len(keys) - MOST_KEYS} more" if len(keys) > MOST_KEYS else ""
        raise UserError(
            f"{folder} was trained with other settings: {'; '.join(listed[:MOST_KEYS])}{more}. "
            f"Runs of different settings are not mixed: {way_out}."
        )
