"""The runner finds the instances that the PyTorch model finds."""

import numpy as np
import pytest
import torch
from models import MODELS, ModelAsNetwork, build, describe
from threadpoolctl import ThreadpoolController

from facenet_d2.data.augmentation import build_augmentations
from facenet_d2.runtime import OnnxPredictor, grids, predictor


def runner(network, monkeypatch, **options):
    monkeypatch.setattr(predictor, "load_network", lambda *args, **kwargs: network)
    return OnnxPredictor("model.onnx", **options)


def predict_by_model(model, cfg, images):
    """The steps of Detectron2's DefaultPredictor, for several images."""
    (augmentation,) = build_augmentations(cfg, is_train=False)
    inputs = []
    for image in images:
        height, width = image.shape[:2]
        if cfg.INPUT.FORMAT == "RGB":
            image = image[:, :, ::-1]
        resized = augmentation.get_transform(image).apply_image(image)
        tensor = torch.as_tensor(resized.astype(np.float32).transpose(2, 0, 1))
        inputs.append({"image": tensor, "height": height, "width": width})
    with torch.no_grad():
        return [x["instances"] for x in model(inputs)]


def check_equal(found, expected, *, flips=3):
    """Compare a Prediction with Instances.

    Args:
        found: the Prediction.
        expected: the Instances.
        flips: number of pixels of a mask whose probability may be at the threshold.
    """
    assert found.image_size == expected.image_size
    assert len(found) == len(expected) > 3
    np.testing.assert_allclose(found.scores, expected.scores.numpy(), atol=1e-5)
    np.testing.assert_array_equal(found.classes, expected.pred_classes.numpy())
    dense = expected.pred_masks.numpy()
    differences = (found.to_dense() != dense).sum(axis=(1, 2))
    assert differences.max() <= flips, differences
    assert differences.sum() <= dense.sum() / 10_000 + flips
    same = differences == 0
    np.testing.assert_allclose(
        found.boxes[same], expected.pred_boxes.tensor.numpy()[same], atol=2e-3
    )
    assert found.areas.tolist() == found.to_dense().sum(axis=(1, 2)).tolist()


def pictures(*sizes):
    rng = np.random.default_rng(5)
    result = []
    for height, width in sizes:
        coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        result.append(np.ascontiguousarray(coarse.repeat(8, 0).repeat(8, 1)[:height, :width]))
    return result


@pytest.mark.parametrize(
    ("name", "stride", "window"), [*((name, 4, False) for name in MODELS), ("SOLOv2", 2, True)]
)
@pytest.mark.parametrize(
    ("min_size", "sizes"),
    # Sizes that are kept, not divisible by 32, and odd ones that are enlarged or shrunk.
    [(0, [(96, 128)]), (0, [(90, 121)]), (128, [(77, 95), (200, 151)])],
    ids=["same", "padded", "resized"],
)
def test_equal_to_the_model(name, stride, window, min_size, sizes, model_cfg, monkeypatch):
    cfg = model_cfg
    cfg.MODEL.SOLOV2.MASK_STRIDE = stride
    cfg.MODEL.SOLOV2.MASK_WINDOW = window
    cfg.MODEL.SOLOV2.POINTS_NMS = not window
    if window:
        # More instances have almost equal scores, whose order depends on rounding.
        cfg.TEST.DETECTIONS_PER_IMAGE = 40
    cfg.INPUT.MIN_SIZE_TEST = min_size
    cfg.INPUT.FORMAT = "BGR" if min_size else "RGB"
    model = build(cfg, name)
    predict = runner(ModelAsNetwork(model, name, describe(cfg, model, name)), monkeypatch)
    images = pictures(*sizes)
    expected = predict_by_model(model, cfg, images)
    for one, other in zip(predict.predict_batch(images), expected, strict=True):
        check_equal(one, other)


def blas_threads():
    return {
        lib["num_threads"] for lib in ThreadpoolController().info() if lib["user_api"] == "blas"
    }


def test_threads(model_cfg, monkeypatch):
    """Results do not depend on the number of threads; those of BLAS are limited for a while."""
    model_cfg.INPUT.MIN_SIZE_TEST = 0
    model = build(model_cfg, "SOLOv2")
    network = ModelAsNetwork(model, "SOLOv2", describe(model_cfg, model, "SOLOv2"))
    (image,) = pictures((96, 128))
    expected = runner(network, monkeypatch, threads=1)(image)
    assert len(expected) > 3
    monkeypatch.setattr(grids, "BLOCK_FLOATS", 2 * 24 * 32)
    within, binary_masks = [], grids.binary_masks

    def observed(*args):
        within.append(blas_threads())
        return binary_masks(*args)

    monkeypatch.setattr(grids, "binary_masks", observed)
    with ThreadpoolController().limit(limits=2, user_api="blas"):
        before = blas_threads()
        found = runner(network, monkeypatch, threads=3)(image)
        assert blas_threads() == before != {1}
    assert within == [{1}]
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.to_dense(), expected.to_dense())
