"""Detections as arrays, and their files."""

import numpy as np
import pytest

from facenet_d2.errors import UserError
from facenet_d2.scenes.detections import Detections, TileDetections
from facenet_d2.scenes.tiles import TileGrid


def random_crops(rng, count, size):
    """Return boxes and crops within ``size`` pixels; some crops are empty or have empty borders."""
    boxes, crops = [], []
    for _ in range(count):
        x, y = rng.integers(0, size - 1, 2)
        box = [x, y, rng.integers(x + 1, size + 1), rng.integers(y + 1, size + 1)]
        boxes.append(box)
        crops.append(rng.random((box[3] - box[1], box[2] - box[0])) < rng.choice([0.02, 0.5, 1]))
    return np.array(boxes), crops


def test_masks_survive_packing_and_are_clipped_to_the_scene():
    rng = np.random.default_rng(1)
    grid = TileGrid(height=21, width=50, size=30, overlap=5)
    for tile in grid:
        boxes, crops = random_crops(rng, 60, 30)
        classes, scores = rng.integers(0, 9, 60), rng.random(60).astype(np.float32)
        found = TileDetections.from_crops(grid, tile, classes, scores, boxes, crops).detections
        expected = []
        for i, (x, y, right, bottom) in enumerate(boxes):
            scene = np.zeros((80, 80), bool)
            scene[tile.top :, tile.left :][y:bottom, x:right] = crops[i]
            scene = scene[:21, :50]
            if scene.any():
                expected.append((classes[i], scores[i], scene))
        assert 20 < len(expected) == len(found) <= 60
        for i, (class_id, score, scene) in enumerate(expected):
            assert (found.classes[i], found.scores[i]) == (class_id, score)
            assert found.areas[i] == scene.sum()
            ys, xs = np.nonzero(scene)
            box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert found.boxes[i].tolist() == box
            mask = np.zeros((21, 50), bool)
            mask[box[1] : box[3], box[0] : box[2]] = found.mask(i)
            assert (mask == scene).all()


def test_no_detections():
    nothing = Detections.from_crops([], [], [], [])
    assert len(nothing) == 0
    assert nothing.areas.tolist() == []


def test_a_crop_must_fit_its_box():
    with pytest.raises(ValueError, match="does not fit"):
        Detections.from_crops([0], [1.0], [[0, 0, 3, 2]], [np.ones((3, 2), bool)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.zeros(2)}, "scores are float64"),
        ({"scores": np.zeros(3, np.float32)}, "scores have the shape"),
        ({"boxes": np.array([[0, 0, 3, 3], [4, 4, 4, 6]], np.int32)}, "a box is empty"),
        ({"bits": np.zeros(4, np.uint8)}, "more or fewer pixels"),
    ],
)
def test_arrays_that_disagree_are_refused(change, message):
    arrays = {
        "classes": np.zeros(2, np.int32),
        "scores": np.zeros(2, np.float32),
        "boxes": np.array([[0, 0, 3, 3], [4, 4, 7, 6]], np.int32),
        "bits": np.zeros(2 + 1, np.uint8),
    }
    Detections(**arrays)
    with pytest.raises(ValueError, match=message):
        Detections(**(arrays | change))


def some_detections(seed=2):
    rng = np.random.default_rng(seed)
    boxes, crops = random_crops(rng, 30, 40)
    classes, scores = rng.integers(0, 9, 30), rng.random(30)
    return TileDetections(3, 7, Detections.from_crops(classes, scores, boxes, crops), capped=True)


def test_a_file_gives_the_same_detections_and_they_the_same_file(tmp_path):
    tile = some_detections()
    tile.save(tmp_path / "a.npz")
    again = TileDetections.load(tmp_path / "a.npz")
    assert (again.row, again.column, again.capped) == (3, 7, True)
    for name in ("classes", "scores", "boxes", "bits"):
        a, b = getattr(tile.detections, name), getattr(again.detections, name)
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)
    again.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    some_detections(seed=3).save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() != (tmp_path / "b.npz").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_damaged_files_are_refused(tmp_path):
    file = tmp_path / "a.npz"
    with pytest.raises(UserError, match="not a complete file"):
        TileDetections.load(file)
    some_detections().save(file)
    whole = file.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(UserError, match="not a complete file"):
            TileDetections.load(file)
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 60):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            loaded = TileDetections.load(file)
        except UserError:
            continue
        # Some bytes of an archive have no meaning, such as its dates.
        assert np.array_equal(loaded.detections.bits, some_detections().detections.bits)


def test_other_files_are_refused_and_no_code_is_run(tmp_path):
    file = tmp_path / "a.npz"
    np.savez(file, tile=[0, 0])
    with pytest.raises(UserError, match="not a complete file"):
        TileDetections.load(file)
    arrays = {"tile": np.array([0, 0]), "capped": np.array(False)}
    arrays |= {"classes": np.array([print], object), "scores": np.zeros(1, np.float32)}
    np.savez(file, **arrays, boxes=np.zeros((1, 4), np.int32), bits=np.zeros(0, np.uint8))
    with pytest.raises(UserError, match="allow_pickle"):
        TileDetections.load(file)
    with file.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(UserError, match="not a complete file"):
        TileDetections.load(file)
