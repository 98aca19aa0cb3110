import json

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
from helpers import REPOSITORY

from facenet_d2.errors import UserError
from facenet_d2.synthetic import CLASSES, SCENES_VERSION
from facenet_d2.synthetic.dataset import write_dataset
from facenet_d2.synthetic.scenes import draw_scene


def test_a_scene_is_a_function_of_its_seed():
    for seed in range(4):
        image, objects = draw_scene(seed)
        again, objects_again = draw_scene(seed)
        assert np.array_equal(image, again)
        assert [(c, p.wkt) for c, p in objects] == [(c, p.wkt) for c, p in objects_again]
        assert not np.array_equal(image, draw_scene(seed + 100)[0])


def test_outlines_lie_in_the_image_and_never_overlap():
    for seed in range(12):
        image, objects = draw_scene(seed, 160)
        assert image.shape == (160, 160, 3)
        assert image.dtype == np.uint8
        for i, (category, polygon) in enumerate(objects):
            assert 0 <= category < len(CLASSES)
            assert polygon.is_valid
            x0, y0, x1, y1 = polygon.bounds
            assert min(x0, y0) >= 0
            assert max(x1, y1) <= 160
            for _, other in objects[:i]:
                assert polygon.intersection(other).area == 0


def test_all_classes_occur():
    found = {category for seed in range(60) for category, _ in draw_scene(seed)[1]}
    assert found == set(range(len(CLASSES)))


def test_outlines_follow_what_is_drawn():
    """The image changes more across an outline than a few pixels away."""
    ratios = []
    for seed in range(10):
        image, objects = draw_scene(seed)
        gray = cv2.GaussianBlur(image.mean(axis=2).astype(np.float32), (0, 0), 1)
        gradient = np.hypot(cv2.Sobel(gray, -1, 1, 0), cv2.Sobel(gray, -1, 0, 1))
        for _, polygon in objects:
            band = np.zeros(gray.shape, np.uint8)
            for part in getattr(polygon, "geoms", [polygon]):
                points = np.round(np.asarray(part.exterior.coords) - 0.5).astype(np.int32)
                cv2.polylines(band, [points], True, 1)
            away = np.roll(band, (9, 9), (0, 1))
            ratios.append(gradient[band > 0].mean() / (gradient[away > 0].mean() + 1))
    assert np.median(ratios) > 1.5


def test_annotations_are_the_masks_of_the_outlines(scenes):
    content = json.loads((scenes / "annotations.json").read_text())
    assert len(content["images"]) == 6
    assert len(content["annotations"]) > 20
    assert [c["name"] for c in content["categories"]] == list(CLASSES)
    assert min(a["id"] for a in content["annotations"]) == 1
    for i, image in enumerate(content["images"]):
        assert cv2.imread(str(scenes / "images" / image["file_name"])).shape == (128, 128, 3)
        polygons = [p for _, p in draw_scene((11, i), 128)[1]]
        annotations = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        assert len(annotations) == len(polygons)
        for a, polygon in zip(annotations, polygons, strict=True):
            mask = mask_util.decode(
                mask_util.merge(mask_util.frPyObjects(a["segmentation"], 128, 128))
            )
            assert mask.sum() == a["area"] == pytest.approx(polygon.area, rel=0.25, abs=6)
            ys, xs = np.nonzero(mask)
            x, y, w, h = a["bbox"]
            assert (x, y, x + w, y + h) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_a_set_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("facenet_d2.synthetic.dataset.Path.write_bytes", full_disk)
    with pytest.raises(UserError, match=r"cannot be written.*No space left"):
        write_dataset(tmp_path / "set", num_scenes=2, seed=1, size=64)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"DETECTRON2_DATASETS"):
        write_dataset(tmp_path / "file" / "set", num_scenes=1, seed=1, size=64)


def test_a_second_writer_keeps_the_first_ones_set(tmp_path):
    first = write_dataset(tmp_path / "set", num_scenes=1, seed=1, size=64).read_text()
    write_dataset(tmp_path / "set", num_scenes=2, seed=5, size=64)
    assert (tmp_path / "set" / "annotations.json").read_text() == first
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_make_demo_draws_the_current_scenes():
    makefile = (REPOSITORY / "Makefile").read_text()
    assert f"/synthetic_aerial_v{SCENES_VERSION}/val/" in makefile
