"""visualize_errors.py on predictions with planted errors."""

import json
import sys

import numpy as np
import pycocotools.mask as mask_util
import pytest
import visualize_errors
from PIL import Image

from facenet_d2.engine import run_command

# (H, W); the drawing is four times as large.
SIZE = (100, 200)
BOXES = {
    "a": (10, 10, 24, 24),
    "b": (40, 10, 24, 24),
    "c": (80, 10, 24, 24),
    "d": (120, 10, 24, 24),
    "e": (20, 60, 30, 30),
}
CLASSES = {"a": 3, "b": 3, "c": 3, "d": 3, "e": 7}
EVERYTHING_RIGHT = {
    "objects": 5,
    "right": 5,
    "poor": 0,
    "aliased": 0,
    "missed": 0,
    "predictions": 5,
    "aliasing": 0,
    "false_alarm": 0,
}


def result(box, category, score=0.9, image_id=4, **more):
    x, y, w, h = box
    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    rle = mask_util.encode(mask)
    rle["counts"] = rle["counts"].decode()
    base = {"image_id": image_id, "category_id": category, "score": score, "segmentation": rle}
    return {**base, **more}


PERFECT = [result(BOXES[k], CLASSES[k]) for k in BOXES]
PLANTED = [
    result((10, 10, 54, 24), 3),  # a and b
    result((80, 10, 24, 8), 3),  # a third of c
    result((120, 10, 24, 24), 3),  # d; e is missed
    result((150, 70, 20, 20), 7),  # nothing
    result((180, 70, 20, 20), 7, score=0.1),  # nothing, below the threshold
]

PLACES = {
    "aliasing": (10, 10, 64, 34),
    "poor": (80, 10, 104, 18),
    "missed": (20, 60, 50, 90),
    "false_alarm": (150, 70, 170, 90),
}


@pytest.fixture
def source(tmp_path):
    """Options that name the annotations and the images."""
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", SIZE[::-1], (90, 90, 90)).save(folder / "scene.png")
    Image.new("RGB", SIZE[::-1], (90, 90, 90)).save(folder / "empty.png")
    content = {
        "images": [
            {"id": 4, "file_name": "scene.png", "height": SIZE[0], "width": SIZE[1]},
            {"id": 5, "file_name": "empty.png", "height": SIZE[0], "width": SIZE[1]},
        ],
        "categories": [{"id": 3, "name": "tank"}, {"id": 7, "name": "court"}],
        "annotations": [
            {
                "id": i,
                "image_id": 4,
                "category_id": CLASSES[k],
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": 0,
                "segmentation": [
                    [box[0], box[1], box[0] + box[2], box[1], box[0] + box[2], box[1] + box[3]]
                    + [box[0], box[1] + box[3]]
                ],
            }
            for i, (k, box) in enumerate(BOXES.items())
        ],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    return ["--annotations", tmp_path / "annotations.json", "--images", folder]


def run(monkeypatch, capsys, tmp_path, source, contents, *options):
    files = []
    for i, content in enumerate(contents):
        files.append(tmp_path / f"results_{i}.json")
        files[-1].write_text(json.dumps(content))
    arguments = [*source, "--results", *files, "--names", *"AB"[: len(files)], *options]
    monkeypatch.setattr(sys, "argv", ["visualize_errors.py", *map(str, arguments)])
    code = run_command(visualize_errors.main)
    return code, capsys.readouterr()


def test_nothing_is_found_on_perfect_predictions(monkeypatch, capsys, tmp_path, source):
    output = tmp_path / "errors"
    code, printed = run(
        monkeypatch, capsys, tmp_path, source, [PERFECT], "--json", "--output", output
    )
    assert code == 0
    assert json.loads(printed.out)["A"]["all"] == EVERYTHING_RIGHT
    assert "0 images" in printed.err
    assert list(output.iterdir()) == []


def colored_box(image, color):
    """Return the box (x0, y0, x1, y1) around all pixels of about a colour, or None."""
    ys, xs = np.nonzero((np.abs(image.astype(int) - color) < 40).all(axis=2))
    return (xs.min(), ys.min(), xs.max(), ys.max()) if len(xs) else None


def test_each_planted_error_is_found_and_drawn_in_its_place(monkeypatch, capsys, tmp_path, source):
    output = tmp_path / "errors"
    contents = [PLANTED, PERFECT]
    code, printed = run(
        monkeypatch, capsys, tmp_path, source, contents, "--json", "--output", output
    )
    assert code == 0
    report = json.loads(printed.out)
    assert report["B"]["all"] == EVERYTHING_RIGHT
    assert report["A"]["tank"] == {
        **{"objects": 4, "right": 1, "poor": 1, "aliased": 2, "missed": 0},
        **{"predictions": 3, "aliasing": 1, "false_alarm": 0},
    }
    assert report["A"]["court"] == {
        **{"objects": 1, "right": 0, "poor": 0, "aliased": 0, "missed": 1},
        **{"predictions": 1, "aliasing": 0, "false_alarm": 1},
    }
    (file,) = output.iterdir()
    assert file.name == "000_scene.png"
    drawing = np.asarray(Image.open(file))
    # Panels of 800 x 400 under strips of 36, with gaps of 6: ground truth, A, B.
    assert drawing.shape == (436, 3 * 800 + 2 * 6, 3)
    truth, a, b = (drawing[36:, x : x + 800] for x in (0, 806, 1612))
    for kind, (x0, y0, x1, y1) in PLACES.items():
        color = visualize_errors.COLORS[kind]
        expected = np.array([4 * x0 - 3, 4 * y0 - 3, 4 * x1 + 3, 4 * y1 + 3])
        assert np.abs(colored_box(a, color) - expected).max() <= 2, kind
        assert colored_box(b, color) is None
        assert colored_box(truth, color) is None


def test_a_figure_of_runs(monkeypatch, capsys, tmp_path, source):
    """A row for each image, a column for each model, and rectangles in their places."""
    for name, content in (("first", PLANTED), ("second", PERFECT)):
        folder = tmp_path / name / "inference" / "test_set"
        folder.mkdir(parents=True)
        (folder / "coco_instances_results.json").write_text(json.dumps(content))
    figure = tmp_path / "figures" / "figure.png"
    arguments = [*source, "--results", tmp_path / "first", tmp_path / "second"]
    arguments += ["--names", "A model", "Another\nmodel", "--figure", figure, "--original"]
    arguments += ["--panel-width", 400, "--image", "scene.png", "empty.png"]
    monkeypatch.setattr(sys, "argv", ["visualize_errors.py", *map(str, arguments)])
    assert run_command(visualize_errors.main) == 0
    assert f"2 images in {figure}" in capsys.readouterr().out
    drawing = np.asarray(Image.open(figure))
    # Titles and legend have twice the text's 22 pixels; panels are twice as large as the images.
    assert drawing.shape == (44 + 2 * (200 + 6) + 44, 4 * 400 + 3 * 6, 3)
    image, truth, a, b = (drawing[44:244, x : x + 400] for x in range(0, 1624, 406))
    assert (image == 90).all()
    colors = visualize_errors.COLORS
    for kind, (x0, y0, x1, y1) in PLACES.items():
        expected = np.array([2 * x0 - 3, 2 * y0 - 3, 2 * x1 + 3, 2 * y1 + 3])
        assert np.abs(colored_box(a, colors[kind]) - expected).max() <= 2, kind
        assert colored_box(b, colors[kind]) is None
        assert colored_box(truth, colors[kind]) is None
        # The second image has no objects and no predictions.
        assert colored_box(drawing[250:450], colors[kind]) is None
        assert colored_box(drawing[456:], colors[kind]) is not None
    # Each column has its title.
    for x in range(0, 1624, 406):
        assert (drawing[:44, x : x + 400] < 100).any()

    (tmp_path / "first" / "inference" / "other").mkdir()
    (tmp_path / "first" / "inference" / "other" / "coco_instances_results.json").write_text("[]")
    assert run_command(visualize_errors.main) == 2
    error = capsys.readouterr().err
    assert "must contain one file inference/*/coco_instances_results.json, but it contains" in error
    assert "inference/other/coco_instances_results.json and inference/test_set/" in error


def test_an_unmarked_figure_is_not_written(monkeypatch, capsys, tmp_path, source):
    figure = tmp_path / "figure.jpg"
    code, printed = run(monkeypatch, capsys, tmp_path, source, [PERFECT], "--figure", figure)
    assert code == 0
    assert f"{figure} is not written: there are no errors" in printed.out
    assert not figure.exists()


def test_the_table_names_classes_and_kinds(monkeypatch, capsys, tmp_path, source):
    code, printed = run(monkeypatch, capsys, tmp_path, source, [PLANTED])
    assert code == 0
    lines = [line for line in printed.out.splitlines() if line.startswith("|")]
    assert len(set(map(len, lines))) == 1
    rows = {cells[0]: cells[1:] for cells in (line.replace("|", " ").split() for line in lines)}
    assert rows["all"] == ["5", "1", "1", "2", "1", "4", "1", "1"]
    assert rows["tank"] == ["4", "1", "1", "2", "0", "3", "1", "0"]


def test_results_with_file_names(monkeypatch, capsys, tmp_path, source):
    named = [{**r, "image_id": 1, "file_name": "elsewhere/scene.png"} for r in PERFECT]
    code, printed = run(monkeypatch, capsys, tmp_path, source, [named], "--json")
    assert code == 0
    assert json.loads(printed.out)["A"]["all"] == EVERYTHING_RIGHT


def test_chosen_images_are_drawn_without_errors_too(monkeypatch, capsys, tmp_path, source):
    options = ["--output", tmp_path / "o", "--image", "empty.png", "scene.png"]
    code, _ = run(monkeypatch, capsys, tmp_path, source, [PERFECT], *options)
    assert code == 0
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["000_empty.png", "001_scene.png"]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ([result(BOXES["a"], 3, image_id=9)], [], "result 0: the annotations have no image 9"),
        ([result(BOXES["a"], 5)], [], "result 0: category_id 5 is not one of"),
        (
            [result(BOXES["a"], 3, segmentation={"size": [5, 5], "counts": "0"})],
            [],
            "result 0: its RLE has the size [5, 5], not [100, 200]",
        ),
        (
            [result(BOXES["a"], 3, segmentation={"size": [100, 200], "counts": "PPPP"})],
            [],
            "result 0: its compressed counts are damaged",
        ),
        ([{**PERFECT[0], "file_name": "other.png"}], [], "no image other.png"),
        (PERFECT, ["--output", "{}", "--image", "no.png"], "--image no.png"),
        (PERFECT, ["--figure", "{}/figure.gif"], "its suffix must be one of .png"),
        (PERFECT, ["--dataset", "nwpu_vhr10_test"], "either --annotations and --images"),
    ],
)
def test_errors_in_one_sentence(monkeypatch, capsys, tmp_path, source, content, options, message):
    options = [o.format(tmp_path / "out") for o in options]
    code, printed = run(monkeypatch, capsys, tmp_path, source, [content], *options)
    assert code == 2
    assert message in printed.err
    assert "Traceback" not in printed.err
