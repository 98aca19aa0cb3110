"""Relations between several config keys.

Relations that depend on the model that is built, such as one grid per level, are checked when it is
built.
"""

from __future__ import annotations

from collections.abc import Callable

from detectron2.config import CfgNode

CHANNELS_OF_FORMAT = {"L": 1, "RGBA": 4, "CMYK": 4}
"""Number of channels of the values of INPUT.FORMAT that do not have three."""


def image_channels(cfg: CfgNode) -> str:
    """Require a mean and a standard deviation for each channel of the images."""
    mean, std, name = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.INPUT.FORMAT
    if len(mean) != len(std):
        return (
            f"MODEL.PIXEL_MEAN has {len(mean)} values and MODEL.PIXEL_STD {len(std)}; they must "
            "have one for each channel"
        )
    channels = CHANNELS_OF_FORMAT.get(name, 3)
    # A grey image is repeated for each mean.
    if channels not in (1, len(mean)):
        return (
            f"MODEL.PIXEL_MEAN and MODEL.PIXEL_STD have {len(mean)} values, but images of "
            f"INPUT.FORMAT {name} have {channels} channels; they must have one value for each"
        )
    return ""


def size_range(cfg: CfgNode) -> str:
    """Require a minimum and a maximum if training sizes are drawn from a range."""
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and not (
        len(sizes) == 2 and sizes[0] <= sizes[1]
    ):
        return (
            f"INPUT.MIN_SIZE_TRAIN is {tuple(sizes)}; with INPUT.MIN_SIZE_TRAIN_SAMPLING range it "
            "must be a minimum and a maximum"
        )
    return ""


def crop_size(cfg: CfgNode) -> str:
    """Require a crop that is part of the image."""
    crop = cfg.INPUT.CROP
    if crop.TYPE.startswith("relative"):
        if max(crop.SIZE) > 1:
            return (
                f"INPUT.CROP.SIZE is {list(crop.SIZE)}; with INPUT.CROP.TYPE {crop.TYPE} it must "
                "be two shares of the image, each above 0 and at most 1"
            )
    elif any(type(side) is not int for side in crop.SIZE) or (
        crop.TYPE == "absolute_range" and crop.SIZE[0] > crop.SIZE[1]
    ):
        expected = "a minimum and a maximum" if crop.TYPE == "absolute_range" else "two sizes"
        return (
            f"INPUT.CROP.SIZE is {list(crop.SIZE)}; with INPUT.CROP.TYPE {crop.TYPE} it must be "
            f"{expected} in whole pixels"
        )
    return ""


RELATIONS: tuple[Callable[[CfgNode], str], ...] = (image_channels, size_range, crop_size)
"""Functions that return what is wrong with a config, or an empty text."""
