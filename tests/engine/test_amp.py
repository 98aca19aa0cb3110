"""Mixed-precision training on a CPU."""

import json
from pathlib import Path

import pytest
import torch
from helpers import write_tiny_config

from facenet_d2 import UserError
from facenet_d2.engine import Trainer, amp, load_config
from facenet_d2.engine.amp import BFloat16Trainer, amp_dtype


def train(folder, scenes, *overrides):
    """Train a small FACENet; return the losses of twelve steps, and the trainer."""
    options = ["SOLVER.MAX_ITER", "12", "SOLVER.BASE_LR", "0.005", "DATASETS.TEST", "()"]
    config = write_tiny_config(folder, scenes)
    torch.manual_seed(0)
    trainer = Trainer(load_config(config, [*options, *overrides], train=True))
    losses = []
    write = trainer._trainer._write_metrics

    def record(loss_dict, *args, **kwargs):
        losses.append(sum(v.item() for v in loss_dict.values()))
        return write(loss_dict, *args, **kwargs)

    trainer._trainer._write_metrics = record
    trainer.resume_or_load(resume=False)
    trainer.train()
    return torch.tensor(losses), trainer


@pytest.fixture(scope="module")
def plain(tmp_path_factory, scenes):
    """Return the losses of twelve steps in float32."""
    return train(tmp_path_factory.mktemp("plain"), scenes)[0]


def test_bfloat16_learns_like_float32(tmp_path, scenes, monkeypatch, plain):
    monkeypatch.setattr(amp, "cpu_has_bfloat16", lambda: True)
    mixed, trainer = train(tmp_path, scenes, "SOLVER.AMP.ENABLED", "True")
    assert isinstance(trainer._trainer, BFloat16Trainer)
    assert plain[-4:].mean() < 0.9 * plain[:2].mean()
    # The first step has the same weights; later losses differ by the accumulated rounding.
    torch.testing.assert_close(mixed[0], plain[0], rtol=0.01, atol=0)
    torch.testing.assert_close(mixed[:4], plain[:4], rtol=0.05, atol=0)
    assert mixed[-4:].mean() < 0.9 * mixed[:2].mean()
    assert not torch.equal(mixed, plain)
    # Weights and their updates stay in float32.
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    momenta = [s["momentum_buffer"] for s in trainer.optimizer.state.values()]
    assert {m.dtype for m in momenta} == {torch.float32}
    lines = (tmp_path / "output" / "metrics.json").read_text().splitlines()
    assert {"loss_category", "loss_mask", "data_time", "lr"} <= set(json.loads(lines[-1]))


def test_channels_last_learns_like_nchw(tmp_path, scenes, plain):
    """The faster backward passes compute the same in float32, up to rounding."""
    fast, trainer = train(tmp_path, scenes, "SOLVER.CHANNELS_LAST", "True")
    torch.testing.assert_close(fast[:3], plain[:3], rtol=1e-3, atol=0)
    assert fast[-4:].mean() < 0.9 * fast[:2].mean()
    weight = trainer.model.instance_head.category_tower[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_a_cpu_without_bfloat16_trains_in_float32(tmp_path, scenes, monkeypatch, caplog, plain):
    monkeypatch.setattr(amp, "cpu_has_bfloat16", lambda: False)
    overrides = ("SOLVER.MAX_ITER", "2", "SOLVER.AMP.ENABLED", "True")
    fallen_back, _ = train(tmp_path, scenes, *overrides)
    torch.testing.assert_close(fallen_back, plain[:2], rtol=0, atol=0)
    assert "training in float32" in caplog.text


@pytest.mark.parametrize(
    ("device", "name", "expected"),
    [
        ("cpu", "", torch.bfloat16),
        ("cpu", "bf16", torch.bfloat16),
        ("cpu:0", "", torch.bfloat16),
        ("cuda", "", torch.float16),
        ("cuda:1", "bf16", torch.bfloat16),
        ("cuda", "fp16", torch.float16),
    ],
)
def test_type(device, name, expected, model_cfg):
    model_cfg.MODEL.DEVICE = device
    model_cfg.SOLVER.AMP.DTYPE = name
    assert amp_dtype(model_cfg) == expected


def test_the_cpus_own_list_of_instructions():
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file() or "flags" not in cpuinfo.read_text():
        pytest.skip("no /proc/cpuinfo with flags")
    flags = set(cpuinfo.read_text().partition("flags")[2].partition("\n")[0].split())
    assert amp.cpu_has_bfloat16() == bool(flags & {"avx512_bf16", "amx_bf16"})


@pytest.mark.parametrize("name", ["fp16", "float16", "fp32"])
def test_wrong_types_are_named(name, tiny_config):
    overrides = ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", name]
    with pytest.raises(UserError, match=r"SOLVER\.AMP\.DTYPE"):
        load_config(tiny_config, overrides, train=True)
