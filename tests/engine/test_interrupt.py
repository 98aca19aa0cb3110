"""Signals during training, in a separate process; two trainings with one output folder."""

import json
import signal
import subprocess
import sys

import pytest
from helpers import REPOSITORY, interrupt_training

from facenet_d2 import UserError
from facenet_d2.engine.lock import locked


def test_ctrl_c_saves_a_checkpoint_and_resume_continues(tiny_config, tmp_path):
    command = [sys.executable, "train_net.py", "--config-file", str(tiny_config)]
    overrides = ["DATASETS.TEST", "()", "SOLVER.MAX_ITER"]
    iteration, seconds, _ = interrupt_training([*command, *overrides, "100000"], tmp_path)
    done = subprocess.run(
        [*command, "--resume", *overrides, str(iteration + 2)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert f"Starting training from iteration {iteration + 1}" in done.stdout + done.stderr

    first, second = json.loads((tmp_path / "output" / "run.json").read_text())["sessions"]
    assert first["first_iteration"] == 0
    assert first["iterations"] == second["first_iteration"] == iteration + 1
    assert second["iterations"] == 1
    events = [json.loads(x) for x in (tmp_path / "output" / "metrics.json").open()]
    # Detectron2 does not time the first three of these 20 steps; half of the others took at least
    # the median.
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
    command = [sys.executable, "train_net.py", "--config-file", str(tiny_config)]
    overrides = ["DATASETS.TEST", "()", "SOLVER.MAX_ITER", "100000", "DATALOADER.NUM_WORKERS", "1"]
    iteration, _, _ = interrupt_training(
        [*command, *overrides], tmp_path, signum=signum, to_group=to_group
    )
    assert iteration >= 19


def test_one_training_per_output_folder(tmp_path):
    code = f"from facenet_d2.engine.lock import locked\nwith locked({str(tmp_path)!r}): pass"
    other = [sys.executable, "-c", code]
    with locked(tmp_path):
        refused = subprocess.run(other, cwd=REPOSITORY, capture_output=True, text=True)
        assert refused.returncode != 0
        assert "is in use by another training (process " in refused.stderr
        assert UserError.__name__ in refused.stderr
    assert subprocess.run(other, cwd=REPOSITORY, check=False).returncode == 0
