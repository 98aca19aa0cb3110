#!/usr/bin/env python3
"""Time whole calls of Ultralytics' YOLO11-seg or Detectron2's Mask R-CNN, for docs/SPEED.md.

  time_others.py yolo --model yolo11s-seg
  time_others.py mask-rcnn

yolo needs the package ultralytics, best in an environment of its own. Models with random weights
are exported to ONNX and OpenVINO, and run by Ultralytics' own ``predict`` with letterbox,
NMS and masks. In OpenVINO, they have the precision that it chooses: bfloat16 on processors that
have it. mask-rcnn is R-50 with FPN of Detectron2's model zoo, with random weights.

--instances is the maximum number of detections. YOLO's confidence threshold is the highest one with
which as many are found, so that NMS has no needless candidates; Mask R-CNN's is 0. The rows are
those of ``benchmark.py runtimes``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

# A function that predicts the instances of the image, and returns their number and the seconds of
# the network, if it can be told apart.
Call = Callable[[np.ndarray, int], tuple[int, float | None]]


def yolo_calls(name: str, size: int, folder: Path) -> Iterator[tuple[str, Call]]:
    """Yield Ultralytics' model in each runtime.

    Args:
        name: name of the architecture, for example "yolo11s-seg".
        size: side of the image.
        folder: folder for the exported files.
    """
    from ultralytics import YOLO

    torch.manual_seed(0)
    weights = folder / f"{name}.pt"
    model = YOLO(f"{name}.yaml")
    head = model.model.model[-1]
    with torch.no_grad():
        # Masks that fill their boxes: Ultralytics drops instances with empty masks.
        head.proto.cv3.bn.bias.fill_(1.0)
        for coefficients in head.cv4:
            coefficients[-1].bias.fill_(1.0)
    model.save(weights)
    files = {
        "PyTorch float32": weights,
        "ONNX Runtime float32": YOLO(weights).export(format="onnx", imgsz=size),
        "OpenVINO, its own precision": YOLO(weights).export(format="openvino", imgsz=size),
    }
    for runtime, file in files.items():
        model = YOLO(file, task="segment")

        thresholds: dict[int, float] = {}

        def call(
            image: np.ndarray,
            instances: int,
            model: Any = model,
            thresholds: dict[int, float] = thresholds,
        ) -> tuple[int, float]:
            options = {"imgsz": size, "max_det": instances, "device": "cpu", "verbose": False}
            if instances not in thresholds:
                (result,) = model.predict(image, conf=1e-9, **options)
                thresholds[instances] = float(result.boxes.conf.min()) * 0.999
            (result,) = model.predict(image, conf=thresholds[instances], **options)
            found = 0 if result.masks is None else len(result.masks)
            return found, result.speed["inference"] / 1000

        yield runtime, call


def mask_rcnn_calls(size: int) -> Iterator[tuple[str, Call]]:
    """Yield Mask R-CNN R-50 FPN of Detectron2's model zoo, in float32 and bfloat16."""
    import facenet_d2.compat  # noqa: F401  isort: skip
    from detectron2 import model_zoo
    from detectron2.modeling import build_model

    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    predictor, rpn = model.roi_heads.box_predictor, model.proposal_generator.rpn_head
    for layer in (predictor.bbox_pred, rpn.anchor_deltas, predictor.cls_score):
        # Boxes are anchors: those of random weights would be one box in many copies.
        torch.nn.init.zeros_(layer.weight)
    for dtype in (torch.float32, torch.bfloat16):

        def call(
            image: np.ndarray, instances: int, dtype: torch.dtype = dtype
        ) -> tuple[int, float | None]:
            model.roi_heads.box_predictor.test_topk_per_image = instances
            tensor = torch.as_tensor(image.astype(np.float32).transpose(2, 0, 1))
            with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                (result,) = model([{"image": tensor, "height": size, "width": size}])
            return len(result["instances"].pred_masks), None

        yield f"PyTorch {'float32' if dtype == torch.float32 else 'bf16'}", call


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=("yolo", "mask-rcnn"))
    parser.add_argument("--model", default="yolo11s-seg", help="(default: %(default)s)")
    parser.add_argument("--size", type=int, default=640, help="(default: %(default)s)")
    parser.add_argument("--instances", type=int, nargs="+", default=[5, 100])
    parser.add_argument("--iterations", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--calls", type=int, default=2, help="calls before each measured one")
    args = parser.parse_args()
    image = np.random.default_rng(0).integers(0, 256, (args.size, args.size, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        calls = dict(
            yolo_calls(args.model, args.size, Path(folder))
            if args.kind == "yolo"
            else mask_rcnn_calls(args.size)
        )
        times = measure(calls, image, args)
    title = args.model if args.kind == "yolo" else "Mask R-CNN R-50"
    print(f"{title}, {torch.get_num_threads()} threads\n")
    print("| | network, ms | whole, ms | quartiles, ms |\n| --- | ---: | ---: | ---: |")
    for name, (networks, wholes) in times.items():
        network = f"{1000 * statistics.median(networks):.1f}" if networks else "-"
        low, middle, high = (
            1000 * q for q in statistics.quantiles(wholes, n=4, method="inclusive")
        )
        print(f"| {name} | {network} | {middle:.1f} | {low:.1f}-{high:.1f} |")


def measure(
    calls: dict[str, Call], image: np.ndarray, args: argparse.Namespace
) -> dict[str, tuple[list[float], list[float]]]:
    """Call each model in turn; return the seconds of the network and of whole calls."""
    times: dict[str, tuple[list[float], list[float]]] = {}
    for iteration in range(-1, args.iterations):
        for instances in args.instances:
            for name, call in calls.items():
                for _ in range(args.calls):
                    call(image, instances)
                start = time.perf_counter()
                found, network = call(image, instances)
                seconds = time.perf_counter() - start
                if found != instances:
                    raise SystemExit(f"{name} found {found} instances, not {instances}")
                if iteration < 0:  # Not measured.
                    continue
                networks, wholes = times.setdefault(f"{name}, {instances} instances", ([], []))
                wholes.append(seconds)
                if network is not None:
                    networks.append(network)
    return times


if __name__ == "__main__":
    main()
