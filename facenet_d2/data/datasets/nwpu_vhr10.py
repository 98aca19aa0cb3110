"""NWPU VHR-10: ten classes in very-high-resolution aerial images (paper, section 4.2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import UserError
from .coco import datasets_root, load_coco, register_coco

CLASSES = (
    "airplane",
    "ship",
    "storage_tank",
    "baseball_diamond",
    "tennis_court",
    "basketball_court",
    "ground_track_field",
    "harbor",
    "bridge",
    "vehicle",
)
COLORS = (
    (230, 57, 70),
    (0, 150, 255),
    (255, 183, 3),
    (155, 93, 229),
    (0, 200, 120),
    (255, 112, 31),
    (241, 91, 181),
    (0, 210, 211),
    (190, 160, 110),
    (210, 235, 30),
)


def register_nwpu_vhr10() -> None:
    """Register ``nwpu_vhr10_train`` and ``nwpu_vhr10_test`` under :func:`datasets_root`."""
    root = datasets_root() / "nwpu_vhr10"
    for split in ("train", "test"):
        name = f"nwpu_vhr10_{split}"
        json_file = root / f"{split}.json"
        images = root / "images"

        def load(
            name: str = name, json_file: Path = json_file, images: Path = images
        ) -> list[dict[str, Any]]:
            if not json_file.is_file():
                raise UserError(
                    f"dataset {name!r}: {json_file} does not exist. Make it with "
                    "tools/prepare_nwpu_vhr10.py, or set DETECTRON2_DATASETS to the folder that "
                    "has nwpu_vhr10/."
                )
            return load_coco(name, json_file, images)

        register_coco(name, json_file, images, loader=load, classes=CLASSES, colors=COLORS)
