"""Output of RDSNet's network."""

from __future__ import annotations

from typing import NamedTuple

import torch


class RDSNetPredictions(NamedTuple):
    """Predictions for N images of padded size (H, W), with R_l anchors on level l.

    All fields but the last have one tensor per level.

    Attributes:
        logits: class logits, ``(N, R_l, C)``.
        deltas: box deltas, ``(N, R_l, 4)``.
        representations: two vectors of k numbers, background then object, ``(N, R_l, 2k)``.
        anchors: anchor boxes in pixels of the padded images, ``(R_l, 4)``.
        pixel_map: representation of the pixels, ``(N, k, H/4, W/4)``.
    """

    logits: list[torch.Tensor]
    deltas: list[torch.Tensor]
    representations: list[torch.Tensor]
    anchors: list[torch.Tensor]
    pixel_map: torch.Tensor
