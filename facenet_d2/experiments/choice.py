"""What is asked for by name: the protocol config, and the rows of a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..paths import configs
from .paper import TABLES, Row, Table

DEFAULT_SCHEDULE = "R_101_36ep"
# Of a protocol config, before the name of the schedule.
PREFIX = "solov2_"


@dataclass(frozen=True)
class Protocol:
    """The config that says data, schedule, backbone and sizes, for all rows.

    Attributes:
        file: a config whose model does not matter, as model files are put on it.
        name: of the folder that its runs lie in by default.
    """

    file: Path
    name: str


def find_protocol(dataset: str, schedule: str | None = None) -> Protocol:
    """The protocol config of a data set and a schedule.

    Args:
        dataset: a folder in configs, upper and lower case and ``-_`` being the same; or a YAML file
            of the user's own.
        schedule: backbone and schedule as they stand in the names of the configs; R_101_36ep by
            default. Not with a file.

    Raises:
        UserError: where there is no such config; it lists those that are there.
    """
    if dataset.lower().endswith((".yaml", ".yml")):
        if schedule is not None:
            raise UserError(
                f"--schedule {schedule} does not go with the file {dataset}, which has a schedule "
                "of its own; leave it out, or name a data set."
            )
        file = Path(dataset)
        if not file.is_file():
            raise UserError(f"--dataset {dataset}: there is no such file.")
        return Protocol(file, file.stem)
    folders = sorted({p.parent for p in configs().glob(f"*/{PREFIX}*.yaml")})
    wanted = _plain(dataset.rstrip("/"))
    folder = next((f for f in folders if _plain(f.name) == wanted), None)
    if folder is None:
        names = ", ".join(f.name for f in folders)
        raise UserError(
            f"--dataset {dataset}: there are {names}; or name a config of your own, FILE.yaml."
        )
    files = {p.stem.removeprefix(PREFIX): p for p in sorted(folder.glob(f"{PREFIX}*.yaml"))}
    wanted = schedule or DEFAULT_SCHEDULE
    name = next((n for n in files if _plain(n) == _plain(wanted)), None)
    if name is None:
        given = f"--schedule {wanted}" if schedule else f"{wanted}, the default"
        raise UserError(
            f"{folder.name} has no schedule {wanted} ({given}); choose one of: --schedule "
            f"{', '.join(files)}."
        )
    return Protocol(files[name], f"{folder.name}_{name}")


def _plain(name: str) -> str:
    """Upper and lower case, spaces and hyphens aside. "*" and "+" tell rows apart."""
    return re.sub(r"[\s_.-]+", "", name).casefold()


def choose_rows(table: Table, names: Sequence[str] | None) -> list[Row]:
    """Rows of a table and others of configs/models, the baseline always among them.

    Args:
        table: of the paper.
        names: of rows or files in configs/models; None: all rows of the table.

    Returns:
        the table's own in its order, including those that this project has no model for where
        ``names`` is None, then the others.

    Raises:
        UserError: for a name that is neither, or a row that this project has no model for.
    """
    if names is None:
        return list(table.rows)
    models = {_plain(p.stem): p.stem for p in sorted((configs() / "models").glob("*.yaml"))}
    missing = {_plain(r.name) for t in TABLES.values() for r in t.rows if r.model is None}
    chosen = {table.baseline: table.row(table.baseline)}
    for name in names:
        plain = _plain(name)
        row = next((r for r in table.rows if _plain(r.name) == plain), None) or next(
            (r for r in table.rows if r.model and _plain(r.model) == plain), None
        )
        if plain in missing:
            raise UserError(
                f"--rows {name}: this project has no such model, so that it cannot be trained; a "
                "table made without --rows gives the paper's figures of it."
            )
        if row is None and plain not in models:
            own = ", ".join(r.name for r in table.rows if r.model)
            raise UserError(
                f"--rows {name}: the rows of the table are {own}; others can be taken from "
                f"configs/models: {', '.join(models.values())}."
            )
        row = row or Row(models[plain], models[plain], ())
        chosen[row.name] = row
    order = [r.name for r in table.rows]
    return sorted(chosen.values(), key=lambda r: order.index(r.name) if r.name in order else 99)
