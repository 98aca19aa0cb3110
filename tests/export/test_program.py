"""Programs hold for other numbers and sizes of images than those that were recorded."""

import pytest
import torch
from small_networks import CLASSES, small_model

from facenet_d2.export import ExportedNetwork, describe
from facenet_d2.export.program import example_images, record

pytestmark = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9), reason="older exporter"
)


class Levels(ExportedNetwork):
    """The levels p2..p6 of a model's neck."""

    def forward(self, images):
        return tuple(self.model.backbone(images).values())


@pytest.mark.parametrize("neck", ["fpn", "sem_fpn", "face_fpn", "pafpn", "bifpn", "hrfpn"])
def test_every_neck_is_recorded(model_cfg, neck):
    model_cfg.MODEL.BIFPN.REPEATS = 1
    model = small_model(model_cfg, neck=neck)
    description = describe(model, model_cfg, contract="raw", class_names=CLASSES)
    network = Levels(model, description, deform="gridsample")
    program = record(network).module(check_guards=False)
    for shape in ((1, 3, 4), (3, 6, 5)):
        images = example_images(network, count=shape[0], rows=shape[1], columns=shape[2])
        assert images.shape == (shape[0], 3, 32 * shape[1], 32 * shape[2])
        with torch.no_grad():
            for ours, theirs in zip(network(images), program(images), strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)


def test_a_program_of_a_fixed_size_takes_no_other(model_cfg):
    class Square(Levels):
        fixed_size = 64

    model = small_model(model_cfg)
    description = describe(model, model_cfg, contract="raw", class_names=CLASSES)
    network = Square(model, description, deform="gridsample")
    program = record(network).module()
    assert program(torch.rand(1, 3, 64, 64))[0].shape == (1, 32, 16, 16)
    with pytest.raises(Exception, match=r"(?i)shape|guard"):
        program(torch.rand(1, 3, 64, 96))
