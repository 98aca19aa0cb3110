"""The record of a run, run.json."""

import json
import re
from types import SimpleNamespace

import pytest

from facenet_d2 import UserError
from facenet_d2.engine import run_record as record
from facenet_d2.engine.run_record import RecordRun, commit, read_sessions


def session_of(folder, first, last, *, killed=False):
    """Record a session with the iterations first to last; a killed one does not end regularly."""
    hook = RecordRun(folder, "cpu", period=5, checkpoint_period=8)
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
    # Later checkpoints are damaged, and the run is resumed from an earlier one.
    session_of(tmp_path, 21, 30, killed=True)
    sessions = json.loads((tmp_path / "run.json").read_text())["sessions"]
    counted = [(s["first_iteration"], s["iterations"]) for s in sessions]
    # The last session is recorded up to iteration 29, as every fifth.
    assert counted == [(0, 20), (20, 1), (30, 0), (21, 9)]
    # A new run overwrites the record.
    session_of(tmp_path, 0, 4)
    (only,) = json.loads((tmp_path / "run.json").read_text())["sessions"]
    assert only["iterations"] == 5


def test_a_killed_session_counts_what_its_checkpoint_keeps(tmp_path):
    session_of(tmp_path, 0, 16, killed=True)
    (only,) = json.loads((tmp_path / "run.json").read_text())["sessions"]
    # Recorded with the checkpoint of iteration 15, not only every fifth.
    assert only["iterations"] == 16
    # Iteration 16 was saved too, but the process was killed before it was recorded.
    session_of(tmp_path, 17, 18)
    sessions = json.loads((tmp_path / "run.json").read_text())["sessions"]
    assert [s["iterations"] for s in sessions] == [17, 2]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", "{}", '{"sessions": [{}]}', '{"sessions": [3]}', "null"]
)
def test_a_damaged_record_is_not_read(tmp_path, caplog, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"run\.json"):
        read_sessions(tmp_path)
    session_of(tmp_path, 20, 24)
    assert "no longer recorded" in caplog.text
    (only,) = json.loads((tmp_path / "run.json").read_text())["sessions"]
    assert (only["first_iteration"], only["iterations"]) == (20, 5)


def test_the_record_does_not_hide_the_error_of_another_hook(tmp_path):
    # Detectron2 calls `after_train` although `before_train` was not called.
    RecordRun(tmp_path, "cpu", checkpoint_period=8).after_train()
    assert not (tmp_path / "run.json").exists()


def test_the_commit_is_this_projects_or_none(tmp_path, monkeypatch):
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", commit() or "0" * 40)
    monkeypatch.setattr(record, "REPOSITORY", tmp_path)
    assert commit() is None
