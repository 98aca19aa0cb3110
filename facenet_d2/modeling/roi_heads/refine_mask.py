"""RefineMask: masks in stages of growing size, with the details of a semantic branch.

Zhang et al., CVPR 2021. The stages compute masks of 14x14, 28x28, 56x56 and 112x112 pixels; a
larger one replaces the present mask near its boundary only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ROIAlign, ShapeSpec
from detectron2.modeling import (
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    StandardROIHeads,
)
from detectron2.modeling.poolers import convert_boxes_to_pooler_format
from detectron2.modeling.roi_heads.roi_heads import select_foreground_proposals
from detectron2.structures import ImageList, Instances
from torch import nn

from ...config_checks import check_nodes
from ...structures.masks import MASK_STRIDE, strided_masks
from ..checks import check_levels, check_norm, check_range
from .convolutions import conv_relu

NUM_STAGES = 3

ROIS_AT_ONCE = 100
"""Number of RoIs whose masks are computed together in inference, to bound the memory."""


class Semantics(NamedTuple):
    """Output of :class:`SemanticBranch`.

    Attributes:
        features: ``(N, D, H/4, W/4)``.
        logits: logits of the pixels of objects, of any class, ``(N, 1, H/4, W/4)``.
    """

    features: torch.Tensor
    logits: torch.Tensor


class SemanticBranch(nn.Module):
    """Convolutions on the finest level that distinguish objects from the background."""

    def __init__(self, in_channels: int, conv_dim: int, num_conv: int, *, norm: str = "") -> None:
        """
        Args:
            in_channels: number of channels of the level.
            conv_dim: number of channels of the convolutions.
            num_conv: number of convolutions.
            norm: normalisation of the convolutions.
        """
        super().__init__()
        self.convs = nn.Sequential(
            *(
                conv_relu(conv_dim if i else in_channels, conv_dim, norm=norm)
                for i in range(num_conv)
            )
        )
        self.predictor = Conv2d(conv_dim, 1, 1)
        _init_predictor(self.predictor)

    def forward(self, x: torch.Tensor) -> Semantics:
        """
        Args:
            x: level of stride 4, ``(N, in_channels, H/4, W/4)``.
        """
        features = self.convs(x)
        return Semantics(features, self.predictor(features))


def semantic_loss(
    logits: torch.Tensor,
    targets: Sequence[Instances],
    ignore_maps: Sequence[torch.Tensor | None],
) -> torch.Tensor:
    """Compute the binary cross-entropy of objects and background at stride 4.

    A pixel belongs to the objects if it belongs to one of the :func:`strided_masks`, so that no
    object is too small. (The publication reduces the union of all masks.)

    Args:
        logits: ``(N, 1, h, w)``.
        targets: ground truth of each image.
        ignore_maps: regions whose background has no loss, bool at stride 4, or None.

    Returns:
        The loss, a scalar: the mean over all pixels of the batch.
    """
    size = logits.shape[-2], logits.shape[-1]
    objects = torch.stack([strided_masks(i, size).any(dim=0) for i in targets])
    weight = torch.ones_like(objects, dtype=torch.float32)
    for own, image, ignore_map in zip(weight, objects, ignore_maps, strict=True):
        if ignore_map is not None:
            h, w = ignore_map.shape
            own[:h, :w] = (~ignore_map | image[:h, :w]).float()
    return F.binary_cross_entropy_with_logits(logits[:, 0].float(), objects.float(), weight)


class MaskPredictor(nn.Module):
    """Logits of one class for each RoI; those of the other classes are not computed."""

    def __init__(self, channels: int, num_classes: int) -> None:
        """
        Args:
            channels: number of channels of the RoI features.
            num_classes: number of classes.
        """
        super().__init__()
        self.linear = nn.Linear(channels, num_classes)
        _init_predictor(self.linear)

    def forward(self, x: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """
        Args:
            x: RoI features, ``(B, channels, size, size)``.
            classes: class of each RoI, ``(B,)`` int64.

        Returns:
            ``(B, size, size)``.
        """
        logits = torch.einsum("bchw,bc->bhw", x, self.linear.weight[classes])
        return logits + self.linear.bias[classes, None, None]


class RefineStage(nn.Module):
    """One refinement: features of the RoIs at twice the size, with half the channels.

    RoI features, semantic features, and the probabilities of the mask and of the semantic branch
    are fused by parallel dilated convolutions (the publication's semantic fusion module).
    """

    def __init__(
        self,
        channels: int,
        *,
        size: int,
        sampling_ratio: int,
        num_classes: int,
        dilations: Sequence[int],
    ) -> None:
        """
        Args:
            channels: number of channels of the RoI features and of the semantic features.
            size: height and width of the RoI features.
            sampling_ratio: samples in each direction of a pooled pixel; 0 adapts them to the RoI.
            num_classes: number of classes of the masks.
            dilations: dilation of each parallel convolution.
        """
        super().__init__()
        self.mask_predictor = MaskPredictor(channels, num_classes)
        self.pool = ROIAlign((size, size), 1 / MASK_STRIDE, sampling_ratio)
        self.semantic = conv_relu(channels, channels, 1)
        self.fuse = conv_relu(2 * channels + 2, channels, 1)
        self.parallel = nn.ModuleList(
            conv_relu(channels, channels, dilation=dilation) for dilation in dilations
        )
        self.merge = conv_relu(channels, channels, 1)
        # The two probabilities complete the channels of the next stage.
        self.reduce = conv_relu(channels, channels // 2 - 2, 1)

    def forward(
        self,
        x: torch.Tensor,
        semantic_features: torch.Tensor,
        semantic_probabilities: torch.Tensor,
        rois: torch.Tensor,
        classes: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            x: RoI features, ``(B, channels, size, size)``.
            semantic_features: ``(N, channels, H/4, W/4)``.
            semantic_probabilities: ``(N, 1, H/4, W/4)``.
            rois: index of the image and box (x0, y0, x1, y1) of each RoI, ``(B, 5)``.
            classes: class of each RoI, ``(B,)`` int64.

        Returns:
            Mask logits, ``(B, size, size)``, and features of the next stage,
            ``(B, channels / 2, 2 size, 2 size)``.
        """
        logits = self.mask_predictor(x, classes)
        # ROIAlign rounds boxes to the type of the features.
        semantic = self.semantic(self.pool(semantic_features.float(), rois))
        objects = self.pool(semantic_probabilities.float(), rois)
        probabilities = torch.cat([logits[:, None].sigmoid(), objects], dim=1)
        x = self.fuse(torch.cat([x, semantic, probabilities], dim=1))
        x = self.merge(sum(conv(x) for conv in self.parallel))
        x = F.interpolate(self.reduce(x), scale_factor=2, mode="bilinear", align_corners=False)
        return logits, torch.cat([x, _enlarged(probabilities)], dim=1)


def _init_predictor(layer: Conv2d | nn.Linear) -> None:
    """Start with probabilities of one half.

    The published initialisation depends on the number of classes and is large if they are few.
    """
    nn.init.normal_(layer.weight, std=0.001)
    nn.init.zeros_(layer.bias)


def _enlarged(maps: torch.Tensor) -> torch.Tensor:
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=True)


def boundaries(masks: torch.Tensor, width: int) -> torch.Tensor:
    """Find the pixels on both sides of the boundaries of masks.

    A pixel is one of them if more than a tenth of the pixels at most ``width`` rows and columns
    away differ from it. What is outside of a mask counts as background.

    Args:
        masks: ``(B, size, size)`` bool.
        width: distance in pixels, at least 1.

    Returns:
        ``(B, size, size)`` bool.
    """
    shares = F.avg_pool2d(masks[:, None].float(), 2 * width + 1, stride=1, padding=width)[:, 0]
    return torch.where(masks, 1 - shares, shares) > 0.1


def refine(logits: torch.Tensor, larger: torch.Tensor) -> torch.Tensor:
    """Replace the logits near the boundaries of masks by those of the next stage.

    This is the publication's boundary-aware refinement.

    Args:
        logits: present logits, ``(B, size, size)``.
        larger: logits of the next stage, ``(B, 2 size, 2 size)``.

    Returns:
        ``(B, 2 size, 2 size)``: ``larger`` near the boundaries, elsewhere ``logits`` enlarged.
    """
    interior = ~boundaries(logits >= 0, width=1)
    enlarged = _enlarged(torch.stack([logits, interior.to(logits.dtype)], dim=1))
    return torch.where(enlarged[:, 1] >= 0.5, enlarged[:, 0], larger)


def refinement_losses(
    stages: Sequence[torch.Tensor], targets: Sequence[torch.Tensor], width: int
) -> torch.Tensor:
    """Compute the mean binary cross-entropy of each stage.

    The first two stages have it at all pixels, the others near the boundaries, at the size before,
    of the objects and of the masks so far.

    Args:
        stages: logits of each stage, ``(B, size, size)``, each twice as large as the previous one.
        targets: masks of the objects at the same sizes, bool.
        width: see :func:`boundaries`.

    Returns:
        One loss per stage.
    """
    losses = []
    for i, (logits, target) in enumerate(zip(stages, targets, strict=True)):
        loss = F.binary_cross_entropy_with_logits(logits, target.float(), reduction="none")
        with torch.no_grad():
            if i < 2:
                counted = torch.ones_like(target)
                so_far = logits
            else:
                region = boundaries(so_far >= 0, width) | boundaries(targets[i - 1], width)
                counted = _enlarged(region[:, None].float())[:, 0] >= 0.5
                so_far = refine(so_far, logits)
        losses.append((loss * counted).sum() / counted.sum().clamp(min=1))
    return torch.stack(losses)


@ROI_MASK_HEAD_REGISTRY.register()
class RefineMaskHead(nn.Module):
    """RefineMask's mask head: convolutions, and three times a :class:`RefineStage`."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        num_conv: int,
        conv_dim: int,
        semantic_dim: int,
        norm: str = "",
        sampling_ratio: int = 0,
        dilations: Sequence[int] = (1, 3, 5),
        loss_weights: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
        boundary_width: int = 2,
    ) -> None:
        """
        Args:
            input_shape: channels and size of the RoI features.
            num_classes: number of classes; 1 for masks that do not depend on the class.
            num_conv: number of convolutions before the stages, at least 1.
            conv_dim: number of channels of the first stage, a multiple of 8, at least 24. Each
                stage halves it.
            semantic_dim: number of channels of the semantic features.
            norm: normalisation of the convolutions before the stages.
            sampling_ratio: samples in each direction of a pooled pixel; 0 adapts them to the RoI.
            dilations: dilation of each parallel convolution of a stage.
            loss_weights: weights of the losses of the four sizes.
            boundary_width: distance from boundaries, in pixels of the size before, within which the
                two larger sizes have a loss.

        Raises:
            ValueError: for a number of convolutions or channels that is not allowed.
        """
        super().__init__()
        check_range("MODEL.ROI_MASK_HEAD.NUM_CONV", num_conv, 1, 64)
        if conv_dim % 2**NUM_STAGES or conv_dim < 3 * 2**NUM_STAGES:
            raise ValueError(
                f"MODEL.ROI_MASK_HEAD.CONV_DIM is {conv_dim}; for MODEL.ROI_MASK_HEAD.NAME "
                "RefineMaskHead it must be a multiple of 8, at least 24"
            )
        self.num_classes = num_classes
        self.loss_weights = tuple(loss_weights)
        self.boundary_width = boundary_width
        self.convs = nn.Sequential(
            *(
                conv_relu(conv_dim if i else input_shape.channels, conv_dim, norm=norm)
                for i in range(num_conv)
            )
        )
        dims = [conv_dim // 2**i for i in range(NUM_STAGES)]
        self.semantic_convs = nn.ModuleList(conv_relu(semantic_dim, dim, 1) for dim in dims)
        self.stages = nn.ModuleList(
            RefineStage(
                dim,
                size=input_shape.height * 2**i,
                sampling_ratio=sampling_ratio,
                num_classes=num_classes,
                dilations=dilations,
            )
            for i, dim in enumerate(dims)
        )
        self.mask_predictor = MaskPredictor(conv_dim // 2**NUM_STAGES, num_classes)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        check_nodes(cfg, "MODEL.ROI_MASK_HEAD", "MODEL.ROI_MASK_REFINEMENT")
        node, own = cfg.MODEL.ROI_MASK_HEAD, cfg.MODEL.ROI_MASK_REFINEMENT
        # The largest masks have eight times this size.
        check_range("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", node.POOLER_RESOLUTION, 1, 28)
        check_norm(
            "MODEL.ROI_MASK_HEAD.NORM", node.NORM, "MODEL.ROI_MASK_HEAD.CONV_DIM", node.CONV_DIM
        )
        return {
            "input_shape": input_shape,
            "num_classes": 1 if node.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "num_conv": node.NUM_CONV,
            "conv_dim": node.CONV_DIM,
            "semantic_dim": own.SEMANTIC_CONV_DIM,
            "norm": node.NORM,
            "sampling_ratio": node.POOLER_SAMPLING_RATIO,
            "dilations": own.DILATIONS,
            "loss_weights": own.LOSS_WEIGHTS,
            "boundary_width": own.BOUNDARY_WIDTH,
        }

    def project(self, semantics: Semantics) -> list[torch.Tensor]:
        """Compute the semantic features of each stage, which all RoIs share."""
        return [conv(semantics.features) for conv in self.semantic_convs]

    def layers(
        self,
        x: torch.Tensor,
        projected: Sequence[torch.Tensor],
        semantic_logits: torch.Tensor,
        rois: torch.Tensor,
        classes: torch.Tensor,
    ) -> list[torch.Tensor]:
        """Compute the mask logits of all stages.

        Args:
            x: RoI features, ``(B, channels, size, size)``.
            projected: result of :meth:`project`.
            semantic_logits: ``(N, 1, H/4, W/4)``.
            rois: index of the image and box (x0, y0, x1, y1) of each RoI, ``(B, 5)``.
            classes: class of each RoI, ``(B,)`` int64.

        Returns:
            Four maps of float32 logits: ``(B, size, size)``, and each twice as large as the
            previous one.
        """
        if self.num_classes == 1:
            classes = torch.zeros_like(classes)
        probabilities = semantic_logits.sigmoid()
        logits = []
        x = self.convs(x)
        for stage, features in zip(self.stages, projected, strict=True):
            own, x = stage(x, features, probabilities, rois, classes)
            logits.append(own.float())
        logits.append(self.mask_predictor(x, classes).float())
        return logits

    def losses(
        self, x: torch.Tensor, semantics: Semantics, proposals: Sequence[Instances]
    ) -> dict[str, torch.Tensor]:
        """Compute ``loss_mask``.

        Args:
            x: RoI features, ``(B, channels, size, size)``.
            semantics: output of the semantic branch.
            proposals: foreground proposals of each image with ``gt_classes`` and ``gt_masks``, B in
                total.
        """
        rois = convert_boxes_to_pooler_format([p.proposal_boxes for p in proposals])
        classes = torch.cat([p.gt_classes for p in proposals])
        stages = self.layers(x, self.project(semantics), semantics.logits, rois, classes)
        targets = [_cropped_masks(proposals, logits) for logits in stages]
        losses = refinement_losses(stages, targets, self.boundary_width)
        return {"loss_mask": (losses * losses.new_tensor(self.loss_weights)).sum()}

    def inference(
        self, x: torch.Tensor, semantics: Semantics, instances: Sequence[Instances]
    ) -> None:
        """Set ``pred_masks``, probabilities over the boxes, ``(n, 1, 8 size, 8 size)``.

        Args:
            x: RoI features, ``(B, channels, size, size)``.
            semantics: output of the semantic branch.
            instances: detections of each image, with ``pred_boxes`` and ``pred_classes``, B in
                total; changed in place.
        """
        rois = convert_boxes_to_pooler_format([i.pred_boxes for i in instances])
        classes = torch.cat([i.pred_classes for i in instances])
        projected = self.project(semantics)
        masks = []
        for some in zip(*(t.split(ROIS_AT_ONCE) for t in (x, rois, classes)), strict=True):
            own, theirs, of_class = some
            # The mask of the first stage is not used.
            _, logits, *larger = self.layers(own, projected, semantics.logits, theirs, of_class)
            for next_logits in larger:
                logits = refine(logits, next_logits)
            masks.append(logits[:, None].sigmoid())
        counts = [len(i) for i in instances]
        for image, own in zip(instances, torch.cat(masks).split(counts), strict=True):
            image.pred_masks = own


def _cropped_masks(proposals: Sequence[Instances], like: torch.Tensor) -> torch.Tensor:
    """Return the objects' masks in the boxes of their proposals, bool of the shape of ``like``."""
    masks = [
        p.gt_masks.crop_and_resize(p.proposal_boxes.tensor, like.shape[-1]).to(like.device)
        for p in proposals
        if len(p)
    ]
    return torch.cat(masks).bool() if masks else torch.zeros_like(like, dtype=torch.bool)


@ROI_HEADS_REGISTRY.register()
class RefineMaskROIHeads(StandardROIHeads):
    """``StandardROIHeads`` with a :class:`SemanticBranch` and a :class:`RefineMaskHead`."""

    @configurable
    def __init__(
        self,
        *,
        semantic_branch: SemanticBranch | None = None,
        semantic_loss_weight: float = 1.0,
        cls_loss_weight: float = 2.0,
        **arguments: Any,
    ) -> None:
        """
        Args:
            semantic_branch: branch on the finest level; required if there is a mask head.
            semantic_loss_weight: weight of the semantic loss.
            cls_loss_weight: weight of the box head's classification loss.
            arguments: arguments of ``StandardROIHeads``.
        """
        # Detectron2's constructor is decorated as well, and takes explicit arguments only.
        super().__init__(**arguments)
        self.semantic_branch = semantic_branch
        self.semantic_loss_weight = semantic_loss_weight
        self.box_predictor.loss_weight["loss_cls"] = cls_loss_weight

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        node = cfg.MODEL.ROI_MASK_REFINEMENT
        return {
            **super().from_config(cfg, input_shape),
            "semantic_loss_weight": node.SEMANTIC_LOSS_WEIGHT,
            "cls_loss_weight": node.CLS_LOSS_WEIGHT,
        }

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        parts = super()._init_mask_head(cfg, input_shape)
        if not parts:
            return parts
        finest = cfg.MODEL.ROI_HEADS.IN_FEATURES[0]
        # The stride of the ground-truth masks.
        check_levels("MODEL.ROI_HEADS.IN_FEATURES[:1]", [finest], input_shape, [MASK_STRIDE])
        node, norm = cfg.MODEL.ROI_MASK_REFINEMENT, cfg.MODEL.ROI_MASK_HEAD.NORM
        key = "MODEL.ROI_MASK_REFINEMENT.SEMANTIC_CONV_DIM"
        check_norm("MODEL.ROI_MASK_HEAD.NORM", norm, key, node.SEMANTIC_CONV_DIM)
        branch = SemanticBranch(
            input_shape[finest].channels, node.SEMANTIC_CONV_DIM, node.NUM_SEMANTIC_CONV, norm=norm
        )
        return {**parts, "semantic_branch": branch}

    def forward(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """Compute losses, or detections, as ``StandardROIHeads`` does.

        Args:
            images: the batch, with the ``ignore_maps`` that
                :class:`~facenet_d2.modeling.roi_heads.MaskRCNN` sets.
            features: levels of the neck.
            proposals: proposals of each image.
            targets: ground truth of each image, in training.

        Returns:
            The sampled proposals and the losses, with ``loss_semantic``; in inference the
            detections and an empty dict.
        """
        if self.semantic_branch is None or targets is None:
            return super().forward(images, features, proposals, targets)
        proposals = self.label_and_sample_proposals(proposals, targets)
        losses = self._forward_box(features, proposals)
        semantics = self._semantics(features)
        foreground, _ = select_foreground_proposals(proposals, self.num_classes)
        pooled = self._pooled(features, [p.proposal_boxes for p in foreground])
        losses.update(self.mask_head.losses(pooled, semantics, foreground))
        ignore_maps = getattr(images, "ignore_maps", [None] * len(targets))
        loss = semantic_loss(semantics.logits, targets, ignore_maps)
        losses["loss_semantic"] = self.semantic_loss_weight * loss
        losses.update(self._forward_keypoint(features, proposals))
        return proposals, losses

    def _semantics(self, features: dict[str, torch.Tensor]) -> Semantics:
        assert self.semantic_branch is not None
        return self.semantic_branch(features[self.mask_in_features[0]])

    def _pooled(self, features: dict[str, torch.Tensor], boxes: list[Any]) -> torch.Tensor:
        return self.mask_pooler([features[f].float() for f in self.mask_in_features], boxes)

    def _forward_mask(
        self, features: dict[str, torch.Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """Set the masks of detections; Detectron2 calls this in inference."""
        if self.semantic_branch is not None:
            pooled = self._pooled(features, [i.pred_boxes for i in instances])
            self.mask_head.inference(pooled, self._semantics(features), instances)
        return instances
