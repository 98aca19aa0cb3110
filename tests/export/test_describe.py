"""Descriptions of models for their files."""

import dataclasses

import pytest
from detectron2.modeling import build_model
from runtime import models
from small_networks import CLASSES, small_model

from facenet_d2.errors import UserError
from facenet_d2.export import describe
from facenet_d2.runtime.description import ModelDescription


@pytest.mark.parametrize("name", models.MODELS)
def test_a_description_has_the_settings_of_the_model(model_cfg, name):
    model = small_model(model_cfg, name)
    found = describe(
        model, model_cfg, contract="raw", class_names=CLASSES, category_ids={0: 5, 1: 7, 2: 9}
    )
    assert ModelDescription.from_json(found.to_json(), "file") == found
    assert found.category_ids == (5, 7, 9)
    expected = models.describe(model_cfg, model, name)
    assert dataclasses.replace(found, category_ids=()) == expected


def test_ids_of_some_classes_are_not_ids_of_all(model_cfg):
    model = small_model(model_cfg)
    arguments = {"contract": "raw", "class_names": CLASSES}
    assert describe(model, model_cfg, category_ids={0: 5}, **arguments).category_ids == ()
    assert describe(model, model_cfg, category_ids=None, **arguments).category_ids == ()


def test_other_models_are_refused(model_cfg):
    model_cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    model_cfg.MODEL.RETINANET.IN_FEATURES = ["p3", "p4"]
    model_cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8]]
    model = build_model(model_cfg)
    with pytest.raises(UserError, match="RetinaNet, which cannot be exported, because the"):
        describe(model, model_cfg, contract="raw", class_names=CLASSES)
    model_cfg.MODEL.META_ARCHITECTURE = "SOLOv2"
    with pytest.raises(UserError, match="CLASS_NAMES"):
        describe(build_model(model_cfg), model_cfg, contract="raw", class_names=())
