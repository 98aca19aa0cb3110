"""Table 2 of the paper by the rules of the tools that its numbers come from.

The rules were found by counting variants of the models until the paper's numbers were met; see
docs/TABLES.md. Models are built on the device "meta": nothing is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler
from torch import nn

from ..modeling import SOLO, QueryInst
from ..modeling.layers import ModulatedDeformConv2d
from .counter import OperatorCounter
from .parts import count_parameters

# Inputs of the heads of R-CNNs in MMDetection's counts.
BOXES, MASKS = 1000, 100


@dataclass(frozen=True)
class Tool:
    """A program that counts parameters and multiply-adds.

    No tool counts the multiply-adds of deformable convolutions, only those of their offsets.

    Attributes:
        name: name in the printed table.
        weights: weights of the kinds of :func:`~.operators.count_operations`. These tools only see
            modules, not the functions that MMDetection calls in the RPN and for p6 and p7.
        frozen: whether the parameters include those of the frozen layers.
        in_1024s: whether the tool rounds to three decimals of the next larger unit from a tenth of
            it on (10^11 multiply-adds are 0.1 T, 10^8 parameters 0.1 G), and the paper converted
            the result with a factor of 1024.
    """

    name: str
    weights: Mapping[str, int]
    frozen: bool = False
    in_1024s: bool = False

    def printed(self, value: int, unit: float) -> float:
        """Return a count as the paper prints it.

        Args:
            value: the count.
            unit: the unit in the paper: 10^6 for parameters, 10^9 for multiply-adds.
        """
        if not self.in_1024s:
            return value / unit
        own = next(u for u in (1e12, 1e9, 1e6, 1.0) if value > u / 10 or u == 1.0)
        shown = round(value / own, 3)
        return shown * 1024 if own == 1e3 * unit else shown * own / unit


_MODULES = {"bias": 1, "rectifier": 1, "pooling": 1, "batch norm": 2}
MMDETECTION_1 = Tool("MMDetection 1", {**_MODULES, "transposed": 1})
MMDETECTION_2 = Tool("MMDetection 2", _MODULES)
MMDETECTION_3 = Tool("MMDetection 3", {}, frozen=True, in_1024s=True)
SOLO_TOOL = Tool("SOLO's repository", {**_MODULES, "group norm": 4})


@dataclass(frozen=True)
class PaperRule:
    """How a row of Table 2 was counted.

    Attributes:
        tool: program that counted.
        num_classes: number of classes.
        input_size: (height, width) of the image after padding.
        depth: depth of the ResNet.
        caffe: whether the ResNet's strides are in its 1x1 convolutions, not in the 3x3 ones.
        left_out: prefixes of the names of modules that were not run; their parameters count.
        background: whether boxes and masks have outputs for the background too.
        mask_heads: number of mask heads; this project's model has one.
        model: name of the file in configs/models, if it is not the row's.
        note: what else there is to say.
    """

    tool: Tool
    num_classes: int
    input_size: tuple[int, int]
    depth: int = 101
    caffe: bool = False
    left_out: tuple[str, ...] = ()
    background: bool = False
    mask_heads: int = 1
    model: str = ""
    note: str = ""

    def describe(self) -> str:
        """Return the rule as a comma-separated list."""
        height, width = self.input_size
        parts = [f"{self.num_classes} classes", f"{height}x{width}", f"ResNet-{self.depth}"]
        if self.caffe:
            parts[-1] += " with Caffe's strides"
        if self.background:
            parts.append("outputs for the background too")
        if self.mask_heads > 1:
            parts.append(f"{self.mask_heads} mask heads")
        parts.append(self.tool.name)
        if not self.tool.frozen:
            parts.append("no frozen parameters")
        if self.note:
            parts.append(self.note)
        return ", ".join(parts)


# By the name of the row.
PAPER_RULES: Mapping[str, PaperRule] = {
    "Mask R-CNN": PaperRule(MMDETECTION_1, 80, (800, 1280), background=True),
    "Mask Scoring R-CNN": PaperRule(MMDETECTION_3, 80, (800, 1088), caffe=True),
    "PointRend": PaperRule(
        MMDETECTION_3, 80, (800, 1088), depth=50, caffe=True, note="without the point head"
    ),
    "Cascade Mask R-CNN": PaperRule(MMDETECTION_2, 80, (800, 1280), mask_heads=3),
    "YOLACT": PaperRule(MMDETECTION_3, 80, (576, 576)),
    "RDSNet": PaperRule(
        MMDETECTION_1,
        15,
        (800, 800),
        left_out=("pixel_branch.",),
        note="without the pixel branch and masks",
    ),
    "QueryInst": PaperRule(MMDETECTION_3, 80, (800, 1088)),
    "SOLO": PaperRule(SOLO_TOOL, 10, (800, 1280), note="masks of all cells"),
    "SOLOv2": PaperRule(
        SOLO_TOOL,
        10,
        (800, 1280),
        left_out=("mask_head.",),
        model="solov2_four_levels",
        note="four levels, without mask features and masks",
    ),
    "FACENet": PaperRule(
        SOLO_TOOL,
        10,
        (800, 1280),
        left_out=("mask_head.",),
        model="facenet_four_levels",
        note="like SOLOv2 (assumed)",
    ),
}


def count_as_paper(model: nn.Module, rule: PaperRule) -> tuple[float, float]:
    """Count a model by the rule of its row.

    Args:
        model: the rule's model in evaluation mode, with random weights or on the device "meta".
            Its layers are changed if the rule has outputs for the background.
        rule: an entry of :data:`PAPER_RULES`.

    Returns:
        Parameters in 10^6 and multiply-adds in 10^9, as the paper prints them.
    """
    if rule.background:
        _add_background(model)
    counter = OperatorCounter(model, lambda name: _part_of(model, name, rule.left_out))
    device = next(model.parameters()).device
    with torch.no_grad(), torch.device(device), counter:
        _run_network(model, torch.zeros(1, 3, *rule.input_size))
    multiply_adds = 0
    for part, counts in counter.parts.items():
        weights = dict(rule.tool.weights)
        if part in ("neck", "RPN"):
            # Functions there, not modules.
            weights |= {"pooling": 0, "rectifier": 0}
        number = counts.published(weights)
        if part == "deformable":
            number -= counts.multiply_adds
        heads = rule.mask_heads if part == "mask head" else 1
        multiply_adds += heads * number if part != "left out" else 0
    parameters = count_parameters(model)
    if rule.mask_heads > 1:
        parameters += (rule.mask_heads - 1) * count_parameters(
            model.get_submodule("roi_heads.mask_head")
        )
    if not rule.tool.frozen:
        # MMDetection freezes the stem and the first stage.
        frozen = ("backbone.bottom_up.stem", "backbone.bottom_up.res2")
        parameters -= sum(count_parameters(model.get_submodule(name)) for name in frozen)
    return rule.tool.printed(parameters, 1e6), rule.tool.printed(multiply_adds, 1e9)


def _part_of(model: nn.Module, name: str, left_out: tuple[str, ...]) -> str:
    """Return the part of the model that a module is counted in."""
    if f"{name}.".startswith(left_out):
        return "left out"
    if isinstance(model.get_submodule(name), ModulatedDeformConv2d):
        # The convolution of its offsets is a module of its own.
        return "deformable"
    parts = {
        "backbone.bottom_up.": "backbone",
        "backbone.": "neck",
        "proposal_generator.": "RPN",
        "roi_heads.mask_head.": "mask head",
    }
    return next((part for p, part in parts.items() if f"{name}.".startswith(p)), "other")


def _run_network(model: Any, image: torch.Tensor) -> None:
    """Run the layers that the paper's tools count, without the selection of instances.

    Args:
        model: model in evaluation mode.
        image: normalised image, ``(1, 3, H, W)``.
    """
    if isinstance(model, QueryInst):
        model.backbone(image)
        _run_query_heads(model)
        return
    if not isinstance(model, GeneralizedRCNN):
        predictions = model.predict(image)
        if isinstance(model, SOLO):
            for level, (grid, maps) in enumerate(
                zip(model.layout.num_grids, predictions.mask_maps, strict=True)
            ):
                model.mask_head.logits(
                    model.mask_head.prepare(maps[0]), level, torch.arange(grid * grid)
                )
        return
    features = model.backbone(image)
    rpn, heads = model.proposal_generator, model.roi_heads
    rpn.rpn_head([features[name] for name in rpn.in_features])
    channels = features["p2"].shape[1]
    boxes = torch.zeros(BOXES, channels, 7, 7)
    cascaded = isinstance(heads.box_head, nn.ModuleList)
    stages = heads.box_head if cascaded else [heads.box_head]
    predictors = heads.box_predictor if cascaded else [heads.box_predictor]
    for box_head, predictor in zip(stages, predictors, strict=True):
        predictor(box_head(boxes))
    masks = torch.zeros(MASKS, channels, 14, 14)
    head = heads.mask_head
    if hasattr(head, "coarse_head"):
        head.coarse_head(masks)
        return
    logits = head.layers(masks)
    if hasattr(head, "iou_head"):
        head.iou_head(masks, logits[:, 0])


def _run_query_heads(model: QueryInst) -> None:
    """Run all box heads and the last mask head; RoIs cannot be pooled without values."""
    queries = model.query_features.weight.detach()[None]
    for head in model.box_heads:
        _, _, attended, queries = head(queries, _rois(model, model.box_pooler))
    model.mask_heads[-1](attended[0], _rois(model, model.mask_pooler))


def _rois(model: QueryInst, pooler: ROIPooler) -> torch.Tensor:
    return torch.zeros(model.num_queries, model.query_features.embedding_dim, *pooler.output_size)


def _add_background(model: GeneralizedRCNN) -> None:
    """Add the outputs for the background that the boxes and masks of MMDetection 1 have."""
    heads = model.roi_heads
    device = next(model.parameters()).device
    outputs = heads.num_classes + 1
    boxes, masks = heads.box_predictor.bbox_pred, heads.mask_head.predictor
    heads.box_predictor.bbox_pred = nn.Linear(boxes.in_features, 4 * outputs, device=device)
    heads.mask_head.predictor = nn.Conv2d(masks.in_channels, outputs, 1, device=device)
