"""One inference of each kind of model, and the names of the model's parts.

To be independent of what a network with random weights detects, masks are computed for a given
number of instances at fixed places. Post-processing is not included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, Instances
from torch import nn

from ..errors import UserError
from ..modeling import SOLO, YOLACT, CondInst, Mask2Former, QueryInst, RDSNet, SOLOv2
from ..modeling.grids import GridModel

# Context manager that attributes operators outside of modules to a part.
Part = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Plan:
    """One inference of a model.

    Attributes:
        run: function of an image ``(3, H, W)`` with values up to 255, and of :data:`Part`.
        prefixes: parts by prefix of the modules' names; the first matching prefix applies.
        what: sentence that describes the inference.
    """

    run: Callable[[torch.Tensor, Part], None]
    prefixes: Mapping[str, str]
    what: str

    def part_of(self, name: str) -> str:
        """Return the part of a module or a parameter by its name in the model.

        Without a matching prefix, the part is named after the attribute of the model.
        """
        for prefix, part in self.prefixes.items():
            if f"{name}.".startswith(prefix):
                return part
        return name.partition(".")[0].replace("_", " ") or "other"


def plan_inference(model: nn.Module, instances: int) -> Plan:
    """Plan one inference of a model.

    Args:
        model: model in evaluation mode.
        instances: number of instances whose masks are computed.

    Raises:
        UserError: if the model cannot find that many instances.
    """
    backbone = getattr(model, "backbone", None)
    prefixes = (
        {"backbone.bottom_up.": "backbone", "backbone.": "neck"}
        if hasattr(backbone, "bottom_up")
        else {"backbone.": "backbone"}
    )
    for kind, plan in PLANS.items():
        if isinstance(model, kind):
            own = plan(model, instances)
            if own is not None:
                return Plan(own.run, {**prefixes, **own.prefixes}, own.what)

    def run(image: torch.Tensor, part: Part) -> None:
        model([{"image": image}])

    what = (
        "One inference is a whole call of the model, including post-processing. The counts may "
        "depend on what a network with random weights detects."
    )
    return Plan(run, prefixes, what)


def _masks_part(instances: int) -> str:
    return f"masks of {instances} instances"


def _what(instances: int) -> str:
    return f"One inference runs the network and computes the masks of {instances} instances."


def _spread(places: int, instances: int, what: str) -> torch.Tensor:
    """Return indices of evenly spread places for the instances."""
    if instances > places:
        raise UserError(f"{instances} instances are too many: the model has {places} {what}.")
    return torch.arange(instances) * places // max(instances, 1)


def _grid_model(model: GridModel[Any], instances: int) -> Plan:
    cells = _spread(model.layout.num_cells, instances, "cells")

    def run(image: torch.Tensor, part: Part) -> None:
        predictions = model.predict(model.preprocess_image([{"image": image}]).tensor)
        with part(_masks_part(instances)):
            model.cell_masks(predictions, 0, cells.to(model.device)).logits()

    prefixes = {
        "instance_head.category_": "category branch",
        "instance_head.kernel_": "kernel branch",
        "instance_head.window_": "kernel branch",
        "category_head.": "category branch",
        "mask_head.": "mask branch" if isinstance(model, SOLO) else "mask features",
    }
    return Plan(run, prefixes, _what(instances))


def _yolact(model: YOLACT, instances: int) -> Plan:
    def run(image: torch.Tensor, part: Part) -> None:
        predictions = model.predict(model.preprocess_image([{"image": image}]).tensor)
        anchors = predictions.anchors
        some = _spread(len(anchors), instances, "anchors").to(model.device)
        with part(_masks_part(instances)):
            model.masks(predictions.coefficients[0, some], predictions.prototypes[0], anchors[some])

    prefixes = {
        "anchor_head.": "anchor head",
        "prototype_head.": "prototypes",
        "semantic_head.": "training's head",
    }
    return Plan(run, prefixes, _what(instances))


def _condinst(model: CondInst, instances: int) -> Plan:
    def run(image: torch.Tensor, part: Part) -> None:
        predictions = model.predict(model.preprocess_image([{"image": image}]).tensor)
        anchors = torch.cat(predictions.anchors)
        some = _spread(len(anchors), instances, "positions").to(model.device)
        with part(_masks_part(instances)):
            parameters = torch.cat(predictions.parameters, dim=1)[0, some]
            model.masks(parameters, anchors[some], predictions.mask_features[0])

    prefixes = {
        "head.": "head",
        "mask_branch.": "mask features",
        "mask_head.": _masks_part(instances),
    }
    return Plan(run, prefixes, _what(instances))


def _rdsnet(model: RDSNet, instances: int) -> Plan:
    def run(image: torch.Tensor, part: Part) -> None:
        predictions = model.predict(model.preprocess_image([{"image": image}]).tensor)
        representations = torch.cat(predictions.representations, dim=1)[0]
        some = _spread(len(representations), instances, "anchors").to(model.device)
        with part(_masks_part(instances)):
            model.masks(representations[some], predictions.pixel_map[0])

    prefixes = {"anchor_head.": "anchor head", "pixel_branch.": "pixel branch"}
    return Plan(run, prefixes, _what(instances))


def _queryinst(model: QueryInst, instances: int) -> Plan:
    some = _spread(model.num_queries, instances, "queries")

    def run(image: torch.Tensor, part: Part) -> None:
        predictions = model.predict(model.preprocess_image([{"image": image}]).tensor)
        model.masks(predictions, 0, some.to(model.device))

    prefixes = {
        "query_": "queries",
        "box_heads.": "box heads",
        "mask_heads.": "mask heads",
        "mask_pooler.": "mask heads",
        "box_pooler.": "box heads",
    }
    return Plan(run, prefixes, _what(instances))


def _mask2former(model: Mask2Former, instances: int) -> Plan:
    _spread(model.num_queries, instances, "queries")

    def run(image: torch.Tensor, part: Part) -> None:
        model.predict(model.preprocess_image([{"image": image}]).tensor)

    what = f"One inference runs the network with the masks of all {model.num_queries} queries."
    return Plan(run, {}, what)


def given_boxes(count: int, height: int, width: int, device: torch.device) -> Boxes:
    """Return boxes with sides of 16 to 512 pixels all over an image, clipped to it."""
    i = torch.arange(count, device=device)
    half = 8.0 * 2 ** (i % 6)
    # Multiples of the golden ratio, modulo 1, are evenly spread.
    x = (i * 0.6180339887 % 1) * width
    y = (i + 0.5) / max(count, 1) * height
    boxes = Boxes(torch.stack([x - half, y - half, x + half, y + half], dim=1))
    boxes.clip((height, width))
    return boxes


def _rcnn(model: GeneralizedRCNN, instances: int) -> Plan | None:
    """Plan a full set of proposals for the box heads, as MMDetection counts, and then masks."""
    heads = model.roi_heads
    if model.proposal_generator is None or not hasattr(heads, "_forward_box"):
        return None
    proposals = model.proposal_generator.post_nms_topk[False]

    def run(image: torch.Tensor, part: Part) -> None:
        images = model.preprocess_image([{"image": image}])
        features = model.backbone(images.tensor)
        model.proposal_generator(images, features, None)
        height, width = size = images.image_sizes[0]
        boxes = given_boxes(proposals, height, width, image.device)
        proposed = Instances(size, proposal_boxes=boxes)
        heads._forward_box(features, [proposed])
        found = Instances(
            size,
            pred_boxes=given_boxes(instances, height, width, image.device),
            pred_classes=torch.arange(instances, device=image.device) % heads.num_classes,
            scores=torch.ones(instances, device=image.device),
        )
        heads.forward_with_given_boxes(features, [found])

    prefixes = {
        "proposal_generator.": "RPN",
        "roi_heads.box_": "box head",
        "roi_heads.mask_head.iou_head.": "mask IoU head",
        "roi_heads.mask_head.point_head.": "point head",
        "roi_heads.semantic_branch.": "semantic branch",
        "roi_heads.mask_": "mask head",
    }
    what = (
        f"One inference runs the network, with {proposals} boxes in the box head, and computes the "
        f"masks of {instances} instances."
    )
    return Plan(run, prefixes, what)


# A function returns None for models that it does not support.
PLANS: Mapping[type[nn.Module], Callable[..., Plan | None]] = {
    SOLOv2: _grid_model,
    SOLO: _grid_model,
    YOLACT: _yolact,
    CondInst: _condinst,
    RDSNet: _rdsnet,
    QueryInst: _queryinst,
    Mask2Former: _mask2former,
    GeneralizedRCNN: _rcnn,
}
