"""The record of a run, run.json."""

import json
import re
from types import SimpleNamespace

from facenet_d2.engine import run_record as record
from facenet_d2.engine.run_record import RecordRun, commit


def session_of(folder, first, last, *, killed=False):
    """Record a session with the iterations first to last; a killed one does not end regularly."""
    hook = RecordRun(folder, "cpu", period=5)
    hook.trainer = SimpleNamespace(start_iter=first, iter=first)
    hook.before_train()
    for hook.trainer.iter in range(first, last + 1):
        hook.after_step()
    if not killed:
        hook.after_train()


def test_iterations_add_up_over_kills_and_resumes(tmp_path):
    session_of(tmp_path, 0, 27, killed=True)
    # The last checkpoint is that of iteration 19.
    session_of(tmp_path, 20, 29)
    session_of(tmp_path, 30, 32)
    sessions = json.loads((tmp_path / "run.json").read_text())["sessions"]
    counted = [(s["first_iteration"], s["iterations"]) for s in sessions]
    assert counted == [(0, 20), (20, 10), (30, 3)]
    assert all(s["seconds"] >= 0 and "threads" in s["device"] for s in sessions)
    # A new run overwrites the record.
    session_of(tmp_path, 0, 4)
    (only,) = json.loads((tmp_path / "run.json").read_text())["sessions"]
    assert only["iterations"] == 5


def test_the_commit_is_this_projects_or_none(tmp_path, monkeypatch):
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", commit() or "0" * 40)
    monkeypatch.setattr(record, "REPOSITORY", tmp_path)
    assert commit() is None
