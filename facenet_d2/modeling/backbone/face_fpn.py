"""FACE-FPN: fusion atrous and channel enhancement FPN (paper, section 3.2, figure 2a)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import Backbone
from torch import nn

from ...config_checks import check_nodes
from ..checks import check_norm
from ..layers import (
    ASPP,
    ChannelAttentionGuidance,
    SemanticEnhancementModule,
    SubPixelContextEnhancement,
    SubPixelConv2d,
)
from ..shapes import spatial_size
from .pyramid import STRIDES, Pyramid, conv_with_norm, neck_arguments, register_neck


class FACEFPN(Pyramid):
    """A bottom-up network with FACE-FPN on top; returns p2..p6 like Detectron2's FPN.

    With B2..B5 the bottom-up features at strides 4..32:

    - (1) F4 = phi(B4) + S(B5), F3 = phi(B3) + S(B4), F2 = phi(B2), or SEM(B2) with SEM;
    - F'i = ASPP(Fi), and P4..P2 top-down from F'4..F'2;
    - I, the integrated map at stride 16: the mean of P2, P3, P4 and SCE(B5) (3);
    - R5 = AdaptiveMaxPool(I), R4 = AdaptiveMaxPool(I) + F'4, R3 = up(R4) + F'3,
      R2 = up(R3) + F'2, "in the order of a top-down hierarchy" (section 3.2). ``top_down=False``
      gives equation (2) literally: R3 = up(I) + F'3, R2 = up(I) + F'2;
    - (4, 5) Hi = CA(I) * Ri. The outputs p2..p5 are H2..H5, p6 is p5 at half size.

    Details that the paper leaves open were chosen on NWPU VHR-10 (docs/TRIALS.md): the top-down
    hierarchy, ASPP with a shortcut, and zero-initialised residual branches.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        *,
        aspp_channels: int,
        aspp_dilations: Sequence[int] = (6, 12, 18),
        aspp_norm: str = "GN",
        aspp_shortcut: bool = True,
        top_down: bool = True,
        output_convs: bool = True,
        subpixel_conv_first: bool = False,
        norm: str = "",
        sem: SemanticEnhancementModule | None = None,
    ) -> None:
        """
        Args:
            bottom_up: bottom-up network with four features at strides 4, 8, 16 and 32.
            in_features: names of the features, finest first (``res2`` .. ``res5``).
            out_channels: number of channels of every output.
            aspp_channels: number of channels of each branch of ASPP.
            aspp_dilations: dilation rates of ASPP's 3x3 convolutions.
            aspp_norm: normalisation inside ASPP.
            aspp_shortcut: whether ASPP adds its input to its output.
            top_down: whether R2 and R3 are built on the next coarser level instead of I.
            output_convs: whether each R has a 3x3 convolution, as each merged map of FPN.
            subpixel_conv_first: whether the convolution of S precedes its pixel shuffle.
            norm: normalisation after the projections phi, S and those of SCE, like
                ``MODEL.FPN.NORM`` in Detectron2's FPN.
            sem: module that replaces phi(B2).

        Raises:
            ValueError: if the features are not four at strides 4, 8, 16, 32.
        """
        super().__init__(bottom_up, in_features, out_channels)
        channels = self.channels
        self.top_down = top_down
        self.lateral2 = (
            conv_with_norm(channels[0], out_channels, 1, norm=norm) if sem is None else sem
        )
        self.lateral3 = conv_with_norm(channels[1], out_channels, 1, norm=norm)
        self.lateral4 = conv_with_norm(channels[2], out_channels, 1, norm=norm)
        self.subpixel3, self.subpixel4 = (
            SubPixelConv2d(coarse, out_channels, norm=norm, conv_first=subpixel_conv_first)
            for coarse in channels[2:]
        )
        self.aspp = nn.ModuleDict(
            {
                f"f{i}": ASPP(
                    out_channels,
                    out_channels,
                    branch_channels=aspp_channels,
                    dilations=aspp_dilations,
                    norm=aspp_norm,
                    shortcut=aspp_shortcut,
                )
                for i in (2, 3, 4)
            }
        )
        self.sce = SubPixelContextEnhancement(channels[3], out_channels, norm=norm)
        self.cag = ChannelAttentionGuidance(out_channels)
        self.outputs = (
            nn.ModuleList(
                conv_with_norm(out_channels, out_channels, 3, norm=norm) for _ in range(4)
            )
            if output_convs
            else None
        )

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Args:
            x: images of any size, ``(N, 3, H, W)``.

        Returns:
            ``p2`` .. ``p6``, each ``(N, out_channels, H/2^i, W/2^i)`` rounded up.
        """
        b2, b3, b4, b5 = self.bottom_up_features(x)
        f2, f3, f4 = self.enhance(b2, b3, b4, b5)
        integrated = self.integrate(f2, f3, f4, b5)
        levels: Sequence[torch.Tensor] = self.decouple(integrated, f2, f3, f4, b5)
        if self.outputs is not None:
            levels = [conv(r) for conv, r in zip(self.outputs, levels, strict=True)]
        attention = self.cag(integrated)
        outputs = {f"p{i}": attention * r for i, r in enumerate(levels, start=2)}
        outputs["p6"] = self.top_block(outputs["p5"])[0]
        return outputs

    def enhance(
        self, b2: torch.Tensor, b3: torch.Tensor, b4: torch.Tensor, b5: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute F'2, F'3 and F'4 by equation (1) and ASPP."""
        f4 = self.lateral4(b4) + self.subpixel4(b5, b4.shape[-2:])
        f3 = self.lateral3(b3) + self.subpixel3(b4, b3.shape[-2:])
        f2 = self.lateral2(b2)
        return self.aspp["f2"](f2), self.aspp["f3"](f3), self.aspp["f4"](f4)

    def integrate(
        self, f2: torch.Tensor, f3: torch.Tensor, f4: torch.Tensor, b5: torch.Tensor
    ) -> torch.Tensor:
        """Compute I at the size of F'4, the mean of the top-down maps P2..P4 and SCE(B5)."""
        size = spatial_size(f4)
        p4 = f4
        p3 = f3 + F.interpolate(p4, size=f3.shape[-2:], mode="nearest")
        p2 = f2 + F.interpolate(p3, size=f2.shape[-2:], mode="nearest")
        pooled = max_pool_to(p2, size) + max_pool_to(p3, size)
        return (pooled + p4 + self.sce(b5, size)) / 4

    def decouple(
        self,
        integrated: torch.Tensor,
        f2: torch.Tensor,
        f3: torch.Tensor,
        f4: torch.Tensor,
        b5: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute R2..R5 by equation (2); I is not pooled for R4, as it has the size of F'4."""

        def upsample(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
            return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)

        r5 = max_pool_to(integrated, spatial_size(b5))
        r4 = integrated + f4
        r3 = upsample(r4 if self.top_down else integrated, f3) + f3
        r2 = upsample(r3 if self.top_down else integrated, f2) + f2
        return r2, r3, r4, r5


def max_pool_to(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Apply adaptive maximum pooling, ``(N, C, H, W)`` to ``(N, C, *size)``.

    If H and W are the same multiple of the size, as in padded images, plain maximum pooling gives
    the same result, and ``torch.compile`` does not specialise it on the size.
    """
    factor = x.shape[-2] // size[0]
    if x.shape[-2] == factor * size[0] and x.shape[-1] == factor * size[1]:
        return F.max_pool2d(x, factor)
    return F.adaptive_max_pool2d(x, size)


def build_sem(cfg: CfgNode, in_channels: int) -> SemanticEnhancementModule:
    """Build SEM for the finest bottom-up level from ``MODEL.SEM``."""
    check_nodes(cfg, "MODEL.SEM")
    check_norm("MODEL.SEM.NORM", cfg.MODEL.SEM.NORM, "MODEL.SEM.CHANNELS", cfg.MODEL.SEM.CHANNELS)
    return SemanticEnhancementModule(
        in_channels,
        cfg.MODEL.FPN.OUT_CHANNELS,
        branch_channels=cfg.MODEL.SEM.CHANNELS,
        dilations=cfg.MODEL.SEM.DILATIONS,
        norm=cfg.MODEL.SEM.NORM,
        projection_norm=cfg.MODEL.FPN.NORM,
        residual=cfg.MODEL.SEM.RESIDUAL,
    )


@register_neck("face_fpn")
def face_fpn(cfg: CfgNode, bottom_up: Backbone) -> FACEFPN:
    """Build FACE-FPN, with SEM if ``MODEL.SEM.ENABLED``."""
    check_nodes(cfg, "MODEL.FACE_FPN")
    face = cfg.MODEL.FACE_FPN
    aspp = ("MODEL.FACE_FPN.ASPP_NORM", "MODEL.FACE_FPN.ASPP_CHANNELS")
    check_norm(aspp[0], face.ASPP_NORM, aspp[1], face.ASPP_CHANNELS)
    arguments = neck_arguments(cfg, bottom_up, strides=STRIDES, has_sem=True)
    sem = None
    if cfg.MODEL.SEM.ENABLED:
        finest = arguments["in_features"][0]
        sem = build_sem(cfg, bottom_up.output_shape()[finest].channels)
    return FACEFPN(
        **arguments,
        aspp_channels=face.ASPP_CHANNELS,
        aspp_dilations=face.ASPP_DILATIONS,
        aspp_norm=face.ASPP_NORM,
        aspp_shortcut=face.ASPP_SHORTCUT,
        top_down=face.TOP_DOWN,
        output_convs=face.OUTPUT_CONVS,
        subpixel_conv_first=face.SUBPIXEL_CONV_FIRST,
        sem=sem,
    )
