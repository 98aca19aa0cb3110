"""YOLACT as a Detectron2 meta-architecture (paper, Tables 2-4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from fvcore.nn import smooth_l1_loss

from ...structures.masks import MASK_STRIDE, stride4_masks
from ..anchors import check_scale
from ..checks import (
    check_at_least,
    check_levels,
    check_num_classes,
    check_probability,
    check_share,
    dense_levels,
)
from ..instance_model import InstanceModel
from ..losses import spread_evenly
from ..postprocessing import with_full_masks
from .fast_nms import fast_nms
from .heads import AnchorHead, PrototypeHead, xavier_conv
from .losses import around_boxes, assemble, hard_negative_loss, lincomb_loss, semantic_loss
from .matching import best_anchors


@META_ARCH_REGISTRY.register()
class YOLACT(InstanceModel):
    """Prototype masks of the image, combined by the coefficients of each box that is found."""

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
            backbone: gives the pyramid.
            anchor_head: class scores, boxes and coefficients.
            prototype_head: prototype masks at stride 4.
            semantic_head: classes at each pixel of ``prototype_in_feature``; in training alone.
            in_features: levels with anchors, finest first.
            prototype_in_feature: the level, of stride 8, that prototypes are made of.
            anchor_generator: gives the anchors of those levels.
            box_transform: between anchors and boxes.
            matcher: which anchors are positive, beside the one that each object has anyway.
            num_classes: number of classes C.
            negative_ratio: negative anchors in the loss for each positive one.
            box_weight: of the boxes' smooth L1 loss.
            mask_weight: of the masks' loss.
            semantic_weight: of the semantic head's loss.
            max_masks: at most so many positive anchors of an image have a mask loss.
            score_threshold: least class score of a box.
            nms_threshold: Fast NMS drops what overlaps more.
            top_k: boxes of a class that Fast NMS looks at.
            mask_threshold: least probability of a mask's pixel.
            max_instances: most instances an image.
            pixel_mean: of each channel, subtracted from the input.
            pixel_std: of each channel, the input is divided by it.
        """
        super().__init__()
        self.backbone = backbone
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
        self.register_buffer(
            "pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False
        )
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        yolact = cfg.MODEL.YOLACT
        check_num_classes("MODEL.YOLACT.NUM_CLASSES", yolact.NUM_CLASSES)
        check_probability("MODEL.YOLACT.MASK_THRESH_TEST", yolact.MASK_THRESH_TEST)
        check_scale("MODEL.YOLACT.ANCHOR_SCALE", yolact.ANCHOR_SCALE)
        check_at_least(
            1,
            "MODEL.YOLACT",
            yolact,
            ["NUM_PROTOTYPES", "CONV_CHANNELS", "MAX_MASKS", "PRE_NMS_TOPK_TEST"],
        )
        weights = ["NEGATIVE_RATIO", "BOX_WEIGHT", "MASK_WEIGHT", "SEMANTIC_WEIGHT"]
        check_at_least(0, "MODEL.YOLACT", yolact, ["NUM_CONVS", "NUM_PROTOTYPE_CONVS", *weights])
        check_share("MODEL.YOLACT", yolact, ["SCORE_THRESH_TEST", "NMS_THRESH_TEST"])
        for key, count in (("ANCHOR_RATIOS", None), ("BBOX_REG_WEIGHTS", 4)):
            numbers = yolact[key]
            if not numbers or len(numbers) != (count or len(numbers)) or not min(numbers) > 0:
                raise ValueError(
                    f"MODEL.YOLACT.{key} is {numbers}; it must be {count or 'one or more'} "
                    "positive numbers"
                )
        low_high = yolact.IOU_THRESHOLDS
        if len(low_high) != 2 or not 0 < low_high[0] <= low_high[1] <= 1:
            raise ValueError(
                f"MODEL.YOLACT.IOU_THRESHOLDS is {low_high}; it must be two numbers between 0 and "
                "1: below the first an anchor is background, from the second on an object's"
            )
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        levels = dense_levels("MODEL.YOLACT.IN_FEATURES", yolact.IN_FEATURES, shapes)
        prototypes = [yolact.PROTOTYPE_IN_FEATURE]
        check_levels("MODEL.YOLACT.PROTOTYPE_IN_FEATURE", prototypes, shapes, (8,))
        # Every level of the pyramid has as many channels.
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

    def predict(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The network: ``(N, 3, H, W)`` to what losses and inference work on.

        Returns:
            of the R anchors: class logits ``(N, R, C + 1)``, deltas ``(N, R, 4)``, coefficients
            ``(N, R, k)`` and themselves ``(R, 4)``; prototypes ``(N, k, H/4, W/4)``; in training
            also semantic logits ``(N, C, H/8, W/8)``.
        """
        features = self.backbone(images)
        levels = [features[f] for f in self.in_features]
        anchors = torch.cat([a.tensor for a in self.anchor_generator(levels)])
        finest = features[self.prototype_in_feature]
        outputs = (*self.anchor_head(levels), anchors, self.prototype_head(finest))
        return (*outputs, self.semantic_head(finest)) if self.training else outputs

    @torch.no_grad()
    def match_anchors(
        self, anchors: torch.Tensor, instances: Instances
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The label of each anchor, and its object where it is positive.

        Args:
            anchors: ``(R, 4)``.
            instances: ``gt_boxes`` and ``gt_classes`` of an image.

        Returns:
            ``(R,)`` int64 each. A label is a class, C for background, or -1 for what does not
            count.
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
        logits: torch.Tensor,
        deltas: torch.Tensor,
        coefficients: torch.Tensor,
        anchors: torch.Tensor,
        prototypes: torch.Tensor,
        semantic: torch.Tensor,
        gt_instances: Sequence[Instances],
    ) -> dict[str, torch.Tensor]:
        """``loss_cls``, ``loss_box``, ``loss_mask`` (each over the positive anchors of the batch)
        and ``loss_semantic`` (the mean over the images).

        Args:
            logits: and the others, as :meth:`predict` gives them in training.
            deltas: of the boxes.
            coefficients: of the prototypes.
            anchors: all of them.
            prototypes: of each image.
            semantic: logits of the classes.
            gt_instances: of each image.
        """
        size = tuple(prototypes.shape[-2:])
        # Also where an image has no object, every parameter is in the graph.
        zero = 0.0 * sum(x.float().sum() for x in (deltas, coefficients, prototypes))
        cls, box, mask, seg, positives = zero, zero, zero, zero, 0
        for i, instances in enumerate(gt_instances):
            labels, owners = self.match_anchors(anchors, instances)
            masks = stride4_masks(instances, size)
            cls = cls + hard_negative_loss(logits[i].float(), labels, self.negative_ratio)
            seg = seg + semantic_loss(semantic[i].float(), masks, instances.gt_classes)
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
        logits: torch.Tensor,
        deltas: torch.Tensor,
        coefficients: torch.Tensor,
        anchors: torch.Tensor,
        prototypes: torch.Tensor,
        input_sizes: Sequence[tuple[int, int]],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Instances]:
        """Boxes by Fast NMS, each with the mask of its coefficients, cut to the box.

        Args:
            logits: and the others, as :meth:`predict` gives them in inference.
            deltas: of the boxes.
            coefficients: of the prototypes.
            anchors: all of them.
            prototypes: of each image.
            input_sizes: (height, width) of each image as the network saw it, without padding.
            image_sizes: (height, width) of each result.
        """
        results = []
        for i, (input_size, image_size) in enumerate(zip(input_sizes, image_sizes, strict=True)):
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
            results.append(with_full_masks(detected, masks, image_size, self.mask_threshold))
        return results

    @staticmethod
    def masks(
        coefficients: torch.Tensor, prototypes: torch.Tensor, boxes: torch.Tensor
    ) -> torch.Tensor:
        """Probabilities of the masks of K boxes, zero outside of them.

        Args:
            coefficients: ``(K, k)``.
            prototypes: ``(k, H/4, W/4)``.
            boxes: ``(K, 4)``, in pixels of the network's input.

        Returns:
            ``(K, H/4, W/4)``.
        """
        logits = assemble(coefficients, prototypes)
        return logits.sigmoid() * around_boxes(boxes / MASK_STRIDE, prototypes.shape[-2:])
