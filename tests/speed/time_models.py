#!/usr/bin/env python3
"""Time whole calls of FACENet, Ultralytics' YOLO11-seg and Detectron2's Mask R-CNN in one run.

  time_models.py --config-files configs/NWPU-VHR10/facenet_lite0_narrow_640_36ep.yaml
  time_models.py --config-files ... --yolo yolo11n-seg yolo11s-seg --mask-rcnn

prints the table of docs/SPEED.md. All models have random weights; they are called in turn, from an
image to masks, in each runtime. Those of the configs are exported as by ``benchmark.py runtimes``,
with predictions of a given number of instances, each found by two cells.

--yolo needs the package ultralytics. Its models are exported to ONNX and OpenVINO, and run by
Ultralytics' own ``predict`` with letterbox, NMS and masks. In OpenVINO, they have the precision
that it chooses: bfloat16 on processors that have it. --mask-rcnn is R-50 with FPN of Detectron2's
model zoo.

--instances is the maximum number of detections. YOLO's confidence threshold is the highest one with
which as many are found, so that NMS has no needless candidates; Mask R-CNN's is 0.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import facenet_d2.compat  # noqa: F401  isort: skip
import numpy as np
import torch
from detectron2 import model_zoo
from detectron2.modeling import build_model

from facenet_d2.analysis import dense_predictions
from facenet_d2.cores import default_workers
from facenet_d2.engine import load_config
from facenet_d2.experiments.tables import MISSING_VALUE, markdown_table
from facenet_d2.export.runtimes import RuntimeModel, every_runtime

# A function that predicts at most a number of instances of an image. It returns their number, and
# the seconds of the network and of post-processing if they can be told apart.
Call = Callable[[np.ndarray, int], tuple[int, float | None, float | None]]


def facenet_calls(
    config: Path, size: int, instances: list[int], threads: int, folder: Path
) -> Iterator[tuple[str, Call]]:
    """Yield the model of a config in each installed runtime.

    Args:
        config: config file of a SOLOv2 or FACENet.
        size: side of the image.
        instances: numbers of instances.
        threads: number of threads of exported models.
        folder: folder for the exported files.
    """
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]
    cfg = load_config(str(config), overrides, need_data=False).clone()
    cfg.defrost()
    # The image is not resized.
    cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = size
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    scenes = {n: dense_predictions(model, (size, size), 2 * n, n, 1) for n in instances}
    folder.mkdir()
    for runtime, exported in every_runtime(model, cfg, folder, threads).items():

        def call(
            image: np.ndarray, instances: int, exported: RuntimeModel = exported
        ) -> tuple[int, float, float]:
            exported.show(scenes[instances], instances)
            found = len(exported.predict(image))
            end, network = time.perf_counter(), exported.network
            return found, network.end - network.start, end - network.end

        yield runtime, call


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
        ) -> tuple[int, float, float]:
            options = {"imgsz": size, "max_det": instances, "device": "cpu", "verbose": False}
            if instances not in thresholds:
                (result,) = model.predict(image, conf=1e-9, **options)
                thresholds[instances] = float(result.boxes.conf.min()) * 0.999
            (result,) = model.predict(image, conf=thresholds[instances], **options)
            found = 0 if result.masks is None else len(result.masks)
            seconds = [result.speed[step] / 1000 for step in ("inference", "postprocess")]
            return found, *seconds

        yield runtime, call


def mask_rcnn_calls(size: int) -> Iterator[tuple[str, Call]]:
    """Yield Mask R-CNN R-50 FPN of Detectron2's model zoo, in float32 and bfloat16."""
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
        ) -> tuple[int, None, None]:
            model.roi_heads.box_predictor.test_topk_per_image = instances
            tensor = torch.as_tensor(image.astype(np.float32).transpose(2, 0, 1))
            with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                (result,) = model([{"image": tensor, "height": size, "width": size}])
            return len(result["instances"].pred_masks), None, None

        yield f"PyTorch {'float32' if dtype == torch.float32 else 'bf16'}", call


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-files", type=Path, nargs="*", default=[])
    parser.add_argument("--yolo", nargs="*", default=[], help="for example yolo11s-seg")
    parser.add_argument("--mask-rcnn", action="store_true")
    parser.add_argument("--size", type=int, default=640, help="(default: %(default)s)")
    parser.add_argument("--instances", type=int, nargs="+", default=[5, 100])
    parser.add_argument("--iterations", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--calls", type=int, default=2, help="calls before each measured one")
    parser.add_argument(
        "--only", default="", help="text in the names of the measured rows (default: all rows)"
    )
    args = parser.parse_args()
    image = np.random.default_rng(0).integers(0, 256, (args.size, args.size, 3), np.uint8)
    threads = default_workers()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        calls: dict[str, Call] = {}
        for config in args.config_files:
            own = facenet_calls(
                config, args.size, args.instances, threads, Path(folder, config.stem)
            )
            calls |= {f"{config.stem}, {runtime}": call for runtime, call in own}
        for name in args.yolo:
            own = yolo_calls(name, args.size, Path(folder))
            calls |= {f"{name}, {runtime}": call for runtime, call in own}
        if args.mask_rcnn:
            own = mask_rcnn_calls(args.size)
            calls |= {f"Mask R-CNN R-50, {runtime}": call for runtime, call in own}
        calls = {name: call for name, call in calls.items() if args.only in name}
        # Ultralytics changes it.
        torch.set_num_threads(threads)
        print("measuring", flush=True)
        times = measure(calls, image, args)
    print(f"{threads} threads, medians in ms\n")
    parts = ("network", "post-processing", "whole")
    header = [f"{part}, {n} instances" for n in args.instances for part in parts]
    rows = []
    for name in calls:
        seconds = [s for n in args.instances for s in zip(*times[name, n])]
        cells = [
            MISSING_VALUE if None in s else f"{1000 * statistics.median(s):.1f}" for s in seconds
        ]
        rows.append([name, *cells])
    print(markdown_table(["", *header], rows, padded=True))


def measure(
    calls: dict[str, Call], image: np.ndarray, args: argparse.Namespace
) -> dict[tuple[str, int], list[tuple[float | None, float | None, float]]]:
    """Call each model in turn; return the seconds of the network, post-processing, and all."""
    times: dict[tuple[str, int], list[tuple[float | None, float | None, float]]] = {}
    for iteration in range(-1, args.iterations):
        for instances in args.instances:
            for name, call in calls.items():
                for _ in range(args.calls):
                    call(image, instances)
                start = time.perf_counter()
                found, *seconds = call(image, instances)
                whole = time.perf_counter() - start
                if found != instances:
                    raise SystemExit(f"{name} found {found} instances, not {instances}")
                if iteration >= 0:  # The first round is not measured.
                    times.setdefault((name, instances), []).append((*seconds, whole))
    return times


if __name__ == "__main__":
    main()
