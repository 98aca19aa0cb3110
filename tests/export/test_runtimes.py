"""Whole calls in several runtimes, with given predictions."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_networks import small_model

from facenet_d2.analysis import dense_predictions
from facenet_d2.export.runtimes import every_runtime
from facenet_d2.modeling.solov2 import SOLOv2Predictions

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9), reason="older exporter"
)


@pytest.mark.parametrize("window", [False, True])
def test_every_runtime_finds_the_given_instances(model_cfg, window, tmp_path):
    model_cfg.MODEL.SOLOV2.MASK_WINDOW = window
    model_cfg.INPUT.MIN_SIZE_TEST = model_cfg.INPUT.MAX_SIZE_TEST = 128
    model = small_model(model_cfg)
    seen = []

    def predict(images):
        """Stand in for the network, whose export takes long and whose outputs are replaced."""
        seen.append(images.shape)
        pooled = F.avg_pool2d(images, 4)
        rows = pooled.flatten(2).transpose(1, 2)
        return SOLOv2Predictions(rows, rows.sigmoid(), pooled, rows.tanh() if window else None)

    model.predict = predict
    models = every_runtime(model, model_cfg, tmp_path, 1)
    names = {"PyTorch float32", "PyTorch bf16", "ONNX Runtime float32"}
    if find_spec("openvino"):
        names |= {"OpenVINO float32", "OpenVINO bf16"}
    assert set(models) == names
    seen.clear()
    image = np.zeros((128, 128, 3), np.uint8)
    for count in (2, 9):
        scene = dense_predictions(model, (128, 128), 2 * count, count, 1, radius=12.0)
        for runtime in models.values():
            runtime.show(scene, count)
            found = runtime.predict(image)
            assert len(found) == count
            assert runtime.network.end > runtime.network.start
            areas = found.areas if hasattr(found, "areas") else found.pred_masks.areas()
            assert np.all(np.abs(np.asarray(areas) / (np.pi * 12**2) - 1) < 0.4)
    # The copies of the model in PyTorch, but not the exported file, ran for their time.
    assert seen == [(1, 3, 128, 128)] * 4
