"""Compare final masks of exported files with those of the models in PyTorch.

  compare_masks.py small SOLOv2 FACENet FACENet-deformconv SOLO SOLO-decoupled YOLACT CondInst
  compare_masks.py small SOLOv2-bifpn SOLOv2-pafpn SOLOv2-hrfpn SOLOv2-sem_fpn SOLOv2-face_fpn
  compare_masks.py file facenet.onnx output/facenet/config.yaml MODEL.WEIGHTS model.pth -- *.jpg

The first two export small models with random weights to ONNX and compare them on 50 images of
different sizes. The third compares an exported file with its trained model on at most 50 images.
The files are run by facenet_d2.runtime, with post-processing in NumPy. Run the program in the
repository with PYTHONPATH=.:tests.
"""

import sys
import tempfile
from pathlib import Path

import facenet_d2.compat  # noqa: F401  isort: skip
import numpy as np
import torch
from detectron2.config import get_cfg
from helpers import REPOSITORY
from small_networks import small_network

from facenet_d2.config import add_facenet_config
from facenet_d2.data.augmentation import build_augmentations
from facenet_d2.engine import Predictor
from facenet_d2.export import DEFAULT_OPSETS, metadata_of, save_onnx, to_onnx
from facenet_d2.export.checks import as_instances, matched_ious
from facenet_d2.runtime import OnnxPredictor

IMAGES = 50
NECKS = ("bifpn", "pafpn", "hrfpn", "sem_fpn", "face_fpn")


def report(name, predict, exported, images):
    values, exact = [], 0
    for image in images:
        expected, found = predict(image), as_instances(exported(image))
        ious = matched_ious(expected, found)
        values += ious
        exact += len(expected) == len(found) and min(ious, default=1.0) == 1.0
    print(
        f"{name}: mean IoU {np.mean(values):.6f}, smallest {min(values):.4f}, over {len(values)} "
        f"instances of {len(images)} images, {exact} of them equal to the pixel",
        flush=True,
    )


def small(names):
    rng = np.random.default_rng(0)
    images = []
    for _ in range(IMAGES):
        height, width = rng.integers(70, 260, 2)
        coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        images.append(coarse.repeat(8, 0).repeat(8, 1)[:height, :width].copy())
    for name in names:
        cfg = get_cfg()
        add_facenet_config(cfg)
        cfg.merge_from_file(str(REPOSITORY / "configs" / "Base-SOLOv2.yaml"))
        cfg.merge_from_list(SMALL)
        kind, _, form = name.partition("-")
        deform = "deformconv" if form == "deformconv" else "gridsample"
        neck = form if form in NECKS else "fpn"
        facenet = kind == "FACENet"
        model = "SOLOv2" if facenet or form in NECKS else name
        network = small_network(cfg, model, deform=deform, facenet=facenet, neck=neck)
        (augmentation,) = build_augmentations(cfg, is_train=False)

        def predict(image, network=network, augmentation=augmentation):
            resized = augmentation.get_transform(image).apply_image(image)
            x = torch.from_numpy(resized.astype(np.float32).transpose(2, 0, 1).copy())
            with torch.no_grad():
                height, width = image.shape[:2]
                return network.model([{"image": x, "height": height, "width": width}])[0][
                    "instances"
                ]

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            save_onnx(
                to_onnx(network, DEFAULT_OPSETS[deform]), file, metadata_of(network.description)
            )
            report(name, predict, OnnxPredictor(file), images)


SMALL = [
    *("MODEL.DEVICE", "cpu"),
    *("MODEL.FPN.OUT_CHANNELS", 32),
    *("MODEL.FACE_FPN.ASPP_CHANNELS", 32),
    *("MODEL.SEM.CHANNELS", 32),
    *("MODEL.SOLOV2.NUM_CLASSES", 3),
    *("MODEL.SOLOV2.CONV_CHANNELS", 32),
    *("MODEL.SOLOV2.KERNEL_CHANNELS", 32),
    *("MODEL.SOLOV2.MASK_CHANNELS", 32),
    *("INPUT.FORMAT", "BGR"),
    *("INPUT.MIN_SIZE_TEST", 96),
    *("INPUT.MAX_SIZE_TEST", 160),
]


def main(kind, *arguments):
    if kind == "small":
        return small(arguments)
    file, config, *rest = arguments
    overrides, files = rest[: rest.index("--")], rest[rest.index("--") + 1 :]
    predictor = Predictor(config, overrides=[*overrides, "MODEL.DEVICE", "cpu"])
    step = max(1, len(files) // IMAGES)
    images = [predictor.read(f) for f in files[::step][:IMAGES]]
    report(file, predictor, OnnxPredictor(file), images)


if __name__ == "__main__":
    main(*sys.argv[1:])
