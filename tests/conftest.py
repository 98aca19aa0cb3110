"""Fixtures: small models, small scenes, no network."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

import pytest

# Importing facenet_d2 registers the built-in data sets under this folder.
_root = tempfile.TemporaryDirectory(prefix="facenet_d2_test_datasets_")
os.environ["DETECTRON2_DATASETS"] = _root.name

import torch  # noqa: E402
from detectron2.config import CfgNode, get_cfg  # noqa: E402
from helpers import REPOSITORY, write_tiny_config  # noqa: E402

import facenet_d2  # noqa: E402
from facenet_d2.synthetic.dataset import write_dataset  # noqa: E402

# Detectron2's log handlers keep the output stream of the first test, which pytest then closes.
logging.raiseExceptions = False


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    torch.manual_seed(0)
    # Detectron2's setup_logger, in an earlier test, hides the messages from caplog.
    logging.getLogger("facenet_d2").propagate = True


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six synthetic scenes of 128x128: images/ and annotations.json."""
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_dataset(folder, num_scenes=6, seed=11, size=128)
    return folder


@pytest.fixture
def tiny_config(tmp_path: Path, scenes: Path) -> Path:
    """A config file of a small FACENet on the scenes."""
    return write_tiny_config(tmp_path, scenes)


@pytest.fixture
def model_cfg() -> CfgNode:
    """A small SOLOv2 with stock FPN, three classes, no data."""
    cfg = get_cfg()
    facenet_d2.add_facenet_config(cfg)
    cfg.merge_from_file(str(REPOSITORY / "configs" / "Base-SOLOv2.yaml"))
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu"),
            *("MODEL.BACKBONE.FREEZE_AT", 0),
            *("MODEL.RESNETS.DEPTH", 18),
            *("MODEL.RESNETS.NORM", "GN"),
            *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
            *("MODEL.FPN.OUT_CHANNELS", 32),
            *("MODEL.FACE_FPN.ASPP_CHANNELS", 32),
            *("MODEL.SEM.CHANNELS", 32),
            *("MODEL.SOLOV2.NUM_CLASSES", 3),
            *("MODEL.SOLOV2.NUM_CONVS", 2),
            *("MODEL.SOLOV2.DEFORM_CONVS", 2),
            *("MODEL.SOLOV2.CONV_CHANNELS", 32),
            *("MODEL.SOLOV2.KERNEL_CHANNELS", 32),
            *("MODEL.SOLOV2.MASK_CHANNELS", 32),
        ]
    )
    return cfg
