"""Relations between several config keys.

Relations that depend on the model that is built, such as one grid per level, are checked when it is
built.
"""

from __future__ import annotations

from collections.abc import Callable

from detectron2.config import CfgNode

from .table import POOLERS

# That of ResNeXt-101 32x48d is 1536.
MAX_RESNET_WIDTH = 2048

POOLED_MASK_HEADS = (
    "MaskRCNNConvUpsampleHead",
    "MaskScoringHead",
    "PANetMaskHead",
    "RefineMaskHead",
)

OWN_HEADS = {
    "MODEL.ROI_BOX_HEAD.NAME": {"PANetROIHeads": "PANetBoxHead"},
    "MODEL.ROI_MASK_HEAD.NAME": {
        "PANetROIHeads": "PANetMaskHead",
        "RefineMaskROIHeads": "RefineMaskHead",
    },
}
"""Heads by MODEL.ROI_HEADS.NAME. Neither works with any other."""

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
    bands = cfg.INPUT.BANDS
    if bands or cfg.INPUT.STRETCH:
        if bands and len(bands) != len(mean):
            return (
                f"MODEL.PIXEL_MEAN and MODEL.PIXEL_STD have {len(mean)} values, but INPUT.BANDS "
                f"{len(bands)} bands; they must have one value for each"
            )
        return ""
    channels = CHANNELS_OF_FORMAT.get(name, 3)
    # A grey image is repeated for each mean.
    if channels not in (1, len(mean)):
        return (
            f"MODEL.PIXEL_MEAN and MODEL.PIXEL_STD have {len(mean)} values, but images of "
            f"INPUT.FORMAT {name} have {channels} channels; they must have one value for each"
        )
    return ""


def shown_images(cfg: CfgNode) -> str:
    """Forbid Detectron2's pictures of training, which are of 8-bit colours."""
    if cfg.VIS_PERIOD > 0 and (cfg.INPUT.BANDS or cfg.INPUT.STRETCH):
        return (
            f"VIS_PERIOD is {cfg.VIS_PERIOD}, but images with INPUT.BANDS or INPUT.STRETCH cannot "
            "be shown in training; it must be 0 (tools/visualize_data.py draws them)"
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


def jitter_range(cfg: CfgNode) -> str:
    """Require a range of scales."""
    jitter = cfg.INPUT.SCALE_JITTER
    if jitter.MIN_SCALE > jitter.MAX_SCALE:
        return (
            f"INPUT.SCALE_JITTER.MIN_SCALE is {jitter.MIN_SCALE}; it must be at most "
            f"INPUT.SCALE_JITTER.MAX_SCALE, {jitter.MAX_SCALE}"
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


def pooled_features(cfg: CfgNode) -> str:
    """Require pooled features for the mask heads that take them."""
    head = cfg.MODEL.ROI_MASK_HEAD
    if head.NAME in POOLED_MASK_HEADS and not head.POOLER_TYPE:
        return (
            "MODEL.ROI_MASK_HEAD.POOLER_TYPE is empty; for MODEL.ROI_MASK_HEAD.NAME "
            f"{head.NAME} it must be {' or '.join(POOLERS)}"
        )
    return ""


def own_heads(cfg: CfgNode) -> str:
    """Require the RoI heads and the head that are made for each other."""
    roi_heads = cfg.MODEL.ROI_HEADS.NAME
    for key, owners in OWN_HEADS.items():
        name = cfg.MODEL[key.split(".")[1]].NAME
        expected = owners.get(roi_heads, name)
        if name != expected:
            return f"{key} is {name}; for MODEL.ROI_HEADS.NAME {roi_heads} it must be {expected}"
        for owner, head in owners.items():
            if name == head and roi_heads != owner:
                return f"MODEL.ROI_HEADS.NAME is {roi_heads}; for {key} {head} it must be {owner}"
    return ""


def coarse_mask_width(cfg: CfgNode) -> str:
    """Require a width of PointRend's coarse head that its input has.

    Detectron2's head reduces the number of channels to this width, and cannot increase it.
    """
    head = cfg.MODEL.ROI_MASK_HEAD
    if head.NAME not in ("PointRendMaskHead", "EmptyBatchPointRendMaskHead"):
        return ""
    channels = cfg.MODEL.FPN.OUT_CHANNELS * len(head.get("IN_FEATURES", ()))
    if "FPN" in cfg.MODEL.BACKBONE.NAME.upper() and channels < head.CONV_DIM:
        return (
            f"MODEL.ROI_MASK_HEAD.CONV_DIM is {head.CONV_DIM}; for MODEL.ROI_MASK_HEAD.NAME "
            f"{head.NAME} it must be at most the number of channels of its features, {channels}"
        )
    return ""


def resnet_width(cfg: CfgNode) -> str:
    """Require a width of ResNet's 3x3 convolutions that fits into memory."""
    node = cfg.MODEL.RESNETS
    width = node.NUM_GROUPS * node.WIDTH_PER_GROUP
    if width > MAX_RESNET_WIDTH:
        return (
            f"MODEL.RESNETS.NUM_GROUPS {node.NUM_GROUPS} times MODEL.RESNETS.WIDTH_PER_GROUP "
            f"{node.WIDTH_PER_GROUP} is {width}; it must be at most {MAX_RESNET_WIDTH}"
        )
    return ""


RELATIONS: tuple[Callable[[CfgNode], str], ...] = (
    image_channels,
    shown_images,
    size_range,
    jitter_range,
    crop_size,
    pooled_features,
    own_heads,
    coarse_mask_width,
    resnet_width,
)
"""Functions that return what is wrong with a config, or an empty text."""
