"""CondInst as a Detectron2 meta-architecture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import batched_nms
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.meta_arch.fcos import FCOS
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

from ...structures.masks import full_size_masks, mass_centers, stride4_masks
from ..checks import (
    check_at_least,
    check_levels,
    check_norm,
    check_num_classes,
    check_probability,
    check_share,
    dense_levels,
)
from ..instance_model import InstanceModel
from ..losses import dice_loss
from ..postprocessing import with_full_masks
from .dynamic_head import DynamicMaskHead
from .heads import ControllerHead, MaskBranch

# Relative coordinates are divided by the greatest size of object that a level is to find, in its
# strides (FCOS's ranges end at 64 for stride 8).
SIZE_OF_INTEREST = 8
MASK_FEATURE_STRIDE = 8


@META_ARCH_REGISTRY.register()
class CondInst(InstanceModel, FCOS):
    """Detectron2's FCOS; each instance it finds brings the parameters of its own mask head.

    Masks are made at stride 8 and enlarged to stride 4, where the loss compares them.
    """

    CONFIG_NODE = "CONDINST"

    @configurable
    def __init__(
        self,
        *,
        mask_branch: MaskBranch,
        mask_head: DynamicMaskHead,
        mask_in_features: Sequence[str],
        max_masks: int,
        mask_threshold: float,
        **fcos: Any,
    ) -> None:
        """
        Args:
            mask_branch: mask features at stride 8.
            mask_head: applies an instance's parameters.
            mask_in_features: levels of the mask branch, finest first.
            max_masks: at most about so many positive positions of an image have a mask loss: of
                each object the best, at least one.
            mask_threshold: least probability of a mask's pixel.
            fcos: the arguments of Detectron2's :class:`FCOS`, with a :class:`ControllerHead`.
        """
        super().__init__(**fcos)
        self.mask_branch = mask_branch
        self.mask_head = mask_head
        self.mask_in_features = tuple(mask_in_features)
        self.max_masks = max_masks
        self.mask_threshold = mask_threshold

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        inst = cfg.MODEL.CONDINST
        check_num_classes("MODEL.CONDINST.NUM_CLASSES", inst.NUM_CLASSES)
        for key in ("PRIOR_PROB", "MASK_THRESH_TEST"):
            check_probability(f"MODEL.CONDINST.{key}", inst[key])
        counts = ["NUM_CONVS", "MASK_CHANNELS", "DYNAMIC_CONVS", "DYNAMIC_CHANNELS", "MAX_MASKS"]
        check_at_least(1, "MODEL.CONDINST", inst, [*counts, "TOPK_CANDIDATES_TEST"])
        check_at_least(0, "MODEL.CONDINST", inst, ["NUM_MASK_CONVS", "FOCAL_LOSS_GAMMA"])
        check_at_least(0.5, "MODEL.CONDINST", inst, ["CENTER_SAMPLING_RADIUS"])
        check_share(
            "MODEL.CONDINST", inst, ["FOCAL_LOSS_ALPHA", "SCORE_THRESH_TEST", "NMS_THRESH_TEST"]
        )
        for norm, channels in (("NORM", "CONV_CHANNELS"), ("MASK_NORM", "MASK_CONV_CHANNELS")):
            check_norm(
                f"MODEL.CONDINST.{norm}", inst[norm], f"MODEL.CONDINST.{channels}", inst[channels]
            )
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        levels = dense_levels("MODEL.CONDINST.IN_FEATURES", inst.IN_FEATURES, shapes)
        if not inst.MASK_IN_FEATURES:
            raise ValueError("MODEL.CONDINST.MASK_IN_FEATURES is empty; it must name a level")
        mask_levels = [MASK_FEATURE_STRIDE * 2**i for i in range(len(inst.MASK_IN_FEATURES))]
        check_levels("MODEL.CONDINST.MASK_IN_FEATURES", inst.MASK_IN_FEATURES, shapes, mask_levels)
        mask_head = DynamicMaskHead(
            inst.MASK_CHANNELS,
            channels=inst.DYNAMIC_CHANNELS,
            num_convs=inst.DYNAMIC_CONVS,
        )
        return {
            "backbone": backbone,
            "head": ControllerHead(
                input_shape=levels,
                num_classes=inst.NUM_CLASSES,
                conv_dims=[inst.CONV_CHANNELS] * inst.NUM_CONVS,
                norm=inst.NORM,
                prior_prob=inst.PRIOR_PROB,
                num_parameters=mask_head.num_parameters,
            ),
            "head_in_features": list(inst.IN_FEATURES),
            "mask_branch": MaskBranch(
                levels[0].channels,
                num_levels=len(inst.MASK_IN_FEATURES),
                conv_channels=inst.MASK_CONV_CHANNELS,
                num_convs=inst.NUM_MASK_CONVS,
                out_channels=inst.MASK_CHANNELS,
                norm=inst.MASK_NORM,
            ),
            "mask_head": mask_head,
            "mask_in_features": inst.MASK_IN_FEATURES,
            "max_masks": inst.MAX_MASKS,
            "mask_threshold": inst.MASK_THRESH_TEST,
            "num_classes": inst.NUM_CLASSES,
            "center_sampling_radius": inst.CENTER_SAMPLING_RADIUS,
            "focal_loss_alpha": inst.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": inst.FOCAL_LOSS_GAMMA,
            "test_score_thresh": inst.SCORE_THRESH_TEST,
            "test_topk_candidates": inst.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": inst.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def predict(self, images: torch.Tensor) -> tuple[Any, ...]:
        """The network: ``(N, 3, H, W)`` to what losses and inference work on.

        Returns:
            one tensor a level, of its R_l positions: class logits ``(N, R_l, C)``, box distances
            ``(N, R_l, 4)``, centerness logits ``(N, R_l, 1)``, parameters ``(N, R_l, ...)``, and a
            box of the stride's size around each, ``(R_l, 4)``; then mask features
            ``(N, channels, H/8, W/8)``.
        """
        features = self.backbone(images)
        levels = [features[f] for f in self.head_in_features]
        anchors = [a.tensor for a in self.anchor_generator(levels)]
        mask_features = self.mask_branch([features[f] for f in self.mask_in_features])
        return (*self.head(levels), anchors, mask_features)

    def match_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> list[torch.Tensor]:
        """As FCOS's, with centre sampling around the masks' centres of mass.

        Args:
            anchors: of the levels, finest first.
            gt_instances: of each image: ``gt_boxes``, and ``gt_centers`` of
                :class:`~facenet_d2.data.SceneMapper` or ``gt_masks``.

        Returns:
            of each image the object of each position, -1 for none: ``(R,)`` int64.
        """
        # FCOS's cannot do with an image without objects.
        matched = [torch.full((sum(map(len, anchors)),), -1, device=self.device)] * len(
            gt_instances
        )
        for i, gt in enumerate(gt_instances):
            if len(gt):
                boxes = _MassCenteredBoxes(gt.gt_boxes.tensor, mask_centers(gt))
                one = Instances(gt.image_size, gt_boxes=boxes)
                (matched[i],) = super().match_anchors(anchors, [one])
        return matched

    def _ema_update(
        self, name: str, value: float, initial_value: float, momentum: float = 0.9
    ) -> float:
        # Losses are divided by the positives of the batch, the mean over the processes, as
        # published. Detectron2's moving average is not in checkpoints, so that a resumed run would
        # not be what it would have been.
        if comm.get_world_size() == 1:
            return value
        mean = torch.tensor(float(value), device=self.device)
        dist.all_reduce(mean)
        return mean.item() / comm.get_world_size()

    def losses(
        self,
        logits: list[torch.Tensor],
        distances: list[torch.Tensor],
        centerness: list[torch.Tensor],
        parameters: list[torch.Tensor],
        anchors: list[torch.Tensor],
        mask_features: torch.Tensor,
        gt_instances: Sequence[Instances],
    ) -> dict[str, torch.Tensor]:
        """FCOS's losses, and ``loss_mask``, the mean Dice loss of the positive positions.

        Args:
            logits: and the others, as :meth:`predict` gives them.
            distances: of the boxes.
            centerness: logits.
            parameters: of the mask heads.
            anchors: of the positions.
            mask_features: of the images.
            gt_instances: of each image.
        """
        places = [Boxes(a) for a in anchors]
        matched = self.match_anchors(places, gt_instances)
        labels, boxes = [], []
        for owners, gt in zip(matched, gt_instances, strict=True):
            # The last entry is what -1 finds.
            classes = torch.cat([gt.gt_classes, gt.gt_classes.new_tensor([self.num_classes])])
            nothing = gt.gt_boxes.tensor.new_zeros(1, 4)
            labels.append(classes[owners])
            boxes.append(Boxes(torch.cat([gt.gt_boxes.tensor, nothing])[owners]))
        logits, distances, centerness = (
            [x.float() for x in levels] for levels in (logits, distances, centerness)
        )
        # The focal loss of Detectron2's is compiled, and from its third call on rounds otherwise: a
        # resumed run would not be what it would have been.
        with torch.jit.optimized_execution(False):
            losses = FCOS.losses(self, places, logits, labels, distances, boxes, centerness)
        every, scale = torch.cat(anchors), self._scales(anchors)
        parameters = torch.cat(parameters, dim=1)
        scores = torch.cat(logits, dim=1).detach().sigmoid() * (
            torch.cat(centerness, dim=1).detach().sigmoid()
        )
        size = tuple(2 * s for s in mask_features.shape[-2:])
        each = []
        for i, (owners, gt) in enumerate(zip(matched, gt_instances, strict=True)):
            if len(gt) == 0:
                continue
            classes = labels[i].clamp(max=self.num_classes - 1)
            of_class = scores[i].gather(1, classes[:, None])[:, 0]
            some = best_of_each(owners, of_class, max(1, self.max_masks // len(gt)))
            if len(some) == 0:
                continue
            masks = self.masks(
                parameters[i, some], every[some], scale[some], mask_features[i], logits=False
            )
            each.append(dice_loss(masks, stride4_masks(gt, size)[owners[some]].float()))
        # Also where there is nothing to be found, every parameter is in the graph.
        zero = 0.0 * (mask_features.float().sum() + parameters.float().sum())
        return {**losses, "loss_mask": zero + (torch.cat(each).mean() if each else 0.0)}

    @staticmethod
    def _scales(anchors: list[torch.Tensor]) -> torch.Tensor:
        """What relative coordinates of each position are divided by, ``(R,)``."""
        every = torch.cat(anchors)
        return (every[:, 2] - every[:, 0]) * SIZE_OF_INTEREST

    def masks(
        self,
        parameters: torch.Tensor,
        anchors: torch.Tensor,
        scales: torch.Tensor,
        mask_features: torch.Tensor,
        *,
        logits: bool = False,
    ) -> torch.Tensor:
        """The masks of K instances of one image, ``(K, H/4, W/4)``: probabilities, or logits.

        Args:
            parameters: ``(K, num_parameters)``.
            anchors: of the positions they were found at, ``(K, 4)``.
            scales: of their relative coordinates, ``(K,)``.
            mask_features: of the image, ``(channels, H/8, W/8)``.
            logits: give these.
        """
        centers = (anchors[:, :2] + anchors[:, 2:]) / 2
        with torch.autocast(mask_features.device.type, enabled=False):
            small = self.mask_head(
                mask_features.float(), parameters.float(), centers, scales, MASK_FEATURE_STRIDE
            )
        # The instances as a batch, which may be empty; channels may not.
        small = small[:, None]
        large = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)[:, 0]
        return large if logits else large.sigmoid()

    @torch.no_grad()
    def inference(
        self,
        logits: list[torch.Tensor],
        distances: list[torch.Tensor],
        centerness: list[torch.Tensor],
        parameters: list[torch.Tensor],
        anchors: list[torch.Tensor],
        mask_features: torch.Tensor,
        input_sizes: Sequence[tuple[int, int]],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Instances]:
        """FCOS's boxes, each with its mask.

        Args:
            logits: and the others, as :meth:`predict` gives them.
            distances: of the boxes.
            centerness: logits.
            parameters: of the mask heads.
            anchors: of the positions.
            mask_features: of the images.
            input_sizes: (height, width) of each image as the network saw it, without padding.
            image_sizes: (height, width) of each result.
        """
        firsts = torch.tensor([0, *(len(a) for a in anchors)]).cumsum(0).tolist()
        every, scale = torch.cat(anchors), self._scales(anchors)
        all_distances, parameters = torch.cat(distances, dim=1), torch.cat(parameters, dim=1)
        results = []
        for i, (input_size, image_size) in enumerate(zip(input_sizes, image_sizes, strict=True)):
            places, classes, scores = [], [], []
            for first, level_logits, level_centerness in zip(firsts, logits, centerness):
                score = (
                    level_logits[i].float().sigmoid() * level_centerness[i].float().sigmoid()
                ).sqrt()
                place, of_class = (score > self.test_score_thresh).nonzero(as_tuple=True)
                found = score[place, of_class]
                best = found.argsort(descending=True, stable=True)[: self.test_topk_candidates]
                places.append(first + place[best])
                classes.append(of_class[best])
                scores.append(found[best])
            place, of_class, score = torch.cat(places), torch.cat(classes), torch.cat(scores)
            boxes = self.box2box_transform.apply_deltas(
                all_distances[i, place].float(), every[place]
            )
            keep = batched_nms(boxes, score, of_class, self.test_nms_thresh)
            keep = keep[: self.max_detections_per_image]
            place = place[keep]
            detected = Instances(
                tuple(input_size),
                pred_boxes=Boxes(boxes[keep]),
                scores=score[keep],
                pred_classes=of_class[keep],
            )
            masks = self.masks(parameters[i, place], every[place], scale[place], mask_features[i])
            results.append(with_full_masks(detected, masks, image_size, self.mask_threshold))
        return results


class _MassCenteredBoxes(Boxes):
    """Boxes that say that their centres are where their masks' are."""

    def __init__(self, tensor: torch.Tensor, centers: torch.Tensor) -> None:
        super().__init__(tensor)
        self.centers = centers

    def get_centers(self) -> torch.Tensor:
        return self.centers


def mask_centers(instances: Instances) -> torch.Tensor:
    """Centres of mass of ground-truth masks, ``(N, 2)``: (x, y) in pixels of the input."""
    if instances.has("gt_centers"):
        centers = instances.gt_centers
    else:
        centers = torch.stack(mass_centers(full_size_masks(instances)), dim=1)
    # Of pixels by number; the middle of the first is at 0.5.
    return centers.float() + 0.5


def best_of_each(owners: torch.Tensor, scores: torch.Tensor, limit: int) -> torch.Tensor:
    """Of the positions of each object the best ``limit``, all of fewer.

    Args:
        owners: the object of each position, ``(R,)`` int64, -1 for none.
        scores: ``(R,)``.
        limit: how many.

    Returns:
        the positions, int64.
    """
    found = (owners >= 0).nonzero()[:, 0]
    found = found[scores[found].argsort(descending=True, stable=True)]
    # Object by object, in each from the best score on.
    found = found[owners[found].argsort(stable=True)]
    own = owners[found]
    rank = torch.arange(len(own), device=own.device) - torch.searchsorted(own, own)
    return found[rank < limit]
