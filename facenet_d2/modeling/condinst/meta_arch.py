"""CondInst as a Detectron2 meta-architecture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import batched_nms
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransformLinear
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from fvcore.nn import giou_loss, sigmoid_focal_loss

from ...config_checks import check_nodes
from ...structures.masks import inside_map, strided_masks
from ..candidates import best_candidates
from ..checks import check_choice, check_levels, check_norm, check_num_classes, dense_levels
from ..instance_model import InstanceModel
from ..losses import dice_loss
from ..postprocessing import with_full_masks
from ..precision import full_precision
from ..processes import mean_over_processes
from ..sampling import best_of_each
from ..shapes import spatial_size
from .dynamic_head import DynamicMaskHead
from .fcos_targets import (
    SIZE_OF_INTEREST,
    anchor_strides,
    centerness_targets,
    elliptic_centerness_targets,
    mask_centers,
    mask_covariances,
    match_positions,
    position_centers,
)
from .heads import ControllerHead, MaskBranch
from .predictions import CondInstPredictions

MASK_FEATURE_STRIDE = 8


@META_ARCH_REGISTRY.register()
class CondInst(InstanceModel[CondInstPredictions]):
    """FCOS whose detections each bring the parameters of their own mask head.

    Masks are computed at stride 8 and upsampled to stride 4, where the loss compares them.
    """

    CONFIG_NODE = "CONDINST"

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: ControllerHead,
        mask_branch: MaskBranch,
        mask_head: DynamicMaskHead,
        in_features: Sequence[str],
        mask_in_features: Sequence[str],
        anchor_generator: DefaultAnchorGenerator,
        num_classes: int,
        center_sampling_radius: float,
        centerness: str = "box",
        ellipse_border: float = 0.1,
        focal_alpha: float,
        focal_gamma: float,
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
            head: head for class scores, boxes, centerness and mask parameters.
            mask_branch: head for the mask features at stride 8.
            mask_head: function of the mask features and an instance's parameters.
            in_features: names of the levels of ``head``, finest first.
            mask_in_features: names of the levels of ``mask_branch``, finest first.
            anchor_generator: generator of one anchor per position with the stride as its size.
            num_classes: number of classes C.
            center_sampling_radius: radius of centre sampling, in strides.
            centerness: target of the centerness, "box" for FCOS's or "ellipse".
            ellipse_border: elliptic centerness on the border of an object's ellipse.
            focal_alpha: weight of the positive class in the focal loss.
            focal_gamma: focusing exponent of the focal loss.
            max_masks: approximate maximum number of positions of an image in the mask loss. Each
                object keeps its best positions, at least one.
            score_threshold: minimum score of a detection.
            nms_threshold: IoU above which NMS drops a box.
            top_k: maximum number of candidates per level before NMS.
            mask_threshold: minimum probability of a mask's pixels.
            max_instances: maximum number of instances per image.
            pixel_mean: mean of each channel, subtracted from the input.
            pixel_std: standard deviation of each channel, by which the input is divided.
        """
        super().__init__(backbone=backbone, pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.head = head
        self.mask_branch = mask_branch
        self.mask_head = mask_head
        self.in_features = tuple(in_features)
        self.mask_in_features = tuple(mask_in_features)
        self.anchor_generator = anchor_generator
        self.box_transform = Box2BoxTransformLinear(normalize_by_size=True)
        self.num_classes = num_classes
        self.center_sampling_radius = center_sampling_radius
        check_choice("centerness", centerness, ("box", "ellipse"))
        self.centerness = centerness
        self.ellipse_border = ellipse_border
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.max_masks = max_masks
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.top_k = top_k
        self.mask_threshold = mask_threshold
        self.max_instances = max_instances

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.CONDINST
        check_nodes(cfg, "MODEL.CONDINST")
        check_num_classes("MODEL.CONDINST.NUM_CLASSES", node.NUM_CLASSES)
        for norm, channels in (("NORM", "CONV_CHANNELS"), ("MASK_NORM", "MASK_CONV_CHANNELS")):
            check_norm(
                f"MODEL.CONDINST.{norm}", node[norm], f"MODEL.CONDINST.{channels}", node[channels]
            )
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        levels = dense_levels("MODEL.CONDINST.IN_FEATURES", node.IN_FEATURES, shapes)
        mask_strides = [MASK_FEATURE_STRIDE * 2**i for i in range(len(node.MASK_IN_FEATURES))]
        check_levels("MODEL.CONDINST.MASK_IN_FEATURES", node.MASK_IN_FEATURES, shapes, mask_strides)
        mask_head = DynamicMaskHead(
            node.MASK_CHANNELS,
            channels=node.DYNAMIC_CHANNELS,
            num_convs=node.DYNAMIC_CONVS,
        )
        return {
            "backbone": backbone,
            "head": ControllerHead(
                input_shape=levels,
                num_classes=node.NUM_CLASSES,
                conv_dims=[node.CONV_CHANNELS] * node.NUM_CONVS,
                norm=node.NORM,
                prior_prob=node.PRIOR_PROB,
                num_parameters=mask_head.num_parameters,
            ),
            "mask_branch": MaskBranch(
                levels[0].channels,
                num_levels=len(node.MASK_IN_FEATURES),
                conv_channels=node.MASK_CONV_CHANNELS,
                num_convs=node.NUM_MASK_CONVS,
                out_channels=node.MASK_CHANNELS,
                norm=node.MASK_NORM,
            ),
            "mask_head": mask_head,
            "in_features": node.IN_FEATURES,
            "mask_in_features": node.MASK_IN_FEATURES,
            "anchor_generator": DefaultAnchorGenerator(
                sizes=[[s.stride] for s in levels],
                aspect_ratios=[1.0],
                strides=[s.stride for s in levels],
            ),
            "num_classes": node.NUM_CLASSES,
            "center_sampling_radius": node.CENTER_SAMPLING_RADIUS,
            "centerness": node.CENTERNESS,
            "ellipse_border": node.ELLIPSE_BORDER,
            "focal_alpha": node.FOCAL_LOSS_ALPHA,
            "focal_gamma": node.FOCAL_LOSS_GAMMA,
            "max_masks": node.MAX_MASKS,
            "score_threshold": node.SCORE_THRESH_TEST,
            "nms_threshold": node.NMS_THRESH_TEST,
            "top_k": node.TOPK_CANDIDATES_TEST,
            "mask_threshold": node.MASK_THRESH_TEST,
            "max_instances": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def predict(self, images: torch.Tensor) -> CondInstPredictions:
        features = self.backbone(images)
        levels = [features[f] for f in self.in_features]
        anchors = [a.tensor for a in self.anchor_generator(levels)]
        mask_features = self.mask_branch([features[f] for f in self.mask_in_features])
        logits, distances, centerness, parameters = self.head(levels)
        return CondInstPredictions(
            logits, distances, centerness, parameters, anchors, mask_features
        )

    def match(self, anchors: Sequence[torch.Tensor], instances: Instances) -> torch.Tensor:
        """Find the object of each position of an image.

        Args:
            anchors: see :class:`CondInstPredictions`.
            instances: ``gt_boxes`` and masks of the image.

        Returns:
            Object of each position of all levels in turn, -1 for background, ``(R,)`` int64.
        """
        return match_positions(
            anchors,
            instances.gt_boxes.tensor,
            mask_centers(instances),
            self.center_sampling_radius,
        )

    def losses(
        self,
        predictions: CondInstPredictions,
        gt_instances: Sequence[Instances],
        ignore_maps: Sequence[torch.Tensor | None] = (),
    ) -> dict[str, torch.Tensor]:
        """Compute FCOS's losses and ``loss_mask``, the mean Dice loss of positive positions.

        Background positions in an ignored region have no loss.
        """
        owners = [self.match(predictions.anchors, gt) for gt in gt_instances]
        return {
            **self._detection_losses(predictions, owners, gt_instances, ignore_maps),
            "loss_mask": self._mask_loss(predictions, owners, gt_instances),
        }

    def _detection_losses(
        self,
        predictions: CondInstPredictions,
        owners: Sequence[torch.Tensor],
        gt_instances: Sequence[Instances],
        ignore_maps: Sequence[torch.Tensor | None],
    ) -> dict[str, torch.Tensor]:
        logits, distances, centerness = (
            torch.cat([x.float() for x in levels], dim=1)
            for levels in (predictions.logits, predictions.distances, predictions.centerness)
        )
        anchors = torch.cat(predictions.anchors)
        positive = torch.stack([*owners]) >= 0
        num_positive = positive.sum().item()
        get_event_storage().put_scalar("num_pos_anchors", num_positive / len(owners))
        normalizer = mean_over_processes(max(num_positive, 1), self.device)

        one_hot = F.one_hot(self._labels(owners, gt_instances), self.num_classes + 1)
        one_hot = one_hot[..., : self.num_classes].to(logits.dtype)
        if any(m is not None for m in ignore_maps):
            x, y = position_centers(anchors).unbind(dim=1)
            used = positive.clone()
            for used_in_image, ignore_map in zip(used, ignore_maps, strict=True):
                used_in_image |= True if ignore_map is None else ~inside_map(ignore_map, x, y)
            logits, one_hot = logits[used], one_hot[used]
        cls = sigmoid_focal_loss(
            logits,
            one_hot,
            alpha=self.focal_alpha,
            gamma=self.focal_gamma,
            reduction="sum",
        )
        # Positions of all images in turn, as in positive.
        own_anchors = anchors.expand(len(owners), -1, -1)[positive]
        boxes = torch.cat(
            [gt.gt_boxes.tensor[own[own >= 0]] for own, gt in zip(owners, gt_instances)]
        )
        loc = giou_loss(
            self.box_transform.apply_deltas(distances[positive], own_anchors),
            boxes,
            reduction="sum",
        )
        targets = self._centerness_targets(own_anchors, boxes, owners, gt_instances)
        ctr = F.binary_cross_entropy_with_logits(
            centerness[positive][:, 0], targets, reduction="sum"
        )
        return {
            "loss_fcos_cls": cls / normalizer,
            "loss_fcos_loc": loc / normalizer,
            "loss_fcos_ctr": ctr / normalizer,
        }

    def _centerness_targets(
        self,
        anchors: torch.Tensor,
        boxes: torch.Tensor,
        owners: Sequence[torch.Tensor],
        gt_instances: Sequence[Instances],
    ) -> torch.Tensor:
        """Return the centerness of the positive positions of all images in turn, ``(P,)``.

        Args:
            anchors: their anchors, ``(P, 4)``.
            boxes: boxes of their objects, ``(P, 4)``.
            owners: object of each position, per image.
            gt_instances: ground truth of each image.
        """
        if self.centerness == "box":
            return centerness_targets(self.box_transform.get_deltas(anchors, boxes))
        centers, covariances = (
            torch.cat([of_objects(gt)[own[own >= 0]] for own, gt in zip(owners, gt_instances)])
            for of_objects in (mask_centers, mask_covariances)
        )
        offsets = position_centers(anchors) - centers
        return elliptic_centerness_targets(offsets, covariances, self.ellipse_border)

    def _labels(
        self, owners: Sequence[torch.Tensor], gt_instances: Sequence[Instances]
    ) -> torch.Tensor:
        """Return the class of each position, C for background, ``(N, R)`` int64."""
        labels = []
        for own, gt in zip(owners, gt_instances, strict=True):
            # The index -1 of background selects the last entry.
            classes = torch.cat([gt.gt_classes, gt.gt_classes.new_tensor([self.num_classes])])
            labels.append(classes[own])
        return torch.stack(labels)

    def _mask_loss(
        self,
        predictions: CondInstPredictions,
        owners: Sequence[torch.Tensor],
        gt_instances: Sequence[Instances],
    ) -> torch.Tensor:
        anchors = torch.cat(predictions.anchors)
        parameters = torch.cat(predictions.parameters, dim=1)
        mask_features = predictions.mask_features
        scores = (
            torch.cat([x.float() for x in predictions.logits], dim=1).detach().sigmoid()
            * torch.cat([x.float() for x in predictions.centerness], dim=1).detach().sigmoid()
        )
        height, width = spatial_size(mask_features)
        size = (2 * height, 2 * width)
        losses = []
        for i, (own, gt) in enumerate(zip(owners, gt_instances, strict=True)):
            if len(gt) == 0:
                continue
            # Background is given any class: its scores are not used.
            own_scores = scores[i].gather(1, gt.gt_classes[own.clamp(min=0)][:, None])[:, 0]
            some = best_of_each(own, own_scores, max(1, self.max_masks // len(gt)))
            if len(some) == 0:
                continue
            masks = self.masks(parameters[i, some], anchors[some], mask_features[i])
            losses.append(dice_loss(masks, strided_masks(gt, size)[own[some]].float()))
        # Keeps every parameter in the graph for batches without objects.
        zero = 0.0 * (mask_features.float().sum() + parameters.float().sum())
        return zero + (torch.cat(losses).mean() if losses else 0.0)

    def masks(
        self, parameters: torch.Tensor, anchors: torch.Tensor, mask_features: torch.Tensor
    ) -> torch.Tensor:
        """Compute the masks of K instances of an image.

        Args:
            parameters: parameters of the mask heads, ``(K, num_parameters)``.
            anchors: anchors of the positions that found the instances, ``(K, 4)``.
            mask_features: mask features of the image, ``(channels, H/8, W/8)``.

        Returns:
            Probabilities, ``(K, H/4, W/4)``.
        """
        with full_precision(mask_features.device.type):
            small = self.mask_head(
                mask_features.float(),
                parameters.float(),
                position_centers(anchors),
                # Relative coordinates are divided by the largest size of the level's objects.
                anchor_strides(anchors) * SIZE_OF_INTEREST,
                MASK_FEATURE_STRIDE,
            )
        # F.interpolate accepts an empty batch but not zero channels.
        small = small[:, None]
        large = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)[:, 0]
        return large.sigmoid()

    @torch.no_grad()
    def inference(
        self,
        predictions: CondInstPredictions,
        input_sizes: Sequence[tuple[int, int]],
        output_sizes: Sequence[tuple[int, int]],
    ) -> list[Instances]:
        """Select boxes as FCOS does and compute their masks."""
        logits, distances, centerness, _, anchors, mask_features = predictions
        every = torch.cat(anchors)
        all_distances = torch.cat(distances, dim=1)
        parameters = torch.cat(predictions.parameters, dim=1)
        results = []
        for i, (input_size, output_size) in enumerate(zip(input_sizes, output_sizes, strict=True)):
            positions, classes, scores = best_candidates(
                [
                    (x[i].float().sigmoid() * c[i].float().sigmoid()).sqrt()
                    for x, c in zip(logits, centerness, strict=True)
                ],
                self.score_threshold,
                self.top_k,
            )
            boxes = self.box_transform.apply_deltas(
                all_distances[i, positions].float(), every[positions]
            )
            keep = batched_nms(boxes, scores, classes, self.nms_threshold)[: self.max_instances]
            positions = positions[keep]
            detected = Instances(
                tuple(input_size),
                pred_boxes=Boxes(boxes[keep]),
                scores=scores[keep],
                pred_classes=classes[keep],
            )
            masks = self.masks(parameters[i, positions], every[positions], mask_features[i])
            results.append(with_full_masks(detected, masks, output_size, self.mask_threshold))
        return results
