"""CVAT's auto-annotation with this project's models."""

import logging
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from clients.pictures import iou, painted
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, Instances

pytest.importorskip("cvat_sdk")
import cvat_sdk.models as models
from cvat_sdk.auto_annotation.driver import _AnnotationMapper
from cvat_sdk.masks import decode_mask

from facenet_d2 import UserError
from facenet_d2.clients import cvat
from facenet_d2.structures.rle_masks import RLEMasks

NAMES = ["ship", "harbour"]


DEFAULTS = {"frame_name": "a.png", "conf_threshold": None, "conv_mask_to_poly": False}
PICTURE = PIL.Image.new("RGB", (80, 60), (10, 20, 30))


def shapes():
    """A disc, a ring, a ring in two parts, an empty mask, and a pixel in a corner."""
    rows, columns = np.mgrid[:60, :80]
    distance = np.hypot(rows - 30, columns - 40)
    ring = (distance < 25) & (distance > 12) & (abs(columns - 40) > 2)
    masks = np.stack([distance < 20, (distance < 25) & (distance > 12), ring, distance < -1])
    return np.concatenate([masks, [(rows == 59) & (columns == 79)]])


class Stub:
    """A predictor of known masks."""

    metadata = Metadata(thing_classes=NAMES)

    def __call__(self, image):
        self.image = image
        masks = RLEMasks.from_dense(shapes(), (60, 80))
        return Instances(
            (60, 80),
            pred_masks=masks,
            pred_boxes=Boxes(masks.boxes()),
            pred_classes=torch.tensor([0, 1, 1, 0, 1]),
            scores=torch.tensor([0.9, 0.8, 0.7, 0.6, 0.2]),
        )


def detect(function, **context):
    return function.detect(SimpleNamespace(**{**DEFAULTS, **context}), PICTURE)


def test_masks():
    stub = Stub()
    function = cvat.AutoAnnotation(stub)
    found = detect(function, conf_threshold=0.1)
    assert stub.image[0, 0].tolist() == [30, 20, 10]
    assert [f.label_id for f in found] == [0, 1, 1, 1]
    assert [f.score for f in found] == pytest.approx([0.9, 0.8, 0.7, 0.2])
    for shape, mask in zip(found, shapes()[[0, 1, 2, 4]]):
        decoded = decode_mask(shape.points, image_width=80, image_height=60)
        np.testing.assert_array_equal(decoded, mask)
    assert len(detect(function)) == 3


@pytest.mark.parametrize("by_switch", [False, True])
def test_polygons(by_switch):
    function = cvat.AutoAnnotation(Stub(), polygons=by_switch)
    found = detect(function, conv_mask_to_poly=not by_switch)
    assert all(f.type.value == "polygon" and len(f.points) >= 6 for f in found)
    groups = {}
    for f in found:
        groups.setdefault(f.group or id(f), []).append(f)
    assert [len(g) > 1 for g in groups.values()] == [False, True, True]
    for members, mask in zip(groups.values(), shapes()):
        assert iou(painted([m.points for m in members], *mask.shape), mask) > 0.9
    again = detect(function, conv_mask_to_poly=True)
    assert not {f.group for f in again} & {f.group for f in found} - {0}


@pytest.mark.parametrize(("polygons", "convert"), [(False, False), (False, True), (True, False)])
def test_cvats_driver_accepts_the_shapes(polygons, convert):
    function = cvat.AutoAnnotation(Stub(), polygons=polygons)
    task_labels = [
        models.Label(name=name, id=10 + i, type="any", attributes=[], sublabels=[])
        for i, name in enumerate(NAMES)
    ]
    mapper = _AnnotationMapper(
        logging.getLogger(),
        function.spec.labels,
        task_labels,
        allow_unmatched_labels=False,
        conv_mask_to_poly=convert,
    )
    found = detect(function, conv_mask_to_poly=convert)
    tags, remapped = mapper.validate_and_remap(found, 7)
    assert tags == []
    assert len(remapped) >= 3
    assert {s.label_id for s in remapped} == {10, 11}
    assert {s.frame for s in remapped} == {7}


def test_the_function_of_the_command(trained, image):
    common = pytest.importorskip("cvat_cli._internal.common")
    parameters = {"config_file": str(trained[0]), "weights": str(trained[1])}
    function = common.FunctionLoader("facenet_d2.clients.cvat", None, parameters).load()
    assert len(function.spec.labels) == 5
    context = SimpleNamespace(**DEFAULTS)
    found = function.detect(context, PIL.Image.fromarray(image[:, :, ::-1]))
    expected = function.predictor(image)
    kept = (expected.scores >= 0.3).numpy() & (expected.pred_masks.areas() > 0)
    assert len(found) == kept.sum() > 0


def test_deep_images_are_refused():
    picture = PIL.Image.fromarray(np.full((60, 80), 3000, np.uint16))
    with pytest.raises(UserError, match=r"a\.png has more than 8 bits"):
        cvat.AutoAnnotation(Stub()).detect(SimpleNamespace(**DEFAULTS), picture)
