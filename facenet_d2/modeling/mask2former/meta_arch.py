"""Mask2Former as a Detectron2 meta-architecture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import Boxes, Instances

from ...config_checks import check_nodes
from ...structures.enlarge import enlarge_masks
from ...structures.masks import MASK_STRIDE
from ..checks import check_levels, check_multiple, check_norm, check_num_classes
from ..instance_model import InstanceModel
from ..precision import full_precision
from ..processes import mean_over_processes
from ..set_prediction import Pairs, assign, batch_labels, count_without_query, no_loss
from ..shapes import spatial_size
from .decoder import QueryDecoder
from .losses import ignored_queries, mask_costs, mask_losses
from .pixel_decoder import PixelDecoder
from .points import (
    draw_common_points,
    draw_uncertain_points,
    label_points,
    masks_for_points,
    sample_logits,
    surroundings,
)


class Mask2FormerPredictions(NamedTuple):
    """Predictions for N images by Q queries, in inference those after the last layer only.

    Attributes:
        logits: class logits before the first and after each layer, background last,
            ``(N, Q, C + 1)`` each.
        masks: mask logits of the same, ``(N, Q, H/4, W/4)`` each.
    """

    logits: list[torch.Tensor]
    masks: list[torch.Tensor]


@META_ARCH_REGISTRY.register()
class Mask2Former(InstanceModel[Mask2FormerPredictions]):
    """Learned queries that find one object each, and attend to the pixels of its mask only."""

    CONFIG_NODE = "MASK2FORMER"

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        pixel_decoder: PixelDecoder,
        decoder: QueryDecoder,
        in_features: Sequence[str],
        num_classes: int,
        class_weight: float,
        no_object_weight: float,
        mask_weight: float,
        dice_weight: float,
        num_points: int,
        object_ratio: float,
        oversample_ratio: float,
        importance_ratio: float,
        score_threshold: float,
        mask_threshold: float,
        max_instances: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        """
        Args:
            backbone: network that returns levels by name.
            pixel_decoder: network for the mask features and the levels of ``decoder``.
            decoder: network of the queries.
            in_features: names of the levels, finest first.
            num_classes: number of classes C.
            class_weight: weight of the cross-entropy of the classes, also in the assignment.
            no_object_weight: weight of the queries without an object in the cross-entropy.
            mask_weight: weight of the binary cross-entropy of the masks, also in the assignment.
            dice_weight: weight of the Dice loss of the masks, also in the assignment.
            num_points: number of points at which masks are compared.
            object_ratio: share of the points that are drawn around the objects.
            oversample_ratio: number of candidates per point of the losses.
            importance_ratio: share of the points of the losses that are uncertain ones.
            score_threshold: scores of detections are above it.
            mask_threshold: minimum probability of a mask's pixels.
            max_instances: maximum number of instances per image.
            pixel_mean: mean of each channel, subtracted from the input.
            pixel_std: standard deviation of each channel, by which the input is divided.
        """
        super().__init__(backbone=backbone, pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.pixel_decoder = pixel_decoder
        self.decoder = decoder
        self.in_features = tuple(in_features)
        self.num_queries = decoder.queries.num_embeddings
        self.num_classes = num_classes
        self.class_weight = class_weight
        self.no_object_weight = no_object_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.num_points = num_points
        self.object_ratio = object_ratio
        self.oversample_ratio = oversample_ratio
        self.importance_ratio = importance_ratio
        self.score_threshold = score_threshold
        self.mask_threshold = mask_threshold
        self.max_instances = max_instances

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.MASK2FORMER
        key = "MODEL.MASK2FORMER"
        check_nodes(cfg, key)
        check_num_classes(f"{key}.NUM_CLASSES", node.NUM_CLASSES)
        check_multiple(f"{key}.CHANNELS", node.CHANNELS, f"{key}.NUM_HEADS", node.NUM_HEADS)
        check_multiple(f"{key}.CHANNELS", node.CHANNELS, "the width of a sine embedding", 4)
        check_norm(f"{key}.NORM", node.NORM, f"{key}.CHANNELS", node.CHANNELS)
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        strides = [MASK_STRIDE * 2**i for i in range(len(node.IN_FEATURES))]
        check_levels(f"{key}.IN_FEATURES", node.IN_FEATURES, shapes, strides)
        return {
            "backbone": backbone,
            "pixel_decoder": PixelDecoder(
                [shapes[f].channels for f in node.IN_FEATURES],
                channels=node.CHANNELS,
                num_layers=node.NUM_ENCODER_LAYERS,
                num_heads=node.NUM_HEADS,
                num_points=node.NUM_SAMPLING_POINTS,
                fc_dim=node.ENCODER_FC_DIM,
                norm=node.NORM,
            ),
            "decoder": QueryDecoder(
                node.CHANNELS,
                node.NUM_CLASSES,
                num_queries=node.NUM_QUERIES,
                num_levels=len(node.IN_FEATURES) - 1,
                num_layers=node.NUM_DECODER_LAYERS,
                num_heads=node.NUM_HEADS,
                fc_dim=node.DECODER_FC_DIM,
            ),
            "in_features": node.IN_FEATURES,
            "num_classes": node.NUM_CLASSES,
            "class_weight": node.CLASS_WEIGHT,
            "no_object_weight": node.NO_OBJECT_WEIGHT,
            "mask_weight": node.MASK_WEIGHT,
            "dice_weight": node.DICE_WEIGHT,
            "num_points": node.TRAIN_NUM_POINTS,
            "object_ratio": node.OBJECT_SAMPLE_RATIO,
            "oversample_ratio": node.OVERSAMPLE_RATIO,
            "importance_ratio": node.IMPORTANCE_SAMPLE_RATIO,
            "score_threshold": node.SCORE_THRESH_TEST,
            "mask_threshold": node.MASK_THRESH_TEST,
            "max_instances": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def predict(self, images: torch.Tensor) -> Mask2FormerPredictions:
        features = self.backbone(images)
        mask_features, levels = self.pixel_decoder([features[f] for f in self.in_features])
        return Mask2FormerPredictions(*self.decoder(mask_features, levels))

    @torch.no_grad()
    def assign(
        self,
        logits: torch.Tensor,
        masks: torch.Tensor,
        gt_classes: torch.Tensor,
        points: torch.Tensor,
        labels: torch.Tensor,
    ) -> Pairs:
        """Assign the objects of an image to the queries.

        Args:
            logits: class logits, ``(Q, C + 1)``.
            masks: mask logits, ``(Q, H/4, W/4)``.
            gt_classes: class of each of N objects, ``(N,)`` int64.
            points: points at which masks are compared, as shares of the input, ``(P, 2)``.
            labels: masks of the objects at the points, ``(N, P)`` bool.

        Returns:
            min(Q, N) pairs.
        """
        with full_precision(masks.device.type):
            sampled = sample_logits(masks.float(), points.expand(len(masks), -1, -1))
            costs = mask_costs(
                sampled, labels, mask_weight=self.mask_weight, dice_weight=self.dice_weight
            )
            probabilities = logits.float().softmax(dim=1)[:, gt_classes]
            return assign(costs - self.class_weight * probabilities)

    def losses(
        self,
        predictions: Mask2FormerPredictions,
        gt_instances: Sequence[Instances],
        ignore_maps: Sequence[torch.Tensor | None] = (),
    ) -> dict[str, torch.Tensor]:
        """Compute the losses of each prediction, ``loss_cls_layer0`` and so on.

        Mask losses are sums over the batch, divided by the number of objects. Queries without an
        object have no loss if at least half of their predicted mask is in an ignored region.
        """
        h, w = spatial_size(predictions.masks[0])
        padded_size = (h * MASK_STRIDE, w * MASK_STRIDE)
        objects = sum(map(len, gt_instances))
        count_without_query(gt_instances, self.num_queries)
        normalizer = mean_over_processes(max(objects, 1), self.device)
        # Of each image: masks, their padded size, boxes, common points and labels there.
        known = []
        for gt in gt_instances:
            gt_masks, size = masks_for_points(gt, padded_size)
            boxes = surroundings(gt, padded_size)
            points = labels = boxes.new_zeros(0)
            if len(gt):
                points = draw_common_points(boxes, self.num_points, self.object_ratio)
                labels = label_points(gt_masks, points.expand(len(gt), -1, -1), size)
            known.append((gt_masks, size, boxes, points, labels))
        losses: dict[str, torch.Tensor] = {}
        for layer, (logits, masks) in enumerate(zip(*predictions, strict=True)):
            pairs = [
                self.assign(logits[i], masks[i], gt.gt_classes, *known[i][3:])
                if len(gt)
                else assign(masks.new_zeros(self.num_queries, 0))
                for i, gt in enumerate(gt_instances)
            ]
            # Keeps the masks' parameters in the graph for batches without objects.
            bce = dice = no_loss([masks])
            for own_masks, own, (gt_masks, size, boxes, _, _) in zip(masks, pairs, known):
                if len(own.queries) == 0:
                    continue
                found = own_masks[own.queries].float()
                points = draw_uncertain_points(
                    found.detach(),
                    boxes[own.objects],
                    self.num_points,
                    object_ratio=self.object_ratio,
                    oversample_ratio=self.oversample_ratio,
                    importance_ratio=self.importance_ratio,
                )
                labels = label_points(gt_masks[own.objects], points, size)
                of_image = mask_losses(sample_logits(found, points), labels)
                bce, dice = bce + of_image[0], dice + of_image[1]
            losses |= {
                f"loss_cls_layer{layer}": self.class_weight
                * self._class_loss(logits, masks, pairs, gt_instances, ignore_maps),
                f"loss_mask_layer{layer}": self.mask_weight * bce / normalizer,
                f"loss_dice_layer{layer}": self.dice_weight * dice / normalizer,
            }
        return losses

    def _class_loss(
        self,
        logits: torch.Tensor,
        masks: torch.Tensor,
        pairs: Sequence[Pairs],
        gt_instances: Sequence[Instances],
        ignore_maps: Sequence[torch.Tensor | None],
    ) -> torch.Tensor:
        """Return the weighted mean of the queries' cross-entropies."""
        labels = batch_labels(pairs, gt_instances, self.num_queries, self.num_classes)
        free = labels == self.num_classes
        weights = torch.where(free, self.no_object_weight, 1.0)
        for i, ignore_map in enumerate(ignore_maps):
            if ignore_map is not None:
                weights[i][free[i] & ignored_queries(masks[i], ignore_map)] = 0
        loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
        return (loss * weights.flatten()).sum() / weights.sum().clamp(min=1e-6)

    @torch.no_grad()
    def inference(
        self,
        predictions: Mask2FormerPredictions,
        input_sizes: Sequence[tuple[int, int]],
        output_sizes: Sequence[tuple[int, int]],
    ) -> list[Instances]:
        """Take the best pairs of a query and a class, without suppression of overlaps.

        A score is the class probability times the mean probability of the mask's pixels.
        """
        logit_threshold = math.log(self.mask_threshold / (1 - self.mask_threshold))
        results = []
        for i, (input_size, output_size) in enumerate(zip(input_sizes, output_sizes, strict=True)):
            every = predictions.logits[-1][i].float().softmax(dim=1)[:, :-1].flatten()
            scores, order = every.topk(min(self.max_instances, len(every)))
            unique, mask_of = (order // self.num_classes).unique(return_inverse=True)
            logits = predictions.masks[-1][i, unique].float()
            scores = scores * mean_probabilities(logits, logit_threshold)[mask_of]
            scores, best = scores.sort(descending=True, stable=True)
            best = best[scores > self.score_threshold]
            # Classes of a query share its mask.
            masks = enlarge_masks(logits, input_size, output_size, logit_threshold)[mask_of[best]]
            result = Instances(
                output_size,
                pred_boxes=Boxes(masks.boxes().to(self.device)),
                scores=scores[: len(best)],
                pred_classes=order[best] % self.num_classes,
            )
            result.pred_masks = masks
            results.append(result[torch.from_numpy(masks.areas() > 0).to(self.device)])
        return results


def mean_probabilities(logits: torch.Tensor, threshold: float) -> torch.Tensor:
    """Return the mean probability of the pixels of each mask, 0 for an empty one.

    Args:
        logits: mask logits, ``(K, h, w)``.
        threshold: logits of the mask's pixels are above it.

    Returns:
        ``(K,)``.
    """
    inside = logits > threshold
    areas = inside.flatten(1).sum(dim=1)
    return (logits.sigmoid() * inside).flatten(1).sum(dim=1) / areas.clamp(min=1)
