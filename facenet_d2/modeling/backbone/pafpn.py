"""PANet's neck: an FPN followed by a bottom-up path (Liu et al., CVPR 2018; Table 8).

PANet's own path, or MMDetection's, with which the paper's Table 8 was probably measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn

from ...config_checks import check_nodes
from ..checks import check_choice
from .pyramid import conv_with_norm, neck_arguments, register_neck

PATHS = ("panet", "mmdetection")


class PAFPN(FPN):
    """FPN's P2..P5, followed by a bottom-up path.

    With the path "panet", the outputs p2..p5 are N2..N5:
    N2 = P2, N(i+1) = relu(conv3x3(relu(conv3x3, stride 2 (N(i))) + P(i+1))).

    With "mmdetection", there are no ReLUs, and the path is a sum from level to level, of which the
    outputs are convolutions: M2 = P2, M(i+1) = P(i+1) + conv3x3, stride 2 (M(i)); p2 = M2,
    p(i+1) = conv3x3(M(i+1)). The parameters are the same.

    p6 is p5 at half size.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        *,
        norm: str = "",
        fuse_type: str = "sum",
        path: str = "panet",
    ) -> None:
        """
        Args:
            bottom_up: bottom-up network.
            in_features: names of its features, finest first, each at twice the stride of the
                previous one.
            out_channels: number of channels of every output.
            norm: normalisation after every convolution of the neck.
            fuse_type: fusion of the FPN's levels, "sum" or "avg".
            path: bottom-up path, "panet" or "mmdetection".

        Raises:
            ValueError: if the path is neither.
        """
        check_choice("path", path, PATHS)
        super().__init__(
            bottom_up,
            in_features,
            out_channels,
            norm=norm,
            top_block=LastLevelMaxPool(),
            fuse_type=fuse_type,
        )
        self.path = path
        steps = range(len(in_features) - 1)
        self.downsample = nn.ModuleList(
            conv_with_norm(out_channels, out_channels, 3, norm=norm, stride=2) for _ in steps
        )
        self.fuse = nn.ModuleList(
            conv_with_norm(out_channels, out_channels, 3, norm=norm) for _ in steps
        )

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Args:
            x: images, ``(N, 3, H, W)``, with H and W multiples of 32.

        Returns:
            ``p2`` .. ``p6``, each ``(N, out_channels, H/2^i, W/2^i)``.
        """
        (finest, previous), *others = super().forward(x).items()
        outputs = {finest: previous}
        # The last output of the FPN, its p6, is replaced.
        for (name, p), downsample, fuse in zip(
            others[:-1], self.downsample, self.fuse, strict=True
        ):
            if self.path == "panet":
                previous = outputs[name] = F.relu(fuse(F.relu(downsample(previous)) + p))
            else:
                previous = p + downsample(previous)
                outputs[name] = fuse(previous)
        outputs[others[-1][0]] = self.top_block(outputs[others[-2][0]])[0]
        return outputs


@register_neck("pafpn")
def pafpn(cfg: CfgNode, bottom_up: Backbone) -> PAFPN:
    """Build PANet's neck."""
    check_nodes(cfg, "MODEL.PAFPN")
    return PAFPN(
        **neck_arguments(cfg, bottom_up),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
        path=cfg.MODEL.PAFPN.PATH,
    )
