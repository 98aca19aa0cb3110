#!/usr/bin/env python3
"""Draw training images as the model gets them: augmented, with their masks, boxes and classes.

  visualize_data.py --config-file configs/NWPU-VHR10/facenet_R_50_36ep.yaml --output looked_at

The images come from the training loader itself, in its order, with the config's augmentations and
seed: what is wrong in a picture is wrong in training. --opts changes the config as for
train_net.py, as in --opts INPUT.RAND_AUGMENT.MAGNITUDE 20 SEED 3.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

import facenet_d2.compat  # noqa: F401  isort: skip
import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import Instances
from PIL import Image
from tqdm import tqdm

from facenet_d2 import UserError
from facenet_d2.data import build_train_loader
from facenet_d2.engine import load_config, run_command
from facenet_d2.engine.setup import check_writable
from facenet_d2.structures.masks import MASK_STRIDE, full_size_masks
from facenet_d2.visualization.overlay import draw_masks


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="as for train_net.py")
    parser.add_argument("--output", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--num-images", type=int, default=16, help="how many (%(default)s)")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE overrides, last"
    )
    return parser.parse_args()


def full_size(instances: Instances) -> np.ndarray:
    """The masks as ``(N, H, W)``; SOLOv2's, which are a quarter of that, with their pixels seen."""
    height, width = instances.image_size
    if instances.has("gt_stride4_masks"):
        masks = instances.gt_stride4_masks.numpy().repeat(MASK_STRIDE, 1).repeat(MASK_STRIDE, 2)
        return masks[:, :height, :width]
    return full_size_masks(instances).numpy()


def main() -> None:
    args = parse_args()
    if args.num_images < 1:
        raise UserError(f"--num-images is {args.num_images}; it must be at least 1.")
    # In this process: a mistake in an augmentation is then easier to see.
    cfg = load_config(args.config_file, [*args.opts, "DATALOADER.NUM_WORKERS", "0"])
    check_writable(args.output)
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    samples = itertools.chain.from_iterable(build_train_loader(cfg))
    instances_drawn, empty = 0, 0
    for number in tqdm(range(args.num_images), desc="Drawing", unit="image"):
        sample = next(samples)
        instances = sample["instances"]
        image = convert_image_to_rgb(sample["image"].permute(1, 2, 0), cfg.INPUT.FORMAT)
        picture = draw_masks(
            np.ascontiguousarray(image).astype(np.uint8),
            full_size(instances),
            instances.gt_classes.tolist(),
            metadata,
            boxes=instances.gt_boxes.tensor.numpy(),
        )
        name = f"{number:04d}_{Path(sample['file_name']).stem}.png"
        Image.fromarray(picture).save(args.output / name)
        instances_drawn += len(instances)
        empty += len(instances) == 0
    print(
        f"{args.num_images} images with {instances_drawn} instances ({empty} images without any) "
        f"in {args.output.resolve()}"
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
