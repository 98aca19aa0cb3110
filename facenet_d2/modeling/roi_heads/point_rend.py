"""Detectron2's PointRend head for batches that may have no objects.

Not imported with the package, because it needs ``detectron2.projects.point_rend``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.projects.point_rend import PointRendMaskHead
from detectron2.structures import Instances


@ROI_MASK_HEAD_REGISTRY.register()
class EmptyBatchPointRendMaskHead(PointRendMaskHead):
    """``PointRendMaskHead`` whose losses are 0 for a batch without objects.

    Detectron2's head fails on such a batch, which occurs when augmentation moves all objects out of
    the images. Parameters and losses are otherwise the same.
    """

    def _sample_train_points(
        self, coarse_mask: torch.Tensor, instances: Sequence[Instances]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if any(map(len, instances)):
            return super()._sample_train_points(coarse_mask, instances)
        labels = coarse_mask.new_zeros(0, self.mask_point_train_num_points)
        return labels.new_zeros(*labels.shape, 2), labels
