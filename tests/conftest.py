"""Small models, small scenes, no network. Real data is read from ../shared/data if it is there."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

# Before facenet_d2 is imported: the built-in data sets are registered under this folder.
_root = tempfile.TemporaryDirectory(prefix="facenet_d2_test_datasets_")
os.environ["DETECTRON2_DATASETS"] = _root.name

import torch  # noqa: E402
from detectron2.config import CfgNode, get_cfg  # noqa: E402

import facenet_d2  # noqa: E402
from facenet_d2.synthetic.dataset import write_dataset  # noqa: E402

# Detectron2's log handlers keep the stream of the first command; pytest gives each test its own.
logging.raiseExceptions = False

REPOSITORY = Path(__file__).resolve().parent.parent
REAL_DATA = REPOSITORY.parent / "shared" / "data"

TINY_CONFIG = """\
_BASE_: "{base}"
MODEL:
  DEVICE: "cpu"
  WEIGHTS: ""
  BACKBONE: {{FREEZE_AT: 0}}
  RESNETS: {{DEPTH: 18, NORM: "GN", RES2_OUT_CHANNELS: 64}}
  FPN: {{OUT_CHANNELS: 32, NORM: "GN"}}
  FACE_FPN: {{ASPP_CHANNELS: 32}}
  SEM: {{CHANNELS: 32}}
  SOLOV2:
    NUM_CONVS: 1
    DEFORM_CONVS: 1
    CONV_CHANNELS: 32
    KERNEL_CHANNELS: 32
    MASK_CHANNELS: 32
  SOLO: {{NUM_CONVS: 2, CONV_CHANNELS: 32}}
  ANCHOR_GENERATOR: {{SCALE: 2.0}}
  ROI_BOX_HEAD: {{FC_DIM: 32}}
  ROI_MASK_HEAD: {{CONV_DIM: 32}}
  ROI_MASK_IOU_HEAD: {{CONV_DIM: 32, FC_DIM: 32}}
  YOLACT: {{ANCHOR_SCALE: 1.5, CONV_CHANNELS: 32, NUM_PROTOTYPES: 8}}
  CONDINST: {{NUM_CONVS: 1, CONV_CHANNELS: 64, MASK_CONV_CHANNELS: 32, MASK_NORM: "GN"}}
DATASETS:
  COCO: [["{name}", "{json}", "{images}"]]
  TRAIN: ("{name}",)
  TEST: ("{name}",)
INPUT: {{MIN_SIZE_TRAIN: [96], MAX_SIZE_TRAIN: 128, MIN_SIZE_TEST: 96, MAX_SIZE_TEST: 128}}
DATALOADER: {{NUM_WORKERS: 0}}
SOLVER: {{IMS_PER_BATCH: 2, MAX_ITER: 2, STEPS: [], WARMUP_ITERS: 0}}
SEED: 3
OUTPUT_DIR: "{output}"
"""


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    torch.manual_seed(0)


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


def write_tiny_config(
    folder: Path, scenes: Path, *, base: str = "Base-FACENet.yaml", output: str = "output"
) -> Path:
    file = folder / "config.yaml"
    file.write_text(
        TINY_CONFIG.format(
            base=REPOSITORY / "configs" / base,
            name=f"scenes_{folder.name}",
            json=scenes / "annotations.json",
            images=scenes / "images",
            output=folder / output,
        )
    )
    return file


def interrupt_training(
    command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None
) -> tuple[int, float, int]:
    """Train, press Ctrl-C after the twentieth step, and see that a checkpoint is the end.

    Args:
        command: trains into ``output`` in the folder.
        folder: of the test.
        env: of the command.

    Returns:
        the iteration of the checkpoint, the seconds in all, and the group of the processes.
    """
    log = folder / "output" / "log.txt"
    start = time.monotonic()
    with (folder / "printed.txt").open("w") as printed:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=env,
            stdout=printed,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        deadline = time.time() + 120
        while "iter: 19" not in (log.read_text() if log.exists() else ""):
            assert process.poll() is None, (folder / "printed.txt").read_text()
            assert time.time() < deadline
            time.sleep(0.2)
        # To all of its processes, as a terminal does.
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
    seconds = time.monotonic() - start
    text = (folder / "printed.txt").read_text()
    assert "continue with --resume" in text
    assert "Traceback" not in text
    last = (folder / "output" / "last_checkpoint").read_text().strip()
    return int(last.removeprefix("model_").removesuffix(".pth")), seconds, process.pid


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


def needs_real(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not (REAL_DATA / name).exists(), reason=f"{name} is not at hand in ../shared/data"
    )
