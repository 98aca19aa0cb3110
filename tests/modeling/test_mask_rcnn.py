"""Mask R-CNN with masks as run lengths against Detectron2's own class."""

import pytest
import torch
from detectron2.modeling import build_model
from helpers import REPOSITORY

from facenet_d2.engine import load_config
from facenet_d2.modeling import MaskRCNN
from facenet_d2.structures.rle_masks import RLEMasks


@pytest.fixture
def cfg(model_cfg):
    model_cfg.merge_from_file(str(REPOSITORY / "configs" / "models" / "mask_rcnn.yaml"))
    model_cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    model_cfg.MODEL.ANCHOR_GENERATOR.NAME = "DefaultAnchorGenerator"
    model_cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16], [32], [64], [128]]
    model_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    model_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    model_cfg.TEST.DETECTIONS_PER_IMAGE = 30
    return model_cfg


def test_results_are_those_of_detectron2(cfg):
    model = build_model(cfg).eval()
    assert type(model) is MaskRCNN
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    plain = build_model(cfg).eval()
    plain.load_state_dict(model.state_dict())
    images = [{"image": torch.rand(3, 64, 96) * 255, "height": 150, "width": 97}]
    images.append({"image": torch.rand(3, 61, 33) * 255})
    with torch.no_grad():
        ours, theirs = model(images), plain(images)
        raw, plain_raw = (m.inference(images, do_postprocess=False) for m in (model, plain))
    for a, b in zip(ours, theirs, strict=True):
        a, b = a["instances"], b["instances"]
        assert a.image_size == b.image_size
        assert len(a) > 10
        assert set(a.get_fields()) == set(b.get_fields())
        assert isinstance(a.pred_masks, RLEMasks)
        assert b.pred_masks.any()
        assert torch.equal(a.pred_masks.to_tensor(), b.pred_masks)
        assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
        assert torch.equal(a.scores, b.scores)
    for a, b in zip(raw, plain_raw, strict=True):
        assert torch.equal(a.pred_masks, b.pred_masks)


def test_the_config_of_an_earlier_run(tmp_path):
    """Earlier versions used Detectron2's class."""
    config = tmp_path / "config.yaml"
    models = REPOSITORY / "configs" / "models"
    config.write_text(
        f'_BASE_: "{models / "mask_rcnn.yaml"}"\n'
        "MODEL:\n  META_ARCHITECTURE: GeneralizedRCNN\n"
        "DATASETS:\n  CLASS_NAMES: [a, b]\n"
    )
    overrides = ["MODEL.ROI_HEADS.NUM_CLASSES", "2"]
    cfg = load_config(config, overrides, need_data=False)
    assert cfg.MODEL.META_ARCHITECTURE == "MaskRCNN"
