"""Faster inference of a trained model by the switches of ``TEST``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

logger = logging.getLogger(__name__)

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)


@runtime_checkable
class _Predicting(Protocol):
    """A model with the method ``predict`` of :class:`InstanceModel`."""

    predict: Callable[[torch.Tensor], Any]


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
    predicting: _Predicting | None = None
    if test.AUTOCAST or test.COMPILE:
        if not isinstance(model, _Predicting):
            raise ValueError(
                "TEST.AUTOCAST and TEST.COMPILE are for this project's own models, such as SOLOv2, "
                f"not for MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE}"
            )
        predicting = model
    if test.FOLD_BATCH_NORM and not fold_batch_norm(model):
        logger.warning(
            "TEST.FOLD_BATCH_NORM is True, but no convolution of this model has batch "
            "normalisation as its `norm`, as in Detectron2's ResNets: nothing is folded."
        )
    if test.CHANNELS_LAST:
        # Documented, but not among the declared overloads.
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if predicting is not None and test.COMPILE:
        top_block = getattr(model.backbone, "top_block", None)
        if isinstance(top_block, LastLevelMaxPool):
            # Slicing takes the same pixels. Max pooling would be compiled separately for even and
            # odd sizes, minutes each.
            top_block.forward = lambda x: [x[..., ::2, ::2]]
        # A private module, imported here so that only TEST.COMPILE depends on it.
        import torch.fx.experimental._config as fx_config

        # Do not specialise on images with H == W.
        fx_config.use_duck_shape = False
        predicting.predict = torch.compile(predicting.predict, dynamic=True)
    if predicting is not None and test.AUTOCAST:
        predicting.predict = _under_autocast(predicting.predict, AUTOCAST[test.AUTOCAST])


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
        norm, weight = getattr(conv, "norm", None), getattr(conv, "weight", None)
        if not (
            isinstance(norm, BATCH_NORMS)
            and isinstance(weight, nn.Parameter)
            and hasattr(conv, "bias")
        ):
            continue
        bias, mean, variance = conv.bias, norm.running_mean, norm.running_var
        assert bias is None or isinstance(bias, nn.Parameter)
        assert mean is not None
        assert variance is not None
        conv.weight, conv.bias = fuse_conv_bn_weights(
            weight,
            bias,
            mean,
            variance,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        conv.norm = None  # type: ignore[assignment]  # The declared type forbids None.
        number += 1
    return number


def _under_autocast(function: Callable[..., Any], dtype: torch.dtype) -> Callable[..., Any]:
    def predict(images: torch.Tensor) -> Any:
        with torch.autocast(images.device.type, dtype=dtype):
            return function(images)

    return predict
