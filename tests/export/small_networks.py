"""Small models for exports, which take seconds for each hundred operations."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from runtime.models import build
from torch import nn

from facenet_d2.export import RawNetwork, describe
from facenet_d2.modeling.grids.selection import suppress_neighbours

CLASSES = ("ship", "plane", "car")


class FewConvs(Backbone):
    """One convolution for each of res2..res5."""

    CHANNELS = 16

    def __init__(self):
        super().__init__()
        self._out_features = ["res2", "res3", "res4", "res5"]
        self._out_feature_strides = dict(zip(self._out_features, (4, 8, 16, 32)))
        self._out_feature_channels = dict.fromkeys(self._out_features, self.CHANNELS)
        self.convs = nn.ModuleList(
            nn.Conv2d(self.CHANNELS if i else 3, self.CHANNELS, 3, 2 if i else 4, padding=1)
            for i in range(4)
        )

    def forward(self, x):
        features = {}
        for name, conv in zip(self._out_features, self.convs):
            x = features[name] = torch.relu(conv(x))
        return features


@BACKBONE_REGISTRY.register()
def build_few_convs(cfg, input_shape):
    return FewConvs()


def small_model(cfg: CfgNode, name: str = "SOLOv2", *, facenet: bool = False, neck: str = "fpn"):
    """Build a model with random weights that detects instances everywhere."""
    cfg.MODEL.BOTTOM_UP.NAME = "build_few_convs"
    cfg.MODEL.SOLOV2.NUM_CONVS = 1
    cfg.MODEL.SOLOV2.DEFORM_CONVS = 1
    cfg.MODEL.BACKBONE.NAME = f"build_{'face_fpn' if facenet else neck}_backbone"
    if facenet:
        cfg.MODEL.SEM.ENABLED = True
        cfg.MODEL.SOLOV2.DEFORM_BRANCHES = ["kernel"]
    model = build(cfg, name)
    with torch.no_grad():
        for parameter in model.parameters():
            # Offsets and residual branches start at zero.
            if parameter.dim() > 1 and not parameter.any():
                parameter.normal_(std=0.05)
    return model


def small_network(
    cfg: CfgNode, name: str = "SOLOv2", *, deform="gridsample", facenet=False, neck="fpn"
):
    """Build a small model as a network of the contract "raw"."""
    model = small_model(cfg, name, facenet=facenet, neck=neck)
    description = describe(model, cfg, contract="raw", class_names=CLASSES)
    return RawNetwork(model, description, deform=deform)


@torch.no_grad()
def score_of(place: int, model, image: torch.Tensor) -> float:
    """Return a score that ``place`` candidates of a SOLOv2 exceed in an image.

    It is halfway between two scores, so that rounding does not add or drop a candidate.
    """
    logits = model.predict(((image - model.pixel_mean) / model.pixel_std)[None]).logits
    scores = logits.sigmoid()
    if model.settings.points_nms:
        scores = suppress_neighbours(scores, model.layout.num_grids)
    scores = scores.flatten()
    return scores.sort(descending=True).values[place - 1 : place + 1].mean().item()
