"""Networks with the outputs of Ultralytics' segmentation models.

Their masks are ``sigmoid(coefficients @ prototypes) > 0.5``. That is what SOLOv2 computes with the
kernels of cells and the mask features, and YOLACT with coefficients and prototypes. Windows add six
coefficients, whose prototypes are position maps. Readers take the number of coefficients from the
shapes: it need not be 32.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances

from ..errors import UserError
from ..modeling.grids.selection import InferenceSettings, suppress_neighbours
from ..modeling.instance_model import InstanceModel
from ..modeling.postprocessing import with_full_masks
from ..modeling.shapes import spatial_size
from ..modeling.solov2 import SOLOv2
from ..modeling.solov2.window import position_maps, window_coefficients
from ..modeling.yolact import YOLACT
from ..modeling.yolact.fast_nms import fast_nms
from ..runtime.description import ModelDescription
from ..structures.enlarge import enlarge_masks
from ..structures.masks import MASK_STRIDE
from .networks import ExportedNetwork

RESERVED_ROWS = 6
"""Number of rows that Ultralytics takes for the sign of another format."""


class YoloSegNetwork(ExportedNetwork):
    """Base class of the networks of the contract "yolo-seg".

    The output "output0" is ``(1, 4 + C + E, A)``: for each of A rows the box (x and y of the
    centre, width, height) in pixels of the input, the score of each class, and E coefficients.
    "output1" are the prototypes, ``(1, E, S / stride, S / stride)``.

    Attributes:
        size: side S of the image.
        stride: stride of the prototypes.
    """

    stride = MASK_STRIDE

    def __init__(
        self,
        model: InstanceModel[Any],
        description: ModelDescription,
        *,
        size: int,
        deform: str,
        mask_threshold: float,
    ) -> None:
        """
        Args:
            model: trained model.
            description: description of the model.
            size: side of the image.
            deform: form of deformable convolutions.
            mask_threshold: minimum probability of a mask's pixels.
        """
        super().__init__(model, description, deform=deform)
        self.size = size
        self.mask_logit = math.log(mask_threshold / (1 - mask_threshold))

    @property
    def fixed_size(self) -> int:
        return self.size

    def scene_values(self, images: torch.Tensor) -> torch.Tensor:
        """Convert RGB from 0 to 1, ``(1, 3, S, S)``, to the values of the model's images."""
        images = images * 255.0
        return images.flip(1) if self.description.channel_order == "BGR" else images

    def outputs(
        self,
        boxes: torch.Tensor,
        scores: torch.Tensor,
        coefficients: torch.Tensor,
        prototypes: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Arrange predictions as the two outputs.

        Args:
            boxes: (x0, y0, x1, y1) in pixels of the input, ``(1, A, 4)``.
            scores: ``(1, A, C)``.
            coefficients: ``(1, A, E)``.
            prototypes: ``(1, E, S / stride, S / stride)``.
        """
        if self.mask_logit:
            # Readers compare logits with 0: a constant prototype shifts them by the threshold.
            shift = torch.full_like(coefficients[:, :, :1], -self.mask_logit)
            coefficients = torch.cat([coefficients, shift], dim=2)
            prototypes = torch.cat([prototypes, torch.ones_like(prototypes[:, :1])], dim=1)
        low, high = boxes[..., :2], boxes[..., 2:]
        rows = torch.cat([(low + high) / 2, high - low, scores, coefficients], dim=2)
        if rows.shape[1] == RESERVED_ROWS:
            rows = F.pad(rows, (0, 0, 0, 1))
        return rows.transpose(1, 2), prototypes

    @abstractmethod
    def instances(
        self, rows: torch.Tensor, prototypes: torch.Tensor, size: tuple[int, int]
    ) -> Instances:
        """Return the instances of an image, with masks enlarged by the model's own rule.

        Args:
            rows: ``output0`` of the image, ``(4 + C + E, A)``.
            prototypes: ``output1`` of the image, ``(E, S / stride, S / stride)``.
            size: (height, width) of the image without padding.
        """

    def _columns(
        self, rows: torch.Tensor, prototypes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return boxes, scores, coefficients and prototypes without the shift of the threshold."""
        count = len(rows) - 4 - len(prototypes)
        centers, sizes, scores, coefficients = rows.T.split([2, 2, count, len(prototypes)], dim=1)
        boxes = torch.cat([centers - sizes / 2, centers + sizes / 2], dim=1)
        if self.mask_logit:
            coefficients, prototypes = coefficients[:, :-1], prototypes[:-1]
        return boxes, scores, coefficients, prototypes


class GridYoloSeg(YoloSegNetwork):
    """SOLOv2 and FACENet, followed by the selection of instances, as in ``GridModel.inference``.

    The number of candidates is fixed. Rows beyond the instances have the score 0.
    """

    model: SOLOv2

    def __init__(
        self,
        model: SOLOv2,
        description: ModelDescription,
        *,
        size: int,
        deform: str,
        max_candidates: int,
    ) -> None:
        """
        Args:
            model: trained model.
            description: description of the model.
            size: side of the image.
            deform: form of deformable convolutions.
            max_candidates: maximum number of candidates, pairs of a cell and a class, whose masks
                are computed.
        """
        self.settings: InferenceSettings = model.settings
        self.stride = model.mask_stride
        super().__init__(
            model,
            description,
            size=size,
            deform=deform,
            mask_threshold=self.settings.mask_threshold,
        )
        pairs = model.layout.num_cells * model.num_classes
        self.num_candidates = min(max_candidates, self.settings.nms_pre, pairs)
        self.num_rows = min(self.settings.max_instances, self.num_candidates)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict ``output0`` and ``output1`` for RGB from 0 to 1, ``(1, 3, S, S)``."""
        model = self.model
        predictions = self.predictions(self.scene_values(images))
        num_classes = predictions.logits.shape[2]
        scores = predictions.logits.sigmoid()
        if self.settings.points_nms:
            scores = suppress_neighbours(scores, model.layout.num_grids)
        scores, pairs = scores.flatten(1).topk(self.num_candidates)
        cells, classes = pairs // num_classes, pairs % num_classes
        kernels, features = _rows(predictions.kernels, cells), predictions.mask_features
        if predictions.windows is not None:
            windows = _rows(predictions.windows, cells)
            coefficients = window_coefficients(windows, model.cell_positions[cells])
            maps = position_maps(spatial_size(features), features.device)
            kernels = torch.cat([kernels, coefficients], dim=2)
            features = torch.cat([features, maps.unflatten(1, features.shape[2:])[None]], dim=1)
        # One row per mask, (1, K, pixels): positive inside the mask.
        logits = kernels @ features.flatten(2) - self.mask_logit
        inside = (logits > 0).float()
        area = inside.sum(dim=2)
        probabilities = (logits + self.mask_logit).sigmoid() * inside
        maskness = probabilities.sum(dim=2) / area.clamp(min=1)
        large = area > model.cell_min_areas.to(area.dtype)[cells]
        scores = scores * maskness * (large & (scores > self.settings.score_threshold))
        scores = scores * self._decay(scores, classes, inside, area)
        scores = scores * (scores >= self.settings.update_threshold)
        scores, best = scores.topk(self.num_rows)
        found = scores[:, :, None]
        boxes = self._boxes(_rows(logits, best)) * (found > 0)
        one_hot = F.one_hot(classes.gather(1, best), num_classes).to(scores.dtype)
        return self.outputs(boxes, found * one_hot, _rows(kernels, best), features)

    def instances(
        self, rows: torch.Tensor, prototypes: torch.Tensor, size: tuple[int, int]
    ) -> Instances:
        _, scores, coefficients, prototypes = self._columns(rows, prototypes)
        best, classes = scores.max(dim=1)
        order = best.argsort(descending=True)
        order = order[best[order] > 0]
        logits = (coefficients[order] @ prototypes.flatten(1)).unflatten(1, prototypes.shape[1:])
        result = Instances(size)
        result.pred_masks = enlarge_masks(
            logits.sigmoid(), size, size, self.settings.mask_threshold, stride=self.stride
        )
        result.pred_classes = classes[order]
        result.scores = best[order]
        return result

    def _decay(
        self, scores: torch.Tensor, classes: torch.Tensor, inside: torch.Tensor, area: torch.Tensor
    ) -> torch.Tensor:
        """Return the factor of Matrix NMS for each candidate, in any order, ``(1, K)``.

        Args:
            scores: ``(1, K)``; 0 for candidates that are dropped.
            classes: ``(1, K)`` int64.
            inside: 1 inside the masks, otherwise 0, ``(1, K, pixels)``.
            area: area of each mask, ``(1, K)``.
        """
        settings = self.settings
        place = torch.arange(scores.shape[1], device=scores.device)
        # Row i, column j: whether i precedes j in the order of scores, and has its class.
        first, second = scores[:, :, None], scores[:, None, :]
        precedes = (first > second) | ((first == second) & (place[:, None] < place))
        related = precedes & (classes[:, :, None] == classes[:, None, :])
        shared = inside @ inside.transpose(1, 2)
        union = area[:, :, None] + area[:, None, :] - shared
        iou = shared / union.clamp(min=1) * related
        covered = iou.amax(dim=1)[:, :, None]
        if settings.nms_kernel == "gaussian":
            overlap = (iou.square() - covered.square()).amax(dim=1)
            return torch.exp(-settings.nms_sigma * overlap)
        return ((1 - iou) / (1 - covered).clamp(min=1e-6)).amin(dim=1)

    def _boxes(self, logits: torch.Tensor) -> torch.Tensor:
        """Return boxes that contain the enlarged masks and are tight around most of them.

        The side of a mask is where the largest logits of its columns, enlarged as readers enlarge
        masks, become positive. Tight boxes would need the enlarged masks.

        Args:
            logits: ``(1, A, pixels)``.

        Returns:
            (x0, y0, x1, y1) in pixels of the input, ``(1, A, 4)``.
        """
        side = self.size // self.stride
        maps = logits.unflatten(2, (side, side))
        line = torch.arange(self.size, device=logits.device)
        low, high = [], []
        for dim in (2, 3):  # Columns, then rows.
            profile = F.interpolate(
                maps.amax(dim=dim), scale_factor=self.stride, mode="linear", align_corners=False
            )
            seen = profile > 0
            low.append(torch.where(seen, line, self.size).amin(dim=2))
            high.append(torch.where(seen, line + 1, 0).amax(dim=2))
        return torch.stack([*low, *high], dim=2).to(logits.dtype)


class AnchorYoloSeg(YoloSegNetwork):
    """YOLACT before Fast NMS, whose place the reader's own NMS takes: one row for each anchor."""

    model: YOLACT

    def __init__(
        self, model: YOLACT, description: ModelDescription, *, size: int, deform: str
    ) -> None:
        """
        Args:
            model: trained model.
            description: description of the model.
            size: side of the image.
            deform: form of deformable convolutions.
        """
        super().__init__(
            model, description, size=size, deform=deform, mask_threshold=model.mask_threshold
        )

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict ``output0`` and ``output1`` for RGB from 0 to 1, ``(1, 3, S, S)``."""
        predictions = self.predictions(self.scene_values(images))
        boxes = self.model.box_transform.apply_deltas(predictions.deltas[0], predictions.anchors)
        return self.outputs(
            boxes[None].clamp(0, self.size),
            predictions.logits.softmax(dim=2)[:, :, :-1],
            predictions.coefficients,
            predictions.prototypes,
        )

    def instances(
        self, rows: torch.Tensor, prototypes: torch.Tensor, size: tuple[int, int]
    ) -> Instances:
        model = self.model
        boxes, scores, coefficients, prototypes = self._columns(rows, prototypes)
        clipped = Boxes(boxes)
        clipped.clip(size)
        kept, classes = fast_nms(
            clipped.tensor,
            scores,
            score_threshold=model.score_threshold,
            iou_threshold=model.nms_threshold,
            top_k=model.top_k,
            max_instances=model.max_instances,
        )
        result = Instances(
            size,
            pred_boxes=clipped[kept],
            scores=scores[kept, classes],
            pred_classes=classes,
        )
        masks = model.masks(coefficients[kept], prototypes, clipped.tensor[kept])
        return with_full_masks(result, masks, size, model.mask_threshold)


def yolo_seg_network(
    model: InstanceModel[Any],
    description: ModelDescription,
    *,
    size: int,
    deform: str,
    max_candidates: int,
) -> YoloSegNetwork:
    """Build the network of the contract "yolo-seg".

    Args:
        model: trained model.
        description: description of the model.
        size: side of the image.
        deform: form of deformable convolutions.
        max_candidates: see :class:`GridYoloSeg`.

    Raises:
        UserError: if the model's masks are not sums of prototypes, its images are not pictures, or
            the size is not divisible.
    """
    if description.reads_rasters or len(description.pixel_mean) != 3:
        raise UserError(
            "--contract yolo-seg is for pictures of three 8-bit colours, but this model has "
            "INPUT.BANDS, INPUT.STRETCH or another number of channels; use --contract raw."
        )
    # The masks and prototypes of stride 4 must cover the image.
    divisor = math.lcm(description.size_divisibility, MASK_STRIDE)
    if size % divisor or size < divisor:
        raise UserError(f"--size is {size}; it must be a multiple of {divisor}.")
    if isinstance(model, SOLOv2):
        return GridYoloSeg(
            model, description, size=size, deform=deform, max_candidates=max_candidates
        )
    if isinstance(model, YOLACT):
        return AnchorYoloSeg(model, description, size=size, deform=deform)
    raise UserError(
        f"--contract yolo-seg is for SOLOv2, FACENet and YOLACT, whose masks are sums of shared "
        f"maps, not for {description.meta_architecture}; use --contract raw."
    )


def _rows(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Select rows: ``(1, R, D)`` and ``(1, K)`` to ``(1, K, D)``."""
    return values.gather(1, index[:, :, None].expand(-1, -1, values.shape[2]))
