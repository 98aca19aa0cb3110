"""What a killed session left undone, and settings that changed since."""

import json
import os
import re
from types import SimpleNamespace

import pytest
import torch
from helpers import write_tiny_config

from facenet_d2 import UserError
from facenet_d2.engine import Trainer, load_config
from facenet_d2.engine.checkpointer import ModelCheckpointer
from facenet_d2.engine.divergence import divergence_advice
from facenet_d2.engine.hooks import ResumableBestCheckpointer
from facenet_d2.files import remove_temporary_files


@pytest.fixture
def run(tmp_path, scenes):
    """Train the tiny model with KEY VALUE overrides; return the trainer."""

    def train(*overrides, resume=True):
        config = write_tiny_config(tmp_path, scenes)
        given = ["SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "2"]
        (tmp_path / "output").mkdir(exist_ok=True)
        # The same initial weights each time, as train_net.py takes from SEED.
        torch.manual_seed(0)
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


def test_resuming_a_finished_run_skips_no_iteration(tmp_path, run):
    output = tmp_path / "output"
    run("SOLVER.MAX_ITER", 8, "DATASETS.TEST", "()", resume=False).train()
    uninterrupted = torch.load(output / "model_final.pth")["model"]
    run(resume=False).train()
    best = (output / "model_best.json").read_text()
    for _ in range(2):
        again = run()
        again.train()
        assert again.start_iter == 4
    # The evaluation after four iterations has no other number when it is repeated.
    assert evaluated(output) == [1, 4, 4, 4]
    longer = run("SOLVER.MAX_ITER", 8, "TEST.EVAL_PERIOD", 0)
    assert longer.start_iter == 4
    # As if killed while the new model_final is saved: that of the shorter run is still there.
    final = longer.checkpointer.save
    longer.checkpointer.save = lambda name, **k: name == "model_final" or final(name, **k)
    longer.train()
    assert torch.load(output / "model_final.pth")["iteration"] == 3
    run("SOLVER.MAX_ITER", 8, "TEST.EVAL_PERIOD", 0).train()
    saved = torch.load(output / "model_final.pth")
    assert saved["iteration"] == 7
    # The optimizer's schedule depends on MAX_ITER through neither STEPS nor warm-up here.
    assert all(torch.equal(saved["model"][name], v) for name, v in uninterrupted.items())
    assert (output / "model_best.json").read_text() == best or json.loads(best)["value"] == 0


@pytest.mark.parametrize("content", ["", "[]", '{"metric": 1}', '{"value": "x"}', "null"])
def test_a_damaged_record_of_the_best_checkpoint_is_not_read(tmp_path, caplog, content):
    checkpointer = ModelCheckpointer(torch.nn.Linear(1, 1), str(tmp_path))
    hook = ResumableBestCheckpointer(2, checkpointer, "segm/AP")
    hook.trainer = SimpleNamespace(start_iter=4)
    record = tmp_path / "model_best.json"
    record.write_text('{"metric": "segm/AP", "value": 3.5, "iteration": 4}')
    hook.before_train()
    # The process was killed before it saved the weights.
    assert hook.best_metric is None
    checkpointer.save("model_best")
    record.write_text(content)
    hook.before_train()
    assert hook.best_metric is None
    assert "model_best.json is damaged" in caplog.text
    record.write_text('{"metric": "segm/AP", "value": 3.5, "iteration": 4}')
    hook.before_train()
    assert hook.best_metric == 3.5


def test_no_evaluation_after_a_failed_last_step(tmp_path, run):
    trainer = run(resume=False)
    step = trainer._trainer.run_step

    def fail():
        if trainer.iter == 3:
            raise OSError("No space left on device")
        step()

    trainer._trainer.run_step = fail
    with pytest.raises(OSError, match="No space"):
        trainer.train()
    assert evaluated(tmp_path / "output") == [1]


def test_after_a_divergence_an_earlier_checkpoint_is_named(tmp_path, run):
    """Those that were saved while the weights grew are finite, too."""
    output = tmp_path / "output"
    quiet = ("DATASETS.TEST", "()", "SOLVER.MAX_ITER", 20)
    with pytest.raises(UserError, match="start without --resume, since no checkpoint") as error:
        run(*quiet, "SOLVER.BASE_LR", 1e6, resume=False).train()
    assert "AMP" not in str(error.value)
    run("DATASETS.TEST", "()", resume=False).train()
    for base_lr in (1e6, 0.001):
        # The second attempt resumes from the weights that the first one left.
        with pytest.raises(UserError, match=r"Lower SOLVER\.BASE_LR") as error:
            run(*quiet, "SOLVER.BASE_LR", base_lr).train()
        named = re.search(r"(model_\w+\.pth): to continue .* into (\S+)\.$", str(error.value))
        assert named, error.value
        assert named[2] == str(output / "last_checkpoint")
        assert (output / "last_checkpoint").read_text() not in ("", named[1])
    # The advice leads out of it.
    (output / "last_checkpoint").write_text(named[1])
    trainer = run("DATASETS.TEST", "()", "SOLVER.MAX_ITER", 6, "SOLVER.BASE_LR", 0.001)
    assert trainer.start_iter == 4
    trainer.train()


@pytest.mark.parametrize(
    ("dtype", "words"),
    [(torch.float16, "SOLVER.AMP.DTYPE to bf16"), (torch.bfloat16, "SOLVER.AMP.ENABLED to False")],
)
def test_mixed_precision_is_named_as_a_cause(tmp_path, run, dtype, words):
    cfg = run(resume=False).cfg
    assert words in divergence_advice(cfg, dtype, None)
    assert "AMP" not in divergence_advice(cfg, None, None)


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
        ".model_0000001.4194305.tmp.pth",
        f".model_0000002.{os.getpid()}.tmp.pth",
        f".model_0000003.{os.getppid()}.tmp.pth",
        ".notes.4194305.txt",
        ".lock",
        "a.1.pth",
    ):
        (tmp_path / name).write_bytes(b"")
    # A folder, as that of predictions or copied images.
    (tmp_path / ".files.4194305.tmp").mkdir()
    (tmp_path / ".files.4194305.tmp" / "a.json").touch()
    remove_temporary_files(tmp_path)
    left = {f.name for f in tmp_path.iterdir()}
    kept = {f".model_0000003.{os.getppid()}.tmp.pth", ".notes.4194305.txt", ".lock", "a.1.pth"}
    assert left == kept
