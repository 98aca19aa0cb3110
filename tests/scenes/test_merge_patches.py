"""merge_patches.py: scenes put together from patches, compared with scenes drawn in one piece."""

import json
import sys

import evaluate_scenes
import isaid_scene
import merge_patches
import numpy as np
import prepare_isaid
import prepare_scenes
import pycocotools.mask as mask_util
import pyogrio.raw
import pytest
import rasterio
import shapely
import stub
from affine import Affine

from facenet_d2 import UserError
from facenet_d2.data.rle import run_edges
from facenet_d2.engine import run_command
from facenet_d2.evaluation.patches.places import find_scenes, make_patch, mask_crop
from facenet_d2.preparing.patches import CutSettings, patch_name, patch_windows
from facenet_d2.scenes.vector_reader import read_polygons

CLASSES = 3
SETTINGS = CutSettings(120, 40, True, False, 1, ())


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command; return its exit code, its output and its errors."""

    def run(module, *args):
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, args)])
        code = run_command(module.main)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def merge(run, folder, *args):
    code, out, err = run(
        merge_patches,
        *("--annotations", folder / "val.json", "--results", folder / "results.json"),
        *("--output", folder / "merged", *args),
    )
    assert code == 0, err
    return out + err


def evaluate(run, folder):
    files = [
        (f"--{option}", *sorted((folder / "merged" / name).iterdir()))
        for option, name in (("truth", "truth"), ("results", "results"), ("aoi", "area"))
    ]
    code, out, err = run(
        evaluate_scenes, *(x for f in files for x in f), "--ignore-field", "ignored", "--json"
    )
    assert code == 0, err
    return json.loads(out)


def rle_of(mask):
    rle = mask_util.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def write(folder, images, annotations, results, classes=CLASSES, **info):
    categories = [{"id": 2 * i + 1, "name": f"class {i}"} for i in range(classes)]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    content = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    (folder / "val.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps(results))


def as_results(annotations):
    """Make perfect results of annotations."""
    fields = ("image_id", "category_id", "segmentation")
    return [{**{f: a[f] for f in fields}, "score": 0.9} for a in annotations if not a["iscrowd"]]


def cut(scene, name, *, first=1, windows=None, with_ids=True, named_only=False):
    """Return images and annotations of the patches of a label map."""
    height, width = scene.shape
    images, annotations = [], []
    for left, top, right, bottom in windows or patch_windows(width, height, SETTINGS):
        pixels = scene[top:bottom, left:right]
        image = {
            "id": first + len(images),
            "file_name": "val/" + patch_name(name, (left, top, right, bottom), whole=False),
            "height": bottom - top,
            "width": right - left,
        }
        if not named_only:
            image |= {"scene": name, "x": left, "y": top}
        images.append(image)
        for label in np.unique(pixels[pixels > 0]).tolist():
            annotations.append(
                {
                    "image_id": image["id"],
                    "category_id": 2 * stub.class_of(label, CLASSES) + 1,
                    "segmentation": rle_of(pixels == label),
                    "iscrowd": 0,
                }
                | ({"instance_id": label} if with_ids else {})
            )
    return images, annotations


def features(path, height, width):
    """Return the features of a file as (class index, mask of the scene) pairs, and its columns."""
    file = read_polygons(path)
    rows, columns = np.mgrid[:height, :width] + 0.5
    found = set()
    for polygon, name in zip(file.polygons, file.attributes["class"]):
        inside = shapely.contains_xy(polygon, columns.ravel(), rows.ravel())
        found.add((int(name.split()[1]), inside.tobytes()))
    return found, file


def objects_of(scene):
    labels = np.unique(scene[scene > 0]).tolist()
    return {(stub.class_of(label, CLASSES), (scene == label).tobytes()) for label in labels}


@pytest.fixture(scope="module")
def scene():
    """A scene with objects up to nearly the size of a patch, so that some are in no patch whole."""
    return stub.random_scene(np.random.default_rng(3), 330, 290, 160, 90)


@pytest.mark.parametrize("official", [False, True])
def test_perfect_results_have_an_ap_of_100(run, tmp_path, scene, official):
    other = stub.random_scene(np.random.default_rng(4), 150, 200, 40, 60)
    images, annotations = [], []
    for name, labels in (("P0003", scene), ("P0011_a", other)):
        parts = cut(labels, name, first=len(images) + 1, with_ids=not official, named_only=official)
        images += parts[0]
        annotations += parts[1]
    # The publisher's and --drop-empty leave out patches without objects.
    used = {annotation["image_id"] for annotation in annotations}
    images = [image for image in images if image["id"] in used]
    write(tmp_path, images, annotations, as_results(annotations))
    printed = merge(run, tmp_path, "--tolerance", "0")
    for name, labels in (("P0003", scene), ("P0011_a", other)):
        expected = objects_of(labels)
        assert len(expected) > 10
        for kind in ("truth", "results"):
            found, file = features(tmp_path / "merged" / kind / f"{name}.gpkg", *labels.shape)
            assert found == expected
            assert len(file) == len(expected)
            assert file.crs is None
        assert f"{len(expected)} instances, {len(expected)} true objects" in printed
    report = evaluate(run, tmp_path)
    assert report["AP"] == pytest.approx(100)
    assert report["all"]["truth"] == report["all"]["predicted"] > 30
    assert report["ignored_truth"] == report["ignored_results"] == 0


def test_merged_results_equal_those_of_one_pass_over_the_scene(run, tmp_path):
    """A detector of connected pixels sees each patch, and then the whole scene."""
    scene = stub.random_scene(np.random.default_rng(5), 300, 280, 150, 38)
    picture = stub.colour(scene, CLASSES)
    images, _ = cut(scene, "P1")
    results = []
    for image in images:
        height, width = image["height"], image["width"]
        pixels = picture[image["y"] : image["y"] + height, image["x"] : image["x"] + width]
        for class_id, score, (x0, y0, x1, y1), crop in zip(*stub.detect(pixels)):
            mask = np.zeros((height, width), bool)
            mask[y0:y1, x0:x1] = crop
            result = {"category_id": 2 * class_id + 1, "score": score, "segmentation": rle_of(mask)}
            results.append({"image_id": image["id"], **result})
    write(tmp_path, images, [], results)
    merge(run, tmp_path, "--format", "gpkg", "json")
    one_pass = {}
    for class_id, score, (x0, y0, x1, y1), crop in zip(*stub.detect(picture)):
        mask = np.zeros(scene.shape, bool)
        mask[y0:y1, x0:x1] = crop
        one_pass[2 * class_id + 1, mask.tobytes()] = score
    merged = json.loads((tmp_path / "merged" / "results" / "P1.json").read_text())
    assert len(merged) == len(one_pass) > 50
    for result in merged:
        mask = mask_util.decode(result["segmentation"]).astype(bool)
        expected = one_pass[result["category_id"], mask.tobytes()]
        assert result["score"] == pytest.approx(expected, abs=1e-6)


def test_isaid_from_the_published_files_to_the_ap_of_scenes(run, tmp_path):
    source = tmp_path / "in" / "val" / "images"
    sizes = {"P0001": (150, 190), "P0002": (60, 200)}
    drawn = {name: isaid_scene.draw(*size, 25, seed=2) for name, size in sizes.items()}
    for name, files in drawn.items():
        isaid_scene.write(source, name, *files)
    options = ("--patch-size", 64, "--overlap", 20, "--drop-empty", "--workers", 1)
    code, _, err = run(prepare_isaid, "--source", tmp_path / "in", "--output", tmp_path, *options)
    assert code == 0, err
    content = json.loads((tmp_path / "val.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps(as_results(content["annotations"])))
    merge(run, tmp_path, "--tolerance", "0")
    for name, (_, ids, _) in drawn.items():
        codes = ids.astype(int) @ (65536, 256, 1)
        file = read_polygons(tmp_path / "merged" / "truth" / f"{name}.gpkg")
        areas = dict(zip(*(x.tolist() for x in np.unique(codes[codes > 0], return_counts=True))))
        found = dict(zip(file.attributes["instance_id"].tolist(), shapely.area(file.polygons)))
        assert found == areas
    report = evaluate(run, tmp_path)
    # Objects that others cover may have parts that no patch shows together.
    assert report["AP"] > 90
    codes = [ids.astype(int) @ (65536, 256, 1) for _, ids, _ in drawn.values()]
    assert report["all"]["truth"] == sum(len(np.unique(code[code > 0])) for code in codes)


def test_crowds_and_regions_are_ignored(run, tmp_path):
    """Of two chips that overlap by 20 columns, some objects are seen in parts, and one side is not
    labelled."""
    windows = [(0, 0, 60, 50), (40, 0, 100, 50)]
    full = {
        1: (np.s_[5:15, 30:70], "object", 0.75, 0.75),  # 30 of 40 columns in each chip.
        2: (np.s_[20:30, 35:85], "object", 0.5, 0.9),
        3: (np.s_[35:45, 30:80], "crowds", 0.45, 0.45),  # Two chips see 45 % each.
        4: (np.s_[0:4, 55:90], "crowds", 0.1, 0.1),  # Together a fifth.
        5: (np.s_[46:50, 42:58], "shared", 1.0, 1.0),
    }
    images = [
        {"id": 7 + i, "file_name": f"{i}.png", "width": 60, "height": 50, "scene": "s", "x": x}
        | {"y": 0}
        for i, (x, *_) in enumerate(windows)
    ]
    annotations = []
    masks = {}
    for number, (place, kind, *visible) in full.items():
        masks[number] = np.zeros((50, 100), bool)
        masks[number][place] = True
        for image, (left, _, right, _), share in zip(images, windows, visible):
            part = masks[number][:, left:right]
            if kind == "crowds":
                # Visible parts are those of an object whose other parts no chip has.
                share = round(part.sum() / (masks[number].sum() / (0.9 if number == 3 else 0.2)), 4)
            annotations.append(
                {
                    "image_id": image["id"],
                    "category_id": 1,
                    "instance_id": number,
                    "segmentation": rle_of(part),
                    "iscrowd": int(kind != "object"),
                    "visible": share,
                }
                | ({"shared": 1} if kind == "shared" else {})
            )
    region = np.zeros((50, 60), bool)
    region[:, 50:] = True
    for category in (1, 3):
        for image in images:
            entry = {"image_id": image["id"], "category_id": category, "iscrowd": 1, "region": 1}
            annotations.append({**entry, "segmentation": rle_of(region)})
    results = as_results([a for a in annotations if a.get("instance_id") in (1, 2)])
    false = np.zeros((50, 60), bool)
    false[30:34, 51:55] = True  # In the region.
    results.append({"image_id": 7, "category_id": 3, "segmentation": rle_of(false), "score": 0.99})
    write(tmp_path, images, annotations, results, min_visible=0.5)
    merge(run, tmp_path, "--tolerance", "0")
    file = read_polygons(tmp_path / "merged" / "truth" / "s.gpkg")
    numbers = file.attributes["instance_id"].tolist()
    ignored = dict(zip(numbers, file.attributes["ignored"].tolist()))
    assert ignored == {1: False, 2: False, 3: False, 4: True, 5: True, 0: True}
    for number, polygon in zip(numbers, file.polygons):
        if number:
            assert polygon.area == masks[number].sum()
    regions = file.polygons[file.attributes["instance_id"] == 0]
    both = shapely.union(shapely.box(50, 0, 60, 50), shapely.box(90, 0, 100, 50))
    assert len(regions) == 2
    assert all(shapely.equals(polygon, both) for polygon in regions)
    report = evaluate(run, tmp_path)
    assert report["all"]["truth"] == 3
    assert report["all"]["predicted"] == 2
    assert report["ignored_results"] == 1


def test_geotiff_chips_place_the_scene_on_the_map(run, tmp_path, scene):
    transform = Affine.translation(400_000, 5_800_000) @ Affine.rotation(20) @ Affine.scale(0.5, -1)
    images, annotations = cut(scene, "site")
    chosen = images[5]
    for image in images:
        image["file_name"] = image["file_name"].replace(".png", ".tif")
    (tmp_path / "val").mkdir()
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": "EPSG:32633"}
    profile |= {"height": chosen["height"], "width": chosen["width"]}
    place = transform @ Affine.translation(chosen["x"], chosen["y"])
    with rasterio.open(tmp_path / chosen["file_name"], "w", transform=place, **profile):
        pass
    write(tmp_path, images, annotations, as_results(annotations))
    assert "EPSG:32633" in merge(run, tmp_path, "--tolerance", "0")
    for kind in ("truth", "results"):
        file = read_polygons(tmp_path / "merged" / kind / "site.gpkg")
        assert file.crs.to_epsg() == 32633
        back = shapely.transform(
            file.polygons, lambda points: np.transpose(~transform @ tuple(points.T))
        )
        bounds = {tuple(np.round(shapely.bounds(polygon), 3)) for polygon in back}
        rows = [np.argwhere(scene == label)[:, ::-1] for label in np.unique(scene[scene > 0])]
        assert bounds == {(*p.min(axis=0), *(p.max(axis=0) + 1)) for p in rows}
    assert evaluate(run, tmp_path)["AP"] == pytest.approx(100)


def test_chips_of_prepared_scenes(run, tmp_path):
    """Labels on the map -> PNG chips of two splits -> scenes of one, compared with the labels."""
    transform = Affine.translation(400_000, 5_800_000) @ Affine.rotation(20) @ Affine.scale(0.5, -1)
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": "EPSG:32633"}
    rng = np.random.default_rng(8)
    with rasterio.open(
        tmp_path / "town.tif", "w", height=300, width=360, transform=transform, **profile
    ) as raster:
        raster.write(rng.integers(1, 200, (1, 300, 360), np.uint8))
    corners = [(24 * i + 5, 24 * j + 5) for i in range(14) for j in range(11)]
    sizes = rng.integers(6, 16, (len(corners), 2)).tolist()
    boxes = [shapely.box(x, y, x + w, y + h) for (x, y), (w, h) in zip(corners, sizes)]
    area = np.array([shapely.box(0, 0, 360, 247)])
    for name, polygons in (("labels", np.array(boxes)), ("aoi", area)):
        placed = shapely.transform(polygons, lambda p: np.transpose(transform @ tuple(p.T)))
        pyogrio.raw.write(
            tmp_path / f"{name}.gpkg",
            shapely.to_wkb(placed),
            [np.array(["house"] * len(placed), dtype=object)],
            ["class"],
            geometry_type="Polygon",
            crs="EPSG:32633",
        )
    code, _, err = run(
        prepare_scenes,
        *("--input", tmp_path / "town.tif", "--labels", tmp_path / "labels.gpkg"),
        *("--class-field", "class", "--classes", "house", "--aoi", tmp_path / "aoi.gpkg"),
        *("--outside", "ignore", "--split", "train=0.5", "val=0.5", "--block-size", 2, "--gap", 10),
        *("--chip-size", 100, "--overlap", 30, "--output", tmp_path, "--workers", 1),
    )
    assert code == 0, err
    content = json.loads((tmp_path / "val.json").read_text())
    assert content["images"][0]["file_name"].endswith(".png")
    (tmp_path / "results.json").write_text(json.dumps(as_results(content["annotations"])))
    assert "EPSG:32633" in merge(run, tmp_path, "--tolerance", "0")
    assert evaluate(run, tmp_path)["AP"] == pytest.approx(100)
    merged = tmp_path / "merged"
    objects = read_polygons(merged / "truth" / "town.gpkg")
    chips = shapely.union_all([shapely.box(*make_patch(i).window) for i in content["images"]])
    back = shapely.transform(objects.polygons, lambda p: np.transpose(~transform @ tuple(p.T)))
    labelled = chips & area[0]
    found = {tuple(np.round(shapely.bounds(b), 6)) for b in back[~objects.attributes["ignored"]]}
    whole = {b.bounds for b in boxes if labelled.contains(b)}
    halves = {(b & labelled).bounds for b in boxes if 2 * (b & labelled).area >= b.area}
    assert len(whole) > 40
    assert whole <= found <= halves
    # The labels themselves are the truth within the area of the chips.
    code, out, err = run(
        evaluate_scenes,
        *("--truth", tmp_path / "labels.gpkg", "--results", merged / "results" / "town.gpkg"),
        *("--aoi", merged / "area" / "town.gpkg", "--json"),
    )
    assert code == 0, err
    report = json.loads(out)
    assert report["all"]["truth"] >= len(whole)
    inside = [b for b in boxes if chips.contains(b)]
    unlabelled = sum(not area[0].contains(b) for b in inside)
    assert report["all"]["truth"] == len(inside)
    assert report["all"]["truth"] - report["all"]["predicted"] == unlabelled


def test_truth_of_the_whole_scenes(run, tmp_path, scene):
    images, annotations = cut(scene, "P0003", with_ids=False)
    write(tmp_path, images, annotations, as_results(annotations))
    whole = {
        "images": [{"id": 4, "file_name": "P0003.png", "height": 330, "width": 290}],
        "categories": [{"id": i + 10, "name": f"Class_{i}"} for i in range(CLASSES)],
        "annotations": [
            {
                "id": label,
                "image_id": 4,
                "category_id": stub.class_of(label, CLASSES) + 10,
                "segmentation": rle_of(scene == label),
                "iscrowd": 0,
            }
            for label in np.unique(scene[scene > 0]).tolist()
        ],
    }
    (tmp_path / "scenes.json").write_text(json.dumps(whole))
    merge(run, tmp_path, "--tolerance", "0", "--scene-truth", tmp_path / "scenes.json")
    found, _ = features(tmp_path / "merged" / "truth" / "P0003.gpkg", *scene.shape)
    assert found == objects_of(scene)
    assert evaluate(run, tmp_path)["AP"] == pytest.approx(100)


def test_a_missing_patch_does_not_refute_a_sliver(run, tmp_path):
    """A strip at the side of a patch is dropped only if another patch sees that place, too."""
    strip = np.zeros((50, 60), bool)
    strip[10:30, 57:] = True
    windows = [(0, 0, 60, 50), (40, 0, 100, 50), (80, 0, 140, 50)]
    for kept, expected in ((windows, 0), (windows[::2], 1)):
        images, _ = cut(np.zeros((50, 140), int), "s", windows=kept)
        result = {"image_id": 1, "category_id": 1, "segmentation": rle_of(strip), "score": 0.5}
        write(tmp_path, images, [], [result])
        assert f"1 results, {expected} instances" in merge(run, tmp_path, "--tolerance", "4")


def test_places_in_names():
    def place(name, width=800, height=800, **fields):
        patch = make_patch({"id": 1, "file_name": name, "width": width, "height": height, **fields})
        return patch.scene, patch.window

    assert place("P0003_0_800_600_1400.png") == ("P0003", (600, 0, 1400, 800))
    assert place("val/a_b_12_812_0_700.tif", 700) == ("a_b", (0, 12, 700, 812))
    assert place("val/P0007.png") == ("P0007", (0, 0, 800, 800))
    assert place("port_2020_12_24_10.png") == ("port_2020_12_24_10", (0, 0, 800, 800))
    assert place("P0003_0_800_0_800.png", scene="x", x=5, y=7) == ("x", (5, 7, 805, 807))


def test_crops_of_run_lengths_equal_decoded_masks():
    rng = np.random.default_rng(0)
    for _ in range(60):
        height, width = rng.integers(1, 14, 2)
        mask = rng.random((height, width)) < rng.choice([0, 0.1, 0.5, 0.9, 1])
        crop, x, y = mask_crop(rle_of(mask), int(height), int(width))
        again = np.zeros_like(mask)
        again[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
        assert np.array_equal(again, mask)
        if mask.any():
            assert crop[0].any()
            assert crop[-1].any()
            assert crop[:, 0].any()
            assert crop[:, -1].any()
    # Runs without pixels, as some tools write them.
    rle = mask_util.frPyObjects({"size": [4, 3], "counts": [2, 1, 0, 2, 3, 0, 4]}, 4, 3)
    assert run_edges(rle).tolist() == [2, 5]


WRONG = [
    ({"image_id": 99}, "result 1: the annotations have no image 99"),
    ({"category_id": 2}, r"result 1: category_id 2 is not one of the annotations' [1, 3, 5]"),
    ({"segmentation": {"size": [9, 9], "counts": "x"}}, "result 1: its RLE has the size [9, 9]"),
    ({"segmentation": [[0, 0, 1, 1, 0, 1]]}, "does not contain COCO results of masks: entry 1"),
    ({"file_name": "other.png"}, "result 1: the annotations have no image other.png"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_unusable_results_are_one_sentence(run, tmp_path, change, message):
    images, annotations = cut(np.eye(50, dtype=int), "s")
    result = as_results(annotations)[0]
    write(tmp_path, images, annotations, [result, result | change])
    code, _, err = run(
        merge_patches,
        *("--annotations", tmp_path / "val.json", "--results", tmp_path / "results.json"),
        *("--output", tmp_path / "merged"),
    )
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is not a list"),
        ('{"a": 1}', "it is not a list"),
        ("[1, 2]", "entry 0 is not an object"),
        ('[{"score": 1', "it is not JSON"),
        ("[] []", "data after the list at byte 3"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_damaged_files_of_results_are_one_sentence(run, tmp_path, text, message):
    images, annotations = cut(np.eye(50, dtype=int), "s")
    write(tmp_path, images, annotations, [])
    (tmp_path / "results.json").write_text(text)
    code, _, err = run(
        merge_patches,
        *("--annotations", tmp_path / "val.json", "--results", tmp_path / "results.json"),
        *("--output", tmp_path / "merged"),
    )
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_results_are_found_in_chunks_of_any_size(tmp_path, monkeypatch):
    from facenet_d2.evaluation.patches import result_index

    rng = np.random.default_rng(1)
    results = [
        {
            "file_name": f"Häfen_{rng.integers(4)}.png",
            "category_id": 1,
            "score": round(float(rng.random()), 3),
            "segmentation": {"size": [2, 2], "counts": "é" * int(rng.integers(1, 40))},
        }
        for _ in range(50)
    ]
    images = {i: f"Häfen_{i}.png" for i in range(4)}
    file = tmp_path / "results.json"
    forms = ((1, False, None), (7, True, 1), (64, False, 2), (4096, True, None))
    for chunk, ascii_only, indent in forms:
        monkeypatch.setattr(result_index, "_CHUNK", chunk)
        file.write_text(json.dumps(results, ensure_ascii=ascii_only, indent=indent), "utf-8")
        with result_index.ResultIndex(file, images, [1]) as index:
            assert index.count == 50
            for image_id, name in images.items():
                found = [result for _, result in index.of_image(image_id)]
                assert found == [r for r in results if r["file_name"] == name]


def test_two_patches_at_one_place():
    images, _ = cut(np.eye(50, dtype=int), "s")
    images.append(images[0] | {"id": 9, "file_name": "again.png"})
    with pytest.raises(UserError, match=r"s_0_50_0_50\.png and again\.png are the same part of"):
        find_scenes(images)


@pytest.mark.parametrize("inputs", ["results", "images"])
def test_inputs_in_the_output(run, tmp_path, inputs):
    """The files of a scene called "s" would replace the inputs of this name."""
    images, annotations = cut(np.eye(50, dtype=int), "s")
    images[0]["file_name"] = "s.tif"
    folder = tmp_path / "merged" / "results"
    folder.mkdir(parents=True)
    write(tmp_path, images, annotations, [])
    results = (tmp_path / "results.json").rename(folder / "s.json")
    (folder / "s.tif").write_text("image")
    if inputs == "images":
        results = results.rename(tmp_path / "results.json")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.*")}
    code, _, err = run(
        merge_patches,
        *("--annotations", tmp_path / "val.json", "--results", results),
        *("--images", folder if inputs == "images" else tmp_path),
        *("--output", tmp_path / "merged", "--format", "tif", "json"),
    )
    assert code == 2
    assert "results contains inputs; choose another --output" in err
    assert {file: file.read_bytes() for file in before} == before


def test_files_of_other_scenes_in_the_output(run, tmp_path):
    images, annotations = cut(np.eye(50, dtype=int), "s")
    write(tmp_path, images, annotations, [])
    (tmp_path / "merged" / "truth").mkdir(parents=True)
    (tmp_path / "merged" / "truth" / "old.gpkg").touch()
    code, _, err = run(
        merge_patches,
        *("--annotations", tmp_path / "val.json", "--results", tmp_path / "results.json"),
        *("--output", tmp_path / "merged"),
    )
    assert code == 2
    assert "old.gpkg, which does not belong to one of the scenes" in err
