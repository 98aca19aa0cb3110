"""Detectron2's PointRend, for batches without objects too.

Not imported with the package: it needs ``detectron2.projects.point_rend``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.projects.point_rend import PointRendMaskHead
from detectron2.structures import Instances


@ROI_MASK_HEAD_REGISTRY.register()
class EmptyBatchPointRendMaskHead(PointRendMaskHead):
    """``PointRendMaskHead`` with the same parameters and losses, 0 where there is no object.

    Detectron2's cannot sample the masks of none. An augmentation may move all objects out of the
    images of a batch.
    """

    def _sample_train_points(
        self, coarse_mask: torch.Tensor, instances: Sequence[Instances]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if any(map(len, instances)):
            return super()._sample_train_points(coarse_mask, instances)
        labels = coarse_mask.new_zeros(0, self.mask_point_train_num_points)
        return labels.new_zeros(*labels.shape, 2), labels
