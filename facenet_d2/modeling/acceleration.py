"""Faster inference of a trained model by the switches of ``TEST``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

logger = logging.getLogger(__name__)

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)


def accelerate(model: nn.Module, cfg: CfgNode) -> None:
    """Prepare a model with loaded weights for inference as configured by ``TEST``.

    ``FOLD_BATCH_NORM`` and ``CHANNELS_LAST`` change the parameters: the model must not be trained
    or saved afterwards.

    Args:
        model: model in evaluation mode; changed in place.
        cfg: config of the model.

    Raises:
        ValueError: for a model in training mode, an unknown ``TEST.AUTOCAST``, or a switch that the
            meta-architecture does not support.
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
            "normalisation as its `norm`, as in Detectron2's ResNets: nothing is folded."
        )
    if test.CHANNELS_LAST:
        model.to(memory_format=torch.channels_last)
    if test.COMPILE:
        top_block = getattr(model.backbone, "top_block", None)
        if isinstance(top_block, LastLevelMaxPool):
            # Slicing takes the same pixels. Max pooling would be compiled separately for even and
            # odd sizes, minutes each.
            top_block.forward = lambda x: [x[..., ::2, ::2]]
        # A private module, imported here so that only TEST.COMPILE depends on it.
        import torch.fx.experimental._config as fx_config

        # Do not specialise on images with H == W.
        fx_config.use_duck_shape = False
        model.predict = torch.compile(model.predict, dynamic=True)
    if test.AUTOCAST:
        model.predict = _under_autocast(model.predict, AUTOCAST[test.AUTOCAST])


def fold_batch_norm(model: nn.Module) -> int:
    """Fold batch normalisation, in its evaluation form, into the preceding convolutions.

    BN(Wx + b) is a convolution whose weight is W scaled by gamma / sqrt(variance + eps).

    Args:
        model: model whose convolutions have batch normalisation as their ``norm``, as Detectron2's
            do; changed in place. Other modules with such a ``norm`` are left as they are.

    Returns:
        The number of folded convolutions.
    """
    number = 0
    for conv in model.modules():
        norm = getattr(conv, "norm", None)
        is_convolution = isinstance(getattr(conv, "weight", None), nn.Parameter) and hasattr(
            conv, "bias"
        )
        if not (isinstance(norm, BATCH_NORMS) and is_convolution):
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
