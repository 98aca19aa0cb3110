"""RDSNet as a Detectron2 meta-architecture (paper, Table 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import batched_nms
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from fvcore.nn import sigmoid_focal_loss, smooth_l1_loss

from ...config_checks import check_nodes
from ...structures.masks import MASK_STRIDE, inside_map, strided_masks, widen_boxes
from ..candidates import best_candidates
from ..checks import check_levels, check_norm, check_num_classes, dense_levels
from ..instance_model import InstanceModel
from ..postprocessing import with_full_masks
from ..precision import full_precision
from ..sampling import spread_evenly
from ..shapes import spatial_size
from .heads import AnchorHead, PixelBranch
from .losses import mask_losses
from .matching import match_anchors
from .predictions import RDSNetPredictions

# Stride of the finest level of the pixel branch, which doubles its size.
PIXEL_LEVEL_STRIDE = 2 * MASK_STRIDE


@META_ARCH_REGISTRY.register()
class RDSNet(InstanceModel[RDSNetPredictions]):
    """RetinaNet whose anchors also have a vector for object and background pixels each.

    The product of a pixel's vector and those of a detection gives the pixel's two logits. The
    published refinement of boxes by masks (MBRM) is left out.
    """

    CONFIG_NODE = "RDSNET"

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        anchor_head: AnchorHead,
        pixel_branch: PixelBranch,
        in_features: Sequence[str],
        mask_in_features: Sequence[str],
        anchor_generator: DefaultAnchorGenerator,
        box_transform: Box2BoxTransform,
        matcher: Matcher,
        num_classes: int,
        focal_alpha: float,
        focal_gamma: float,
        smooth_l1_beta: float,
        mask_weight: float,
        max_masks: int,
        min_mask_area: float,
        mask_box_margin: float,
        negative_ratio: float,
        score_threshold: float,
        nms_threshold: float,
        top_k: int,
        mask_threshold: float,
        mask_box_margin_test: float,
        max_instances: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        """
        Args:
            backbone: network that returns the feature pyramid by level name.
            anchor_head: head for class scores, boxes and representations of the anchors.
            pixel_branch: head for the pixel map at stride 4.
            in_features: names of the levels with anchors, finest first.
            mask_in_features: names of the levels of ``pixel_branch``, finest first.
            anchor_generator: generator of the anchors of the levels of ``in_features``.
            box_transform: transform between anchors and boxes.
            matcher: matcher with labels 0, -1 and 1 for positive anchors, in addition to those that
                each object gets.
            num_classes: number of classes C.
            focal_alpha: weight of the positive class in the focal loss.
            focal_gamma: focusing exponent of the focal loss.
            smooth_l1_beta: threshold of the boxes' smooth L1 loss.
            mask_weight: weight of the mask loss.
            max_masks: maximum number of positive anchors of an image in the mask loss.
            min_mask_area: objects of at most this many pixels have no mask loss, measured at stride
                4, where a pixel counts 16.
            mask_box_margin: pixels outside of the object's box, widened by this share of its sides,
                have no mask loss.
            negative_ratio: maximum number of background pixels per object pixel in the mask loss.
            score_threshold: minimum score of a detection.
            nms_threshold: IoU above which NMS drops a box.
            top_k: maximum number of candidates per level before NMS.
            mask_threshold: minimum probability of a mask's pixels.
            mask_box_margin_test: masks end outside of their box, widened by this share of its
                sides.
            max_instances: maximum number of instances per image.
            pixel_mean: mean of each channel, subtracted from the input.
            pixel_std: standard deviation of each channel, by which the input is divided.
        """
        super().__init__(backbone=backbone, pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.anchor_head = anchor_head
        self.pixel_branch = pixel_branch
        self.in_features = tuple(in_features)
        self.mask_in_features = tuple(mask_in_features)
        self.anchor_generator = anchor_generator
        self.box_transform = box_transform
        self.matcher = matcher
        self.num_classes = num_classes
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.smooth_l1_beta = smooth_l1_beta
        self.mask_weight = mask_weight
        self.max_masks = max_masks
        self.min_mask_area = min_mask_area
        self.mask_box_margin = mask_box_margin
        self.negative_ratio = negative_ratio
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.top_k = top_k
        self.mask_threshold = mask_threshold
        self.mask_box_margin_test = mask_box_margin_test
        self.max_instances = max_instances

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.RDSNET
        check_nodes(cfg, "MODEL.RDSNET")
        check_num_classes("MODEL.RDSNET.NUM_CLASSES", node.NUM_CLASSES)
        check_norm("MODEL.RDSNET.NORM", node.NORM, "MODEL.RDSNET.CONV_CHANNELS", node.CONV_CHANNELS)
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        levels = dense_levels("MODEL.RDSNET.IN_FEATURES", node.IN_FEATURES, shapes)
        strides = [PIXEL_LEVEL_STRIDE * 2**i for i in range(len(node.MASK_IN_FEATURES))]
        check_levels("MODEL.RDSNET.MASK_IN_FEATURES", node.MASK_IN_FEATURES, shapes, strides)
        octave = [2 ** (i / node.ANCHORS_PER_OCTAVE) for i in range(node.ANCHORS_PER_OCTAVE)]
        anchor_generator = DefaultAnchorGenerator(
            sizes=[[node.ANCHOR_SCALE * s.stride * size for size in octave] for s in levels],
            aspect_ratios=[node.ANCHOR_RATIOS],
            strides=[s.stride for s in levels],
        )
        return {
            "backbone": backbone,
            "anchor_head": AnchorHead(
                levels[0].channels,
                num_levels=len(levels),
                num_classes=node.NUM_CLASSES,
                num_anchors=anchor_generator.num_anchors[0],
                representation_channels=node.REPRESENTATION_CHANNELS,
                conv_channels=node.CONV_CHANNELS,
                num_convs=node.NUM_CONVS,
                norm=node.NORM,
                prior_prob=node.PRIOR_PROB,
            ),
            "pixel_branch": PixelBranch(
                levels[0].channels,
                num_levels=len(node.MASK_IN_FEATURES),
                conv_channels=node.CONV_CHANNELS,
                out_channels=node.REPRESENTATION_CHANNELS,
                norm=node.NORM,
            ),
            "in_features": node.IN_FEATURES,
            "mask_in_features": node.MASK_IN_FEATURES,
            "anchor_generator": anchor_generator,
            "box_transform": Box2BoxTransform(weights=node.BBOX_REG_WEIGHTS),
            "matcher": Matcher(list(node.IOU_THRESHOLDS), [0, -1, 1]),
            "num_classes": node.NUM_CLASSES,
            "focal_alpha": node.FOCAL_LOSS_ALPHA,
            "focal_gamma": node.FOCAL_LOSS_GAMMA,
            "smooth_l1_beta": node.SMOOTH_L1_LOSS_BETA,
            "mask_weight": node.MASK_WEIGHT,
            "max_masks": node.MAX_MASKS,
            "min_mask_area": node.MIN_MASK_AREA,
            "mask_box_margin": node.MASK_BOX_MARGIN,
            "negative_ratio": node.NEGATIVE_RATIO,
            "score_threshold": node.SCORE_THRESH_TEST,
            "nms_threshold": node.NMS_THRESH_TEST,
            "top_k": node.TOPK_CANDIDATES_TEST,
            "mask_threshold": node.MASK_THRESH_TEST,
            "mask_box_margin_test": node.MASK_BOX_MARGIN_TEST,
            "max_instances": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def predict(self, images: torch.Tensor) -> RDSNetPredictions:
        features = self.backbone(images)
        levels = [features[f] for f in self.in_features]
        anchors = [a.tensor for a in self.anchor_generator(levels)]
        logits, deltas, representations = self.anchor_head(levels)
        pixel_map = self.pixel_branch([features[f] for f in self.mask_in_features])
        return RDSNetPredictions(logits, deltas, representations, anchors, pixel_map)

    @torch.no_grad()
    def match(
        self, anchors: torch.Tensor, instances: Instances, ignore_map: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Match the anchors to the objects of an image.

        Args:
            anchors: ``(R, 4)``.
            instances: ``gt_boxes`` and ``gt_classes`` of the image.
            ignore_map: region in which background anchors are ignored, at stride 4, or None.

        Returns:
            Labels, a class, C for background or -1 for ignored anchors, and the object of each
            positive anchor, ``(R,)`` int64 each.
        """
        labels = torch.full((len(anchors),), self.num_classes, device=anchors.device)
        owners = torch.zeros_like(labels)
        if len(instances):
            iou = pairwise_iou(instances.gt_boxes, Boxes(anchors))
            owners, kinds = match_anchors(iou, self.matcher)
            labels = torch.where(kinds == 1, instances.gt_classes[owners], labels)
            labels = labels.masked_fill(kinds == -1, -1)
        if ignore_map is not None:
            x, y = Boxes(anchors).get_centers().unbind(dim=1)
            ignored = (labels == self.num_classes) & inside_map(ignore_map, x, y)
            labels = labels.masked_fill(ignored, -1)
        return labels, owners

    def losses(
        self,
        predictions: RDSNetPredictions,
        gt_instances: Sequence[Instances],
        ignore_maps: Sequence[torch.Tensor | None] = (),
    ) -> dict[str, torch.Tensor]:
        """Compute the losses of a batch.

        ``loss_cls`` and ``loss_box`` are divided by the number of positive anchors of the batch,
        ``loss_mask`` by the number of its masks plus one. Background anchors whose centres lie in
        an ignored region have no loss.
        """
        logits, deltas, representations = (
            torch.cat(levels, dim=1)
            for levels in (predictions.logits, predictions.deltas, predictions.representations)
        )
        anchors = torch.cat(predictions.anchors)
        matched = [
            self.match(anchors, gt, ignore_maps[i] if ignore_maps else None)
            for i, gt in enumerate(gt_instances)
        ]
        labels = torch.stack([own_labels for own_labels, _ in matched])
        used = labels >= 0
        positive = used & (labels < self.num_classes)
        count = max(int(positive.sum()), 1)
        get_event_storage().put_scalar("positive_anchors", int(positive.sum()) / len(gt_instances))
        one_hot = F.one_hot(labels[used], self.num_classes + 1)[:, : self.num_classes]
        used_logits = logits[used].float()
        cls = sigmoid_focal_loss(
            used_logits,
            one_hot.to(used_logits.dtype),
            alpha=self.focal_alpha,
            gamma=self.focal_gamma,
            reduction="sum",
        )
        boxes, masks = [], []
        for i, (gt, (_, owners)) in enumerate(zip(gt_instances, matched, strict=True)):
            found = positive[i].nonzero()[:, 0]
            if len(found) == 0:
                continue
            targets = gt.gt_boxes.tensor[owners[found]]
            targets = self.box_transform.get_deltas(anchors[found], targets)
            boxes.append(
                smooth_l1_loss(deltas[i, found].float(), targets, self.smooth_l1_beta, "sum")
            )
            masks.append(
                self._mask_losses(
                    representations[i], predictions.pixel_map[i], gt, found, owners[found]
                )
            )
        # Keeps every parameter in the graph for images without objects.
        every = (deltas, representations, predictions.pixel_map)
        zero = torch.stack([x[:0].float().sum() for x in every]).sum()
        number = sum(len(m) for m in masks)
        return {
            "loss_cls": cls / count,
            "loss_box": zero + sum(boxes) / count,
            "loss_mask": zero + self.mask_weight * sum(m.sum() for m in masks) / (number + 1),
        }

    def _mask_losses(
        self,
        representations: torch.Tensor,
        pixel_map: torch.Tensor,
        instances: Instances,
        found: torch.Tensor,
        owners: torch.Tensor,
    ) -> torch.Tensor:
        """Compute the losses of the masks of an image's positive anchors, at most ``max_masks``.

        Args:
            representations: ``(R, 2k)``.
            pixel_map: ``(k, H/4, W/4)``.
            instances: ground truth of the image.
            found: indices of the positive anchors, ``(P,)``.
            owners: their objects, ``(P,)``.
        """
        size = spatial_size(pixel_map)
        masks = strided_masks(instances, size)
        areas = masks.flatten(1).sum(dim=1) * MASK_STRIDE**2
        large = areas[owners] > self.min_mask_area
        found, owners = found[large], owners[large]
        some = spread_evenly(len(found), self.max_masks, found.device)
        # Grouped by object.
        owners, order = owners[some].sort(stable=True)
        objects, counts = owners.unique_consecutive(return_counts=True)
        logits = self.masks(representations[found[some][order]], pixel_map)
        boxes = widen_boxes(instances.gt_boxes.tensor / MASK_STRIDE, self.mask_box_margin)
        return mask_losses(
            logits.split(counts.tolist()), masks[objects], boxes[objects], self.negative_ratio
        )

    @staticmethod
    def masks(representations: torch.Tensor, pixel_map: torch.Tensor) -> torch.Tensor:
        """Compute the mask logits of K anchors of an image.

        The softmax of two logits is the sigmoid of their difference, so one product is enough.

        Args:
            representations: two vectors, background then object, ``(K, 2k)``.
            pixel_map: ``(k, H/4, W/4)``.

        Returns:
            Logit of the object minus that of the background, ``(K, H/4, W/4)``.
        """
        with full_precision(pixel_map.device.type):
            background, objects = representations.float().chunk(2, dim=1)
            return torch.einsum("pk,khw->phw", objects - background, pixel_map.float())

    @torch.no_grad()
    def inference(
        self,
        predictions: RDSNetPredictions,
        input_sizes: Sequence[tuple[int, int]],
        output_sizes: Sequence[tuple[int, int]],
    ) -> list[Instances]:
        """Select boxes as RetinaNet does and compute their masks.

        Logits are enlarged, not probabilities, as in the published code.
        """
        anchors = torch.cat(predictions.anchors)
        deltas = torch.cat(predictions.deltas, dim=1)
        representations = torch.cat(predictions.representations, dim=1)
        threshold = math.log(self.mask_threshold / (1 - self.mask_threshold))
        results = []
        for i, (input_size, output_size) in enumerate(zip(input_sizes, output_sizes, strict=True)):
            places, classes, scores = best_candidates(
                [x[i].float().sigmoid() for x in predictions.logits],
                self.score_threshold,
                self.top_k,
            )
            boxes = Boxes(
                self.box_transform.apply_deltas(deltas[i, places].float(), anchors[places])
            )
            boxes.clip(tuple(input_size))
            keep = batched_nms(boxes.tensor, scores, classes, self.nms_threshold)
            keep = keep[: self.max_instances]
            detected = Instances(
                tuple(input_size),
                pred_boxes=boxes[keep],
                scores=scores[keep],
                pred_classes=classes[keep],
            )
            logits = self.masks(representations[i, places[keep]], predictions.pixel_map[i])
            results.append(
                with_full_masks(
                    detected, logits, output_size, threshold, box_margin=self.mask_box_margin_test
                )
            )
        return results
