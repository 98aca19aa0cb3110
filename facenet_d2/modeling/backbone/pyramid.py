"""Parts shared by the necks: base class, convolution, bottom-up network and registration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_resnet_backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from ...config_checks import check_nodes
from ..checks import check_levels, check_norm

# Strides of the bottom-up features of all necks but the FPNs.
STRIDES = (4, 8, 16, 32)

# Names of the builders that register_neck has registered.
_neck_builders: set[str] = set()


class Pyramid(Backbone):
    """Base class of the necks that return p2..p6, all with the same number of channels.

    Attributes:
        bottom_up: bottom-up network that returns B2..B5.
        channels: numbers of channels of B2..B5.
        top_block: layer that computes p6 from p5 by taking every other pixel, as in Detectron2's
            FPN.
    """

    def __init__(self, bottom_up: Backbone, in_features: Sequence[str], out_channels: int) -> None:
        """
        Args:
            bottom_up: bottom-up network with four features at strides 4, 8, 16 and 32.
            in_features: names of the features, finest first (``res2`` .. ``res5``).
            out_channels: number of channels of every output.

        Raises:
            ValueError: if the features are not four at strides 4, 8, 16, 32.
        """
        super().__init__()
        shapes = bottom_up.output_shape()
        check_levels("in_features", in_features, shapes, STRIDES)
        self.bottom_up = bottom_up
        self.in_features = tuple(in_features)
        self.channels = [shapes[f].channels for f in in_features]
        self.top_block = LastLevelMaxPool()
        self._out_features = ["p2", "p3", "p4", "p5", "p6"]
        self._out_feature_strides = {f"p{i}": 2**i for i in range(2, 7)}
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)

    @property
    def size_divisibility(self) -> int:
        """Number whose multiples images are padded to, so that all levels are aligned."""
        return 32

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"size_divisibility": self.size_divisibility}

    def bottom_up_features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Compute B2..B5, ``(N, C_i, H/2^i, W/2^i)`` rounded up, of images ``(N, 3, H, W)``."""
        features = self.bottom_up(x)
        return [features[f] for f in self.in_features]


def conv_with_norm(
    in_channels: int, out_channels: int, kernel_size: int, *, norm: str, stride: int = 1
) -> Conv2d:
    """Build a convolution as in Detectron2's FPN: Xavier initialisation, no activation."""
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        bias=not norm,
        norm=get_norm(norm, out_channels),
    )
    weight_init.c2_xavier_fill(conv)
    return conv


def build_bottom_up(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Build the bottom-up network ``MODEL.BOTTOM_UP.NAME``.

    Raises:
        ValueError: if no builder of that name is registered, or it builds a neck.
    """
    name = cfg.MODEL.BOTTOM_UP.NAME
    if name not in BACKBONE_REGISTRY:
        raise ValueError(
            f"MODEL.BOTTOM_UP.NAME is {name!r}, but no such backbone builder is registered; "
            "build_resnet_backbone and build_timm_backbone are"
        )
    if name in _neck_builders:
        raise ValueError(
            f"MODEL.BOTTOM_UP.NAME is {name!r}, which builds a neck; it must build a network "
            "without one, such as build_resnet_backbone or build_timm_backbone"
        )
    return BACKBONE_REGISTRY.get(name)(cfg, input_shape)


def neck_arguments(
    cfg: CfgNode,
    bottom_up: Backbone,
    *,
    norm_node: str = "FPN",
    strides: Sequence[int] | None = None,
    has_sem: bool = False,
) -> dict[str, Any]:
    """Read the arguments that all necks share from ``MODEL.FPN``.

    Args:
        cfg: config of the model.
        bottom_up: bottom-up network.
        norm_node: node of ``MODEL`` with the neck's ``NORM``.
        strides: required strides of ``MODEL.FPN.IN_FEATURES``; None for any.
        has_sem: whether the neck has a semantic enhancement module.

    Raises:
        ValueError: for a wrong value, or ``MODEL.SEM.ENABLED`` with a neck without SEM.
    """
    fpn, norm = cfg.MODEL.FPN, cfg.MODEL[norm_node].NORM
    if cfg.MODEL.SEM.ENABLED and not has_sem:
        raise ValueError(no_sem(cfg.MODEL.BACKBONE.NAME))
    check_nodes(cfg, "MODEL.FPN")
    check_norm(f"MODEL.{norm_node}.NORM", norm, "MODEL.FPN.OUT_CHANNELS", fpn.OUT_CHANNELS)
    if strides is not None:
        shapes = bottom_up.output_shape()
        check_levels("MODEL.FPN.IN_FEATURES", fpn.IN_FEATURES, shapes, strides)
    return {
        "bottom_up": bottom_up,
        "in_features": fpn.IN_FEATURES,
        "out_channels": fpn.OUT_CHANNELS,
        "norm": norm,
    }


def check_sem(cfg: CfgNode) -> None:
    """Refuse ``MODEL.SEM.ENABLED`` with one of Detectron2's own builders, which would ignore it.

    Raises:
        ValueError: if SEM is enabled and ``MODEL.BACKBONE.NAME`` is a builder of Detectron2.
    """
    name = cfg.MODEL.BACKBONE.NAME
    if (
        cfg.MODEL.SEM.ENABLED
        and name in BACKBONE_REGISTRY
        and BACKBONE_REGISTRY.get(name).__module__.startswith("detectron2.")
    ):
        raise ValueError(no_sem(name))


def no_sem(name: str) -> str:
    """Return the error message for ``MODEL.SEM.ENABLED`` with a backbone that has no SEM."""
    return (
        f"MODEL.SEM.ENABLED is True, but MODEL.BACKBONE.NAME {name} has no SEM; choose "
        "build_face_fpn_backbone or build_sem_fpn_backbone, or set MODEL.SEM.ENABLED False"
    )


NeckBuilderT = TypeVar("NeckBuilderT", bound=Callable[[CfgNode, Backbone], Backbone])


def register_neck(name: str, *, resnet: bool = True) -> Callable[[NeckBuilderT], NeckBuilderT]:
    """Register the backbone builders of a neck: ``@register_neck("hrfpn")``.

    The decorated function puts the neck on a bottom-up network. ``build_{name}_backbone`` builds it
    on ``MODEL.BOTTOM_UP``, and ``build_resnet_{name}_backbone`` always on a ResNet, as Detectron2's
    own builders do.

    Args:
        name: name of the neck.
        resnet: whether to register the second builder.
    """

    def register(build_neck: NeckBuilderT) -> NeckBuilderT:
        def build(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
            return build_neck(cfg, build_bottom_up(cfg, input_shape))

        def build_on_resnet(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
            return build_neck(cfg, build_resnet_backbone(cfg, input_shape))

        builders = {f"build_{name}_backbone": build}
        if resnet:
            builders[f"build_resnet_{name}_backbone"] = build_on_resnet
        for builder_name, builder in builders.items():
            # The registry takes the name from the function.
            builder.__name__ = builder.__qualname__ = builder_name
            builder.__module__ = build_neck.__module__
            _neck_builders.add(builder_name)
            BACKBONE_REGISTRY.register(builder)
        return build_neck

    return register
