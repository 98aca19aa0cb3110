"""Counted multiply-adds and parameters against a count by hand."""

import json
import sys

import analyze_model
from conftest import write_tiny_config

from facenet_d2.engine import run_command


def test_counts(tmp_path, scenes, monkeypatch, capsys):
    config = write_tiny_config(tmp_path, scenes)
    argv = ["analyze_model.py", "--config-file", str(config), "--input-size", "120", "64", "--json"]
    monkeypatch.setattr(sys, "argv", argv)
    assert run_command(analyze_model.main) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])
    for key in ("parameters", "multiply_adds"):
        assert rows["all"][key] == sum(rows[part][key] for part in rows if part != "all")
    # One 3x3 convolution of 32 (34 with coordinates) to 32 channels, then the prediction.
    cells = 40**2 + 36**2 + 24**2 + 16**2 + 12**2
    assert rows["category branch"]["multiply_adds"] == cells * 9 * (32 * 32 + 32 * 5)
    assert rows["category branch"]["parameters"] == 9 * 32 * 32 + 2 * 32 + 9 * 32 * 5 + 5
    # The deformable one has 27 more outputs, offsets and modulation.
    assert rows["kernel branch"]["multiply_adds"] == cells * 9 * (34 * 32 + 34 * 27 + 32 * 32)
    kernel = (9 * 34 * 32 + 2 * 32) + (9 * 34 * 27 + 27) + (9 * 32 * 32 + 32)
    assert rows["kernel branch"]["parameters"] == kernel
    # 120x64 is padded to 128x64: levels of 32x16, 16x8, 8x4 and 4x2.
    positions = 512 * 32 + 128 * 32 + (32 * 32 + 128 * 32) + (8 * 34 + 32 * 32 + 128 * 32)
    assert rows["mask features"]["multiply_adds"] == 9 * 32 * positions + 512 * 32 * 32
