"""benchmark.py measures what it says it does; its dense scene is the one it promises."""

import argparse
import json
import sys

import benchmark
import cv2
import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from detectron2.modeling import build_model

from facenet_d2.engine import run_command


@pytest.fixture(autouse=True)
def threads():
    """The loader's benchmark takes one."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*args):
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, args)])
        code = run_command(benchmark.main)
        captured = capsys.readouterr()
        return json.loads(captured.out.splitlines()[-1]) if code == 0 else captured.err

    return run


QUICK = ("--iterations", 2, "--warmup", 0, "--json")


def test_dense_scene(model_cfg):
    """Discs where they should be, of the radius they should have, with copies to be suppressed."""
    model = build_model(model_cfg).eval()
    args = argparse.Namespace(candidates=36, kept=9, radius=30.0, batch_size=2)
    predictions = benchmark.dense_outputs(model, (384, 384), args)
    assert ((predictions.logits.sigmoid() > 0.1).sum(dim=(1, 2)) == 36).all()
    results = model.inference(predictions, [(384, 384)] * 2, [(384, 384)] * 2)
    for instances in results:
        best = instances[:9]
        boxes = best.pred_boxes.tensor
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        expected = sorted((x, y) for x in (64, 192, 320) for y in (64, 192, 320))
        actual = np.array(sorted(centers.round().int().tolist()))
        # Features are counted from the centres of their pixels of 4x4.
        assert np.abs(actual - np.array(expected)).max() <= 3
        radii = (best.pred_masks.sum(dim=(1, 2)) / np.pi).sqrt()
        assert ((radii > 0.9 * 30) & (radii < 1.1 * 30)).all()
        assert (best.scores > 0.7).all()
        assert (instances.scores[9:] < 0.5).all()


@pytest.mark.parametrize(("candidates", "kept"), [(0, 1), (30, 10), (30, 30)])
def test_postprocess(run, tiny_config, candidates, kept):
    args = ("--candidates", candidates, "--kept", kept, "--input-size", 128, 160)
    result = run("postprocess", "--config-file", tiny_config, *args, *QUICK)
    assert result["instances"] == (kept if candidates else 0)
    row = result["phases"]["post-processing"]
    assert row["runs"] == 2
    assert 0 < row["quartiles_s"][0] <= row["median_s"] <= row["quartiles_s"][1]


def test_every_benchmark(run, tiny_config, tmp_path):
    config = ("--config-file", tiny_config)
    size = ("--input-size", 96, 96)
    result = run("infer", *config, *size, "--candidates", 20, "--kept", 5, "--profile", *QUICK)
    assert result["network_share"] == pytest.approx(
        result["phases"]["network"]["median_s"] / result["total_s"]
    )
    assert len(result["profile"]) == 10
    result = run("switches", *config, *size, *QUICK)
    assert result["speedup"]["plain"] == 1
    assert len(result["speedup"]) == 5
    result = run("train", *config, *QUICK)
    assert set(result["phases"]) > {"network forward", "targets and losses", "network backward"}
    result = run("targets", *config, "--images", 3, *QUICK)
    assert result["images"] == 3
    result = run("targets", *config, "--instances", 7, *size, *QUICK)
    assert result["instances"] == 7
    result = run("loader", *config, "--images", 4, *QUICK)
    assert result["images_per_s"] == pytest.approx(4 / result["phases"]["mapper"]["median_s"])
    result = run("loader", *config, "--instances", 100, *QUICK)
    assert (result["instances"], result["images"]) == (100, 5)


def test_another_checkout(run, tiny_config, tmp_path):
    args = ("postprocess", "--config-file", tiny_config, "--input-size", 96, 96)
    result = run(*args, "--candidates", 10, "--kept", 5, "--against", REPOSITORY, *QUICK)
    totals = [result[which]["total_s"] for which in ("against", "this")]
    assert result["ratio"] == pytest.approx(totals[0] / totals[1])
    assert "no facenet_d2 in it" in run(*args, "--against", tmp_path, *QUICK)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--candidates", 100_000), "the grids hold at most"),
        (("--candidates", 5, "--kept", 6), "--kept 6"),
        (("--iterations", 0), "--iterations must be positive"),
        (("--warmup", -1), "--warmup must not be negative"),
    ],
)
def test_wrong_arguments(run, tiny_config, args, message):
    assert message in run("postprocess", "--config-file", tiny_config, *args)
    assert "GeneralizedRCNN cannot be measured" in run(
        "postprocess",
        "--config-file",
        tiny_config,
        "MODEL.META_ARCHITECTURE",
        "GeneralizedRCNN",
        "MODEL.ROI_HEADS.NUM_CLASSES",
        5,
    )
