"""Faster inference of a trained model, by the switches of ``TEST``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.fx.experimental._config
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

logger = logging.getLogger(__name__)

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)


def accelerate(model: nn.Module, cfg: CfgNode) -> None:
    """Prepare a model, its weights loaded, for inference as ``TEST`` says.

    ``FOLD_BATCH_NORM`` and ``CHANNELS_LAST`` change its parameters, so it cannot be trained, or its
    weights saved, afterwards.

    Args:
        model: in evaluation mode; changed in place.
        cfg: its config.

    Raises:
        ValueError: for a model that is being trained, an unknown ``TEST.AUTOCAST``, or a switch
            that its meta-architecture does not have.
    """
    if model.training:
        raise ValueError("only a model in evaluation mode can be prepared for inference")
    test = cfg.TEST
    if test.AUTOCAST and test.AUTOCAST not in AUTOCAST:
        raise ValueError(f"TEST.AUTOCAST is {test.AUTOCAST!r}; it must be one of {[*AUTOCAST]}, ''")
    if (test.AUTOCAST or test.COMPILE) and not hasattr(model, "predict"):
        raise ValueError(
            "TEST.AUTOCAST and TEST.COMPILE are for SOLOv2, SOLO, YOLACT and CondInst, not for "
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE}"
        )
    if test.FOLD_BATCH_NORM and not fold_batch_norm(model):
        logger.warning(
            "TEST.FOLD_BATCH_NORM is True, but no convolution of this model has batch "
            "normalisation as its norm, as those of Detectron2's ResNets have: nothing is folded."
        )
    if test.CHANNELS_LAST:
        model.to(memory_format=torch.channels_last)
    if test.COMPILE:
        top_block = getattr(model.backbone, "top_block", None)
        if isinstance(top_block, LastLevelMaxPool):
            # The same pixels. The size of a maximum over one pixel in two is compiled for even and
            # for odd sizes apart, so that images of other sizes would need minutes again.
            top_block.forward = lambda x: [x[..., ::2, ::2]]
        # Nor is a square image to be a case of its own.
        torch.fx.experimental._config.use_duck_shape = False
        model.predict = torch.compile(model.predict, dynamic=True)
    if test.AUTOCAST:
        model.predict = _under_autocast(model.predict, AUTOCAST[test.AUTOCAST])


def fold_batch_norm(model: nn.Module) -> int:
    """Fold batch normalisation in its evaluation form into the convolution before it.

    BN(Wx + b) is a convolution, too: its weight is W scaled by gamma / sqrt(variance + eps).

    Args:
        model: with convolutions that have it as their ``norm``, as Detectron2's do; in place.

    Returns:
        how many there were.
    """
    number = 0
    for conv in model.modules():
        norm = getattr(conv, "norm", None)
        weight = getattr(conv, "weight", None)
        if not (isinstance(norm, BATCH_NORMS) and isinstance(weight, nn.Parameter)):
            continue
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight,
            conv.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        conv.norm = None
        number += 1
    return number


def _under_autocast(function: Callable[..., Any], dtype: torch.dtype) -> Callable[..., Any]:
    def predict(images: torch.Tensor) -> Any:
        with torch.autocast(images.device.type, dtype=dtype):
            return function(images)

    return predict


def set_tf32(enabled: bool) -> None:
    """Let a GPU that can compute float32 products and convolutions in TF32, or not."""
    torch.backends.cuda.matmul.allow_tf32 = enabled
    torch.backends.cudnn.allow_tf32 = enabled
