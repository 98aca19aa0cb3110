"""benchmark.py reports consistent measurements; the dense scene contains what it should."""

import json
import sys

import benchmark
import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from facenet_d2.analysis import Meter, dense_predictions
from facenet_d2.engine import run_command
from facenet_d2.export.runtimes import in_pytorch


@pytest.fixture(autouse=True)
def threads():
    """Restore the numbers of threads, which the loader's benchmark sets to one."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command and return its JSON or its error message."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, args)])
        code = run_command(benchmark.main)
        captured = capsys.readouterr()
        return json.loads(captured.out.splitlines()[-1]) if code == 0 else captured.err

    return run


QUICK = ("--iterations", 2, "--warmup", 0)


def test_meter():
    meter = Meter("cpu")
    calls = []

    def step():
        calls.append(1)
        with meter.phase("allocation"):
            torch.ones(20_000_000)

    meter.repeat(step, warmup=2, iterations=1)
    assert len(calls) == 3
    result = meter.results()
    phase = result["phases"]["allocation"]
    assert phase["runs"] == 1
    assert phase["quartiles_s"] == [phase["median_s"]] * 2
    assert phase["median_s"] == result["total_s"] > 0
    assert phase["peak_mb"] is None or 60 < phase["peak_mb"] < 160
    meter.seconds["allocation"] = [1.0, 5.0, 2.0, 3.0, 4.0]
    assert meter.results()["phases"]["allocation"]["quartiles_s"] == [2.0, 4.0]
    assert meter.median("allocation") == 3.0


@pytest.mark.parametrize("window", [False, True])
def test_dense_scene(model_cfg, window):
    """Discs where they should be, of the radius they should have, with copies to be suppressed."""
    model_cfg.MODEL.SOLOV2.MASK_WINDOW = window
    model = build_model(model_cfg).eval()
    predictions = dense_predictions(model, (384, 384), 36, 9, 2, radius=30.0)
    assert (predictions.windows is not None) == window
    assert ((predictions.logits.sigmoid() > 0.1).sum(dim=(1, 2)) == 36).all()
    results = model.inference(predictions, [(384, 384)] * 2, [(384, 384)] * 2)
    for instances in results:
        best = instances[:9]
        boxes = best.pred_boxes.tensor
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        expected = sorted((x, y) for x in (64, 192, 320) for y in (64, 192, 320))
        actual = np.array(sorted(centers.round().int().tolist()))
        # Mask features are sampled at the centres of their pixels of 4x4.
        assert np.abs(actual - np.array(expected)).max() <= 3
        radii = np.sqrt(best.pred_masks.areas() / np.pi)
        assert ((radii > 0.9 * 30) & (radii < 1.1 * 30)).all()
        assert (best.scores > 0.7).all()
        assert (instances.scores[9:] < 0.5).all()


@pytest.mark.parametrize(("candidates", "kept"), [(0, None), (30, None), (30, 10)])
def test_infer(run, tiny_config, candidates, kept):
    args = ("--candidates", candidates, "--input-size", 128, 160, "--json")
    # By default, all candidates are kept if they are fewer than 100.
    args += ("--kept", kept) if kept else ()
    result = run("infer", "--config-file", tiny_config, *QUICK, *args)
    assert result["instances"] == (kept or candidates)
    phases = result["phases"]
    assert set(phases) == {"preprocessing", "network", "post-processing"}
    row = phases["post-processing"]
    assert row["runs"] == 2
    assert 0 < row["quartiles_s"][0] <= row["median_s"] <= row["quartiles_s"][1]
    share = phases["network"]["median_s"] / result["total_s"]
    assert result["network_share"] == pytest.approx(share)


def test_other_benchmarks(run, tiny_config):
    config = ("--config-file", tiny_config, *QUICK, "--json")
    result = run("switches", *config, "--input-size", 96, 96)
    assert result["speedup"]["plain"] == 1
    assert len(result["speedup"]) == 5
    result = run("train", *config)
    assert set(result["phases"]) > {"network forward", "targets and losses", "network backward"}
    assert result["instances"] > 0
    result = run("loader", *config, "--images", 4)
    assert result["images_per_s"] == pytest.approx(4 / result["phases"]["mapper"]["median_s"])


def test_runtimes(run, tiny_config, monkeypatch):
    """Calls find the instances of the scene; a call's parts add up to less than the whole."""
    # tests/export/test_runtimes.py has the other runtimes, whose export takes long.
    monkeypatch.setattr(
        benchmark, "every_runtime", lambda model, cfg, *_: {"PyTorch": in_pytorch(model, cfg)}
    )
    args = ("--input-size", 96, 128, "--instances", 1, 4, "--calls", 0, "--json")
    result = run("runtimes", "--config-file", tiny_config, *QUICK, *args)
    assert [(c["runtime"], c["instances"]) for c in result["calls"]] == [
        ("PyTorch", 1),
        ("PyTorch", 4),
    ]
    for call in result["calls"]:
        phases = result["phases"]
        name = f"PyTorch, {call['instances']} instances"
        assert phases[f"{name}, whole"]["runs"] == 2
        assert phases[f"{name}, network"]["median_s"] == call["network_s"] > 0
        assert 0 < call["network_s"] + call["post_processing_s"] < call["whole_s"]
        share = call["post_processing_s"] / call["whole_s"]
        assert call["post_processing_share"] == pytest.approx(share)


def test_table(monkeypatch, capsys, tiny_config):
    args = ["switches", "--config-file", tiny_config, *QUICK, "--input-size", 96, 96]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, args)])
    assert run_command(benchmark.main) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [c.strip() for c in lines[0].strip("|").split("|")][-1] == "speed-up"
    assert lines[2].startswith("| plain ")
    assert lines[2].endswith(" 1.00 |")
    assert len(lines) == 7


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--candidates", 100_000), "the grids hold at most"),
        (("--candidates", 5, "--kept", 6), "--kept is 6"),
        (("--iterations", 0), "--iterations must be at least 1"),
        (("--warmup", -1), "--warmup must be at least 0"),
        (
            ("MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "MODEL.ROI_HEADS.NUM_CLASSES", 5),
            "MODEL.META_ARCHITECTURE is MaskRCNN; it must be SOLOv2",
        ),
    ],
)
def test_wrong_arguments(run, tiny_config, args, message):
    assert message in run("infer", "--config-file", tiny_config, *args)
