"""Results for FiftyOne."""

import numpy as np
import pytest

from facenet_d2 import UserError
from facenet_d2.clients.fiftyone import add_results, match_results
from facenet_d2.evaluation.results import instances_to_results

FIELDS = {"image_id", "category_id", "bbox", "segmentation", "score"}


def result(name, **values):
    rle = {"size": [4, 5], "counts": "0"}
    base = {"category_id": 1, "bbox": [0, 0, 1, 1], "segmentation": rle, "score": 0.5}
    return {"file_name": name, "image_id": 99, **base, **values}


def test_results_get_the_ids_of_the_images():
    results = [result("in/b.png"), result("in/a.png", score=0.25), result("in/c.png")]
    matched = match_results(results, {"/data/a.png": 7, "/data/b.png": 3})
    assert [(m["image_id"], m["score"]) for m in matched] == [(3, 0.5), (7, 0.25)]
    assert all(set(m) == FIELDS for m in matched)


def test_equal_names_in_different_folders():
    images = {"/data/one/x/1.png": 1, "/data/two/x/1.png": 2, "/data/two/x/2.png": 3}
    results = [result("two/x/1.png"), result("/data/one/x/1.png"), result("three/x/1.png")]
    assert [m["image_id"] for m in match_results(results, images)] == [2, 1]


@pytest.mark.parametrize(
    ("results", "images", "message"),
    [
        ([{"image_id": 1}], {"a.png": 1}, r"Result 0 has no file_name"),
        ([result("b.png")], {"a.png": 1}, r"the images are a\.png, the results of b\.png"),
    ],
)
def test_errors(results, images, message):
    with pytest.raises(UserError, match=message):
        match_results(results, images)


class Samples:
    """What add_coco_labels uses of a data set, which would need FiftyOne's database."""

    def __init__(self, files, size):
        self.files = files
        self.size = size

    def __len__(self):
        return len(self.files)

    def values(self, field):
        if field == "filepath":
            return self.files
        assert field == ["metadata.width", "metadata.height"]
        return [[self.size[1]] * len(self), [self.size[0]] * len(self)]

    def compute_metadata(self):
        pass

    def set_values(self, field, labels):
        self.labels = {field: labels}


def test_fiftyone_reads_the_results(predictor, image):
    pytest.importorskip("fiftyone.utils.coco")
    instances = predictor(image)
    results = []
    for entry in instances_to_results(instances, 1):
        entry["category_id"] = predictor.category_ids[entry["category_id"]]
        results.append({"file_name": "in/b.png", **entry})
    names = predictor.metadata.thing_classes
    classes = {predictor.category_ids[i]: name for i, name in enumerate(names)}
    samples = Samples(["/d/a.png", "/d/b.png"], image.shape[:2])
    add_results(samples, results, classes)
    nothing, found = samples.labels["predictions"]
    assert nothing is None
    assert len(found.detections) == len(instances)
    for i, detection in enumerate(found.detections):
        assert detection.label == names[int(instances.pred_classes[i])]
        assert detection.confidence == pytest.approx(float(instances.scores[i]))
        crop, x, y = instances.pred_masks.crop(i)
        np.testing.assert_array_equal(detection.mask, crop)
        place = np.array(detection.bounding_box[:2]) * image.shape[1::-1]
        np.testing.assert_allclose(place, (x, y))
