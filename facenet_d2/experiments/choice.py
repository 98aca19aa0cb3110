"""Selection by name: the protocol config and the rows of a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..paths import configs
from .paper import Row, Table

DEFAULT_SCHEDULE = "R_101_36ep"
# Protocol configs are named by this prefix and their schedule.
PROTOCOL_PREFIX = "solov2_"


@dataclass(frozen=True)
class Protocol:
    """Config that sets data, schedule, backbone and image sizes for all rows.

    Attributes:
        file: path of the config. Its model does not matter: each row puts its own on it.
        name: name of the folder of its runs, unless the user chooses one.
    """

    file: Path
    name: str


def find_protocol(dataset: str, schedule: str | None = None) -> Protocol:
    """Find the protocol config of a data set and a schedule.

    Args:
        dataset: a folder in configs, ignoring case and punctuation, or a YAML file of the user.
        schedule: backbone and schedule as in the names of the configs, or the only one's beginning;
            by default :data:`DEFAULT_SCHEDULE`; None for a YAML file.

    Raises:
        UserError: if there is no such config; the message lists the available ones.
    """
    if dataset.lower().endswith((".yaml", ".yml")):
        if schedule is not None:
            raise UserError(
                f"--schedule {schedule} cannot be combined with the file {dataset}, which has a "
                "schedule of its own; omit it, or name a data set."
            )
        file = Path(dataset)
        if not file.is_file():
            raise UserError(f"--dataset {dataset}: there is no such file.")
        return Protocol(file, file.stem)
    parents = {p.parent for p in configs().glob(f"*/{PROTOCOL_PREFIX}*.yaml")}
    folders = sorted(parents - {configs() / "models"})
    wanted = _normalised(dataset.rstrip("/"))
    folder = next((f for f in folders if _normalised(f.name) == wanted), None)
    if folder is None:
        known = ", ".join(f.name for f in folders)
        raise UserError(
            f"--dataset {dataset}: choose one of {known}, or give a config of your own, FILE.yaml."
        )
    files = {
        p.stem.removeprefix(PROTOCOL_PREFIX): p
        for p in sorted(folder.glob(f"{PROTOCOL_PREFIX}*.yaml"))
    }
    wanted = schedule or DEFAULT_SCHEDULE
    beginning = _normalised(wanted)
    matching = [n for n in files if _normalised(n).startswith(beginning)]
    matching = [n for n in matching if _normalised(n) == beginning] or matching
    if len(matching) != 1:
        given = "" if schedule else " (the default)"
        found = f"several schedules {wanted}..." if matching else f"no schedule {wanted}{given}"
        raise UserError(
            f"{folder.name} has {found}; choose one of: --schedule {', '.join(matching or files)}."
        )
    name = matching[0]
    return Protocol(files[name], f"{folder.name}_{name}")


def _normalised(name: str) -> str:
    """Remove case, spaces and punctuation, but not "*" and "+", which distinguish rows."""
    return re.sub(r"[\s_.-]+", "", name).casefold()


def choose_rows(table: Table, names: Sequence[str] | None) -> list[Row]:
    """Choose rows of a table and other models of configs/models; the baseline is always included.

    Args:
        table: a table of the paper.
        names: names of rows or of files in configs/models; None for all rows of the table.

    Returns:
        Rows of the table in its order, then the other models.

    Raises:
        UserError: for an unknown name.
    """
    if names is None:
        return list(table.rows)
    models = {_normalised(p.stem): p.stem for p in sorted((configs() / "models").glob("*.yaml"))}
    chosen = {table.baseline: table.row(table.baseline)}
    for name in names:
        wanted = _normalised(name)
        row = next((r for r in table.rows if _normalised(r.name) == wanted), None) or next(
            (r for r in table.rows if _normalised(r.model) == wanted), None
        )
        if row is None and wanted not in models:
            own = ", ".join(r.name for r in table.rows)
            raise UserError(
                f"--rows {name}: the rows of the table are {own}; others can be taken from "
                f"configs/models: {', '.join(models.values())}."
            )
        row = row or Row(models[wanted], models[wanted], ())
        chosen[row.name] = row
    order = {r.name: i for i, r in enumerate(table.rows)}
    return sorted(chosen.values(), key=lambda r: order.get(r.name, len(order)))
