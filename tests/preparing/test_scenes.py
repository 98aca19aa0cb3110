"""Chips of rasters with labels on the map: every pitfall of training data with a known answer."""

import itertools
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import prepare_scenes
import pycocotools.mask as mask_util
import pytest
import shapely
import yaml
from helpers import REPOSITORY, save_untrained_model
from PIL import Image

from facenet_d2 import ScenePredictor
from facenet_d2.data.coco_json import read_coco
from facenet_d2.data.readers import build_reader
from facenet_d2.engine import load_config, run_command

pyogrio = pytest.importorskip("pyogrio.raw")
rasterio = pytest.importorskip("rasterio")

from affine import Affine  # noqa: E402
from rasterio.warp import transform as warp  # noqa: E402

from facenet_d2.data.statistics import PixelStatistics  # noqa: E402
from facenet_d2.preparing import chip_files, chip_sets  # noqa: E402
from facenet_d2.preparing.burning import burn, count_pixels  # noqa: E402
from facenet_d2.preparing.label_classes import ClassRules, class_text  # noqa: E402
from facenet_d2.preparing.labels import labels_on_raster, read_labels  # noqa: E402
from facenet_d2.preparing.splits import assign, block_intervals, block_windows  # noqa: E402
from facenet_d2.scenes.raster import Raster  # noqa: E402

UTM = "EPSG:32633"
NORTH_UP = Affine(0.5, 0, 500_000, 0, -0.5, 5_800_000)
ROTATED = Affine.translation(500_000, 5_800_000) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5)
SOUTH_UP = Affine(0.5, 0, 500_000, 0, 0.5, 5_800_000)
ONE_CLASS = ("--one-class", "object")
WHOLE = ("--split", "train=1", "--empty-share", "1")


def write_raster(path, values, *, transform=NORTH_UP, crs=UTM, nodata=None):
    bands, height, width = values.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=bands,
        height=height,
        width=width,
        dtype=values.dtype.name,
        crs=crs,
        transform=transform,
        nodata=nodata,
    ) as file:
        file.write(values)
    return path


def noise(bands, size, dtype="uint8", low=1, high=250):
    return np.random.default_rng(1).integers(low, high, (bands, size, size)).astype(dtype)


def on_map(polygons, transform=NORTH_UP):
    """Move polygons from pixels to the map, point by point."""
    a, b, c, d, e, f = tuple(transform)[:6]
    return [
        shapely.transform(
            polygon, lambda p: np.array([(a * x + b * y + c, d * x + e * y + f) for x, y in p])
        )
        for polygon in polygons
    ]


def write_labels(path, polygons, classes=None, *, crs=UTM, field="class"):
    columns = [] if classes is None else [np.array(classes)]
    pyogrio.write(
        path,
        shapely.to_wkb(np.array(polygons, dtype=object)),
        columns,
        [] if classes is None else [field],
        geometry_type="Unknown" if path.suffix != ".shp" else "Polygon",
        crs=crs,
    )
    return path


@pytest.fixture
def prepare(tmp_path, monkeypatch, capsys):
    """Run the command; return its exit code and everything that it prints."""

    def run(*args, output="out"):
        options = ["--output", tmp_path / output, "--workers", "1", *args]
        monkeypatch.setattr(sys, "argv", ["prepare_scenes.py", *map(str, options)])
        code = run_command(prepare_scenes.main)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def read(path):
    return json.loads(Path(path).read_text())


def masks_of(content, image):
    """Return (annotation, mask in the chip) pairs of an image."""
    own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
    return [(a, mask_util.decode(a["segmentation"]).astype(bool)) for a in own]


def centres_in(polygon, width, height):
    """Return which pixel centres of a scene lie in a polygon, by shapely."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    return shapely.contains_xy(polygon, columns.ravel(), rows.ravel()).reshape(height, width)


def blobs(count, size, seed, low=6.0, high=14.0):
    """Return irregular polygons in pixels, some of them with holes, some beyond the scene."""
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, 13)[:-1]
    result = []
    for number in range(count):
        radius = rng.uniform(low, high) * rng.uniform(0.8, 1.2, 12)
        x, y = rng.uniform(-3, size + 3, 2)
        ring = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)
        hole = [np.array([x, y]) + 0.3 * (ring - (x, y))] if number % 3 == 0 else []
        result.append(shapely.Polygon(ring, hole))
    return result


# Masks


def test_masks_are_the_pixels_whose_centres_are_inside():
    polygons = blobs(12, 60, seed=3)
    polygons.append(shapely.union_all(polygons[:1] + [shapely.box(40.3, 2.2, 52.1, 9.7)]))
    for polygon in polygons:
        expected = centres_in(polygon, 60, 60)
        for window in ((0, 0, 60, 60), (13, 7, 41, 60)):
            mask, x, y, _ = burn(polygon, window)
            left, top, right, bottom = window
            found = np.zeros((60, 60), bool)
            found[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
            assert np.array_equal(found[top:bottom, left:right], expected[top:bottom, left:right])


def test_neighbours_share_no_pixel():
    one, other = shapely.box(2, 2, 20.5, 30), shapely.box(20.5, 2, 40, 30)
    window = (0, 0, 50, 50)
    total = np.zeros((50, 50), int)
    for polygon in (one, other):
        mask, x, y, _ = burn(polygon, window)
        total[y : y + mask.shape[0], x : x + mask.shape[1]] += mask
    assert total.max() == 1
    assert total.sum() == 38 * 28


@pytest.mark.parametrize("side", [2.0, 3.5, 5.2, 9.5])
def test_small_objects_are_decided_by_16_samples(side):
    rng = np.random.default_rng(0)
    for _ in range(10):
        x, y = rng.uniform(3, 6, 2)
        polygon = shapely.affinity.rotate(shapely.box(x, y, x + side / 1.5, y + side / 1.5), 17)
        mask, left, top, is_whole = burn(polygon, (0, 0, 20, 20))
        for row in range(20):
            for column in range(20):
                inside = sum(
                    shapely.contains_xy(polygon, column + (i + 0.5) / 4, row + (j + 0.5) / 4)
                    for i in range(4)
                    for j in range(4)
                )
                if inside == 8:
                    continue
                h, w = mask.shape
                within = top <= row < top + h and left <= column < left + w
                found = within and mask[row - top, column - left]
                assert found == (inside > 8)
        assert is_whole
        assert count_pixels(polygon) == mask.sum()


def test_objects_larger_than_the_memory_for_masks():
    # 100 km of 0.5 m: counted by area, burned in the window only.
    polygon = shapely.box(-100_000.25, -100_000, 100_000.5, 20.5)
    assert count_pixels(polygon) == shapely.area(polygon)
    mask, x, y, _ = burn(polygon, (0, 0, 64, 64))
    assert (x, y) == (0, 0)
    # A centre on the lower side belongs to the polygon below it, or to this one.
    assert mask[:20].all()
    assert not mask[21:].any()


# Whole data sets, recomputed from the labels


@pytest.mark.parametrize("transform", [NORTH_UP, ROTATED, SOUTH_UP], ids=["north", "rot", "south"])
def test_annotations_equal_those_computed_from_the_labels(tmp_path, prepare, transform):
    size, side, overlap = 110, 40, 5
    values = noise(3, size)
    write_raster(tmp_path / "scene.tif", values, transform=transform)
    polygons = blobs(25, size, seed=5)
    classes = [("house", "tree")[i % 2] for i in range(25)]
    write_labels(tmp_path / "labels.gpkg", on_map(polygons, transform), classes)
    code, text = prepare(
        *("--input", tmp_path / "scene.tif", "--labels", tmp_path / "labels.gpkg"),
        *("--classes", "tree", "house", "--chip-size", side, "--overlap", overlap),
        *("--min-visible", "0.4", *WHOLE),
    )
    assert code == 0, text
    content = read(tmp_path / "out" / "train.json")
    assert [(c["id"], c["name"]) for c in content["categories"]] == [(1, "tree"), (2, "house")]
    margin = 30
    whole = [
        centres_in(shapely.affinity.translate(p, margin, margin), size + 60, size + 60)
        for p in polygons
    ]
    # Strides are shrunk evenly: 0, 35 and 70.
    assert sorted({image["x"] for image in content["images"]}) == [0, 35, 70]
    assert len(content["images"]) == 9
    kinds = set()
    for image in content["images"]:
        x, y = image["x"], image["y"]
        pixels = np.asarray(Image.open(tmp_path / "out" / image["file_name"]))
        assert np.array_equal(pixels, np.moveaxis(values[:, y : y + side, x : x + side], 0, -1))
        found = {a["source_id"] - 1: (a, mask) for a, mask in masks_of(content, image)}
        for number, mask in enumerate(whole):
            part = mask[margin + y : margin + y + side, margin + x : margin + x + side]
            if part.sum() < 4:
                assert number not in found
                continue
            annotation, decoded = found.pop(number)
            share = part.sum() / mask.sum()
            assert np.array_equal(decoded, part)
            assert annotation["area"] == part.sum()
            rows, columns = np.nonzero(part)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert annotation["bbox"] == box
            assert annotation["category_id"] == (1 if number % 2 else 2)
            assert annotation["iscrowd"] == (share < 0.4)
            assert annotation["truncated"] == (share < 1)
            assert annotation["visible"] == pytest.approx(share, abs=1e-4)
            kinds.add((annotation["iscrowd"], annotation["truncated"]))
        assert not found
    assert kinds == {(0, 0), (0, 1), (1, 1)}


def test_the_config_snippet_and_the_reader_accept_the_files(tmp_path, prepare, caplog):
    write_raster(tmp_path / "scene.tif", noise(1, 100))
    polygons = on_map(blobs(40, 100, seed=1, low=2, high=5))
    write_labels(tmp_path / "labels.geojson", polygons, crs=UTM)
    code, text = prepare(
        *("--input", tmp_path / "scene.tif", "--labels", tmp_path / "labels.geojson"),
        *(*ONE_CLASS, "--labels-crs", UTM, "--chip-size", 48, "--gap", 2, "--block-size", 1),
        *("--split", "train=0.5", "val=0.5"),
    )
    assert code == 0, text
    config = yaml.safe_load(text[text.index("DATASETS:") :].partition("Annotating")[0])
    names = [entry[0] for entry in config["DATASETS"]["COCO"]]
    assert (
        names
        == ["out_train", "out_val"]
        == [
            *config["DATASETS"]["TRAIN"],
            *config["DATASETS"]["TEST"],
        ]
    )
    for name, json_file, folder in config["DATASETS"]["COCO"]:
        content = read_coco(json_file, name, image_root=folder)
        assert content["images"]
        assert not caplog.records
    assert len(config["MODEL"]["PIXEL_MEAN"]) == len(config["MODEL"]["PIXEL_STD"]) == 3
    assert config["DATALOADER"]["FILTER_EMPTY_ANNOTATIONS"] is False
    scene = config["TEST"]["SCENE"]
    assert scene["BANDS"] == [1, 1, 1]
    assert scene["PIXEL_SIZE"] == pytest.approx(0.5, rel=1e-3)
    sides = [max(np.ptp(p.exterior.xy, axis=1)) for p in blobs(40, 100, seed=1, low=2, high=5)]
    assert scene["OVERLAP"] == pytest.approx(np.percentile(sides, 95) + 8, abs=1.01)
    assert config["INPUT"]["MIN_SIZE_TEST"] == 48


@pytest.mark.parametrize("kind", ["grey png", "rgb png", "tif"])
def test_scenes_are_read_as_the_chips_of_the_snippet(tmp_path, prepare, kind):
    """With the printed config, a scene's tile has the pixels that training reads from its chip."""
    bands, chosen = {"grey png": (1, [1]), "rgb png": (4, [3, 2, 1]), "tif": (5, [5, 1, 2, 4])}[
        kind
    ]
    write_raster(tmp_path / "scene.tif", noise(bands, 64, "uint16", 1, 60_000))
    write_labels(tmp_path / "labels.gpkg", on_map([shapely.box(15, 15, 45, 40)]))
    code, text = prepare(
        *("--input", tmp_path / "scene.tif", "--labels", tmp_path / "labels.gpkg", *ONE_CLASS),
        *("--chip-size", 64, *WHOLE, "--stretch", "percentile 2 90", "--bands", *chosen),
    )
    assert code == 0, text
    snippet = tmp_path / "own.yaml"
    base = REPOSITORY / "configs" / "synthetic" / "solov2_R_18_overfit.yaml"
    snippet.write_text(
        f'_BASE_: "{base}"\n' + text[text.index("DATASETS:") :].partition("Annotating")[0]
    )
    model = tmp_path / "model.pth"
    overrides = ["MODEL.WEIGHTS", str(model)]
    save_untrained_model(load_config(snippet, ["TEST.SCENE.PIXEL_SIZE", "2.0"]), model)
    predictor = ScenePredictor(snippet, overrides=overrides)
    cfg = predictor.predictor.cfg
    assert (predictor.tile_size, predictor.overlap) == (64, 32)
    with predictor.open(str(tmp_path / "scene.tif")) as raster:
        scene = predictor.scene(raster)
        values, valid = raster.read((0, 0, 64, 64))
    tile = scene.stretch.apply(values, valid)
    (image,) = (tmp_path / "out" / "train").iterdir()
    chip = np.moveaxis(build_reader(cfg)(image), 2, 0).astype(np.float32)
    assert chip.shape == (max(3, len(chosen)), 64, 64)
    # PNG rounds the values.
    np.testing.assert_allclose(tile, chip, atol=0.51 if "png" in kind else 1e-3)
    # The chips have 0.5 m. Twice the pixel size halves the scene.
    coarse = ScenePredictor(snippet, overrides=[*overrides, "TEST.SCENE.PIXEL_SIZE", "1.0"])
    with coarse.open(str(tmp_path / "scene.tif")) as raster:
        assert (raster.height, raster.width) == (32, 32)
    with coarse.open(str(tmp_path / "scene.tif"), scale=1) as raster:
        assert (raster.height, raster.width) == (64, 64)


# Reference systems


def test_long_edges_are_bent_as_their_reference_system_bends_them(tmp_path):
    transform = Affine(1000, 0, 400_000, 0, -1000, 6_700_000)
    path = write_raster(tmp_path / "scene.tif", noise(1, 200), transform=transform)
    box = shapely.box(13.6, 59.2, 16.4, 60.1)
    labels = write_labels(
        tmp_path / "labels.gpkg", [box, shapely.box(-150, -60, -149, -59)], crs="EPSG:4326"
    )
    rules = ClassRules.parse(["object"], field=None)
    with Raster(path) as raster:
        indices, polygons = labels_on_raster(read_labels(str(labels), rules), raster)
    assert indices.tolist() == [0]
    mask, x, y, _ = burn(polygons[0], (0, 0, 200, 200))
    rows, columns = np.mgrid[:200, :200] + 0.5
    east, north = 400_000 + 1000 * columns.ravel(), 6_700_000 - 1000 * rows.ravel()
    longitude, latitude = map(np.array, warp(UTM, "EPSG:4326", east, north))
    expected = shapely.contains_xy(box, longitude, latitude).reshape(200, 200)
    found = np.zeros((200, 200), bool)
    found[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    assert np.array_equal(found, expected)
    # Straight lines between the four corners would be wrong in many pixels.
    corners = np.array(warp("EPSG:4326", UTM, *shapely.get_coordinates(box).T)).T
    straight = shapely.Polygon((corners - (400_000, 6_700_000)) / (1000, -1000))
    assert (centres_in(straight, 200, 200) != expected).sum() > 50


@pytest.mark.parametrize("sign", [1, -1])
def test_labels_over_the_antimeridian(tmp_path, sign):
    transform = Affine(0.001, 0, sign * 179.95 - 0.05 * (sign < 0), 0, -0.001, 10)
    path = write_raster(tmp_path / "a.tif", noise(1, 100), transform=transform, crs="EPSG:4326")
    x = sign * 180.0
    box = shapely.box(x - 0.02, 9.92, x + 0.02, 9.98)
    other = shapely.affinity.translate(box, -360 * sign)
    labels = write_labels(tmp_path / "labels.gpkg", [box, other], ["a", "b"], crs="EPSG:4326")
    rules = ClassRules.parse(["a", "b"], field="class")
    with Raster(path) as raster:
        _, polygons = labels_on_raster(read_labels(str(labels), rules), raster)
    assert len(polygons) == 2
    for polygon in polygons:
        assert shapely.area(polygon) == pytest.approx(40 * 60, rel=1e-6)
        assert count_pixels(polygon) == pytest.approx(40 * 60, rel=0.03)


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp", ".fgb"])
def test_formats_of_labels(tmp_path, suffix):
    rules = ClassRules.parse(["a", "b"], field="class")
    polygons = [shapely.box(14, 52, 14.1, 52.1), shapely.box(14.2, 52, 14.3, 52.1)]
    path = write_labels(tmp_path / f"labels{suffix}", polygons, ["b", "a"], crs="EPSG:4326")
    labels = read_labels(str(path), rules)
    assert sorted(zip(labels.classes, np.round(shapely.bounds(labels.polygons)[:, 0], 6))) == [
        (0, 14.2),
        (1, 14.0),
    ]
    assert labels.crs.to_epsg() == 4326


@pytest.mark.parametrize(
    ("number_inside", "code"), [(0, 2), (4, 2), (5, 0)], ids=["none", "few", "half"]
)
def test_labels_beside_the_raster_are_an_error(tmp_path, prepare, number_inside, code):
    write_raster(tmp_path / "scene.tif", noise(1, 64))
    inside = [shapely.box(5, 3 + 10 * i, 15, 10 + 10 * i) for i in range(number_inside)]
    outside = [shapely.box(-900 - 20 * i, 5, -890 - 20 * i, 15) for i in range(10 - number_inside)]
    write_labels(tmp_path / "labels.gpkg", on_map(inside + outside))
    found, text = prepare(
        *("--input", tmp_path / "scene.tif", "--labels", tmp_path / "labels.gpkg"),
        *(*ONE_CLASS, *WHOLE),
    )
    assert found == code
    message = "50.0% of the labels" if code == 0 else f"only {number_inside} of 10 labels"
    assert message in text


def test_labels_and_raster_need_both_a_reference_system(tmp_path, prepare):
    write_raster(tmp_path / "scene.tif", noise(1, 64), crs=None, transform=Affine.translation(1, 1))
    box = shapely.box(11, 12, 31, 22)
    write_labels(tmp_path / "labels.gpkg", [box], crs="EPSG:4326")
    args = ("--input", tmp_path / "scene.tif", "--labels", tmp_path / "labels.gpkg")
    code, text = prepare(*args, *ONE_CLASS, *WHOLE)
    assert code == 2
    assert "no coordinate reference system" in text
    assert "--labels-crs" in text
    code, text = prepare(*args, *ONE_CLASS, *WHOLE, "--labels-crs", "raster")
    assert code == 0, text
    (annotation,) = read(tmp_path / "out" / "train.json")["annotations"]
    assert annotation["bbox"] == [10, 11, 20, 10]


# Geometry


def test_geometries_are_repaired_and_counted(tmp_path):
    bow_tie = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    two = shapely.MultiPolygon([shapely.box(20, 0, 25, 5), shapely.box(30, 0, 36, 5)])
    ring = shapely.box(40, 0, 60, 20) - shapely.box(45, 5, 55, 15)
    flat = shapely.Polygon([(0, 0), (5, 5), (9, 9)])
    turned = shapely.reverse(ring)
    polygons = [bow_tie, two, ring, flat, turned, ring]
    path = write_labels(tmp_path / "labels.gpkg", polygons, ["a"] * 5 + ["b"])
    rules = ClassRules.parse(["a", "b"], field="class")
    labels = read_labels(str(path), rules)
    assert shapely.area(labels.polygons).tolist() == [50, 55, 300, 300]
    assert labels.classes.tolist() == [0, 0, 0, 1]
    assert labels.source_ids.tolist() == [1, 2, 3, 6]
    assert dict(+labels.counts) == {
        "repaired": 1,
        "without_area": 1,
        "repeated": 1,
        "repeated_with_another_class": 1,
    }
    exploded = read_labels(str(path), rules, explode=True)
    assert shapely.area(exploded.polygons).tolist() == [25, 25, 25, 30, 300, 300]
    assert exploded.source_ids.tolist() == [1, 1, 2, 2, 3, 6]


# Classes


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3"), (3.0, "3"), ("3", "3"), (" 3 ", "3"), ("3.0", "3"), (2.5, "2.5"), (" a b ", "a b")]
    + [(None, None), (float("nan"), None), ("", None), ("  ", None), ("nan", "nan")],
)
def test_class_values_as_text(value, text):
    assert class_text(value) == text


@pytest.mark.parametrize(
    ("values", "classes", "message"),
    [
        (["a", None, "b", None], ["a", "b"], "2 of 4 labels have no value"),
        (["a", "x", "x", "y"], ["a"], "3 of 4 labels have values of 'class' that are not listed: "
         "x (2), y (1)"),
        ([1, 2, 2, 9], ["one=1", "two=2"], "9 (1)"),
        (["a"] * 4, ["a", "a"], "given twice"),
        (["a"] * 4, ["a=1", "b=1.0"], "'1' is given twice"),
    ],
)  # fmt: skip
def test_class_errors_have_counts(tmp_path, prepare, values, classes, message):
    write_raster(tmp_path / "scene.tif", noise(1, 64))
    boxes = [shapely.box(14 * i, 10, 14 * i + 10, 20) for i in range(4)]
    write_labels(tmp_path / "labels.gpkg", on_map(boxes), values)
    code, text = prepare(
        *("--input", tmp_path / "scene.tif", "--labels", tmp_path / "labels.gpkg"),
        *("--classes", *classes),
    )
    assert code == 2
    assert message in text
    assert not (tmp_path / "out" / "train.json").exists()


def test_missing_attribute_names_the_others(tmp_path, prepare):
    write_raster(tmp_path / "scene.tif", noise(1, 64))
    write_labels(tmp_path / "labels.gpkg", on_map([shapely.box(1, 1, 9, 9)]), ["a"], field="kind")
    args = ("--input", tmp_path / "scene.tif", "--labels", tmp_path / "labels.gpkg")
    code, text = prepare(*args, "--classes", "a")
    assert code == 2
    assert "no attribute 'class'" in text
    assert "kind" in text


def test_ids_follow_the_list_and_values_can_be_ignored_or_left_out(tmp_path, prepare):
    write_raster(tmp_path / "scene.tif", noise(1, 64))
    boxes = [shapely.box(12 * i, 10, 12 * i + 10, 20) for i in range(5)]
    write_labels(tmp_path / "labels.gpkg", on_map(boxes), [7, 30, 3, 5, 6])
    code, text = prepare(
        *("--input", tmp_path / "scene.tif", "--labels", tmp_path / "labels.gpkg", *WHOLE),
        *("--classes", "zebra=7,30", "ant=3", "--ignore-classes", "5", "--drop-classes", "6"),
    )
    assert code == 0, text
    content = read(tmp_path / "out" / "train.json")
    assert [c["name"] for c in content["categories"]] == ["zebra", "ant"]
    found = [(a["category_id"], a["iscrowd"], a["bbox"][0]) for a in content["annotations"]]
    # Evaluators ignore a crowd for its own class only, so the ignored label is one for each.
    assert sorted(found) == [(1, 0, 0.0), (1, 0, 12.0), (1, 1, 36.0), (2, 0, 24.0), (2, 1, 36.0)]
    assert content["info"]["class_counts"] == {"zebra": 2, "ant": 1}


# What is not visible


@pytest.mark.parametrize("outside", ["blank", "ignore"])
def test_outside_of_the_area_is_not_background(tmp_path, prepare, outside):
    values = noise(3, 60)
    write_raster(tmp_path / "scene.tif", values)
    # Wholly inside, three quarters inside, a quarter inside, outside.
    boxes = [shapely.box(x, 5 + 12 * i, x + 20, 15 + 12 * i) for i, x in enumerate((5, 15, 25, 35))]
    write_labels(tmp_path / "labels.gpkg", on_map(boxes), ["a", "b", "a", "b"])
    area = write_labels(tmp_path / "area.gpkg", on_map([shapely.box(-5, -5, 30, 70)]))
    code, text = prepare(
        *("--input", tmp_path / "scene.tif", "--labels", tmp_path / "labels.gpkg", *WHOLE),
        *("--classes", "a", "b", "--chip-size", 60, "--aoi", area, "--outside", outside),
    )
    assert code == 0, text
    content = read(tmp_path / "out" / "train.json")
    (image,) = content["images"]
    pixels = np.asarray(Image.open(tmp_path / "out" / image["file_name"]))
    assert np.array_equal(pixels[:, :30], np.moveaxis(values[:, :, :30], 0, -1))
    objects = [a for a in content["annotations"] if "region" not in a]
    assert [(a["source_id"], a["area"], a["iscrowd"], a["visible"]) for a in objects] == [
        (1, 200, 0, 1.0),
        (2, 150, 0, 0.75),
        (3, 50, 1, 0.25),
    ]
    regions = [(a, mask) for a, mask in masks_of(content, image) if "region" in a]
    if outside == "blank":
        assert not regions
        assert (pixels[:, 30:] == content["info"]["fill"]).all()
        return
    assert np.array_equal(pixels, np.moveaxis(values, 0, -1))
    assert [(a["category_id"], a["iscrowd"]) for a, _ in regions] == [(1, 1), (2, 1)]
    expected = np.zeros((60, 60), bool)
    expected[:, 30:] = True
    assert all(np.array_equal(mask, expected) for _, mask in regions)


def test_missing_data_hides_objects(tmp_path, prepare):
    values = noise(3, 48)
    rows, columns = np.mgrid[:48, :48]
    wedge = rows + columns < 30
    values[:, wedge] = 0
    write_raster(tmp_path / "scene.tif", values, nodata=0)
    boxes = [shapely.box(2, 2, 12, 12), shapely.box(10, 12, 26, 28), shapely.box(30, 30, 45, 45)]
    write_labels(tmp_path / "labels.gpkg", on_map(boxes))
    code, text = prepare(
        *("--input", tmp_path / "scene.tif", "--labels", tmp_path / "labels.gpkg", *WHOLE),
        *(*ONE_CLASS, "--chip-size", 24),
    )
    assert code == 0, text
    content = read(tmp_path / "out" / "train.json")
    for image in content["images"]:
        x, y = image["x"], image["y"]
        hidden = wedge[y : y + 24, x : x + 24]
        pixels = np.asarray(Image.open(tmp_path / "out" / image["file_name"]))
        assert (pixels[hidden] == content["info"]["fill"]).all()
        for annotation, mask in masks_of(content, image):
            box = boxes[annotation["source_id"] - 1]
            expected = centres_in(box, 48, 48)[y : y + 24, x : x + 24] & ~hidden
            assert np.array_equal(mask, expected)
    assert {a["source_id"] for a in content["annotations"]} == {2, 3}


def test_slivers_are_counted_in_pixels_after_burning(tmp_path, prepare):
    write_raster(tmp_path / "scene.tif", noise(1, 64))
    # 3 pixels beyond the chip's border, 4 pixels beyond it, and a whole object of 3 pixels.
    boxes = [shapely.box(20, 5, 33, 8), shapely.box(20, 15, 33, 19), shapely.box(50, 50, 53, 51)]
    write_labels(tmp_path / "labels.gpkg", on_map(boxes))
    code, text = prepare(
        *("--input", tmp_path / "scene.tif", "--labels", tmp_path / "labels.gpkg", *WHOLE),
        *(*ONE_CLASS, "--chip-size", 32, "--min-pixels", 4),
    )
    assert code == 0, text
    annotations = read(tmp_path / "out" / "train.json")["annotations"]
    assert [(a["source_id"], a["area"], a["iscrowd"]) for a in annotations] == [
        (1, 36, 0),
        (2, 48, 0),
        (2, 4, 1),
    ]
    assert "2 parts of objects with too few pixels" in text


# Splits


def boxes_of(content):
    return [shapely.box(i["x"], i["y"], i["x"] + i["width"], i["y"] + i["height"])
            for i in content["images"]]  # fmt: skip


def test_blocks_cover_a_side_with_gaps():
    for length, size, overlap, chips, gap in [
        (4000, 512, 0, 4, 64), (1000, 100, 20, 2, 7), (130, 64, 0, 1, 2), (129, 64, 0, 1, 2),
        (50, 64, 0, 2, 9),
    ]:  # fmt: skip
        blocks = block_intervals(length, size, overlap, chips, gap)
        assert blocks[0][0] == 0
        assert blocks[-1][1] == length
        assert {b[0] - a[1] for a, b in itertools.pairwise(blocks)} <= {gap}
        if len(blocks) > 1:
            assert min(b - a for a, b in blocks) >= size
    assert len(block_intervals(130, 64, 0, 1, 2)) == 2
    assert len(block_intervals(129, 64, 0, 1, 2)) == 1


def test_chips_of_a_block_cover_it():
    for (left, top, right, bottom), windows in block_windows(
        230, 150, size=40, overlap=6, chips=2, gap=10
    ):
        covered = np.zeros((230, 150), bool)
        for a, b, c, d in windows:
            assert (c - a, d - b) == (40, 40)
            covered[b:d, a:c] = True
        expected = np.zeros((230, 150), bool)
        expected[top:bottom, left:right] = True
        assert np.array_equal(covered, expected)


def test_shares_are_met():
    weights = np.random.default_rng(0).uniform(0, 1, 200).tolist()
    splits = np.array(assign(weights, {"train": 7, "val": 2, "test": 1}, seed=3))
    for name, share in (("train", 0.7), ("val", 0.2), ("test", 0.1)):
        assert np.array(weights)[splits == name].sum() / sum(weights) == pytest.approx(
            share, abs=0.01
        )
    assert splits.tolist() == assign(weights, {"train": 7, "val": 2, "test": 1}, seed=3)


def test_splits_by_blocks_do_not_touch(tmp_path, prepare):
    write_raster(tmp_path / "scene.tif", noise(1, 200))
    # One long object crosses all gaps.
    polygons = [*blobs(60, 200, seed=2, low=3, high=6), shapely.box(3, 60, 197, 130)]
    write_labels(tmp_path / "labels.gpkg", on_map(polygons))
    code, text = prepare(
        *("--input", tmp_path / "scene.tif", "--labels", tmp_path / "labels.gpkg", *ONE_CLASS),
        *("--chip-size", 30, "--block-size", 2, "--gap", 6, "--split", "train=0.6", "val=0.4"),
        *("--min-visible", "0.01"),
    )
    assert code == 0, text
    train, val = (read(tmp_path / "out" / f"{split}.json") for split in ("train", "val"))
    distances = [shapely.distance(a, b) for a in boxes_of(train) for b in boxes_of(val)]
    assert min(distances) == 6
    assert train["info"]["split"] == {"distance": 6.0, "dropped_chips": 0}
    assert "at least 6 pixels apart" in text
    # An object of both splits is trained on in neither chip of train.
    ids = [{a["source_id"] for a in c["annotations"] if not a["iscrowd"]} for c in (train, val)]
    assert not ids[0] & ids[1]
    assert 61 in ids[1]
    assert any(a["source_id"] == 61 for a in train["annotations"])


def test_chips_of_overlapping_rasters_are_dropped(tmp_path, prepare):
    values = noise(1, 60)
    write_raster(tmp_path / "a.tif", values)
    write_raster(tmp_path / "b.tif", values, transform=NORTH_UP @ Affine.translation(45, 0))
    boxes = [shapely.box(5 + 12 * i, 5, 13 + 12 * i, 55) for i in range(8)]
    write_labels(tmp_path / "labels.gpkg", on_map(boxes))
    code, text = prepare(
        *("--input", tmp_path, "--labels", tmp_path / "labels.gpkg", *ONE_CLASS),
        *("--chip-size", 20, "--gap", 1, "--empty-share", 1),
        *("--split", f"train={tmp_path}/a.tif", f"val={tmp_path}/b.tif"),
    )
    assert code == 0, text
    train, val = (read(tmp_path / "out" / f"{split}.json") for split in ("train", "val"))
    # b begins at column 45 of a: the chips of columns 40 to 60 of one of them go.
    assert len(train["images"]) + len(val["images"]) == 15
    assert train["info"]["split"]["dropped_chips"] == 3
    others = [shapely.affinity.translate(box, 45, 0) for box in boxes_of(val)]
    distance = min(shapely.distance(a, b) for a in boxes_of(train) for b in others)
    assert distance >= 1
    assert train["info"]["split"]["distance"] == pytest.approx(distance, abs=1e-3)


def test_splits_by_areas(tmp_path, prepare):
    values = noise(1, 90)
    write_raster(tmp_path / "scene.tif", values)
    boxes = [shapely.box(5 + 20 * i, 10, 15 + 20 * i, 20) for i in range(4)]
    write_labels(tmp_path / "labels.gpkg", on_map(boxes))
    left = write_labels(tmp_path / "left.gpkg", on_map([shapely.box(0, 0, 42, 90)]))
    right = write_labels(tmp_path / "right.gpkg", on_map([shapely.box(47, 0, 90, 90)]))
    args = ("--input", tmp_path / "scene.tif", "--labels", tmp_path / "labels.gpkg", *ONE_CLASS)
    args = (*args, "--chip-size", 30, "--empty-share", 1)
    split = ("--split", f"train={left}", f"val={right}")
    code, text = prepare(*args, *split, "--gap", 6, output="far")
    assert code == 2
    assert "5.0 pixels apart" in text
    code, text = prepare(*args, *split, "--gap", 5)
    assert code == 0, text
    assert "splits are at least 5 pixels apart; 0 chips were left out" in text
    for name in ("train", "val"):
        info = read(tmp_path / "out" / f"{name}.json")["info"]
        assert info["split"] == {"distance": 5, "dropped_chips": 0}
    seen = []
    for name in ("train", "val"):
        content = read(tmp_path / "out" / f"{name}.json")
        mask = np.zeros((90, 90), bool)
        for image in content["images"]:
            x, y = image["x"], image["y"]
            pixels = np.asarray(Image.open(tmp_path / "out" / image["file_name"]))
            original = values[0, y : y + 30, x : x + 30]
            fill = read(tmp_path / "out" / "train.json")["info"]["fill"][0]
            same = pixels == original
            mask[y : y + 30, x : x + 30] |= same & (original != fill)
            assert (same | (pixels == fill)).all()
        seen.append(mask)
        assert {a["source_id"] for a in content["annotations"]} == (
            {1, 2} if name == "train" else {3, 4}
        )
    assert not seen[0][:, 42:].any()
    assert not seen[1][:, :47].any()
    assert seen[0][:, :42].mean() > 0.98
    assert seen[1][:, 47:].mean() > 0.98


def test_rasters_outside_of_the_area_are_left_out(tmp_path, prepare):
    write_raster(tmp_path / "a.tif", noise(1, 40))
    write_raster(tmp_path / "b.tif", noise(1, 40), transform=NORTH_UP @ Affine.translation(500, 0))
    boxes = [shapely.box(5, 5, 25, 25), shapely.box(505, 5, 525, 25)]
    write_labels(tmp_path / "labels.gpkg", on_map(boxes))
    area = write_labels(tmp_path / "area.fgb", on_map([shapely.box(495, 0, 530, 30)]))
    args = ("--input", tmp_path / "a.tif", tmp_path / "b.tif", "--labels", tmp_path / "labels.gpkg")
    code, text = prepare(*args, *ONE_CLASS, *WHOLE, "--chip-size", 20, "--aoi", area)
    assert code == 0, text
    assert "1 of 2 rasters are left out (a): Area of interest" in text
    content = read(tmp_path / "out" / "train.json")
    assert {image["scene"] for image in content["images"]} == {"b"}
    assert {a["source_id"] for a in content["annotations"]} <= {1, 2}


@pytest.mark.parametrize("option", ["--labels", "--aoi", "--split"])
def test_inputs_are_never_replaced(tmp_path, prepare, option):
    """Vector files that are called like those of the splits, in the output folder."""
    write_raster(tmp_path / "scene.tif", noise(1, 40))
    (tmp_path / "out").mkdir()
    source = write_labels(tmp_path / "area.geojson", on_map([shapely.box(0, 0, 40, 40)]))
    before = source.read_bytes()
    name = source.rename(tmp_path / "out" / "train.json")
    labels = (
        name
        if option == "--labels"
        else write_labels(tmp_path / "labels.gpkg", on_map([shapely.box(5, 5, 30, 30)]))
    )
    args = [*("--input", tmp_path / "scene.tif", "--labels", labels, "--chip-size", 20, *ONE_CLASS)]
    args += {"--labels": WHOLE, "--aoi": ("--aoi", name, *WHOLE)}.get(
        option, ("--split", f"train={name}")
    )
    code, text = prepare(*args)
    assert code == 2, text
    assert "train.json would replace an input" in text
    assert name.read_bytes() == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train.json"]


def test_too_few_blocks_are_an_error(tmp_path, prepare):
    write_raster(tmp_path / "scene.tif", noise(1, 64))
    write_labels(tmp_path / "labels.gpkg", on_map([shapely.box(5, 5, 30, 30)]))
    code, text = prepare(
        *("--input", tmp_path / "scene.tif", "--labels", tmp_path / "labels.gpkg", *ONE_CLASS),
        *("--chip-size", 32),
    )
    assert code == 2
    assert "val gets nothing" in text
    assert "--block-size" in text


@pytest.mark.parametrize(("share", "number"), [(0, 0), (0.25, 1), (0.5, 4), (1, 12)])
def test_share_of_empty_chips(tmp_path, prepare, share, number):
    write_raster(tmp_path / "scene.tif", noise(1, 80))
    boxes = [shapely.box(5 + 20 * i, 5, 15 + 20 * i, 15) for i in range(4)]
    write_labels(tmp_path / "labels.gpkg", on_map(boxes))
    code, text = prepare(
        *("--input", tmp_path / "scene.tif", "--labels", tmp_path / "labels.gpkg", *ONE_CLASS),
        *("--chip-size", 20, "--split", "train=1", "--empty-share", share),
    )
    assert code == 0, text
    content = read(tmp_path / "out" / "train.json")
    filled = {a["image_id"] for a in content["annotations"]}
    assert (len(filled), len(content["images"]) - len(filled)) == (4, number)
    assert len(list((tmp_path / "out" / "train").iterdir())) == 4 + number


def test_a_split_without_chips_is_an_error_that_can_be_mended(tmp_path, prepare):
    write_raster(tmp_path / "scene.tif", noise(1, 40))
    # No pixel centre is in the object.
    write_labels(tmp_path / "labels.gpkg", on_map([shapely.box(5.1, 5.1, 5.3, 5.3)]))
    args = ("--input", tmp_path / "scene.tif", "--labels", tmp_path / "labels.gpkg", *ONE_CLASS)
    args = (*args, "--chip-size", 20, "--split", "train=1")
    code, text = prepare(*args)
    assert code == 2
    assert "--empty-share" in text
    code, text = prepare(*args, "--empty-share", 1)
    assert code == 0, text
    content = read(tmp_path / "out" / "train.json")
    assert (len(content["images"]), content["annotations"]) == (4, [])
    code, text = prepare(*args[:-1], "train=0.5", "val=labels.gpkg", output="other")
    assert code == 2
    assert "shares and files" in text


# Pixels


def test_statistics_are_those_of_the_written_pixels(tmp_path, prepare):
    values = noise(3, 60, "uint16", 100, 4000)
    values[:, :20, :20] = 0
    write_raster(tmp_path / "scene.tif", values, nodata=0)
    boxes = [shapely.box(2 + 20 * i, 25, 12 + 25 * i, 50) for i in range(2)]
    write_labels(tmp_path / "labels.gpkg", on_map(boxes))
    code, text = prepare(
        *("--input", tmp_path / "scene.tif", "--labels", tmp_path / "labels.gpkg", *ONE_CLASS),
        *("--chip-size", 30, *WHOLE, "--stretch", "range 200 3000"),
    )
    assert code == 0, text
    content = read(tmp_path / "out" / "train.json")
    expected = np.rint(np.clip((values.astype(float) - 200) / 2800 * 255, 0, 255))
    valid = np.ones((60, 60), bool)
    valid[:20, :20] = False
    chips = np.zeros((60, 60, 3))
    for image in content["images"]:
        x, y = image["x"], image["y"]
        chips[y : y + 30, x : x + 30] = Image.open(tmp_path / "out" / image["file_name"])
    assert np.array_equal(chips[valid], np.moveaxis(expected, 0, -1)[valid])
    assert (chips[~valid] == content["info"]["fill"]).all()
    assert content["info"]["pixel_mean"] == pytest.approx(chips[valid].mean(axis=0), abs=1e-4)
    assert content["info"]["pixel_std"] == pytest.approx(chips[valid].std(axis=0), abs=1e-4)
    assert content["info"]["stretch"]["low"] == [200] * 3
    assert content["info"]["object_size"]["max"] == 25


def test_geotiff_keeps_bands_bits_and_place(tmp_path, prepare):
    values = noise(5, 50, "uint16", 1, 60_000)
    values[:, :10, :10] = 0
    write_raster(tmp_path / "scene.tif", values, nodata=0, transform=ROTATED)
    write_labels(tmp_path / "labels.gpkg", on_map([shapely.box(15, 15, 45, 45)], ROTATED))
    code, text = prepare(
        *("--input", tmp_path / "scene.tif", "--labels", tmp_path / "labels.gpkg", *ONE_CLASS),
        *("--chip-size", 25, *WHOLE, "--stretch", "percentile 2 98", "--bands", 5, 1, 2, 4),
    )
    assert code == 0, text
    content = read(tmp_path / "out" / "train.json")
    chosen = values[[4, 0, 1, 3]]
    valid = np.ones((50, 50), bool)
    valid[:10, :10] = False
    assert len(content["images"]) == 4
    for image in content["images"]:
        x, y = image["x"], image["y"]
        place = np.s_[y : y + 25, x : x + 25]
        with rasterio.open(tmp_path / "out" / image["file_name"]) as file:
            assert np.array_equal(file.read(), chosen[(slice(None), *place)])
            assert np.array_equal(file.dataset_mask() > 0, valid[place])
            assert file.dtypes == ("uint16",) * 4
            assert file.profile["compress"] == "deflate"
            assert file.profile["tiled"]
            assert file.crs == rasterio.crs.CRS.from_epsg(32633)
            assert np.allclose(file.transform @ (3, 4), ROTATED @ (x + 3, y + 4))
        with Raster(tmp_path / "out" / image["file_name"]) as raster:
            assert np.array_equal(raster.read((0, 0, 25, 25))[1], valid[place])
    stretch = content["info"]["stretch"]
    low, high = (np.array(stretch[key])[:, None] for key in ("low", "high"))
    expected = np.clip((chosen[:, valid] - low) / (high - low) * 255, 0, 255)
    assert content["info"]["pixel_mean"] == pytest.approx(expected.mean(axis=1), abs=1e-2)
    assert content["info"]["pixel_std"] == pytest.approx(expected.std(axis=1), abs=1e-2)
    assert content["info"]["bands"] == [5, 1, 2, 4]
    assert content["info"]["dtype"] == "uint16"


@pytest.mark.parametrize("kind", ["float with NaN", "8 bits of 2 bands", "8 bits of 4 bands"])
def test_geotiff_of_other_values(tmp_path, prepare, kind):
    bands = {"float with NaN": 1, "8 bits of 2 bands": 2, "8 bits of 4 bands": 4}[kind]
    values = noise(bands, 40)
    valid = np.ones((40, 40), bool)
    if bands == 1:
        values = values.astype("float32") / 7
        values[0, 5:9, 3:30] = np.nan
        valid[5:9, 3:30] = False
    write_raster(tmp_path / "scene.tif", values)
    write_labels(tmp_path / "labels.gpkg", on_map([shapely.box(15, 15, 35, 35)]))
    code, text = prepare(
        *("--input", tmp_path / "scene.tif", "--labels", tmp_path / "labels.gpkg", *ONE_CLASS),
        *("--chip-size", 40, *WHOLE, "--format", "tif", "--bands", *range(1, bands + 1)),
    )
    assert code == 0, text
    (image,) = read(tmp_path / "out" / "train.json")["images"]
    with Raster(tmp_path / "out" / image["file_name"]) as raster:
        # None of the bands has become an alpha band.
        assert raster.bands == tuple(range(1, bands + 1))
        found, seen = raster.read((0, 0, 40, 40))
    assert np.array_equal(seen, valid)
    assert np.array_equal(found[:, valid], values[:, valid])


def test_png_needs_bands_and_a_range_that_fit(tmp_path, prepare):
    write_raster(tmp_path / "scene.tif", noise(4, 40, "uint16"))
    write_labels(tmp_path / "labels.gpkg", on_map([shapely.box(15, 15, 35, 35)]))
    args = ("--input", tmp_path / "scene.tif", "--labels", tmp_path / "labels.gpkg", *ONE_CLASS)
    code, text = prepare(*args, *WHOLE, "--format", "png", "--bands", 1, 2)
    assert code == 2
    assert "1 or 3 bands" in text
    code, text = prepare(*args, *WHOLE, "--bands", 1, "--stretch", "none")
    assert code == 2
    assert "needs a --stretch" in text


def test_statistics_of_parts_are_those_of_all():
    values = np.random.default_rng(0).normal(1000, 3, (2, 500))
    parts = [values[:, :7], values[:, 7:7], values[:, 7:300], values[:, 300:]]
    found = PixelStatistics.combined(PixelStatistics.of(part) for part in parts)
    assert found.count == 500
    assert np.allclose(found.mean, values.mean(axis=1), rtol=1e-12)
    assert np.allclose(found.std, values.std(axis=1), rtol=1e-9)


def test_pixel_size_of_the_chips(tmp_path, prepare):
    values = np.repeat(np.repeat(noise(1, 20), 2, axis=1), 2, axis=2)
    write_raster(tmp_path / "scene.tif", values)
    write_labels(tmp_path / "labels.gpkg", on_map([shapely.box(4, 8, 34, 30)]))
    code, text = prepare(
        *("--input", tmp_path / "scene.tif", "--labels", tmp_path / "labels.gpkg", *ONE_CLASS),
        *("--scale", 0.5, "--chip-size", 20, *WHOLE),
    )
    assert code == 0, text
    content = read(tmp_path / "out" / "train.json")
    (annotation,) = content["annotations"]
    assert annotation["bbox"] == [2, 4, 15, 11]
    assert content["info"]["pixel_size"] == pytest.approx(1, rel=1e-3)


# Files


def test_labels_are_matched_by_name(tmp_path, prepare):
    scenes, labels = tmp_path / "scenes", tmp_path / "labels"
    scenes.mkdir(), labels.mkdir()
    for number, name in enumerate("ab"):
        write_raster(scenes / f"{name}.tif", noise(1, 40))
        box = shapely.box(5, 5, 15 + 5 * number, 15)
        write_labels(labels / f"{name}.gpkg", on_map([box]))
    args = ("--input", scenes, *ONE_CLASS, "--chip-size", 40)
    code, text = prepare(
        *args,
        "--labels",
        labels,
        "--split-by",
        "rasters",
        "--split",
        "train=1",
        "val=1",
        "--gap",
        1,
    )
    # Both rasters show the same place.
    assert code == 2
    assert "no chip" in text
    code, text = prepare(*args, "--labels", labels, *WHOLE, output="all")
    assert code == 0, text
    content = read(tmp_path / "all" / "train.json")
    assert {i["scene"]: i["id"] for i in content["images"]} == {"a": 1, "b": 2}
    assert [(a["image_id"], a["area"]) for a in content["annotations"]] == [(1, 100), (2, 150)]
    (labels / "b.gpkg").rename(labels / "c.gpkg")
    code, text = prepare(*args, "--labels", labels, *WHOLE, output="other")
    assert code == 2
    assert "raster 'b' has 0 label files" in text


@pytest.mark.parametrize("package", ["rasterio", "pyogrio"])
def test_missing_packages_are_named_in_a_sentence(prepare, monkeypatch, package):
    monkeypatch.delitem(sys.modules, "facenet_d2.scenes.geo", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    code, text = prepare("--input", "a.tif", "--labels", "b.gpkg", "--one-class", "object")
    assert code == 2
    assert package in text
    assert "pip install 'facenet_d2[geo]'" in text


def snapshot(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_an_interrupted_run_continues_with_the_same_files(tmp_path, prepare, monkeypatch):
    write_raster(tmp_path / "scene.tif", noise(3, 200))
    write_labels(tmp_path / "labels.gpkg", on_map(blobs(60, 200, seed=4, low=3, high=6)))
    args = ("--input", tmp_path / "scene.tif", "--labels", tmp_path / "labels.gpkg", *ONE_CLASS)
    args = (*args, "--chip-size", 30, "--block-size", 2, "--gap", 4)
    code, text = prepare(*args)
    assert code == 0, text
    complete = snapshot(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    write_png, survey = chip_files.write_png, chip_sets.survey_chips
    done = []

    def killed(function, after):
        def run(*arguments):
            if len(done) == after:
                # What a killed process leaves behind.
                folder = tmp_path / "out" / "train"
                (folder / f".x.{os.getpid()}.tmp.png").write_bytes(b"part")
                raise KeyboardInterrupt
            done.append(0)
            return function(*arguments)

        return run

    for after in (0, 2):
        done.clear()
        monkeypatch.setattr(chip_sets, "survey_chips", killed(survey, after))
        assert prepare(*args)[0] == 130
    monkeypatch.setattr(chip_sets, "survey_chips", survey)
    for after in (0, 7, 11):
        done.clear()
        monkeypatch.setattr(chip_files, "write_png", killed(write_png, after))
        assert prepare(*args)[0] == 130
        assert not list((tmp_path / "out").glob("*.json"))
    monkeypatch.setattr(chip_files, "write_png", write_png)
    assert prepare(*args)[0] == 0
    assert snapshot(tmp_path / "out") == complete

    code, text = prepare(*args, "--min-pixels", 9)
    assert code == 2
    assert "other options" in text
    assert "settings" in text
    write_labels(tmp_path / "labels.gpkg", on_map(blobs(61, 200, seed=4, low=3, high=6)))
    code, text = prepare(*args)
    assert code == 2
    assert "plan differ" in text
    assert snapshot(tmp_path / "out") == complete


def test_several_processes_write_the_same_files(tmp_path, prepare):
    write_raster(tmp_path / "scene.tif", noise(3, 120))
    write_labels(tmp_path / "labels.gpkg", on_map(blobs(30, 120, seed=4, low=3, high=6)))
    args = ("--input", tmp_path / "scene.tif", "--labels", tmp_path / "labels.gpkg", *ONE_CLASS)
    args = (*args, "--chip-size", 20, *WHOLE)
    assert prepare(*args)[0] == 0
    assert prepare(*args, "--workers", 2, output="two")[0] == 0
    one, two = snapshot(tmp_path / "out"), snapshot(tmp_path / "two")
    assert one.keys() == two.keys()
    # The data set has the name of its folder.
    one["train.json"] = one["train.json"].replace(b'"out"', b'"two"')
    assert one == two
