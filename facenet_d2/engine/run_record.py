"""Record of a run, ``run.json``: versions, commit, device and duration."""

from __future__ import annotations

import json
import logging
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from ..errors import UserError
from ..files import read_json, write_whole
from ..paths import REPOSITORY
from .devices import device_name

logger = logging.getLogger(__name__)


def commit() -> str | None:
    """Return the commit of the checkout, with ``+changes`` if files differ; None outside git."""
    if not (REPOSITORY / ".git").exists():
        # An installed package; a repository around it is another project's.
        return None
    git = ["git", "-C", str(REPOSITORY)]
    try:
        head, status = (
            subprocess.run([*git, *command], capture_output=True, text=True, check=True).stdout
            for command in (("rev-parse", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.strip() + ("+changes" if status.strip() else "")


def set_aside_metrics(folder: str | Path) -> None:
    """Rename the ``metrics.json`` of an earlier run, to which Detectron2 would append.

    Otherwise the earlier run's last evaluation would make the new run look finished.

    Args:
        folder: output folder of the run.
    """
    metrics = Path(folder) / "metrics.json"
    if not metrics.is_file():
        return
    previous = metrics.with_name("metrics_previous.json")
    metrics.replace(previous)
    logger.warning(
        "%s contains an earlier run, which is overwritten, since --resume was not given. Its "
        "metrics are kept in %s.",
        folder,
        previous.name,
    )


def read_sessions(folder: Path) -> list[dict[str, Any]]:
    """Read the sessions of a run (its start and each resumption) from ``run.json``.

    Returns:
        One record per session; an empty list without ``run.json``.

    Raises:
        UserError: If the file cannot be read, or is not such a record.
    """
    file = folder / "run.json"
    if not file.is_file():
        return []
    record, problem = read_json(file)
    try:
        # Earlier versions wrote "stretches".
        sessions = record["sessions"] if "sessions" in record else record["stretches"]
        for session in sessions:
            session["seconds"] += 0
            str(session["device"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{file}: {problem or 'it is not the record of a run'}.") from error
    return sessions


def earlier_sessions(folder: Path, start_iter: int) -> list[dict[str, Any]]:
    """Read the sessions of a run that is resumed, and count the iterations that were kept.

    A killed session may have recorded more or fewer than those before its last checkpoint.

    Args:
        folder: output folder of the run. A damaged ``run.json`` has no sessions.
        start_iter: first iteration of the new session.
    """
    try:
        sessions = read_sessions(folder)
        end = start_iter
        for session in reversed(sessions):
            session["iterations"] = max(0, end - session["first_iteration"])
            end = min(end, session["first_iteration"])
    except (KeyError, TypeError, UserError) as error:
        logger.warning("Earlier sessions of this run are no longer recorded (%s).", error)
        return []
    return sessions


class RecordRun(HookBase):
    """Writes ``run.json``: versions, commit, device and duration of each session of the run.

    Resuming a run adds a session. Iterations after the checkpoint that it resumes from are not
    counted, but their time is.
    """

    def __init__(
        self, folder: str | Path, device: str, *, period: int = 20, checkpoint_period: int
    ) -> None:
        """
        Args:
            folder: output folder of the run.
            device: device of the model.
            period: number of iterations between writes.
            checkpoint_period: number of iterations between checkpoints, which are also recorded.
        """
        self.file = Path(folder) / "run.json"
        self.device = device
        self.periods = (period, checkpoint_period)
        self.sessions: list[dict[str, Any]] = []

    def before_train(self) -> None:
        if self.trainer.start_iter > 0:
            self.sessions = earlier_sessions(self.file.parent, self.trainer.start_iter)
        self.sessions.append(
            {
                "first_iteration": self.trainer.start_iter,
                "iterations": 0,
                "seconds": 0.0,
                "device": device_name(self.device),
                "processes": comm.get_world_size(),
                "commit": commit(),
                "python": platform.python_version(),
                "torch": torch.__version__,
            }
        )
        self.start = time.monotonic()
        self.write()

    def after_step(self) -> None:
        self.sessions[-1]["iterations"] = self.trainer.iter + 1 - self.trainer.start_iter
        if any((self.trainer.iter + 1) % period == 0 for period in self.periods):
            self.write()

    def after_train(self) -> None:
        # Detectron2 calls this even if `before_train` of an earlier hook has failed.
        if self.sessions:
            self.write()

    def write(self) -> None:
        """Write the record; the duration includes evaluations."""
        self.sessions[-1]["seconds"] = round(time.monotonic() - self.start, 1)
        record: dict[str, Any] = {"sessions": self.sessions}
        write_whole(self.file, json.dumps(record, indent=1) + "\n")
