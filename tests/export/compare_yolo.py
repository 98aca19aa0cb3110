#!/usr/bin/env python3
"""Compare what the package Ultralytics finds with an exported model with what the model finds.

  compare_yolo.py --config-file facenet_lite0_384_36ep --images test/*.jpg

The model is exported with the contract yolo-seg, and the file is loaded as ``YOLO(file)``. Images
are compared twice: as they are, where each program resizes them by its own rule, and after
Ultralytics' letterbox, where both see the same pixels. With --sahi, SAHI reads the file as well.

The packages ultralytics and, for --sahi, sahi are no dependencies of this project; install them
for the comparison only. Run the program in the repository with PYTHONPATH=.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import facenet_d2.compat  # noqa: F401  isort: skip
import cv2
import numpy as np
from pycocotools import mask as mask_utils
from ultralytics import YOLO
from ultralytics.data.augment import LetterBox

from facenet_d2.engine import Predictor
from facenet_d2.engine.inputs import find_inputs

REPOSITORY = Path(__file__).resolve().parents[2]

# Classes (N,), scores (N,) and masks (N, H, W) of N instances.
Found = tuple[np.ndarray, np.ndarray, np.ndarray]


def by_model(predictor: Predictor, image: np.ndarray, conf: float) -> Found:
    found = predictor(image)
    found = found[found.scores >= conf]
    return found.pred_classes.numpy(), found.scores.numpy(), found.pred_masks.numpy()


def by_ultralytics(model: YOLO, image: np.ndarray, conf: float, size: int) -> Found:
    (found,) = model.predict(
        image, imgsz=size, conf=conf, iou=0.9, retina_masks=True, device="cpu", verbose=False
    )
    if found.masks is None:
        return np.zeros(0, int), np.zeros(0), np.zeros((0, *image.shape[:2]), bool)
    boxes = found.boxes.numpy()
    return boxes.cls.astype(int), boxes.conf, found.masks.data.numpy() > 0.5


def by_sahi(model: object, image: np.ndarray) -> Found:
    from sahi.predict import get_prediction

    found = get_prediction(image[:, :, ::-1], model).object_prediction_list
    masks = [f.mask.bool_mask for f in found]
    return (
        np.array([f.category.id for f in found], int),
        np.array([f.score.value for f in found]),
        np.array(masks, bool).reshape(-1, *image.shape[:2]),
    )


class Report:
    """Instances of two programs, matched by class and by an IoU of masks of at least 0.5."""

    def __init__(self) -> None:
        self.expected = self.found = 0
        self.ious: list[float] = []
        self.differences: list[float] = []

    def add(self, expected: Found, found: Found) -> None:
        self.expected += len(expected[0])
        self.found += len(found[0])
        overlaps = mask_utils.iou(_rles(found[2]), _rles(expected[2]), [0] * len(expected[0]))
        overlaps = np.array(overlaps).reshape(len(found[0]), len(expected[0]))
        overlaps[found[0][:, None] != expected[0]] = 0
        for i in range(len(expected[0])):
            best = overlaps[:, i].argmax() if len(overlaps) else 0
            if len(overlaps) and overlaps[best, i] >= 0.5:
                self.ious.append(overlaps[best, i])
                self.differences.append(abs(found[1][best] - expected[1][i]))
                overlaps[best] = 0

    def __str__(self) -> str:
        if not self.ious:
            return f"the model finds {self.expected}, the reader {self.found}, none of them equal"
        return (
            f"the model finds {self.expected}, the reader {self.found}, {len(self.ious)} of them "
            f"equal: mean mask IoU {np.mean(self.ious):.3f}, median {np.median(self.ious):.3f}; "
            f"difference of scores: mean {np.mean(self.differences):.4f}, maximum "
            f"{np.max(self.differences):.4f}"
        )


def _rles(masks: np.ndarray) -> list:
    return [mask_utils.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]


def export(args: argparse.Namespace, file: Path) -> None:
    program = REPOSITORY / "tools" / "export_model.py"
    options = ["--output", file, "--contract", "yolo-seg", "--size", args.size]
    command = [sys.executable, program, "--config-file", args.config_file, *options]
    subprocess.run([str(x) for x in (*command, "--opts", *args.opts)], check=True)


def compare(args: argparse.Namespace, file: Path, images: Sequence[np.ndarray]) -> None:
    overrides = ["MODEL.DEVICE", "cpu", *args.opts]
    own = Predictor(args.config_file, overrides=overrides)
    same = Predictor(args.config_file, overrides=[*overrides, "INPUT.MIN_SIZE_TEST", "0"])
    model = YOLO(str(file), task="segment")
    letterbox = LetterBox((args.size, args.size), auto=False)
    reports = {"as they are": Report(), "the same pixels": Report()}
    if args.sahi:
        from sahi import AutoDetectionModel

        sahi = AutoDetectionModel.from_pretrained(
            model_type="ultralytics",
            model_path=str(file),
            task="segment",
            confidence_threshold=args.conf,
            image_size=args.size,
            device="cpu",
        )
        reports["the same pixels, SAHI"] = Report()
    for image in images:
        found = by_ultralytics(model, image, args.conf, args.size)
        reports["as they are"].add(by_model(own, image, args.conf), found)
        boxed = letterbox(image=image)
        expected = by_model(same, boxed, args.conf)
        found = by_ultralytics(model, boxed, args.conf, args.size)
        reports["the same pixels"].add(expected, found)
        if args.sahi:
            reports["the same pixels, SAHI"].add(expected, by_sahi(sahi, boxed))
    print(f"{len(images)} images, --size {args.size}, scores of at least {args.conf}")
    for name, report in reports.items():
        print(f"{name}: {report}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="config of the trained model")
    parser.add_argument("--images", nargs="+", required=True, help="files, folders or patterns")
    parser.add_argument("--max-images", type=int, default=12, help="(default: %(default)s)")
    parser.add_argument("--size", type=int, default=640, help="side (default: %(default)s)")
    parser.add_argument(
        "--conf", type=float, default=0.25, help="minimum score (default: %(default)s)"
    )
    parser.add_argument("--file", type=Path, help="exported file, which is used if it exists")
    parser.add_argument("--sahi", action="store_true", help="read the file with SAHI as well")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config overrides")
    args = parser.parse_args()
    files = find_inputs(args.images, "--images")
    images = [cv2.imread(str(file)) for file in files[:: max(1, len(files) // args.max_images)]]
    with tempfile.TemporaryDirectory() as folder:
        file = args.file or Path(folder) / "model.onnx"
        if not file.exists():
            export(args, file)
        compare(args, file, images[: args.max_images])


if __name__ == "__main__":
    main()
