#!/usr/bin/env python3
"""Time training steps on a CPU, and the same with PyTorch's and torchvision's own layers.

  time_training.py --config-file configs/NWPU-VHR10/facenet_lite0_384_36ep.yaml

Both models start from the same weights and are trained in turn, on the images with the most
instances. The second one has PyTorch's depthwise convolutions, group normalisation and loop of the
optimizer, and torchvision's deformable convolution. Losses differ only as the arithmetic rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import facenet_d2.compat  # noqa: F401  isort: skip
import torch
from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from detectron2.utils.events import EventStorage
from torchvision.ops import deform_conv2d

from facenet_d2.data import SceneMapper
from facenet_d2.data.loader import augmentation_seed
from facenet_d2.engine import Trainer, load_config, run_command, trainer
from facenet_d2.engine.amp import training_dtype
from facenet_d2.engine.devices import device_name
from facenet_d2.modeling.layers import deform


def deform_conv2d_in_float32(
    x: torch.Tensor,
    offsets: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    **options: Any,
) -> torch.Tensor:
    """torchvision has no bfloat16 kernel for CPUs."""
    with torch.autocast("cpu", enabled=False):
        return deform_conv2d(x, offsets, weight, bias, **options)


def training(cfg: CfgNode, batch: list[dict[str, Any]], *, plain: bool) -> Callable[[], float]:
    """Return a function that takes a training step and returns the total loss."""
    torch.manual_seed(0)
    if plain:
        with mock.patch.object(trainer, "use_fast_backward"):
            model = Trainer.build_model(cfg).train()
    else:
        model = Trainer.build_model(cfg).train()
    optimizer = Trainer.build_optimizer(cfg, model)
    convolve = deform_conv2d_in_float32 if plain else deform.deform_conv2d_by_bags
    if plain:
        for group in optimizer.param_groups:
            group["fused"] = group["foreach"] = False
    dtype = training_dtype(cfg)

    def step() -> float:
        with mock.patch.object(deform, "deform_conv2d_by_bags", convolve):
            with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                loss = sum(model(batch).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--steps", type=int, default=6, help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=4, help="(default: %(default)s)")
    args = parser.parse_args()
    cfg = load_config(args.config_file, ["MODEL.DEVICE", "cpu"], train=True)
    records = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=False)
    records.sort(key=lambda d: -len(d["annotations"]))
    mapper = SceneMapper(cfg, is_train=True)
    with augmentation_seed(0):
        batch = [mapper(record) for record in records[: args.batch_size]]
    steps = {plain: training(cfg, batch, plain=plain) for plain in (False, True)}
    seconds: dict[bool, list[float]] = {plain: [] for plain in steps}
    difference = 0.0
    with EventStorage():
        for number in range(args.steps):
            losses = []
            for plain, step in steps.items():
                start = time.perf_counter()
                losses.append(step())
                # The first step allocates memory.
                if number:
                    seconds[plain].append(time.perf_counter() - start)
            difference = max(difference, abs(losses[1] / losses[0] - 1))
    ours, theirs = (statistics.median(seconds[plain]) for plain in (False, True))
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    print(
        f"{args.config_file}, {device_name('cpu')}, batches of {args.batch_size}, medians of "
        f"{len(ratios)} steps: {ours:.2f} s, and {theirs:.2f} s with PyTorch's and torchvision's "
        f"layers\nmedian ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to "
        f"{max(ratios):.2f}); losses differ by at most {difference:.2%}"
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
