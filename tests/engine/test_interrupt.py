"""Ctrl-C during training, in a separate process."""

import json
import subprocess
import sys

from helpers import REPOSITORY, interrupt_training


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
