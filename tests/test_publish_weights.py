"""Model zoo files: written by the tool, loaded by name, with the metrics of the run."""

import json
import sys

import publish_weights
import pytest
import torch
from helpers import write_tiny_config
from safetensors import safe_open

import train_net
from facenet_d2 import zoo_files
from facenet_d2.engine import load_config, run_command
from facenet_d2.engine.checkpointer import ModelCheckpointer, load_checkpoint


def run(monkeypatch, main, *arguments):
    monkeypatch.setattr(sys, "argv", [str(a) for a in arguments])
    return run_command(main)


def test_publish_and_load_by_name(tmp_path, scenes, monkeypatch, capsys):
    config = write_tiny_config(tmp_path, scenes)
    overrides = []
    for key in ("SCORE_THRESH_TEST", "NMS_SCORE_THRESH_TEST", "MASK_THRESH_TEST"):
        overrides += [f"MODEL.SOLOV2.{key}", "0.000001"]
    command = ["train_net.py", "--config-file", config, "--json"]
    assert run(monkeypatch, train_net.run, *command, *overrides) == 0
    trained = json.loads(capsys.readouterr().out.splitlines()[-1])

    zoo = tmp_path / "zoo"
    output = tmp_path / "output"
    publish = ["publish_weights.py", output, "--name", "tiny", "--output", zoo]
    assert run(monkeypatch, publish_weights.main, *publish) == 0
    assert "zoo://tiny" in capsys.readouterr().out
    state = torch.load(output / "model_final.pth", weights_only=False)["model"]
    with safe_open(zoo / "tiny.safetensors", "pt") as file:
        assert set(file.keys()) == set(state)
        assert "OUTPUT_DIR" in file.metadata()["config"]
        assert float(file.metadata()["mask AP"]) == pytest.approx(trained["segm"]["AP"], abs=0.006)
        for name in file.keys():  # noqa: SIM118
            assert torch.equal(file.get_tensor(name), state[name].half())

    monkeypatch.setattr(zoo_files, "WEIGHTS", zoo)
    evaluation = [*command, "--eval-only", *overrides, "MODEL.WEIGHTS", "zoo://tiny"]
    assert run(monkeypatch, train_net.run, *evaluation) == 0
    evaluated = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert evaluated["segm"]["AP"] == pytest.approx(trained["segm"]["AP"], abs=0.05)
    # The folder of the run and the published weights contain the config.
    for source in (output, "tiny"):
        evaluation = ["train_net.py", "--config-file", source, "--json", "--eval-only"]
        assert run(monkeypatch, train_net.run, *evaluation, "MODEL.WEIGHTS", "zoo://tiny") == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1]) == evaluated
    cfg = load_config(config, ["MODEL.WEIGHTS", "zoo://tiny"])
    model = train_net.Trainer.build_model(cfg)
    load_checkpoint(ModelCheckpointer(model), cfg, complete=True)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_damaged_file(tiny_config, tmp_path, monkeypatch, capsys):
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    command = ["train_net.py", "--config-file", tiny_config, "--eval-only"]
    weights = ["MODEL.WEIGHTS", tmp_path / "cut.safetensors"]
    assert run(monkeypatch, train_net.run, *command, *weights) == 2
    error = capsys.readouterr().err
    assert "cut.safetensors cannot be loaded" in error
    assert len(error.splitlines()) == 1


def test_unknown_name(tiny_config, monkeypatch, capsys):
    command = ["train_net.py", "--config-file", tiny_config, "--eval-only"]
    assert run(monkeypatch, train_net.run, *command, "MODEL.WEIGHTS", "zoo://facenet9") == 2
    error = capsys.readouterr().err
    assert "zoo://facenet9" in error
    assert len(error.splitlines()) == 1


def test_unfinished_run(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, publish_weights.main, "publish_weights.py", tmp_path) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
