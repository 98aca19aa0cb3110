"""Paths, configs and steps that several test modules share."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from programs import start_program

if TYPE_CHECKING:
    import torch
    from detectron2.config import CfgNode

REPOSITORY = Path(__file__).resolve().parent.parent
# Optional files of published data sets, next to the repository; tests that need them are skipped
# without them.
REAL_DATA = REPOSITORY.parent / "shared" / "data"

TINY_CONFIG = """\
_BASE_: "{base}"
MODEL:
  DEVICE: "cpu"
  WEIGHTS: ""
  BACKBONE: {{FREEZE_AT: 0}}
  RESNETS:
    DEPTH: 50
    NORM: "GN"
    STEM_OUT_CHANNELS: 32
    RES2_OUT_CHANNELS: 32
    WIDTH_PER_GROUP: 32
  FPN: {{OUT_CHANNELS: 32, NORM: "GN"}}
  FACE_FPN: {{ASPP_CHANNELS: 32}}
  SEM: {{CHANNELS: 32}}
  SOLOV2:
    NUM_GRIDS: [12, 10, 8, 6, 4]
    NUM_CONVS: 1
    DEFORM_CONVS: 1
    CONV_CHANNELS: 32
    KERNEL_CHANNELS: 32
    MASK_CHANNELS: 32
  SOLO: {{NUM_CONVS: 2, CONV_CHANNELS: 32}}
  ANCHOR_GENERATOR: {{SCALE: 2.0}}
  RPN: {{POST_NMS_TOPK_TEST: 200}}
  ROI_HEADS: {{BATCH_SIZE_PER_IMAGE: 64}}
  ROI_BOX_HEAD: {{CONV_DIM: 32, FC_DIM: 32}}
  ROI_MASK_HEAD: {{CONV_DIM: 32}}
  ROI_MASK_IOU_HEAD: {{CONV_DIM: 32, FC_DIM: 32}}
  ROI_MASK_FUSION: {{CONV_DIM: 32}}
  ROI_MASK_REFINEMENT: {{SEMANTIC_CONV_DIM: 32}}
  YOLACT: {{ANCHOR_SCALE: 1.5, CONV_CHANNELS: 32, NUM_PROTOTYPES: 8}}
  CONDINST: {{NUM_CONVS: 1, CONV_CHANNELS: 64, MASK_CONV_CHANNELS: 32, MASK_NORM: "GN"}}
  RDSNET: {{ANCHOR_SCALE: 2.0, NUM_CONVS: 1, CONV_CHANNELS: 64, REPRESENTATION_CHANNELS: 8}}
  QUERYINST: {{NUM_STAGES: 2, DYNAMIC_CHANNELS: 8, FC_DIM: 32, NUM_MASK_CONVS: 1}}
  MASK2FORMER:
    CHANNELS: 32
    NUM_QUERIES: 20
    NUM_ENCODER_LAYERS: 1
    ENCODER_FC_DIM: 32
    NUM_DECODER_LAYERS: 3
    DECODER_FC_DIM: 32
    TRAIN_NUM_POINTS: 256
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


def write_tiny_config(
    folder: Path, scenes: Path, *, base: str = "Base-FACENet.yaml", output: str = "output"
) -> Path:
    """Write a config of a small model that is trained and tested on the scenes.

    Args:
        folder: folder of the config file; its name makes the name of the data set unique.
        scenes: folder with ``images`` and ``annotations.json``.
        base: base config, relative to ``configs``.
        output: output folder, relative to ``folder``.

    Returns:
        path of the config file.
    """
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


def save_untrained_model(cfg: CfgNode, file: Path) -> torch.nn.Module:
    """Save a SOLOv2 or FACENet with random weights that detects instances everywhere.

    Args:
        cfg: config of the model.
        file: checkpoint to write.
    """
    # Not above: Detectron2 is imported after facenet_d2.compat.
    import torch
    from detectron2.modeling import build_model

    torch.manual_seed(0)
    model = build_model(cfg)
    torch.nn.init.constant_(model.instance_head.category_pred.bias, 1.0)
    torch.save({"model": model.state_dict()}, file)
    return model


def interrupt_training(
    script: str,
    arguments: Sequence[object],
    folder: Path,
    *,
    steps: int = 2,
    signum: int = signal.SIGINT,
    to_group: bool = True,
) -> tuple[int, float, int]:
    """Start a training, interrupt it after some steps and check that it saves a checkpoint.

    Args:
        script: program that trains, relative to the repository.
        arguments: its arguments, which end with KEY VALUE pairs; it writes to ``output`` in the
            folder.
        folder: temporary folder of the test.
        steps: minimum number of steps before the interruption.
        signum: number of the signal.
        to_group: whether to send it to the whole process group, as a terminal does.

    Returns:
        iteration of the checkpoint, duration in seconds, and process group of the training.
    """
    last, printed = folder / "output" / "last_checkpoint", folder / "printed.txt"
    start = time.monotonic()
    process = start_program(script, [*arguments, "SOLVER.CHECKPOINT_PERIOD", steps], printed)
    assert process.pid is not None
    try:
        deadline = time.monotonic() + 240
        while not last.exists():
            assert process.is_alive(), printed.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (os.killpg if to_group else os.kill)(process.pid, signum)
        process.join(120)
        assert process.exitcode == 128 + signum
    finally:
        # A training that does not stop must not slow the other tests down.
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
    seconds = time.monotonic() - start
    text = printed.read_text()
    assert "continue with --resume" in text
    assert "Traceback" not in text
    name = last.read_text().strip()
    return int(name.removeprefix("model_").removesuffix(".pth")), seconds, process.pid


def needs_real(name: str) -> pytest.MarkDecorator:
    """Skip a test where the file or folder ``name`` of the real data is missing."""
    return pytest.mark.skipif(
        not (REAL_DATA / name).exists(), reason=f"../shared/data has no {name}"
    )
