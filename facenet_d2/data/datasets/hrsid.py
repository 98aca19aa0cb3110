"""HRSID: ships in 800x800 SAR images (paper, section 4.2)."""

from .prepared import register_prepared

CLASSES = ("ship",)
COLORS = ((255, 112, 31),)
# RGB colour of each class in *_instance_color_RGB.png.
ANNOTATION_COLORS = ((128, 0, 0),)
# Number of images in each split, as published and in the paper.
PUBLISHED_IMAGES = {"train": 3642, "test": 1962}


def register_hrsid() -> None:
    """Register ``hrsid_train`` and ``hrsid_test``."""
    register_prepared(
        "hrsid",
        tuple(PUBLISHED_IMAGES),
        tool="tools/prepare_hrsid.py",
        classes=CLASSES,
        colors=COLORS,
    )
