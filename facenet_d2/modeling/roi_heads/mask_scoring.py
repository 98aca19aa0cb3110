"""Mask Scoring R-CNN: Mask R-CNN with a head that predicts the IoU of each mask (Table 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
import pycocotools.mask as mask_util
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, Linear, ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import (
    BaseMaskRCNNHead,
    MaskRCNNConvUpsampleHead,
    mask_rcnn_inference,
    mask_rcnn_loss,
)
from detectron2.structures import Instances, PolygonMasks
from torch import nn

from ...config_checks import check_nodes
from ...structures.masks import MASKS_AT_ONCE


class MaskIoUHead(nn.Module):
    """Estimate of a predicted mask's IoU, for each class, from the mask and its RoI features.

    Four 3x3 convolutions, the last with stride 2, and two fully connected layers (Huang et al.,
    CVPR 2019, section 3.3).
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        size: int = 14,
        conv_dim: int = 256,
        num_conv: int = 4,
        fc_dim: int = 1024,
    ) -> None:
        """
        Args:
            in_channels: number of channels of the RoI features.
            num_classes: number of classes C.
            size: height and width of the RoI features. The mask is twice as large.
            conv_dim: number of channels of the convolutions.
            num_conv: number of convolutions.
            fc_dim: number of channels of the fully connected layers.
        """
        super().__init__()
        self.convs = nn.ModuleList(
            Conv2d(
                in_channels + 1 if i == 0 else conv_dim,
                conv_dim,
                3,
                stride=2 if i == num_conv - 1 else 1,
                padding=1,
                activation=F.relu,
            )
            for i in range(num_conv)
        )
        self.fc1 = Linear(conv_dim * ((size + 1) // 2) ** 2, fc_dim)
        self.fc2 = Linear(fc_dim, fc_dim)
        self.predict = Linear(fc_dim, num_classes)
        for conv in self.convs:
            weight_init.c2_msra_fill(conv)
        for fc in (self.fc1, self.fc2):
            weight_init.c2_xavier_fill(fc)
        nn.init.normal_(self.predict.weight, std=0.01)
        nn.init.zeros_(self.predict.bias)

    def forward(self, features: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """
        Args:
            features: RoI features, ``(B, in_channels, size, size)``.
            masks: mask probabilities, ``(B, 2 size, 2 size)``.

        Returns:
            Estimated IoUs, ``(B, C)``.
        """
        x = torch.cat([features, F.max_pool2d(masks[:, None], 2)], dim=1)
        for conv in self.convs:
            x = conv(x)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.predict(F.relu(self.fc2(x)))


@torch.no_grad()
def mask_ious(masks: torch.Tensor, instances: Instances) -> torch.Tensor:
    """Compute the IoU of predicted masks with their whole objects.

    Args:
        masks: binary masks over the boxes of N proposals, ``(N, M, M)`` bool.
        instances: the proposals with ``proposal_boxes`` and ``gt_masks``. Pixels of an object
            outside the box count as missed.

    Returns:
        IoUs, ``(N,)``.
    """
    boxes = instances.proposal_boxes
    side = masks.shape[-1]
    objects = instances.gt_masks.crop_and_resize(boxes.tensor, side).to(masks.device).bool()
    # Areas in pixels of the M x M grid. Cropping rounds, but no object is smaller than its part.
    inside = objects.flatten(1).sum(dim=1)
    areas = _areas(instances).to(masks.device) * side**2 / boxes.area().clamp(min=1e-6)
    areas = torch.maximum(areas, inside)
    overlap = (masks & objects).flatten(1).sum(dim=1)
    union = masks.flatten(1).sum(dim=1) + areas - overlap
    return overlap / union.clamp(min=1e-6)


def _areas(instances: Instances) -> torch.Tensor:
    """Count the pixels of each object inside the image, ``(N,)`` float32."""
    whole = instances.gt_masks
    if isinstance(whole, PolygonMasks):
        # Polygons may extend beyond the image, where nothing can be predicted.
        areas = [
            mask_util.area(mask_util.merge(mask_util.frPyObjects(polygons, *instances.image_size)))
            for polygons in whole.polygons
        ]
        return torch.tensor(areas, dtype=torch.float32)
    # Summing bool makes a copy of eight bytes per pixel: chunks bound the memory.
    chunks = whole.tensor.split(MASKS_AT_ONCE)
    return torch.cat([m.flatten(1).sum(dim=1) for m in chunks]).float()


@ROI_MASK_HEAD_REGISTRY.register()
class MaskScoringHead(BaseMaskRCNNHead):
    """Mask R-CNN's mask head with a :class:`MaskIoUHead`, whose estimates multiply the scores.

    Detectron2's instances have one score each, so the product ranks the boxes too. In the
    publication, boxes keep their own score.
    """

    @configurable
    def __init__(
        self,
        *,
        mask_head: MaskRCNNConvUpsampleHead,
        iou_head: MaskIoUHead,
        iou_loss_weight: float,
        loss_weight: float = 1.0,
        vis_period: int = 0,
    ) -> None:
        """
        Args:
            mask_head: head for the masks.
            iou_head: head for the IoUs of the masks.
            iou_loss_weight: weight of the squared error of the estimated IoUs.
            loss_weight: weight of the mask loss.
            vis_period: number of steps between visualisations of masks in training; 0 for none.
        """
        super().__init__(loss_weight=loss_weight, vis_period=vis_period)
        self.mask_head = mask_head
        self.iou_head = iou_head
        self.iou_loss_weight = iou_loss_weight

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        node = cfg.MODEL.ROI_MASK_IOU_HEAD
        check_nodes(cfg, "MODEL.ROI_MASK_IOU_HEAD", "MODEL.ROI_MASK_HEAD")
        return {
            **super().from_config(cfg, input_shape),
            "mask_head": MaskRCNNConvUpsampleHead(cfg, input_shape),
            "iou_head": MaskIoUHead(
                input_shape.channels,
                cfg.MODEL.ROI_HEADS.NUM_CLASSES,
                size=input_shape.height,
                conv_dim=node.CONV_DIM,
                num_conv=node.NUM_CONV,
                fc_dim=node.FC_DIM,
            ),
            "iou_loss_weight": node.LOSS_WEIGHT,
        }

    def layers(self, x: torch.Tensor) -> torch.Tensor:
        """Compute mask logits from RoI features."""
        return self.mask_head.layers(x)

    def _estimates(
        self, x: torch.Tensor, logits: torch.Tensor, classes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the masks of the given classes, ``(B, M, M)``, and their estimated IoUs."""
        rows = torch.arange(len(classes), device=x.device)
        of_class = logits[:, 0] if logits.shape[1] == 1 else logits[rows, classes]
        # Detached: the IoU loss must not train the mask branch.
        masks = of_class.detach().float().sigmoid()
        return masks, self.iou_head(x, masks)[rows, classes]

    def forward(
        self, x: torch.Tensor, instances: Sequence[Instances]
    ) -> dict[str, torch.Tensor] | Sequence[Instances]:
        """
        Args:
            x: RoI features, ``(B, channels, size, size)``.
            instances: detections of each image, B in total; in training, proposals with ground
                truth.

        Returns:
            ``loss_mask`` and ``loss_mask_iou`` in training. In inference, the instances with
            ``pred_masks`` and ``scores`` multiplied by the estimated IoU, sorted by descending
            score.
        """
        logits = self.layers(x)
        if not self.training:
            mask_rcnn_inference(logits, instances)
            classes = torch.cat([i.pred_classes for i in instances])
            _, estimates = self._estimates(x, logits, classes)
            results = []
            for image, ious in zip(instances, estimates.split([len(i) for i in instances])):
                image.scores = image.scores * ious.clamp(0, 1)
                results.append(image[image.scores.argsort(descending=True, stable=True)])
            return results
        losses = {
            "loss_mask": self.loss_weight * mask_rcnn_loss(logits, instances, self.vis_period)
        }
        classes = torch.cat([i.gt_classes for i in instances])
        masks, estimates = self._estimates(x, logits, classes)
        ious = [
            mask_ious(own > 0.5, image)
            for own, image in zip(masks.split([len(i) for i in instances]), instances)
            if len(image)
        ]
        targets = torch.cat(ious) if ious else estimates.new_zeros(0)
        # Masks that miss their object are excluded.
        hit = targets > 0
        error = (estimates[hit].float() - targets[hit]).square().sum()
        losses["loss_mask_iou"] = self.iou_loss_weight * error / hit.sum().clamp(min=1)
        return losses
