"""evaluate_scenes.py: equal to COCOeval on small scenes, and known answers for the rest."""

import contextlib
import io
import json
import re
import sys

import evaluate_scenes
import numpy as np
import pycocotools.mask as mask_util
import pyogrio.raw
import pytest
import shapely
from affine import Affine
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rasterio.crs import CRS
from scene_masks import NORTH_UP, ROTATED, describe, ellipse, whole_mask

from facenet_d2.engine import run_command
from facenet_d2.scenes.coordinates import reprojected
from facenet_d2.scenes.description import SceneInstance
from facenet_d2.scenes.vectors import Vectorizer
from facenet_d2.scenes.writers import write_scene

NAMES = ("ship", "plane", "tank")
UTM = "EPSG:32633"


def write_vectors(path, polygons, crs=UTM, layer=None, append=False, **columns):
    """Write polygons with attributes; the suffix selects the format."""
    polygons = np.array(polygons, dtype=object)
    pyogrio.raw.write(
        path,
        shapely.to_wkb(polygons),
        [np.array(values) for values in columns.values()],
        list(columns),
        geometry_type="Unknown",
        crs=crs,
        driver={".gpkg": "GPKG", ".geojson": "GeoJSON", ".fgb": "FlatGeobuf"}[path.suffix],
        layer=layer or path.stem,
        append=append,
    )
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command and return its exit code with the report, the text or the error."""

    def run(*arguments, as_json=True):
        arguments = [str(argument) for argument in arguments] + ["--json"] * as_json
        monkeypatch.setattr(sys, "argv", ["evaluate_scenes.py", *arguments])
        try:
            code = run_command(evaluate_scenes.main)
        except SystemExit as error:
            code = error.code
        output = capsys.readouterr()
        if code:
            return code, output.err
        return code, json.loads(output.out) if as_json else output.out

    return run


def evaluate(run, *arguments, **options):
    code, report = run(*arguments, **options)
    assert code == 0, report
    return report


def shaken(rng, instance, scene, number):
    """A worse version of an instance: moved, with other pixels and sometimes another class."""
    mask = instance.mask.copy()
    if rng.random() < 0.5:
        mask[: rng.integers(0, max(1, mask.shape[0] // 2))] = False
    if not mask.any():
        mask = instance.mask
    height, width = mask.shape
    x0 = int(np.clip(instance.x0 + rng.integers(-4, 5), 0, scene.width - width))
    y0 = int(np.clip(instance.y0 + rng.integers(-4, 5), 0, scene.height - height))
    index = instance.class_index if rng.random() < 0.9 else int(rng.integers(3))
    # Few different scores, so that many are equal.
    return SceneInstance(number, index, float(rng.integers(1, 12)) / 16, x0, y0, mask)


def dense_scene(seed, transform, count=150):
    scene = describe(transform, 32633, size=(300, 320))
    rng = np.random.default_rng(seed)
    truth = []
    for number in range(1, count + 1):
        height, width = (int(v) for v in rng.integers(3, 34, 2))
        place = int(rng.integers(320 - width)), int(rng.integers(300 - height))
        truth.append(
            SceneInstance(number, int(rng.integers(3)), 1.0, *place, ellipse(height, width))
        )
    results = [shaken(rng, i, scene, n) for n, i in enumerate(truth * 2, start=1)]
    return scene, truth, [results[i] for i in rng.permutation(len(results))[: 3 * count // 2]]


def coco_ap(scenes):
    """AP, AP50 and AP75 by pycocotools, with all instances: over all classes, and of each."""
    truth = COCO()
    truth.dataset = {
        "images": [],
        "annotations": [],
        "categories": [{"id": c + 1, "name": name} for c, name in enumerate(NAMES)],
    }
    results = []
    for image_id, (scene, objects, predictions) in enumerate(scenes, start=1):
        truth.dataset["images"].append(
            {"id": image_id, "height": scene.height, "width": scene.width}
        )

        def entry(instance, scene=scene, image_id=image_id):
            rle = mask_util.encode(np.asfortranarray(whole_mask(instance, scene), np.uint8))
            return {
                "image_id": image_id,
                "category_id": instance.class_index + 1,
                "segmentation": rle,
                "area": float(mask_util.area(rle)),
                "bbox": mask_util.toBbox(rle).tolist(),
                "iscrowd": 0,
                "score": instance.score,
            }

        for instance in objects:
            number = len(truth.dataset["annotations"]) + 1
            truth.dataset["annotations"].append(entry(instance) | {"id": number})
        results += [entry(instance) for instance in predictions]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.params.maxDets = [1, 10, 100_000]
        evaluation.params.areaRng = [[0, 1e10]]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # IoU, recall, class.
    recall = evaluation.eval["recall"][:, :, 0, -1]

    def mean(values):
        values = values[values > -1]
        return float(values.mean() * 100) if values.size else None

    def row(values):
        return {"AP": mean(values), "AP50": mean(values[0]), "AP75": mean(values[5])}

    return row(precision), {n: row(precision[..., c]) for c, n in enumerate(NAMES)}, recall


def assert_equal_to_coco(report, scenes):
    overall, classes, _ = coco_ap(scenes)
    assert 5 < overall["AP"] < 95
    for key, value in overall.items():
        assert report[key] == pytest.approx(value, abs=1e-9)
    for name, row in classes.items():
        for key, value in row.items():
            assert report["classes"][name][key] == (value and pytest.approx(value, abs=1e-9))


@pytest.mark.parametrize("transform", [Affine.identity(), NORTH_UP, ROTATED])
@pytest.mark.parametrize("seed", range(3))
def test_ap_equals_that_of_pycocotools(run, tmp_path, seed, transform):
    scene, truth, results = dense_scene(seed, transform)
    for name, instances in (("truth", truth), ("results", results)):
        write_scene([tmp_path / f"{name}.gpkg"], scene, instances)
    report = evaluate(
        run, "--truth", tmp_path / "truth.gpkg", "--results", tmp_path / "results.gpkg"
    )
    assert_equal_to_coco(report, [(scene, truth, results)])


def test_ap_of_several_scenes_equals_that_of_pycocotools(run, tmp_path):
    scenes = [dense_scene(seed, NORTH_UP, count) for seed, count in ((5, 20), (6, 120), (7, 3))]
    files = {"truth": [], "results": []}
    for number, (scene, *lists) in enumerate(scenes):
        for name, instances in zip(files, lists):
            files[name].append(tmp_path / f"{name}{number}.gpkg")
            write_scene([files[name][-1]], scene, instances)
    report = evaluate(run, "--truth", *files["truth"], "--results", *files["results"])
    assert_equal_to_coco(report, scenes)
    assert report["all"]["truth"] == 143


def test_an_iou_at_the_threshold_counts_as_in_pycocotools(run, tmp_path):
    """Masks of 10 pixels that share 5, 6 ... with objects of 10: IoUs of 1/3, 6/14 ... 1."""
    scene = describe(ROTATED, 32633)
    truth, results = [], []
    for k in range(1, 21):
        truth.append(SceneInstance(k, 0, 1.0, 30 * (k % 5), 20 * k, np.ones((1, 20), bool)))
        cut = np.ones((1, k), bool)
        results.append(SceneInstance(k, 0, k / 32, 30 * (k % 5), 20 * k, cut))
    write_scene([tmp_path / "truth.fgb"], scene, truth)
    write_scene([tmp_path / "results.fgb"], scene, results)
    report = evaluate(run, "--truth", tmp_path / "truth.fgb", "--results", tmp_path / "results.fgb")
    overall, _, _ = coco_ap([(scene, truth, results)])
    assert report["AP"] == pytest.approx(overall["AP"], abs=1e-9)


def test_more_than_a_hundred_instances_count(run, tmp_path):
    squares = [shapely.box(4 * k, 0, 4 * k + 2, 2) for k in range(400)]
    classes = ["ship"] * 400
    write_vectors(tmp_path / "t.gpkg", squares, **{"class": classes})
    write_vectors(tmp_path / "r.gpkg", squares, **{"class": classes, "score": [0.9] * 400})
    report = evaluate(run, "--truth", tmp_path / "t.gpkg", "--results", tmp_path / "r.gpkg")
    assert (report["AP"], report["AP75"]) == (100, 100)
    assert report["classes"]["ship"]["predicted"] == 400


@pytest.mark.parametrize("truth_crs", ["EPSG:4326", "EPSG:3857", "EPSG:32632"])
@pytest.mark.parametrize("results_crs", [UTM, "EPSG:4326", "EPSG:3857"])
def test_files_may_have_different_systems(run, tmp_path, truth_crs, results_crs):
    """Squares of 10 m in UTM, which cover 80 % of the results."""
    corners = [(400_000 + 40 * k, 5_800_000 + 700 * (k % 3)) for k in range(30)]
    truth = np.array([shapely.box(x, y, x + 10, y + 10) for x, y in corners])
    results = np.array([shapely.box(x, y, x + 10, y + 12.5) for x, y in corners])
    source = CRS.from_string(UTM)
    for name, polygons, crs in (("t", truth, truth_crs), ("r", results, results_crs)):
        placed = reprojected(polygons, source, CRS.from_string(crs))
        columns = {"class": ["ship"] * 30, "score": np.linspace(0.5, 1, 30)}
        write_vectors(tmp_path / f"{name}.gpkg", placed, crs=crs, **columns)
    report = evaluate(
        run,
        *("--truth", tmp_path / "t.gpkg", "--results", tmp_path / "r.gpkg"),
        *("--size-limits", 90, 110),
    )
    # IoU 0.8 reaches the thresholds 0.5 to 0.75, and perhaps 0.8.
    assert (report["AP50"], report["AP75"]) == (100, 100)
    assert report["AP"] in (60, 70)
    assert report["unit"] == "m"
    assert [row["truth"] for row in report["recall_by_size"]] == [0, 30, 0]
    assert report["area"] == pytest.approx(1170 * 1412.5, rel=0.03)


@pytest.mark.parametrize("truth_crs", ["EPSG:4326", "EPSG:3857"])
@pytest.mark.parametrize("results_crs", ["EPSG:4326", "EPSG:3857", "EPSG:32760"])
def test_both_sides_of_the_antimeridian(run, tmp_path, truth_crs, results_crs):
    """Squares of 10 m, which cover 80 % of the results; in degrees, one lies on the meridian."""
    source = CRS.from_epsg(32760)
    middle = reprojected(np.array([shapely.Point(180, -17)]), CRS.from_epsg(4326), source)[0]
    corners = [(middle.x - 5 + 200 * k, middle.y + 300 * (k % 2)) for k in range(-10, 11)]
    if "EPSG:3857" in (truth_crs, results_crs):
        corners.remove((middle.x - 5, middle.y))
    truth = np.array([shapely.box(x, y, x + 10, y + 10) for x, y in corners])
    results = np.array([shapely.box(x, y, x + 10, y + 12.5) for x, y in corners])
    count = len(corners)
    for name, polygons, crs in (("t", truth, truth_crs), ("r", results, results_crs)):
        placed = reprojected(polygons, source, CRS.from_string(crs))
        if crs != "EPSG:32760":
            left, _, right, _ = shapely.total_bounds(placed)
            assert left < 0 < right
        columns = {"class": ["ship"] * count, "score": np.linspace(0.5, 1, count)}
        write_vectors(tmp_path / f"{name}.gpkg", placed, crs=crs, **columns)
    report = evaluate(
        run,
        *("--truth", tmp_path / "t.gpkg", "--results", tmp_path / "r.gpkg"),
        *("--size-limits", 98, 102),
    )
    assert (report["AP50"], report["AP75"]) == (100, 100)
    assert [row["truth"] for row in report["recall_by_size"]] == [0, count, 0]
    # The north of the zone and that of its border differ by 0.9 degrees.
    assert 4010 * 312.5 < 1.001 * report["area"] < 1.21 * 4010 * 312.5


def test_counts_of_each_cell(run, tmp_path):
    """Cells of 100 m in an area of 300 x 200 m; the truth has 3, 0, 1, 0, 0, 2 objects in them."""

    def squares(counts):
        for cell, count in enumerate(counts):
            for k in range(count):
                x, y = 100 * (cell % 3) + 10 * k + 5, 100 * (cell // 3) + 50
                yield shapely.box(x, y, x + 4, y + 4)

    truth = list(squares([3, 0, 1, 0, 0, 2]))
    found = list(squares([1, 2, 1, 0, 1, 2]))
    weak = [shapely.box(205, 80, 209, 84)]
    write_vectors(tmp_path / "aoi.gpkg", [shapely.box(0, 0, 300, 200)])
    write_vectors(tmp_path / "t.gpkg", truth, **{"class": ["ship"] * 6})
    columns = {"class": ["ship"] * 8, "score": [0.5] * 7 + [0.4]}
    write_vectors(tmp_path / "r.gpkg", found + weak, **columns)
    arguments = ["--truth", tmp_path / "t.gpkg", "--results", tmp_path / "r.gpkg"]
    arguments += ["--aoi", tmp_path / "aoi.gpkg", "--cell", 100]
    report = evaluate(run, *arguments)
    assert (report["cells"], report["area"]) == (6, 60_000)
    assert report["classes"]["ship"]["truth"] == report["all"]["truth"] == 6
    assert (report["all"]["predicted"], report["all"]["bias"]) == (7, 1)
    assert report["all"]["mae"] == pytest.approx((2 + 2 + 0 + 0 + 1 + 0) / 6)
    assert report["all"]["true_density"] == pytest.approx(100)
    assert report["all"]["predicted_density"] == pytest.approx(7 / 0.06)
    assert evaluate(run, *arguments, "--count-score", 0.4)["all"]["predicted"] == 8
    whole = evaluate(run, *arguments[:-1], 1000)
    assert (whole["cells"], whole["all"]["mae"]) == (1, 1)


def test_the_score_for_equal_numbers(run, tmp_path):
    """Two ships and one car; a result in an ignored region does not count."""
    places = [shapely.box(20 * k, 0, 20 * k + 10, 10) for k in range(8)]
    write_vectors(tmp_path / "t.gpkg", places[:3], **{"class": ["ship", "ship", "car"]})
    write_vectors(tmp_path / "ignore.gpkg", [places[7].buffer(1)])
    columns = {
        "class": ["ship", "ship", "ship", "plane", "car", "car", "ship"],
        "score": [0.9, 0.3, 0.5, 0.2, 0.8, 0.7, 0.99],
    }
    write_vectors(tmp_path / "r.gpkg", [places[i] for i in (0, 1, 3, 4, 2, 5, 7)], **columns)
    arguments = ["--truth", tmp_path / "t.gpkg", "--results", tmp_path / "r.gpkg"]
    arguments += ["--ignore", tmp_path / "ignore.gpkg"]
    report = evaluate(run, *arguments)
    scores = {name: row["balanced_score"] for name, row in report["classes"].items()}
    assert scores == {"ship": 0.5, "car": 0.8, "plane": None}
    assert report["all"]["balanced_score"] == 0.7
    assert evaluate(run, *arguments, "--count-score", 0.7)["all"]["bias"] == 0


def test_the_area_of_interest(run, tmp_path):
    area = shapely.box(0, 0, 100, 100) - shapely.box(40, 40, 60, 60)
    truth = {
        "inside": shapely.box(10, 10, 20, 20),
        "missed": shapely.box(0, 80, 10, 90),  # At the border, but not over it.
        "cut": shapely.box(95, 50, 105, 60),
        "outside": shapely.box(120, 10, 130, 20),
        "in the hole": shapely.box(45, 45, 55, 55),
    }
    results = {
        "right": truth["inside"],
        "of a cut object": truth["cut"],
        "outside": truth["outside"],
        "false": shapely.box(70, 70, 75, 75),
        "false over the border": shapely.box(98, 10, 103, 20),
    }
    write_vectors(tmp_path / "t.gpkg", list(truth.values()), **{"class": ["a"] * 5})
    columns = {"class": ["a"] * 5, "score": [0.8, 0.9, 0.9, 0.95, 0.9]}
    write_vectors(tmp_path / "r.gpkg", list(results.values()), **columns)
    arguments = ["--truth", tmp_path / "t.gpkg", "--results", tmp_path / "r.gpkg", "--aoi"]
    write_vectors(tmp_path / "aoi.gpkg", [area])
    report = evaluate(run, *arguments, tmp_path / "aoi.gpkg")
    assert (report["ignored_truth"], report["ignored_results"]) == (1, 2)
    assert (report["all"]["truth"], report["all"]["predicted"]) == (2, 2)
    # The false result comes first: precision 1/2 up to a recall of 1/2, and no further.
    assert report["AP50"] == pytest.approx(51 * 0.5 / 101 * 100)
    assert report["area"] == pytest.approx(9600)


def test_ignored_regions(run, tmp_path):
    """Results in a region count neither as right nor as false, nor objects in it as missed."""
    truth = [shapely.box(0, 0, 10, 10), shapely.box(52, 52, 58, 58), shapely.box(80, 0, 99, 9)]
    results = [truth[0], shapely.box(55, 50, 59, 54), shapely.box(82, 2, 86, 6)]
    write_vectors(tmp_path / "ignore.gpkg", [shapely.box(50, 50, 60, 60)])
    columns = {"class": ["a"] * 3, "iscrowd": [0, 0, 1]}
    write_vectors(tmp_path / "t.gpkg", truth, **columns)
    columns = {"class": ["a"] * 3, "score": [0.7, 0.9, 0.8]}
    write_vectors(tmp_path / "r.gpkg", results, **columns)
    arguments = ["--truth", tmp_path / "t.gpkg", "--results", tmp_path / "r.gpkg"]
    regions = ["--ignore", tmp_path / "ignore.gpkg", "--ignore-field", "iscrowd"]
    report = evaluate(run, *arguments, *regions)
    assert report["AP"] == 100
    assert (report["all"]["truth"], report["all"]["predicted"]) == (1, 1)
    assert (report["ignored_truth"], report["ignored_results"]) == (1, 2)
    plain = evaluate(run, *arguments)
    assert (plain["all"]["truth"], plain["ignored_results"]) == (3, 0)
    assert plain["AP50"] == pytest.approx(34 / 3 / 101 * 100)


def test_recall_by_size(run, tmp_path):
    sides = [1, 2, 3, 10, 11, 12, 30, 31, 32]
    truth = [shapely.box(50 * k, 0, 50 * k + s, s) for k, s in enumerate(sides)]
    # The results cover 60 % of the middle objects, and 100 % of two large ones.
    results = [
        shapely.box(150 + 50 * k, 0, 150 + 50 * k + s, 0.6 * s) for k, s in enumerate(sides[3:6])
    ]
    results += truth[6:8]
    write_vectors(tmp_path / "t.gpkg", truth, **{"class": ["a"] * 9})
    write_vectors(tmp_path / "r.gpkg", results, **{"class": ["a"] * 5, "score": [0.1] * 5})
    arguments = ["--truth", tmp_path / "t.gpkg", "--results", tmp_path / "r.gpkg"]
    for limits in ([], ["--size-limits", 50, 500]):
        small, middle, large = evaluate(run, *arguments, *limits)["recall_by_size"]
        assert [row["truth"] for row in (small, middle, large)] == [3, 3, 3]
        assert (small["recall50"], small["recall"]) == (0, 0)
        assert middle["recall50"] == 100
        assert middle["recall"] == pytest.approx(30)  # IoU 0.5, 0.55 and 0.6.
        assert large["recall50"] == large["recall"] == pytest.approx(200 / 3)
    assert (middle["min_area"], middle["max_area"], large["max_area"]) == (50, 500, None)


def test_classes_of_other_types_and_names(run, tmp_path):
    squares = [shapely.box(10 * k, 0, 10 * k + 5, 5) for k in range(4)]
    write_vectors(tmp_path / "t.gpkg", squares, kind=[1, 1, 2, 2])
    columns = {"class": ["1", "1", "2", "3"], "score": [0.9] * 4}
    write_vectors(tmp_path / "r.gpkg", squares, **columns)
    arguments = ["--truth", tmp_path / "t.gpkg", "--results", tmp_path / "r.gpkg"]
    report = evaluate(run, *arguments, "--class-field", "kind")
    assert {name: row["AP"] for name, row in report["classes"].items()} == {
        "1": 100,
        "2": pytest.approx(51 / 101 * 100),
        "3": None,  # No object has this class.
    }
    assert report["AP"] == pytest.approx((100 + 51 / 101 * 100) / 2)
    assert report["classes"]["3"]["predicted"] == 1
    one = evaluate(run, *arguments, "--one-class")
    assert list(one["classes"]) == ["object"]
    assert one["AP"] == 100


def test_no_results_and_no_truth(run, tmp_path):
    square = [shapely.box(0, 0, 5, 5)]
    full = write_vectors(tmp_path / "f.gpkg", square, **{"class": ["a"], "score": [0.9]})
    none = tmp_path / "none.gpkg"
    write_scene([none], describe(NORTH_UP, 32633), [])
    report = evaluate(run, "--truth", full, "--results", none)
    assert (report["AP"], report["all"]["bias"]) == (0, -1)
    report = evaluate(run, "--truth", none, "--results", full)
    assert (report["AP"], report["all"]["bias"], report["recall_by_size"]) == (None, 1, [])
    report = evaluate(run, "--truth", none, "--results", none)
    assert (report["AP"], report["classes"], report["cells"]) == (None, {}, 0)


def test_invalid_polygons_are_repaired_and_counted(run, tmp_path):
    bow = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    square = shapely.box(20, 0, 30, 10)
    line = shapely.Polygon([(0, 0), (5, 5), (0, 0)])
    truth = [bow, square, line]
    write_vectors(tmp_path / "t.gpkg", truth, **{"class": ["a"] * 3})
    columns = {"class": ["a"] * 2, "score": [0.9] * 2}
    write_vectors(tmp_path / "r.gpkg", [shapely.make_valid(bow), square], **columns)
    code, report = run("--truth", tmp_path / "t.gpkg", "--results", tmp_path / "r.gpkg")
    assert (code, report["AP"], report["all"]["truth"]) == (0, 100, 2)


def test_the_printed_report(run, tmp_path):
    scene, truth, results = dense_scene(0, NORTH_UP, 30)
    write_scene([tmp_path / "t.gpkg"], scene, truth)
    write_scene([tmp_path / "r.gpkg"], scene, results)
    arguments = ["--truth", tmp_path / "t.gpkg", "--results", tmp_path / "r.gpkg"]
    text = evaluate(run, *arguments, as_json=False)
    report = evaluate(run, *arguments)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    rows = {row[0]: row[1:] for row in rows if row}
    for name in NAMES:
        row = report["classes"][name]
        assert rows[name][:3] == [f"{row[key]:.2f}" for key in ("AP", "AP50", "AP75")]
        assert rows[name][3:5] == [str(row["truth"]), str(row["predicted"])]
    assert rows["all"][0] == f"{report['AP']:.2f}"
    assert "true per km²" in text
    assert "0.024 km² in 1 cells of 1000 m" in text.replace(f"{report['area'] / 1e6:.4g}", "0.024")


@pytest.mark.parametrize(
    ("truth", "results", "arguments", "message"),
    [
        ("none.gpkg", "r.gpkg", [], r"none\.gpkg cannot be read as vectors"),
        ("t.gpkg", "text.txt", [], r"text\.txt cannot be read as vectors"),
        (
            "t.gpkg",
            "r.gpkg",
            ["--class-field", "kind"],
            r"no attribute 'kind'; .*\(class, n\).*--cl",
        ),
        ("t.gpkg", "t.gpkg", [], r"t\.gpkg has no attribute 'score'.*--score-field"),
        ("t.gpkg", "r.gpkg", ["--score-field", "class"], r"'class' is not a score"),
        (
            "t.gpkg",
            "r.gpkg",
            ["--results-class-field", "b"],
            r"ground truth \(ship.*no class in common",
        ),
        ("point.gpkg", "r.gpkg", [], r"feature 0 is a Point; objects and areas must be polygons"),
        ("two.gpkg", "r.gpkg", [], r"several layers \(a, b\)"),
        ("two.gpkg", "r.gpkg", ["--truth-layer", "c"], r"no layer 'c'; its layers are: a, b"),
        ("empty.gpkg", "r.gpkg", [], r"'class' of feature 1 is empty"),
        ("no_crs.gpkg", "r.gpkg", [], r"no_crs\.gpkg has no CRS, but .*r\.gpkg has EPSG:32633"),
        ("t.gpkg", "r.gpkg", ["--cell", "0.001"], r"--cell: the area has .* cells"),
        ("t.gpkg", "r.gpkg", ["--cell", "-1"], r"--cell must be above 0"),
        ("t.gpkg", "r.gpkg", ["--size-limits", "5", "2"], r"--size-limits must increase"),
        ("t.gpkg", "r.gpkg", ["--aoi", "a", "b"], r"--aoi: give one file for each file of --truth"),
    ],
)
def test_wrong_input_is_one_sentence(run, tmp_path, truth, results, arguments, message):
    squares = [shapely.box(10 * k, 0, 10 * k + 5, 5) for k in range(2)]
    classes = {"class": ["ship", "ship"]}
    write_vectors(tmp_path / "t.gpkg", squares, **classes, n=[1, 2])
    write_vectors(tmp_path / "r.gpkg", squares, **classes, b=["x", "y"], score=[0.5, 0.6])
    write_vectors(tmp_path / "point.gpkg", [shapely.Point(0, 0)], **{"class": ["ship"]})
    write_vectors(tmp_path / "two.gpkg", squares, layer="a", **classes)
    write_vectors(tmp_path / "two.gpkg", squares, layer="b", append=True, **classes)
    write_vectors(tmp_path / "empty.gpkg", squares, **{"class": np.array(["a", None], object)})
    write_vectors(tmp_path / "no_crs.gpkg", squares, crs=None, **classes)
    (tmp_path / "text.txt").write_text("no vectors")
    code, error = run("--truth", tmp_path / truth, "--results", tmp_path / results, *arguments)
    assert code == 2
    assert re.search(message, error), error
    assert "Traceback" not in error


def test_results_of_the_features_of_a_large_scene_are_matched_fast(run, tmp_path):
    """3,600 objects: candidates come from a tree, not from all pairs."""
    scene = describe(NORTH_UP, 32633, size=(1800, 1800))
    mask = ellipse(14, 20)
    instances = [
        SceneInstance(1 + k, k % 3, 0.5 + k / 10_000, 29 * (k % 60), 29 * (k // 60), mask)
        for k in range(3600)
    ]
    features = Vectorizer(scene)(instances)
    columns = {"class": features.attributes["class"], "score": features.attributes["score"]}
    write_vectors(tmp_path / "t.fgb", features.polygons, **columns)
    report = evaluate(run, "--truth", tmp_path / "t.fgb", "--results", tmp_path / "t.fgb")
    assert report["AP"] == 100
    assert report["all"]["predicted"] == 3600


@pytest.mark.parametrize("package", ["rasterio", "pyogrio"])
def test_missing_packages_are_named_in_a_sentence(run, monkeypatch, package):
    # Another test may have imported it, with the packages.
    monkeypatch.delitem(sys.modules, "facenet_d2.scenes.geo", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    code, error = run("--truth", "a.gpkg", "--results", "b.gpkg")
    assert code == 2
    assert package in error
    assert "pip install 'facenet_d2[geo]'" in error
