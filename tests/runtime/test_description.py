"""Tests of facenet_d2/runtime/description.py."""

import json
from dataclasses import replace

import pytest

from facenet_d2 import UserError
from facenet_d2.runtime.description import (
    CondInstSettings,
    GridSettings,
    ModelDescription,
    YOLACTSettings,
)

GRID = GridSettings(
    num_grids=(8, 6),
    min_mask_areas=(1.0, 2.5),
    score_threshold=0.1,
    mask_threshold=0.5,
    max_candidates=100,
    nms_pre=50,
    nms_kernel="gaussian",
    nms_sigma=2.0,
    update_threshold=0.05,
    max_instances=20,
)
YOLACT = YOLACTSettings(0.05, 0.5, 200, 0.5, 100, (10.0, 10.0, 5.0, 5.0), 4.135)
CONDINST = CondInstSettings(0.05, 0.6, 1000, 0.5, 100, 8, 8, 3, 8, 8.0)

MODEL = ModelDescription(
    contract="raw",
    meta_architecture="SOLOv2",
    settings=GRID,
    class_names=("ship", "harbour \u2693"),
    channel_order="BGR",
    pixel_mean=(103.5, 116.25, 123.0),
    pixel_std=(1.0, 1.0, 57.0),
    size_divisibility=32,
    min_size=320,
    max_size=640,
)


@pytest.mark.parametrize(
    "model",
    [
        MODEL,
        replace(
            MODEL,
            category_ids=(3, 1),
            class_colors=((0, 128, 255), (1, 2, 3)),
            bands=(4, 3, 2),
            stretch="range 0 3000",
            pixel_size=0.3,
        ),
        replace(MODEL, meta_architecture="SOLO", settings=replace(GRID, decoupled=True)),
        replace(MODEL, meta_architecture="YOLACT", settings=YOLACT),
        replace(MODEL, meta_architecture="CondInst", settings=CONDINST),
    ],
    ids=["SOLOv2", "bands", "SOLO", "YOLACT", "CondInst"],
)
def test_json_preserves_a_description(model):
    assert ModelDescription.from_json(model.to_json(), "model.onnx") == model


def test_output_names_of_solo_follow_its_grids():
    solo = replace(MODEL, meta_architecture="SOLO")
    assert solo.output_names == ("logits", "kernels", "mask_maps_0", "mask_maps_1")
    decoupled = replace(solo, settings=replace(GRID, decoupled=True))
    assert decoupled.output_names == ("logits", "mask_maps_0", "mask_maps_1")


def test_descriptions_of_older_versions():
    """The defaults of new values are what older versions did."""
    content = json.loads(MODEL.to_json())
    for name in ("windows", "points_nms", "mask_stride"):
        del content["settings"][name]
    assert ModelDescription.from_json(json.dumps(content), "model.onnx") == MODEL


def changed(**values):
    """Return the JSON of the model with values changed, None for left out."""
    content = json.loads(MODEL.to_json())
    settings = values.pop("settings", {})
    content["settings"] |= settings
    content |= values
    return json.dumps({k: v for k, v in content.items() if v is not None})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("[]", "not a JSON object"),
        ("[" * 100_000, "recursion"),
        (changed(format_version=2), "format version is 2"),
        (changed(meta_architecture="PanopticFPN"), "meta_architecture is 'PanopticFPN'"),
        (changed(contract="onnx"), "contract is 'onnx'"),
        (changed(channel_order="GBR"), "channel_order is 'GBR'"),
        (changed(class_names=None), "class_names is missing"),
        (changed(class_names=[]), "class_names is empty"),
        (changed(class_names="ship"), "class_names is 'ship', not a list"),
        (changed(class_names=["ship", 1]), "class_names is 1"),
        (changed(category_ids=[1, 2, 3]), "category_ids has 3 values for 2 classes"),
        (changed(class_colors=[[1, 2], [1, 2]]), "class_colors has"),
        (changed(pixel_mean=[]), "pixel_mean is empty"),
        (changed(pixel_std=[1.0]), "pixel_std has 1 values"),
        (changed(pixel_std=[1.0, 1.0, 0.0]), "not positive"),
        (changed(bands=[1]), "bands has 1 values"),
        (changed(min_size=320.0), "min_size is 320.0, not of type int"),
        (changed(min_size=True), "min_size is True"),
        (changed(max_size=0), "max_size is 0"),
        (changed(pixel_size=float("nan")), "pixel_size is nan"),
        (changed(pixel_size=10**400), "too large"),
        (changed(colour="red"), "colour is not a known value"),
        (changed(settings={"num_grids": [8]}), "min_mask_areas has 2 values for 1 grids"),
        (changed(settings={"num_grids": [8, 0]}), "num_grids is"),
        (changed(settings={"nms_kernel": "cubic"}), "nms_kernel is 'cubic'"),
        (changed(settings={"mask_threshold": 1}), "mask_threshold is 1.0"),
        (changed(settings={"score_threshold": -0.1}), "score_threshold is -0.1"),
        (changed(settings={"top_k": 3}), "top_k is not a known value"),
    ],
)
def test_a_faulty_description_is_refused_in_one_sentence(text, message):
    with pytest.raises(UserError) as error:
        ModelDescription.from_json(text, "model.onnx")
    line = str(error.value)
    assert line.startswith("model.onnx has no usable description of its model (")
    assert message in line
    assert line.endswith("; export it again.")
    assert "\n" not in line


def test_settings_belong_to_the_meta_architecture():
    with pytest.raises(ValueError, match="not those of YOLACT"):
        replace(MODEL, meta_architecture="YOLACT")
