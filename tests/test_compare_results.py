"""compare_results.py on results with known differences."""

import json
import sys

import compare_results
import numpy as np
import pycocotools.mask as mask_util
import pytest

from facenet_d2.engine import run_command


def result(image, category, score, x, width=20):
    mask = np.zeros((40, 200), np.uint8, order="F")
    mask[10:30, x : x + width] = 1
    rle = mask_util.encode(mask)
    rle["counts"] = rle["counts"].decode()
    return {"image_id": image, "category_id": category, "score": score, "segmentation": rle}


FIRST = [result(1, 1, 0.9, 0), result(1, 1, 0.8, 50), result(1, 2, 0.7, 50), result(2, 1, 0.6, 0)]


def run(monkeypatch, capsys, tmp_path, *contents):
    files = []
    for i, content in enumerate(contents):
        files.append(tmp_path / f"{i}.json")
        files[-1].write_text(content if isinstance(content, str) else json.dumps(content))
    monkeypatch.setattr(sys, "argv", ["compare_results.py", *map(str, files), "--json"])
    code = run_command(compare_results.main)
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if code == 0 else captured.err


def test_the_same_agrees_entirely(monkeypatch, capsys, tmp_path):
    _, report = run(monkeypatch, capsys, tmp_path, FIRST, FIRST[::-1])
    assert report == {
        "first": 4,
        "second": 4,
        "matched": 4,
        "mean_iou": 1.0,
        "min_iou": 1.0,
        "identical_masks": 4,
        "max_score_difference": 0.0,
    }


def test_known_differences(monkeypatch, capsys, tmp_path):
    """A mask a quarter narrower, a class confused, an image missed, a score changed."""
    second = [result(1, 1, 0.9, 0, 15), result(1, 1, 0.75, 50), result(1, 3, 0.7, 50)]
    _, report = run(monkeypatch, capsys, tmp_path, FIRST, second)
    assert (report["first"], report["second"], report["matched"]) == (4, 3, 2)
    assert report["mean_iou"] == pytest.approx((0.75 + 1) / 2)
    assert report["identical_masks"] == 1
    assert report["max_score_difference"] == pytest.approx(0.05)


def test_one_is_matched_once(monkeypatch, capsys, tmp_path):
    _, report = run(monkeypatch, capsys, tmp_path, FIRST[:1] * 3, FIRST[:1])
    assert report["matched"] == 1
    _, report = run(monkeypatch, capsys, tmp_path, [], FIRST)
    assert (report["matched"], report["mean_iou"]) == (0, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("{}", "does not contain COCO"),
        ('[{"score": 1}]', "does not contain COCO"),
    ],
)
def test_wrong_files(monkeypatch, capsys, tmp_path, content, message):
    code, error = run(monkeypatch, capsys, tmp_path, FIRST, content)
    assert code == 2
    assert message in error
