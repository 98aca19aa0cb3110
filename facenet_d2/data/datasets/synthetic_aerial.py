"""The built-in data set of synthetic aerial scenes, which are drawn on first use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...synthetic import CLASSES, SCENES_VERSION
from .coco import datasets_root, load_coco, register_coco

COLORS = ((0, 150, 255), (230, 57, 70), (255, 183, 3), (210, 235, 30), (0, 200, 120))
SIZE = 192
# (number of scenes, seed) of each split. train8 has the first eight scenes of train, to overfit.
SPLITS = {"train": (640, 1), "val": (64, 2), "train8": (8, 1)}


def register_synthetic_aerial() -> None:
    """Register ``synthetic_aerial_train``, ``synthetic_aerial_val``, ``synthetic_aerial_train8``.

    The scenes have 192x192 pixels and are stored under :func:`datasets_root`.
    """
    # The version is part of the folder's name, so that scenes of an older version are not used.
    root = datasets_root() / f"synthetic_aerial_v{SCENES_VERSION}"
    for split, (num_scenes, seed) in SPLITS.items():
        name = f"synthetic_aerial_{split}"
        folder = root / split

        def load(
            name: str = name, folder: Path = folder, num_scenes: int = num_scenes, seed: int = seed
        ) -> list[dict[str, Any]]:
            if not folder.is_dir():
                # Imported on first use: the drawing needs OpenCV and Shapely.
                from ...synthetic.dataset import write_dataset

                write_dataset(folder, num_scenes=num_scenes, seed=seed, size=SIZE)
            return load_coco(name, folder / "annotations.json", folder / "images")

        register_coco(
            name,
            folder / "annotations.json",
            folder / "images",
            loader=load,
            classes=CLASSES,
            colors=COLORS,
        )
