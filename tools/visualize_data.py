#!/usr/bin/env python3
"""Draw training images with their masks, boxes and classes, as the model receives them.

  visualize_data.py --config-file configs/NWPU-VHR10/facenet_R_50_36ep.yaml --output samples

The images come from the training loader, in its order, with the augmentations and the seed of the
config. --opts overrides config keys, for example --opts INPUT.RAND_AUGMENT.MAGNITUDE 20 SEED 3.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

import facenet_d2.compat  # noqa: F401  isort: skip
import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from PIL import Image
from tqdm import tqdm

from facenet_d2 import UserError
from facenet_d2.data import build_train_loader
from facenet_d2.data.readers import build_reader
from facenet_d2.engine import load_config, run_command
from facenet_d2.engine.setup import check_writable
from facenet_d2.files import replaced
from facenet_d2.structures.masks import MASK_STRIDE, full_size_masks, masks_field
from facenet_d2.visualization.overlay import draw_masks
from facenet_d2.wording import counted


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="config of the training")
    parser.add_argument("--output", type=Path, required=True, help="folder for the drawn images")
    parser.add_argument(
        "--num-images", type=int, default=16, help="number of images (default: %(default)s)"
    )
    parser.add_argument(
        "--no-labels", action="store_true", help="do not draw class names, which hide small objects"
    )
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE overrides; must come last"
    )
    return parser.parse_args()


def repeat_to_full_size(instances: Instances) -> np.ndarray:
    """Return the masks as ``(N, H, W)``; the pixels of masks at a stride are repeated."""
    height, width = instances.image_size
    for stride in (2, MASK_STRIDE):
        if instances.has(masks_field(stride)):
            masks = instances.get(masks_field(stride)).numpy().repeat(stride, 1).repeat(stride, 2)
            return masks[:, :height, :width]
    return full_size_masks(instances).numpy()


def main() -> None:
    args = parse_args()
    if args.num_images < 1:
        raise UserError(f"--num-images is {args.num_images}; it must be at least 1.")
    # Without workers, an error in an augmentation is easier to debug.
    cfg = load_config(args.config_file, [*args.opts, "DATALOADER.NUM_WORKERS", "0"])
    check_writable(args.output)
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    reader = build_reader(cfg)
    samples = itertools.chain.from_iterable(build_train_loader(cfg))
    num_instances, num_empty = 0, 0
    for number in tqdm(range(args.num_images), desc="Drawing", unit="image"):
        sample = next(samples)
        instances = sample["instances"]
        image = reader.picture(sample["image"].permute(1, 2, 0).numpy())
        overlay = draw_masks(
            image,
            repeat_to_full_size(instances),
            instances.gt_classes.tolist(),
            metadata,
            boxes=instances.gt_boxes.tensor.numpy(),
            with_labels=not args.no_labels,
        )
        name = f"{number:04d}_{Path(sample['file_name']).stem}.png"
        with replaced(args.output / name) as temporary:
            Image.fromarray(overlay).save(temporary)
        num_instances += len(instances)
        num_empty += len(instances) == 0
    print(
        f"{counted(args.num_images, 'image')} with {counted(num_instances, 'instance')} "
        f"({num_empty} without any) saved to {args.output.resolve()}"
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
