"""What a killed session left undone, and settings that changed since."""

import json
import os

import pytest
import torch
from helpers import write_tiny_config

from facenet_d2.engine import Trainer, load_config
from facenet_d2.files import remove_temporary_files


@pytest.fixture
def run(tmp_path, scenes):
    """Train the tiny model with KEY VALUE overrides; return the trainer."""

    def train(*overrides, resume=True):
        config = write_tiny_config(tmp_path, scenes)
        given = ["SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "2"]
        (tmp_path / "output").mkdir(exist_ok=True)
        trainer = Trainer(load_config(config, [*given, *map(str, overrides)], train=True))
        trainer.resume_or_load(resume=resume)
        return trainer

    return train


def evaluated(output):
    lines = [json.loads(line) for line in (output / "metrics.json").open()]
    return [line["iteration"] for line in lines if "segm/AP" in line]


def test_a_missed_evaluation_is_made_up_for(tmp_path, run):
    output = tmp_path / "output"
    run(resume=False).train()
    assert evaluated(output) == [1, 4]
    best = json.loads((output / "model_best.json").read_text())
    # As if killed during the evaluation after the second iteration.
    for file in ("metrics.json", "model_best.json", "model_final.pth", "model_best.pth"):
        (output / file).unlink()
    (output / "last_checkpoint").write_text("model_0000001.pth")
    trainer = run()
    assert trainer.start_iter == 2
    trainer.train()
    assert evaluated(output) == [1, 4]
    assert json.loads((output / "model_best.json").read_text()) == best
    assert (output / "model_final.pth").is_file()
    # Nothing is missing now.
    again = run("SOLVER.MAX_ITER", 6)
    assert again.start_iter == 4
    again.train()
    assert evaluated(output) == [1, 4, 6]


def test_model_final_of_a_run_killed_at_its_end(tmp_path, run):
    output = tmp_path / "output"
    run("DATASETS.TEST", "()", resume=False).train()
    final = torch.load(output / "model_final.pth")["model"]
    (output / "model_final.pth").unlink()
    (output / "last_checkpoint").write_text("model_0000003.pth")
    trainer = run("DATASETS.TEST", "()")
    assert trainer.start_iter == 4
    trainer.train()
    saved = torch.load(output / "model_final.pth")["model"]
    assert all(torch.equal(saved[name], value) for name, value in final.items())


def test_changed_settings_of_the_optimizer_apply(tmp_path, run):
    constant = ("SOLVER.WARMUP_ITERS", 0, "DATASETS.TEST", "()", "SOLVER.BASE_LR", 0.01)
    run(*constant, resume=False).train()
    (tmp_path / "output" / "last_checkpoint").write_text("model_0000001.pth")
    unchanged = run(*constant)._trainer.optimizer
    assert {g["lr"] for g in unchanged.param_groups} == {0.01}
    changed = ("SOLVER.BASE_LR", 0.002, "SOLVER.WEIGHT_DECAY", 0.3, "SOLVER.MOMENTUM", 0.5)
    trainer = run(*constant[:-2], *changed)
    optimizer = trainer._trainer.optimizer
    assert trainer.start_iter == 2
    assert {g["lr"] for g in optimizer.param_groups} == {0.002}
    assert {g["momentum"] for g in optimizer.param_groups} == {0.5}
    assert 0.3 in {g["weight_decay"] for g in optimizer.param_groups}
    # The momentum itself is the checkpoint's.
    assert any(len(state) for state in optimizer.state.values())
    trainer.train()
    last = [json.loads(line) for line in (tmp_path / "output" / "metrics.json").open()][-1]
    assert last["lr"] == pytest.approx(0.002)


def test_temporary_files_of_killed_processes_are_removed(tmp_path):
    for name in (
        ".model_0000001.4194305.pth",
        f".model_0000002.{os.getpid()}.pth",
        ".lock",
        "a.1.pth",
    ):
        (tmp_path / name).write_bytes(b"")
    remove_temporary_files(tmp_path)
    left = {f.name for f in tmp_path.iterdir()}
    assert left == {f".model_0000002.{os.getpid()}.pth", ".lock", "a.1.pth"}
