"""supervision with this project's models."""

import numpy as np
import pytest

pytest.importorskip("supervision", minversion="0.31")
import supervision as sv

from facenet_d2.clients.supervision import SliceCallback, to_detections


def test_supervisions_own_conversion(predictor, image):
    instances = predictor(image)
    detections = sv.Detections.from_detectron2({"instances": instances})
    np.testing.assert_array_equal(detections.mask, instances.pred_masks.to_tensor().numpy())


@pytest.mark.parametrize("compact", [False, True])
def test_conversion(predictor, image, compact):
    instances = predictor(image)
    names = predictor.metadata.thing_classes
    detections = to_detections(instances, names, compact=compact)
    assert len(detections) == len(instances) > 3
    np.testing.assert_array_equal(np.asarray(detections.mask), instances.pred_masks.to_tensor())
    np.testing.assert_array_equal(detections.xyxy, instances.pred_boxes.tensor)
    np.testing.assert_array_equal(detections.confidence, instances.scores)
    expected = [names[i] for i in instances.pred_classes]
    assert detections.data["class_name"].tolist() == expected
    # Selection and drawing, on which annotators rely.
    some = detections[detections.confidence > detections.confidence[2]]
    assert len(some) < len(detections)
    drawn = sv.MaskAnnotator().annotate(image.copy(), some)
    assert (drawn != image).any()
    assert len(to_detections(instances[:0], names, compact=compact)) == 0


@pytest.mark.parametrize(("compact", "batch_size"), [(False, 1), (True, 3)])
def test_slices_are_put_together(predictor, image, compact, batch_size):
    slicer = sv.InferenceSlicer(
        SliceCallback(predictor, min_score=0.0, compact=compact),
        slice_wh=64,
        overlap_wh=0,
        overlap_filter=sv.OverlapFilter.NONE,
        compact_masks=compact,
        batch_size=batch_size,
    )
    found = slicer(image)
    masks = np.asarray(found.mask)
    expected = []
    for y in (0, 64):
        for x in (0, 64):
            instances = predictor(image[y : y + 64, x : x + 64])
            for mask, score in zip(instances.pred_masks.numpy(), instances.scores.tolist()):
                full = np.zeros(image.shape[:2], bool)
                full[y : y + 64, x : x + 64] = mask
                expected.append((score, full))
    assert len(found) == len(expected) > 10
    order = np.argsort(-found.confidence, kind="stable")
    expected.sort(key=lambda e: -e[0])
    for i, (score, full) in zip(order, expected):
        assert found.confidence[i] == pytest.approx(score, abs=1e-4)
        assert (masks[i] != full).sum() <= 0.01 * full.sum()


def test_rgb_slices(predictor, image):
    found = SliceCallback(predictor, rgb=True)(np.ascontiguousarray(image[:, :, ::-1]))
    expected = predictor(image)
    np.testing.assert_array_equal(found.confidence, expected.scores[expected.scores >= 0.3].numpy())
