"""YOLACT as a Detectron2 meta-architecture (paper, Tables 2-4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from fvcore.nn import smooth_l1_loss

from ...config_checks import check_nodes
from ...structures.masks import MASK_STRIDE, inside_map, strided_masks
from ..checks import check_levels, check_num_classes, dense_levels
from ..instance_model import InstanceModel
from ..postprocessing import with_full_masks
from ..sampling import spread_evenly
from ..shapes import spatial_size
from .fast_nms import fast_nms
from .heads import AnchorHead, PrototypeHead, xavier_conv
from .losses import (
    around_boxes,
    combine_prototypes,
    hard_negative_loss,
    lincomb_loss,
    semantic_loss,
)
from .matching import best_anchors


class YOLACTPredictions(NamedTuple):
    """Predictions for N images of padded size (H, W), with R anchors on all levels in turn.

    Attributes:
        logits: class logits, background last, ``(N, R, C + 1)``.
        deltas: box deltas, ``(N, R, 4)``.
        coefficients: mask coefficients, ``(N, R, k)``.
        anchors: anchor boxes in pixels of the padded images, ``(R, 4)``.
        prototypes: prototype masks, ``(N, k, H/4, W/4)``.
        semantic_logits: class logits of the pixels, ``(N, C, H/8, W/8)``; None in inference.
    """

    logits: torch.Tensor
    deltas: torch.Tensor
    coefficients: torch.Tensor
    anchors: torch.Tensor
    prototypes: torch.Tensor
    semantic_logits: torch.Tensor | None


@META_ARCH_REGISTRY.register()
class YOLACT(InstanceModel[YOLACTPredictions]):
    """Prototype masks of the image, combined by the coefficients of each detected box."""

    CONFIG_NODE = "YOLACT"

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        anchor_head: AnchorHead,
        prototype_head: PrototypeHead,
        semantic_head: Conv2d,
        in_features: Sequence[str],
        prototype_in_feature: str,
        anchor_generator: DefaultAnchorGenerator,
        box_transform: Box2BoxTransform,
        matcher: Matcher,
        num_classes: int,
        negative_ratio: float,
        box_weight: float,
        mask_weight: float,
        semantic_weight: float,
        max_masks: int,
        score_threshold: float,
        nms_threshold: float,
        top_k: int,
        mask_threshold: float,
        max_instances: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        """
        Args:
            backbone: network that returns the feature pyramid by level name.
            anchor_head: head for class scores, boxes and coefficients of the anchors.
            prototype_head: head for the prototype masks at stride 4.
            semantic_head: layer for the classes of the pixels of ``prototype_in_feature``, used in
                training only.
            in_features: names of the levels with anchors, finest first.
            prototype_in_feature: name of the level of stride 8 for the prototypes.
            anchor_generator: generator of the anchors of these levels.
            box_transform: transform between anchors and boxes.
            matcher: matcher for positive anchors, in addition to the one that each object gets.
            num_classes: number of classes C.
            negative_ratio: number of negative anchors per positive one in the class loss.
            box_weight: weight of the boxes' smooth L1 loss.
            mask_weight: weight of the mask loss.
            semantic_weight: weight of the semantic loss.
            max_masks: maximum number of positive anchors of an image in the mask loss.
            score_threshold: minimum class score of a box.
            nms_threshold: IoU above which Fast NMS drops a box.
            top_k: maximum number of boxes per class in Fast NMS.
            mask_threshold: minimum probability of a mask's pixels.
            max_instances: maximum number of instances per image.
            pixel_mean: mean of each channel, subtracted from the input.
            pixel_std: standard deviation of each channel, by which the input is divided.
        """
        super().__init__(backbone=backbone, pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.anchor_head = anchor_head
        self.prototype_head = prototype_head
        self.semantic_head = semantic_head
        self.in_features = tuple(in_features)
        self.prototype_in_feature = prototype_in_feature
        self.anchor_generator = anchor_generator
        self.box_transform = box_transform
        self.matcher = matcher
        self.num_classes = num_classes
        self.negative_ratio = negative_ratio
        self.box_weight = box_weight
        self.mask_weight = mask_weight
        self.semantic_weight = semantic_weight
        self.max_masks = max_masks
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.top_k = top_k
        self.mask_threshold = mask_threshold
        self.max_instances = max_instances

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        yolact = cfg.MODEL.YOLACT
        check_nodes(cfg, "MODEL.YOLACT")
        check_num_classes("MODEL.YOLACT.NUM_CLASSES", yolact.NUM_CLASSES)
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        levels = dense_levels("MODEL.YOLACT.IN_FEATURES", yolact.IN_FEATURES, shapes)
        prototypes = [yolact.PROTOTYPE_IN_FEATURE]
        check_levels("MODEL.YOLACT.PROTOTYPE_IN_FEATURE", prototypes, shapes, (8,))
        # All levels of the pyramid have the same number of channels.
        in_channels = levels[0].channels
        anchor_generator = DefaultAnchorGenerator(
            sizes=[[yolact.ANCHOR_SCALE * s.stride] for s in levels],
            aspect_ratios=[yolact.ANCHOR_RATIOS],
            strides=[s.stride for s in levels],
        )
        return {
            "backbone": backbone,
            "anchor_head": AnchorHead(
                in_channels,
                num_classes=yolact.NUM_CLASSES,
                num_anchors=anchor_generator.num_anchors[0],
                num_prototypes=yolact.NUM_PROTOTYPES,
                conv_channels=yolact.CONV_CHANNELS,
                num_convs=yolact.NUM_CONVS,
            ),
            "prototype_head": PrototypeHead(
                in_channels,
                num_prototypes=yolact.NUM_PROTOTYPES,
                conv_channels=yolact.CONV_CHANNELS,
                num_convs=yolact.NUM_PROTOTYPE_CONVS,
            ),
            "semantic_head": xavier_conv(in_channels, yolact.NUM_CLASSES, 1, relu=False),
            "in_features": yolact.IN_FEATURES,
            "prototype_in_feature": yolact.PROTOTYPE_IN_FEATURE,
            "anchor_generator": anchor_generator,
            "box_transform": Box2BoxTransform(weights=yolact.BBOX_REG_WEIGHTS),
            "matcher": Matcher(list(yolact.IOU_THRESHOLDS), [0, -1, 1]),
            "num_classes": yolact.NUM_CLASSES,
            "negative_ratio": yolact.NEGATIVE_RATIO,
            "box_weight": yolact.BOX_WEIGHT,
            "mask_weight": yolact.MASK_WEIGHT,
            "semantic_weight": yolact.SEMANTIC_WEIGHT,
            "max_masks": yolact.MAX_MASKS,
            "score_threshold": yolact.SCORE_THRESH_TEST,
            "nms_threshold": yolact.NMS_THRESH_TEST,
            "top_k": yolact.PRE_NMS_TOPK_TEST,
            "mask_threshold": yolact.MASK_THRESH_TEST,
            "max_instances": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def predict(self, images: torch.Tensor) -> YOLACTPredictions:
        features = self.backbone(images)
        levels = [features[f] for f in self.in_features]
        anchors = torch.cat([a.tensor for a in self.anchor_generator(levels)])
        finest = features[self.prototype_in_feature]
        logits, deltas, coefficients = self.anchor_head(levels)
        return YOLACTPredictions(
            logits,
            deltas,
            coefficients,
            anchors,
            self.prototype_head(finest),
            self.semantic_head(finest) if self.training else None,
        )

    @torch.no_grad()
    def match_anchors(
        self, anchors: torch.Tensor, instances: Instances
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Match the anchors to the objects of an image.

        Args:
            anchors: ``(R, 4)``.
            instances: ``gt_boxes`` and ``gt_classes`` of the image.

        Returns:
            Labels, a class, C for background or -1 for ignored anchors, and the object of each
            positive anchor, ``(R,)`` int64 each.
        """
        background = torch.full((len(anchors),), self.num_classes, device=anchors.device)
        if len(instances) == 0:
            return background, torch.zeros_like(background)
        iou = pairwise_iou(instances.gt_boxes, Boxes(anchors))
        owners, kinds = self.matcher(iou)
        chosen = best_anchors(iou)
        owners = torch.where(chosen >= 0, chosen, owners)
        kinds = torch.where(chosen >= 0, 1, kinds)
        labels = torch.where(kinds == 1, instances.gt_classes[owners], background)
        return torch.where(kinds == -1, -1, labels), owners

    def losses(
        self,
        predictions: YOLACTPredictions,
        gt_instances: Sequence[Instances],
        ignore_maps: Sequence[torch.Tensor | None] = (),
    ) -> dict[str, torch.Tensor]:
        """Compute the losses of a batch.

        ``loss_cls``, ``loss_box`` and ``loss_mask`` are averaged over the positive anchors of the
        batch, ``loss_semantic`` over the images. Background anchors whose centres lie in an ignored
        region, and pixels of the region that belong to no object, have no loss.
        """
        logits, deltas, coefficients, anchors, prototypes, semantic_logits = predictions
        assert semantic_logits is not None  # They are computed in training mode.
        size = spatial_size(prototypes)
        # Keeps every parameter in the graph for images without objects.
        every = (deltas, coefficients, prototypes)
        zero = 0.0 * torch.stack([x.float().sum() for x in every]).sum()
        cls, box, mask, seg, positives = zero, zero, zero, zero, 0
        for i, instances in enumerate(gt_instances):
            labels, owners = self.match_anchors(anchors, instances)
            ignore_map = ignore_maps[i] if ignore_maps else None
            if ignore_map is not None:
                x, y = Boxes(anchors).get_centers().unbind(dim=1)
                background = labels == self.num_classes
                labels = labels.masked_fill(background & inside_map(ignore_map, x, y), -1)
                h, w = ignore_map.shape
                ignore_map = F.pad(ignore_map, (0, size[1] - w, 0, size[0] - h))
            masks = strided_masks(instances, size)
            cls = cls + hard_negative_loss(logits[i].float(), labels, self.negative_ratio)
            seg = seg + semantic_loss(
                semantic_logits[i].float(), masks, instances.gt_classes, ignore_map
            )
            found = ((labels >= 0) & (labels < self.num_classes)).nonzero()[:, 0]
            if len(found) == 0:
                continue
            positives += len(found)
            boxes = instances.gt_boxes.tensor
            targets = self.box_transform.get_deltas(anchors[found], boxes[owners[found]])
            box = box + smooth_l1_loss(deltas[i, found].float(), targets, 1.0, "sum")
            some = found[spread_evenly(len(found), self.max_masks, found.device)]
            each = lincomb_loss(
                coefficients[i, some],
                prototypes[i],
                masks,
                owners[some],
                boxes / MASK_STRIDE,
            )
            mask = mask + each.mean() * len(found)
        get_event_storage().put_scalar("positive_anchors", positives / len(gt_instances))
        count = max(positives, 1)
        return {
            "loss_cls": cls / count,
            "loss_box": self.box_weight * box / count,
            "loss_mask": self.mask_weight * mask / count,
            "loss_semantic": self.semantic_weight * seg / len(gt_instances),
        }

    @torch.no_grad()
    def inference(
        self,
        predictions: YOLACTPredictions,
        input_sizes: Sequence[tuple[int, int]],
        output_sizes: Sequence[tuple[int, int]],
    ) -> list[Instances]:
        """Select boxes by Fast NMS and compute their masks."""
        logits, deltas, coefficients, anchors, prototypes, _ = predictions
        results = []
        for i, (input_size, output_size) in enumerate(zip(input_sizes, output_sizes, strict=True)):
            scores = logits[i].float().softmax(dim=1)[:, :-1]
            some = (scores > self.score_threshold).any(dim=1).nonzero()[:, 0]
            boxes = Boxes(self.box_transform.apply_deltas(deltas[i, some].float(), anchors[some]))
            boxes.clip(tuple(input_size))
            rows, classes = fast_nms(
                boxes.tensor,
                scores[some],
                score_threshold=self.score_threshold,
                iou_threshold=self.nms_threshold,
                top_k=self.top_k,
                max_instances=self.max_instances,
            )
            detected = Instances(
                tuple(input_size),
                pred_boxes=boxes[rows],
                scores=scores[some[rows], classes],
                pred_classes=classes,
            )
            masks = self.masks(coefficients[i, some[rows]], prototypes[i], boxes.tensor[rows])
            results.append(with_full_masks(detected, masks, output_size, self.mask_threshold))
        return results

    @staticmethod
    def masks(
        coefficients: torch.Tensor, prototypes: torch.Tensor, boxes: torch.Tensor
    ) -> torch.Tensor:
        """Compute the masks of K boxes of an image, cropped to the boxes.

        Args:
            coefficients: ``(K, k)``.
            prototypes: ``(k, H/4, W/4)``.
            boxes: boxes in pixels of the network's input, ``(K, 4)``.

        Returns:
            Probabilities, ``(K, H/4, W/4)``.
        """
        logits = combine_prototypes(coefficients, prototypes)
        return logits.sigmoid() * around_boxes(boxes / MASK_STRIDE, spatial_size(prototypes))
