import sys

import numpy as np
import visualize_data
from PIL import Image

from facenet_d2.engine import run_command


def run(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["visualize_data.py", *map(str, args)])
    return run_command(visualize_data.main)


def test_draws_the_images_of_the_loader(tiny_config, tmp_path, monkeypatch, capsys):
    args = ("--config-file", tiny_config, "--output", tmp_path / "seen", "--num-images", 3)
    assert run(monkeypatch, *args) == 0
    assert "3 images with" in capsys.readouterr().out
    plain = sorted((tmp_path / "seen").iterdir())
    assert [p.name[:4] for p in plain] == ["0000", "0001", "0002"]
    # Small images are enlarged.
    pixels = np.asarray(Image.open(plain[0]))
    assert max(pixels.shape) > 500
    again = ("--config-file", tiny_config, "--output", tmp_path / "again", "--num-images", 3)
    options = ("INPUT.RAND_AUGMENT.ENABLED", "True", "INPUT.RAND_AUGMENT.OPERATIONS", "['Rotate']")
    assert run(monkeypatch, *again, "--opts", *options) == 0
    turned = sorted((tmp_path / "again").iterdir())
    assert [p.name for p in turned] == [p.name for p in plain]
    assert not np.array_equal(np.asarray(Image.open(turned[0])), pixels)


def test_says_what_is_wrong(tiny_config, tmp_path, monkeypatch, capsys):
    args = ("--config-file", tiny_config, "--output", tmp_path / "seen")
    assert run(monkeypatch, *args, "--num-images", 0) == 2
    assert "--num-images is 0" in capsys.readouterr().err
    assert run(monkeypatch, *args, "--opts", "INPUT.RANDOM_FLIP", "up") == 2
    assert "INPUT.RANDOM_FLIP is 'up'" in capsys.readouterr().err
