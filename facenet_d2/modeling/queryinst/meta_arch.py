"""QueryInst as a Detectron2 meta-architecture (paper, Tables 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import BitMasks, Boxes, Instances
from fvcore.nn import sigmoid_focal_loss
from torch import nn
from torchvision.ops import generalized_box_iou_loss

from ...config_checks import check_nodes
from ...structures.masks import MASK_STRIDE, inside_map
from ...structures.paste import paste_masks
from ..checks import check_multiple, check_norm, check_num_classes, dense_levels
from ..instance_model import InstanceModel
from ..losses import dice_loss
from ..processes import mean_over_processes
from ..set_prediction import Pairs, assign, batch_labels, count_without_query, no_loss
from .heads import BoxHead, MaskHead
from .losses import box_costs, focal_costs

# Six stages can each enlarge a box 62 times. Areas of boxes within these bounds are exact enough.
MAX_COORDINATE = 1e6


class QueryInstPredictions(NamedTuple):
    """Predictions for N images by Q queries: one entry per stage, in inference the last one's.

    Attributes:
        logits: class logits, ``(N, Q, C)`` each.
        boxes: boxes in pixels of the network's input, which may extend beyond it, ``(N, Q, 4)``
            each.
        queries: features of the queries for the mask heads, ``(N, Q, channels)`` each.
        features: levels of the pyramid, ``(N, channels, H_l, W_l)`` each.
    """

    logits: list[torch.Tensor]
    boxes: list[torch.Tensor]
    queries: list[torch.Tensor]
    features: list[torch.Tensor]


@META_ARCH_REGISTRY.register()
class QueryInst(InstanceModel[QueryInstPredictions]):
    """Learned queries that find one object each, in stages that refine their boxes and masks.

    The mask heads run on the queries that need a mask only: those with an object in training, the
    best ones in inference.
    """

    CONFIG_NODE = "QUERYINST"

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        box_heads: Sequence[BoxHead],
        mask_heads: Sequence[MaskHead],
        in_features: Sequence[str],
        box_pooler: ROIPooler,
        mask_pooler: ROIPooler,
        channels: int,
        num_queries: int,
        num_classes: int,
        focal_alpha: float,
        focal_gamma: float,
        class_weight: float,
        l1_weight: float,
        giou_weight: float,
        mask_weight: float,
        score_threshold: float,
        mask_threshold: float,
        max_instances: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        """
        Args:
            backbone: network that returns the feature pyramid by level name.
            box_heads: heads for classes and boxes, one per stage.
            mask_heads: heads for masks, one per stage.
            in_features: names of the levels, finest first.
            box_pooler: pooler of the features of ``box_heads``.
            mask_pooler: pooler of the features of ``mask_heads``.
            channels: number of channels of levels and queries.
            num_queries: number of queries Q, the maximum number of objects that are found.
            num_classes: number of classes C.
            focal_alpha: weight of the positive class in the focal loss.
            focal_gamma: focusing exponent of the focal loss.
            class_weight: weight of the focal loss, also in the assignment.
            l1_weight: weight of the distances of the boxes' corners, also in the assignment.
            giou_weight: weight of the boxes' GIoU loss, also in the assignment.
            mask_weight: weight of the Dice loss.
            score_threshold: scores of detections are above it.
            mask_threshold: minimum probability of a mask's pixels.
            max_instances: maximum number of instances per image.
            pixel_mean: mean of each channel, subtracted from the input.
            pixel_std: standard deviation of each channel, by which the input is divided.
        """
        super().__init__(backbone=backbone, pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.box_heads, self.mask_heads = nn.ModuleList(box_heads), nn.ModuleList(mask_heads)
        self.in_features = tuple(in_features)
        self.box_pooler, self.mask_pooler = box_pooler, mask_pooler
        self.query_features = nn.Embedding(num_queries, channels)
        # Centre, width and height as shares of the input: at first the whole input.
        self.query_boxes = nn.Embedding(num_queries, 4)
        nn.init.constant_(self.query_boxes.weight[:, :2], 0.5)
        nn.init.constant_(self.query_boxes.weight[:, 2:], 1.0)
        self.box_transform = Box2BoxTransform(weights=(2.0, 2.0, 1.0, 1.0))
        self.num_queries = num_queries
        self.num_classes = num_classes
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.class_weight = class_weight
        self.l1_weight = l1_weight
        self.giou_weight = giou_weight
        self.mask_weight = mask_weight
        self.score_threshold = score_threshold
        self.mask_threshold = mask_threshold
        self.max_instances = max_instances

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.QUERYINST
        check_nodes(cfg, "MODEL.QUERYINST")
        check_num_classes("MODEL.QUERYINST.NUM_CLASSES", node.NUM_CLASSES)
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        levels = dense_levels("MODEL.QUERYINST.IN_FEATURES", node.IN_FEATURES, shapes)
        channels = levels[0].channels
        width = "MODEL.FPN.OUT_CHANNELS"
        check_multiple(width, channels, "MODEL.QUERYINST.NUM_HEADS", node.NUM_HEADS)
        check_norm("MODEL.QUERYINST.MASK_NORM", node.MASK_NORM, width, channels)

        def pooler(resolution: int) -> ROIPooler:
            return ROIPooler(
                resolution,
                scales=[1 / level.stride for level in levels],
                sampling_ratio=2,
                pooler_type="ROIAlignV2",
            )

        return {
            "backbone": backbone,
            "box_heads": [
                BoxHead(
                    channels,
                    node.NUM_CLASSES,
                    resolution=node.POOLER_RESOLUTION,
                    num_heads=node.NUM_HEADS,
                    dynamic_channels=node.DYNAMIC_CHANNELS,
                    fc_dim=node.FC_DIM,
                    prior_prob=node.PRIOR_PROB,
                )
                for _ in range(node.NUM_STAGES)
            ],
            "mask_heads": [
                MaskHead(
                    channels,
                    node.NUM_CLASSES,
                    dynamic_channels=node.DYNAMIC_CHANNELS,
                    num_convs=node.NUM_MASK_CONVS,
                    norm=node.MASK_NORM,
                )
                for _ in range(node.NUM_STAGES)
            ],
            "in_features": node.IN_FEATURES,
            "box_pooler": pooler(node.POOLER_RESOLUTION),
            "mask_pooler": pooler(node.MASK_POOLER_RESOLUTION),
            "channels": channels,
            "num_queries": node.NUM_QUERIES,
            "num_classes": node.NUM_CLASSES,
            "focal_alpha": node.FOCAL_LOSS_ALPHA,
            "focal_gamma": node.FOCAL_LOSS_GAMMA,
            "class_weight": node.CLASS_WEIGHT,
            "l1_weight": node.L1_WEIGHT,
            "giou_weight": node.GIOU_WEIGHT,
            "mask_weight": node.MASK_WEIGHT,
            "score_threshold": node.SCORE_THRESH_TEST,
            "mask_threshold": node.MASK_THRESH_TEST,
            "max_instances": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def predict(self, images: torch.Tensor) -> QueryInstPredictions:
        features = self.backbone(images)
        # The pooler rounds boxes to the type of the features: half precision is too coarse.
        # It would also copy channels-last features in every stage.
        levels = [features[f].float().contiguous() for f in self.in_features]
        number, (height, width) = len(images), images.shape[-2:]
        center, sides = self.query_boxes.weight.float().chunk(2, dim=1)
        corners = torch.cat([center - sides / 2, center + sides / 2], dim=1)
        boxes = corners * corners.new_tensor([width, height, width, height])
        boxes = boxes.expand(number, -1, -1)
        queries = self.query_features.weight.repeat(number, 1, 1)
        stages = []
        for head in self.box_heads:
            pooled = self.box_pooler(levels, [Boxes(b) for b in boxes.detach()])
            logits, deltas, attended, queries = head(queries, pooled)
            found = self.box_transform.apply_deltas(
                deltas.float().flatten(0, 1), boxes.flatten(0, 1)
            )
            found = found.clamp(-MAX_COORDINATE, MAX_COORDINATE).view_as(boxes)
            stages.append((logits, found, attended))
            # Only the first stage trains the boxes that it starts from.
            boxes = found.detach()
        all_logits, all_boxes, all_queries = zip(*(stages if self.training else stages[-1:]))
        return QueryInstPredictions([*all_logits], [*all_boxes], [*all_queries], levels)

    @torch.no_grad()
    def assign(self, logits: torch.Tensor, boxes: torch.Tensor, gt: Instances) -> Pairs:
        """Assign the objects of an image to the queries of a stage.

        Args:
            logits: class logits, ``(Q, C)``.
            boxes: predicted boxes in pixels, ``(Q, 4)``.
            gt: ``gt_boxes`` and ``gt_classes`` of N objects.

        Returns:
            min(Q, N) pairs.
        """
        costs = self.class_weight * focal_costs(
            logits.float(), gt.gt_classes, alpha=self.focal_alpha, gamma=self.focal_gamma
        ) + box_costs(
            boxes.float(),
            gt.gt_boxes.tensor,
            _sizes(gt, boxes.device),
            l1_weight=self.l1_weight,
            giou_weight=self.giou_weight,
        )
        return assign(costs)

    def losses(
        self,
        predictions: QueryInstPredictions,
        gt_instances: Sequence[Instances],
        ignore_maps: Sequence[torch.Tensor | None] = (),
    ) -> dict[str, torch.Tensor]:
        """Compute the losses of each stage, ``loss_cls_stage0`` and so on.

        Each is a sum over the batch, divided by the number of assigned objects. Queries without an
        object whose boxes have their centre in an ignored region have no loss.
        """
        missed = count_without_query(gt_instances, self.num_queries)
        found = sum(map(len, gt_instances)) - missed
        normalizer = mean_over_processes(max(found, 1), self.device)
        losses: dict[str, torch.Tensor] = {}
        for stage, (logits, boxes, queries) in enumerate(zip(*predictions[:3], strict=True)):
            with torch.no_grad():
                pairs = [self.assign(*x) for x in zip(logits, boxes, gt_instances, strict=True)]
            by_name = {
                "cls": self._class_loss(logits, boxes, pairs, gt_instances, ignore_maps),
                **self._box_losses(boxes, pairs, gt_instances),
                "mask": self._mask_loss(
                    stage, predictions.features, boxes, queries, pairs, gt_instances
                ),
            }
            losses |= {f"loss_{k}_stage{stage}": v / normalizer for k, v in by_name.items()}
        return losses

    def _class_loss(
        self,
        logits: torch.Tensor,
        boxes: torch.Tensor,
        pairs: Sequence[Pairs],
        gt_instances: Sequence[Instances],
        ignore_maps: Sequence[torch.Tensor | None],
    ) -> torch.Tensor:
        labels = batch_labels(pairs, gt_instances, self.num_queries, self.num_classes)
        used = torch.ones_like(labels, dtype=torch.bool)
        for i, ignore_map in enumerate(ignore_maps):
            if ignore_map is not None:
                x, y = Boxes(boxes[i].detach()).get_centers().unbind(dim=1)
                used[i] = ~inside_map(ignore_map, x, y) | (labels[i] < self.num_classes)
        one_hot = F.one_hot(labels, self.num_classes + 1)[..., :-1].float()
        loss = sigmoid_focal_loss(
            logits.float()[used],
            one_hot[used],
            alpha=self.focal_alpha,
            gamma=self.focal_gamma,
            reduction="sum",
        )
        return self.class_weight * loss

    def _box_losses(
        self, boxes: torch.Tensor, pairs: Sequence[Pairs], gt_instances: Sequence[Instances]
    ) -> dict[str, torch.Tensor]:
        own = torch.cat([b[p.queries] for b, p in zip(boxes, pairs)])
        gt = torch.cat([x.gt_boxes.tensor[p.objects] for x, p in zip(gt_instances, pairs)])
        sizes = torch.cat(
            [
                _sizes(x, boxes.device).expand(len(p.objects), -1)
                for x, p in zip(gt_instances, pairs)
            ]
        )
        return {
            "l1": self.l1_weight * ((own - gt) / sizes).abs().sum(),
            "giou": self.giou_weight * generalized_box_iou_loss(own, gt, reduction="sum"),
        }

    def _mask_loss(
        self,
        stage: int,
        features: Sequence[torch.Tensor],
        boxes: torch.Tensor,
        queries: torch.Tensor,
        pairs: Sequence[Pairs],
        gt_instances: Sequence[Instances],
    ) -> torch.Tensor:
        head = self.mask_heads[stage]
        if not any(len(own.queries) for own in pairs):
            # Batch normalisation needs at least one RoI.
            return no_loss(head.parameters()) + no_loss([queries])
        own_boxes = [b.detach()[p.queries] for b, p in zip(boxes, pairs)]
        pooled = self.mask_pooler(features, [Boxes(b) for b in own_boxes])
        own_queries = torch.cat([q[p.queries] for q, p in zip(queries, pairs)])
        logits = head(own_queries, pooled)
        classes = torch.cat([gt.gt_classes[p.objects] for gt, p in zip(gt_instances, pairs)])
        logits = logits[torch.arange(len(classes), device=classes.device), classes].float()
        targets = torch.cat(
            [
                crop_masks(gt[p.objects], b, logits.shape[-1])
                for gt, p, b in zip(gt_instances, pairs, own_boxes)
                # Detectron2's mapper sets no masks for an image without objects.
                if len(p.objects)
            ]
        )
        return self.mask_weight * dice_loss(logits.sigmoid(), targets.float(), eps=5e-6).sum()

    def masks(
        self,
        predictions: QueryInstPredictions,
        image: int,
        queries: torch.Tensor,
    ) -> torch.Tensor:
        """Compute the masks of queries of an image by the last stage.

        Args:
            predictions: result of :meth:`predict`.
            image: index of the image in the batch.
            queries: indices of K queries, ``(K,)`` int64.

        Returns:
            Mask logits of all classes over the queries' boxes, ``(K, C, 28, 28)``.
        """
        features = [f[image : image + 1] for f in predictions.features]
        pooled = self.mask_pooler(features, [Boxes(predictions.boxes[-1][image, queries])])
        # The network may have run in half precision.
        return self.mask_heads[-1](predictions.queries[-1][image, queries].float(), pooled)

    @torch.no_grad()
    def inference(
        self,
        predictions: QueryInstPredictions,
        input_sizes: Sequence[tuple[int, int]],
        output_sizes: Sequence[tuple[int, int]],
    ) -> list[Instances]:
        """Take the best pairs of a query and a class, without suppression of overlaps."""
        results = []
        for i, (input_size, output_size) in enumerate(zip(input_sizes, output_sizes, strict=True)):
            every = predictions.logits[-1][i].float().sigmoid().flatten()
            scores, order = every.topk(min(self.max_instances, len(every)))
            order = order[scores > self.score_threshold]
            queries, classes = order // self.num_classes, order % self.num_classes
            boxes = predictions.boxes[-1][i, queries]
            # Masks are relative to the whole box, of which a part may lie outside the image.
            boxes = boxes * boxes.new_tensor(
                [output_size[1] / input_size[1], output_size[0] / input_size[0]] * 2
            )
            clipped = Boxes(boxes.clone())
            clipped.clip(output_size)
            seen = clipped.nonempty()
            order, queries, classes, boxes = (x[seen] for x in (order, queries, classes, boxes))
            unique, mask_of = queries.unique(return_inverse=True)
            probabilities = self.masks(predictions, i, unique)[mask_of, classes].sigmoid()
            result = Instances(
                output_size, pred_boxes=clipped[seen], scores=every[order], pred_classes=classes
            )
            result.pred_masks = masks = paste_masks(
                probabilities, boxes, output_size, self.mask_threshold
            )
            results.append(result[torch.from_numpy(masks.areas() > 0).to(boxes.device)])
        return results


def crop_masks(instances: Instances, boxes: torch.Tensor, side: int) -> torch.Tensor:
    """Cut ground-truth masks out of boxes, and resample them to one size.

    Args:
        instances: K objects with ``gt_masks``, or ``gt_stride4_masks``.
        boxes: a box in pixels of the network's input for each, ``(K, 4)``.
        side: height and width of the results.

    Returns:
        ``(K, side, side)`` bool.
    """
    if instances.has("gt_stride4_masks"):
        masks = BitMasks(instances.gt_stride4_masks)
        return masks.crop_and_resize(boxes / MASK_STRIDE, side)
    # Detectron2 crops polygons on the CPU.
    return instances.gt_masks.crop_and_resize(boxes, side).to(boxes.device)


def _sizes(instances: Instances, device: torch.device) -> torch.Tensor:
    """Return (width, height, width, height) of an image, ``(4,)``."""
    height, width = instances.image_size
    return torch.tensor([width, height, width, height], dtype=torch.float32, device=device)
