"""Output of CondInst's network."""

from __future__ import annotations

from typing import NamedTuple

import torch


class CondInstPredictions(NamedTuple):
    """Predictions for N images of padded size (H, W), with R_l positions on level l.

    All fields but the last have one tensor per level.

    Attributes:
        logits: class logits, ``(N, R_l, C)``.
        distances: distances to the left, top, right and bottom side of the box, in strides,
            ``(N, R_l, 4)``.
        centerness: centerness logits, ``(N, R_l, 1)``.
        parameters: parameters of the mask heads, ``(N, R_l, num_parameters)``.
        anchors: one box of the stride's size around each position, ``(R_l, 4)``.
        mask_features: ``(N, channels, H/8, W/8)``.
    """

    logits: list[torch.Tensor]
    distances: list[torch.Tensor]
    centerness: list[torch.Tensor]
    parameters: list[torch.Tensor]
    anchors: list[torch.Tensor]
    mask_features: torch.Tensor
