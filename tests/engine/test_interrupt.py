"""Signals during training, in a separate process; two trainings with one output folder."""

import json
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest
from helpers import interrupt_training
from programs import CONTEXT

import train_net
from facenet_d2 import UserError
from facenet_d2.engine import run_command
from facenet_d2.engine.lock import locked


def test_ctrl_c_saves_a_checkpoint_and_resume_continues(tiny_config, tmp_path, monkeypatch):
    config = ("--config-file", str(tiny_config))
    overrides = ("DATASETS.TEST", "()", "SOLVER.MAX_ITER")
    arguments = (*config, *overrides, 100_000)
    iteration, seconds, _ = interrupt_training("train_net.py", arguments, tmp_path, steps=21)
    arguments = (*config, "--resume", *overrides, str(iteration + 2))
    monkeypatch.setattr(sys, "argv", ["train_net.py", *arguments])
    assert run_command(train_net.run) == 0
    log = (tmp_path / "output" / "log.txt").read_text()
    assert f"Starting training from iteration {iteration + 1}\n" in log

    first, second = json.loads((tmp_path / "output" / "run.json").read_text())["sessions"]
    assert first["first_iteration"] == 0
    assert first["iterations"] == second["first_iteration"] == iteration + 1
    assert second["iterations"] == 1
    events = [json.loads(x) for x in (tmp_path / "output" / "metrics.json").open()]
    # Of the first 20 steps, Detectron2 does not time the first three; half of the others took at
    # least the median.
    (median,) = (e["time"] for e in events if e.get("iteration") == 19)
    assert 8 * median <= first["seconds"] <= seconds


@pytest.mark.parametrize(
    ("signum", "to_group"),
    [
        (signal.SIGTERM, False),
        (signal.SIGTERM, True),
        (signal.SIGHUP, True),
        (signal.SIGUSR1, False),
    ],
)
def test_other_signals_save_a_checkpoint_too(tiny_config, tmp_path, signum, to_group):
    """Also with data loader workers, which receive those to the process group."""
    overrides = ("DATASETS.TEST", "()", "SOLVER.MAX_ITER", 100_000, "DATALOADER.NUM_WORKERS", 1)
    arguments = ("--config-file", tiny_config, *overrides)
    iteration, _, _ = interrupt_training(
        "train_net.py", arguments, tmp_path, signum=signum, to_group=to_group
    )
    assert iteration >= 1


def lock(folder):
    with locked(folder):
        pass


def test_one_training_per_output_folder(tmp_path):
    with ProcessPoolExecutor(1, mp_context=CONTEXT) as other:
        with locked(tmp_path):
            message = rf"is in use by another training \(process {os.getpid()}\)"
            with pytest.raises(UserError, match=message):
                other.submit(lock, tmp_path).result()
        other.submit(lock, tmp_path).result()
