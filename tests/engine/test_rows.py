"""What the paper's tables compare trains and is evaluated by train_net.py, on synthetic scenes."""

import json
import sys

import pytest
from conftest import write_tiny_config

import train_net
from facenet_d2.engine import run_command

RCNN = [
    *("MODEL.META_ARCHITECTURE", "GeneralizedRCNN"),
    *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
    *("MODEL.ANCHOR_GENERATOR.SIZES", "[[32],[64],[128],[256],[512]]"),
    *("MODEL.RPN.IN_FEATURES", "['p2','p3','p4','p5','p6']"),
    *("MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
    *("MODEL.ROI_HEADS.IN_FEATURES", "['p2','p3','p4','p5']"),
    *("MODEL.ROI_HEADS.NUM_CLASSES", "5"),
    *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"),
    *("MODEL.ROI_BOX_HEAD.NUM_FC", "1"),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", "32"),
    *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "7"),
    *("MODEL.ROI_MASK_HEAD.NUM_CONV", "1"),
    *("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", "14"),
    *("MODEL.ROI_MASK_IOU_HEAD.FC_DIM", "32"),
]
SOLO = [
    *("MODEL.META_ARCHITECTURE", "SOLO"),
    *("MODEL.SOLO.NUM_CONVS", "2"),
    *("MODEL.SOLO.CONV_CHANNELS", "32"),
]
SEM_FPN = ["MODEL.BACKBONE.NAME", "build_resnet_sem_fpn_backbone"]
ROWS = {
    "SEM": SEM_FPN,
    "SEM, single branch": [*SEM_FPN, "MODEL.SEM.DILATIONS", "[1]", "MODEL.SEM.RESIDUAL", "False"],
    "FACE-FPN": ["MODEL.BACKBONE.NAME", "build_resnet_face_fpn_backbone"],
    "DCNv2": ["MODEL.SOLOV2.DEFORM_BRANCHES", "['kernel']"],
    "PAFPN": ["MODEL.BACKBONE.NAME", "build_resnet_pafpn_backbone"],
    "BiFPN": ["MODEL.BACKBONE.NAME", "build_resnet_bifpn_backbone", "MODEL.BIFPN.REPEATS", "2"],
    "HRFPN": ["MODEL.BACKBONE.NAME", "build_resnet_hrfpn_backbone"],
    "SOLO": SOLO,
    "SOLO, decoupled": [*SOLO, "MODEL.SOLO.DECOUPLED", "True"],
    "Mask R-CNN": [*RCNN, "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"],
    "Mask Scoring R-CNN": [*RCNN, "MODEL.ROI_MASK_HEAD.NAME", "MaskScoringHead"],
}


@pytest.mark.parametrize("row", ROWS)
def test_a_step_and_an_evaluation(row, tmp_path, scenes, monkeypatch, capsys):
    config = write_tiny_config(tmp_path, scenes, base="Base-SOLOv2.yaml")
    overrides = [*ROWS[row], "SOLVER.MAX_ITER", "1"]
    monkeypatch.setattr(
        sys, "argv", ["train_net.py", "--config-file", str(config), "--json", *overrides]
    )
    assert run_command(train_net.run) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    for task in ("segm", "bbox"):
        assert 0 <= results[task]["AP"] <= 100
    lines = [json.loads(line) for line in (tmp_path / "output" / "metrics.json").open()]
    (step,) = (line for line in lines if "total_loss" in line)
    assert 0 < step["total_loss"] < 100
