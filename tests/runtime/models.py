"""Small models with their descriptions, and their predictions as outputs of an exported file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from facenet_d2.runtime.description import (
    CondInstSettings,
    GridSettings,
    ModelDescription,
    Settings,
    YOLACTSettings,
)

MODELS = ("SOLOv2", "SOLO", "SOLO-decoupled", "YOLACT", "CondInst")


def change_config(cfg: CfgNode, name: str) -> None:
    """Turn the config of a small SOLOv2 into that of another small model."""
    cfg.MODEL.META_ARCHITECTURE = name.removesuffix("-decoupled")
    cfg.MODEL.SOLO.DECOUPLED = name.endswith("-decoupled")
    cfg.MODEL.SOLO.NUM_CONVS = 1
    cfg.MODEL.SOLO.CONV_CHANNELS = 32
    levels = ["p3", "p4", "p5", "p6"]
    cfg.MODEL.YOLACT.update(
        {"NUM_CLASSES": 3, "IN_FEATURES": levels, "CONV_CHANNELS": 32, "NUM_PROTOTYPES": 8}
    )
    cfg.MODEL.CONDINST.update(
        {
            "NUM_CLASSES": 3,
            "IN_FEATURES": levels,
            "CONV_CHANNELS": 32,
            "MASK_CONV_CHANNELS": 32,
            "MASK_NORM": "GN",
            "NUM_CONVS": 1,
        }
    )
    cfg.MODEL.SOLOV2.MIN_MASK_AREAS = [1, 1, 2, 4, 4]


def build(cfg: CfgNode, name: str) -> torch.nn.Module:
    """Build a model with random weights that detects instances of all classes everywhere."""
    change_config(cfg, name)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    if name == "SOLOv2" and cfg.MODEL.SOLOV2.MASK_WINDOW:
        torch.nn.init.normal_(model.instance_head.window_pred.weight, std=0.01)
    with torch.no_grad():
        for parameter in model.parameters():
            # Larger weights than at the start of a training: predictions that vary.
            if parameter.dim() > 1:
                parameter.mul_(1.5)
        scores = {
            "SOLOv2": lambda: model.instance_head.category_pred,
            "SOLO": lambda: model.category_head.predict,
            "SOLO-decoupled": lambda: model.category_head.predict,
            "CondInst": lambda: model.head.cls_score,
        }
        if name in scores:
            layer = scores[name]()
            layer.weight.mul_(30)
            layer.bias.fill_(-1.0)
        if name.startswith("SOLO-") or name == "SOLO":
            head = model.mask_head
            layers = head.predict if name == "SOLO" else [*head.predict_x, *head.predict_y]
            for layer in layers:
                layer.weight.mul_(100)
                # Factors above the threshold, for the products to reach it.
                layer.bias.fill_(0.0 if name == "SOLO" else 1.0)
    return model


def describe(
    cfg: CfgNode, model: Any, name: str, class_names: Sequence[str] = ("ship", "plane", "car")
) -> ModelDescription:
    """Describe a model by its own attributes."""
    settings: Settings
    if name == "YOLACT":
        settings = YOLACTSettings(
            model.score_threshold,
            model.nms_threshold,
            model.top_k,
            model.mask_threshold,
            model.max_instances,
            tuple(model.box_transform.weights),
            model.box_transform.scale_clamp,
        )
    elif name == "CondInst":
        settings = CondInstSettings(
            model.score_threshold,
            model.nms_threshold,
            model.top_k,
            model.mask_threshold,
            model.max_instances,
            mask_channels=8,
            dynamic_channels=8,
            dynamic_convs=3,
            mask_feature_stride=8,
            size_of_interest=8.0,
        )
    else:
        settings = GridSettings(
            num_grids=tuple(model.layout.num_grids),
            min_mask_areas=tuple(
                a * (4 // model.mask_stride) ** 2 for a in cfg.MODEL.SOLOV2.MIN_MASK_AREAS
            ),
            mask_stride=model.mask_stride,
            windows=cfg.MODEL.SOLOV2.MASK_WINDOW,
            decoupled=name == "SOLO-decoupled",
            **vars(model.settings),
        )
    return ModelDescription(
        contract="raw",
        meta_architecture=cfg.MODEL.META_ARCHITECTURE,
        settings=settings,
        class_names=tuple(class_names),
        channel_order=cfg.INPUT.FORMAT,
        pixel_mean=tuple(cfg.MODEL.PIXEL_MEAN),
        pixel_std=tuple(cfg.MODEL.PIXEL_STD),
        size_divisibility=model.backbone.size_divisibility,
        min_size=cfg.INPUT.MIN_SIZE_TEST,
        max_size=cfg.INPUT.MAX_SIZE_TEST,
    )


def to_outputs(model: Any, name: str, predictions: Any) -> dict[str, np.ndarray]:
    """Return a model's predictions by the names of an exported file's outputs."""
    if name == "CondInst":
        outputs = {
            field: torch.cat(getattr(predictions, field), dim=1)
            for field in ("logits", "distances", "centerness", "parameters")
        }
        outputs["anchors"] = torch.cat(predictions.anchors)
        outputs["mask_features"] = predictions.mask_features
    elif name.startswith("SOLO-") or name == "SOLO":
        outputs = {f"mask_maps_{i}": m for i, m in enumerate(predictions.mask_maps)}
        outputs["logits"] = predictions.logits
        if name == "SOLO":
            layers = model.mask_head.predict
            outputs["kernels"] = torch.cat(
                [torch.cat([c.weight[:, :, 0, 0], c.bias[:, None]], dim=1) for c in layers]
            )
    else:
        outputs = {k: v for k, v in predictions._asdict().items() if v is not None}
    return {k: v.detach().numpy() for k, v in outputs.items()}


class ModelAsNetwork:
    """A PyTorch model in place of an exported network."""

    def __init__(self, model: Any, name: str, description: ModelDescription) -> None:
        self.model = model
        self.name = name
        self.description = description.to_json()
        self.output_names = description.output_names

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            tensor = (torch.from_numpy(images) - self.model.pixel_mean) / self.model.pixel_std
            outputs = to_outputs(self.model, self.name, self.model.predict(tensor))
        return {name: outputs[name] for name in self.output_names}
