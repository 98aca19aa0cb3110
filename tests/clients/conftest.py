"""A small model for the clients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import save_untrained_model, write_tiny_config

from facenet_d2 import Predictor
from facenet_d2.data import read_image
from facenet_d2.engine import load_config


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, scenes: Path) -> tuple[Path, Path]:
    """Return config and weights of an untrained model that detects instances everywhere."""
    folder = tmp_path_factory.mktemp("client_model")
    config = write_tiny_config(folder, scenes)
    save_untrained_model(load_config(config), folder / "model.pth")
    return config, folder / "model.pth"


@pytest.fixture(scope="session")
def predictor(trained: tuple[Path, Path]) -> Predictor:
    return Predictor(*trained, ["TEST.DETECTIONS_PER_IMAGE", "20"])


@pytest.fixture(scope="session")
def image(scenes: Path) -> np.ndarray:
    """A scene, BGR."""
    return read_image(scenes / "images" / "00000.png")
