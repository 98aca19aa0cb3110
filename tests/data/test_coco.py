import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from helpers import REAL_DATA, needs_real

from facenet_d2 import UserError, add_facenet_config
from facenet_d2.data.datasets.coco import load_coco, register_coco_from_config
from facenet_d2.engine.num_classes import resolve_num_classes


@pytest.fixture
def content(scenes):
    return json.loads((scenes / "annotations.json").read_text())


def spoil_first(content, **fields):
    first, *others = content["annotations"]
    return {**content, "annotations": [{**first, **fields}, *others]}


def load(tmp_path, scenes, content):
    file = tmp_path / "set.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return load_coco(f"set_{tmp_path.name}", file, scenes / "images")


def test_loads_what_is_right(tmp_path, scenes, content):
    dicts = load(tmp_path, scenes, content)
    assert len(dicts) == 6
    assert sum(len(d["annotations"]) for d in dicts) == len(content["annotations"])


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda c: "{not json", "it is not JSON"),
        (lambda c: [1, 2], "top level is a list"),
        (lambda c: {"images": c["images"], "annotations": c["annotations"]}, '"categories"'),
        (lambda c: {**c, "images": [], "annotations": []}, "lists no images"),
        (lambda c: {**c, "images": [{"id": 1}]}, "image 1: its 'file_name' must be a file name"),
        (lambda c: {**c, "images": [7]}, "image entry 0: is a int, not an object"),
        (
            lambda c: {**c, "images": [*c["images"], {**c["images"][0], "file_name": "a"}]},
            "has the same id, 1, as another image",
        ),
        (lambda c: {**c, "categories": c["categories"] * 2}, "same id, 1, as 'ship'"),
        (lambda c: {**c, "categories": [{"id": 1, "name": "\ud800"}]}, "'name' must be a non-emp"),
        (lambda c: {**c, "categories": [{"id": "one", "name": "a"}]}, "'id' must be an integer"),
        (lambda c: spoil_first(c, category_id=77), r"category_id 77 is not among \[1, 2"),
        (lambda c: spoil_first(c, category_id=None), "'category_id' must be an integer, not None"),
        (lambda c: spoil_first(c, iscrowd=2), "'iscrowd' must be 0 or 1, not 2"),
        (lambda c: spoil_first(c, segmentation="abc"), "'segmentation' must be polygons"),
        (lambda c: spoil_first(c, segmentation=[[1, "2", 3, 4, 5, 6]]), "'segmentation' must be"),
        (lambda c: spoil_first(c, segmentation=[[1e9, 1, 3, 4, 5, 6]]), "far outside its im"),
        (lambda c: spoil_first(c, segmentation=[[float("nan")] * 6]), "'segmentation' must be"),
        (lambda c: spoil_first(c, segmentation={"counts": "54"}), "'segmentation' must be"),
        *(
            (lambda c, rle=rle: spoil_first(c, segmentation=rle), match)
            for rle, match in (
                ({"size": [128], "counts": [1]}, r"has the size \[128\], not \[128, 128\]"),
                ({"size": [None, None], "counts": [1]}, "has the size"),
                ({"size": [100000, 100000], "counts": "54"}, "has the size"),
                ({"size": [50, 60], "counts": [100, 200, 2700]}, "has the size"),
                ({"size": [128, 128], "counts": [-5, 16389]}, "not non-negative integers"),
                ({"size": [128, 128], "counts": [[1]]}, "not non-negative integers"),
                ({"size": [128, 128], "counts": [True, 16383]}, "not non-negative integers"),
                ({"size": [128, 128], "counts": [1e12]}, "not non-negative integers"),
                ({"size": [128, 128], "counts": []}, "add up to 0, not 16384"),
                ({"size": [128, 128], "counts": [10, 5]}, "add up to 15, not 16384"),
                ({"size": [128, 128], "counts": "~~~~"}, "damaged, or do not add up"),
                ({"size": [128, 128], "counts": ""}, "damaged, or do not add up"),
                ({"size": [128, 128], "counts": "54"}, "damaged, or do not add up"),
            )
        ),
        (
            lambda c: {**c, "images": [{**i, "file_name": "gone.png"} for i in c["images"]]},
            "6 of 6 images do not exist in .*, for example gone.png",
        ),
    ],
)
def test_says_what_is_wrong(tmp_path, scenes, content, spoil, match):
    with pytest.raises(UserError, match=match) as raised:
        load(tmp_path, scenes, spoil(content))
    assert "\n" not in str(raised.value)


def plain(value):
    """Arrays and tuples as lists."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(v) for v in value]
    return value


def test_loads_what_detectron2_loads(tmp_path, scenes, content, caplog):
    """Unusual ids and order, both kinds of RLE, too short polygons, crowds, no segmentation."""
    for c in content["categories"]:
        c["id"] = 7 * (6 - c["id"])
    for a in content["annotations"]:
        a["category_id"] = 7 * (6 - a["category_id"])
    content["images"].reverse()
    size = [content["images"][0][k] for k in ("height", "width")]
    first, second, third, fourth, fifth, *_, last = content["annotations"]
    counts = [100, 20, size[0] * size[1] - 120]
    first["segmentation"] = {"size": size, "counts": counts}
    compressed = mask_util.frPyObjects(first["segmentation"], *size)
    second["segmentation"] = {"size": size, "counts": compressed["counts"].decode()}
    third["segmentation"] = [[1, 1, 5, 5]]
    fourth["segmentation"].append([1, 1, 5, 5])
    fifth["segmentation"] = []
    fifth["iscrowd"] = 1
    del last["iscrowd"]
    file = tmp_path / "odd.json"
    file.write_text(json.dumps(content))
    name = f"detectron2_{tmp_path.name}"
    expected = load_coco_json(str(file), str(scenes / "images"), name)
    actual = load_coco(f"own_{name}", file, scenes / "images")
    # Detectron2 keeps an annotation without a segmentation, which its mapper cannot use.
    for record in expected:
        record["annotations"] = [
            {"iscrowd": 0, **a} for a in record["annotations"] if "segmentation" in a
        ]
    assert plain(actual) == plain(expected)
    assert "annotation left out in annotation" in caplog.text
    own = MetadataCatalog.get(f"own_{name}")
    assert own.thing_classes == MetadataCatalog.get(name).thing_classes
    mapping = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    assert own.thing_dataset_id_to_contiguous_id == mapping
    content["categories"][0]["name"] = "kite"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="other categories than expected"):
        load_coco(f"own_{name}", file, scenes / "images")


@needs_real("nwpu_vhr10")
def test_loads_nwpu_as_detectron2_does():
    folder = REAL_DATA / "nwpu_vhr10"
    where = (folder / "annotations.json", folder / "images")
    expected = load_coco_json(*map(str, where), "nwpu_by_detectron2")
    assert plain(load_coco("nwpu_by_own", *where)) == plain(expected)


def test_missing_file_and_folder(tmp_path, scenes):
    with pytest.raises(UserError, match=r"nowhere\.json does not exist"):
        load_coco("a", tmp_path / "nowhere.json", scenes / "images")
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        load_coco("a", scenes / "annotations.json", tmp_path / "nowhere")


def config(scenes, name, **solo):
    cfg = get_cfg()
    add_facenet_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "SOLOv2"
    cfg.DATASETS.COCO = [[name, str(scenes / "annotations.json"), str(scenes / "images")]]
    cfg.DATASETS.TRAIN = (name,)
    cfg.DATASETS.TEST = ()
    for key, value in solo.items():
        setattr(cfg.MODEL.SOLOV2, key, value)
    return cfg


def test_own_set_by_config_alone(scenes, tmp_path):
    name = f"own_{tmp_path.name}"
    cfg = config(scenes, name)
    register_coco_from_config(cfg)
    resolve_num_classes(cfg)
    assert cfg.MODEL.SOLOV2.NUM_CLASSES == 5
    assert cfg.DATASETS.CLASS_NAMES[0] == "ship"
    assert len(DatasetCatalog.get(name)) == 6
    # The same config again, as a resumed or repeated command in one process.
    register_coco_from_config(cfg)
    assert len(DatasetCatalog.get(name)) == 6


def test_number_of_classes_is_checked(scenes, tmp_path):
    cfg = config(scenes, f"own_{tmp_path.name}", NUM_CLASSES=4)
    register_coco_from_config(cfg)
    with pytest.raises(UserError, match=r"MODEL\.SOLOV2\.NUM_CLASSES is 4.*5 classes.*ship"):
        resolve_num_classes(cfg)


def test_number_of_classes_of_mask_rcnn_is_checked(scenes, tmp_path):
    cfg = config(scenes, f"own_{tmp_path.name}")
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    register_coco_from_config(cfg)
    with pytest.raises(UserError, match=r"MODEL\.ROI_HEADS\.NUM_CLASSES is 80.*NUM_CLASSES 5"):
        resolve_num_classes(cfg)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 5
    resolve_num_classes(cfg)


def test_train_and_test_must_have_the_same_classes(scenes, tmp_path):
    cfg = config(scenes, f"own_{tmp_path.name}")
    cfg.DATASETS.TEST = ("nwpu_vhr10_test",)
    register_coco_from_config(cfg)
    with pytest.raises(UserError, match="different classes"):
        resolve_num_classes(cfg)


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        (["a", "b"], r"\[name, JSON file, image folder\]"),
        ("abc.json", r"\[name, JSON file, image folder\]"),
        (["nwpu_vhr10_train", "a", "b"], "already the name"),
    ],
)
def test_wrong_entries(scenes, entry, match):
    cfg = config(scenes, "x")
    cfg.DATASETS.COCO = [entry]
    with pytest.raises(UserError, match=match):
        register_coco_from_config(cfg)


def test_unknown_name(scenes):
    cfg = config(scenes, "x")
    cfg.DATASETS.COCO = []
    cfg.DATASETS.TRAIN = ("nwpu_vhr10_trian",)
    with pytest.raises(UserError, match=r"nwpu_vhr10_trian.*not registered.*nwpu_vhr10_train"):
        resolve_num_classes(cfg)


def test_built_in_set_that_is_not_prepared():
    with pytest.raises(UserError, match=r"prepare_nwpu_vhr10"):
        DatasetCatalog.get("nwpu_vhr10_train")
    assert len(MetadataCatalog.get("nwpu_vhr10_train").thing_colors) == 10


def test_classes_of_a_trained_model_are_checked(scenes, tmp_path):
    cfg = config(scenes, f"own_{tmp_path.name}")
    register_coco_from_config(cfg)
    cfg.DATASETS.CLASS_NAMES = ["ship", "airplane", "kite", "storage_tank", "tennis_court"]
    with pytest.raises(UserError, match=r"vehicle.* instead of ship, airplane, kite.*CLASS_NAMES"):
        resolve_num_classes(cfg)


def test_categories_are_matched_by_name(scenes, tmp_path, content):
    """Other ids, another order and a missing class in the test set."""
    names = [c["name"] for c in content["categories"]]
    other = {c["id"]: 10 * (9 - c["id"]) for c in content["categories"]}
    lacking = names[1]
    content["categories"] = [
        {"id": other[c["id"]], "name": c["name"]}
        for c in content["categories"]
        if c["name"] != lacking
    ]
    classes_before = {a["id"]: names[a["category_id"] - 1] for a in content["annotations"]}
    content["annotations"] = [
        {**a, "category_id": other[a["category_id"]]}
        for a in content["annotations"]
        if names[a["category_id"] - 1] != lacking
    ]
    (tmp_path / "val.json").write_text(json.dumps(content))
    cfg = config(scenes, f"train_{tmp_path.name}")
    val = f"val_{tmp_path.name}"
    cfg.DATASETS.COCO.append([val, str(tmp_path / "val.json"), str(scenes / "images")])
    cfg.DATASETS.TEST = (val,)
    register_coco_from_config(cfg)
    resolve_num_classes(cfg)
    assert list(cfg.DATASETS.CLASS_NAMES) == names
    assert list(cfg.DATASETS.CATEGORY_IDS) == [1, 2, 3, 4, 5]
    assert MetadataCatalog.get(val).thing_classes == names
    by_box = {tuple(a["bbox"]): classes_before[a["id"]] for a in content["annotations"]}
    loaded = [a for d in DatasetCatalog.get(val) for a in d["annotations"]]
    assert len(loaded) == len(content["annotations"])
    assert all(names[a["category_id"]] == by_box[tuple(a["bbox"])] for a in loaded)


def square(x, y, side):
    return [x, y, x + side, y, x + side, y + side, x, y + side]


CLEAN = {"image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": [square(10, 10, 20)]}


@pytest.mark.parametrize(
    ("fields", "number", "logged"),
    [
        # Annotations without a mask: rectangles, lines, nothing.
        ({"segmentation": []}, 0, "it has no segmentation"),
        ({"segmentation": None}, 0, "it has no segmentation"),
        ({"segmentation": [[5, 5, 50, 50]]}, 0, "a polygon has 4 numbers"),
        ({"segmentation": [[5, 5, 50, 50], square(30, 30, 20)]}, 1, "polygon left out"),
        ({"segmentation": [[5, 5, 50, 50, 7]]}, 0, "a polygon has 5 numbers"),
        # Other forms of polygons.
        ({"segmentation": square(10, 10, 20)}, 1, "polygons flattened"),
        ({"segmentation": [[10, 10], [30, 10], [30, 30]]}, 1, "polygons flattened"),
        ({"segmentation": [[[10, 10], [30, 10], [30, 30]]]}, 1, "polygons flattened"),
        # Types.
        ({"image_id": "1"}, 1, "image_id converted"),
        ({"image_id": 1.0}, 1, "image_id converted"),
        ({"category_id": " 1"}, 1, "category_id converted"),
        ({"iscrowd": None}, 1, "iscrowd converted"),
        ({"iscrowd": False}, 1, "iscrowd converted"),
        ({"iscrowd": "0"}, 1, "iscrowd converted"),
        ({"iscrowd": 0.0}, 1, "iscrowd converted"),
        ({"ignore": 1}, 1, "marked as a crowd"),
        ({"image_id": 999}, 0, "image_id 999 is not listed"),
        ({"id": None}, 1, "renumbered"),
        ({"id": "a7"}, 1, "renumbered"),
        ({"id": 0}, 1, "renumbered"),
        ({"id": 2}, 1, "same id, 2, as another"),
        # Fields that are not needed.
        ({"bbox": [1, 2, float("nan"), 4]}, 1, ""),
        ({"bbox": None}, 1, ""),
        ({"area": "large"}, 1, ""),
    ],
)
def test_annotations_of_other_tools(tmp_path, scenes, content, caplog, fields, number, logged):
    first = {**CLEAN, "id": 1, **fields}
    other = {**CLEAN, "id": 2, "segmentation": [square(60, 60, 20)]}
    content["annotations"] = [first, other]
    records = load(tmp_path, scenes, content)
    assert logged in caplog.text
    assert bool(caplog.records) == bool(logged)
    loaded = records[0]["annotations"]
    assert len(loaded) == number + 1
    assert sum(len(r["annotations"]) for r in records) == number + 1
    assert loaded[-1]["bbox"] == [60, 60, 20, 20]
    if number:
        (polygon,) = loaded[0]["segmentation"]
        x, y = np.reshape(polygon, (-1, 2)).T
        assert {min(x), min(y)} in ({10}, {30})
        assert {max(x), max(y)} in ({30}, {50})
        assert loaded[0]["iscrowd"] == int("ignore" in fields)


def test_images_without_a_size(tmp_path, scenes, content, caplog):
    for image, (height, width) in zip(
        content["images"], ((None, None), (0, 5), ("128", 128), (-1, 3), (1e9, 128), (128, 128))
    ):
        image.update(height=height, width=width)
    del content["images"][0]["height"]
    records = load(tmp_path, scenes, content)
    assert {(r["height"], r["width"]) for r in records} == {(128, 128)}
    assert "size read from the image 5 times" in caplog.text


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"images\\{name}",
        lambda name: f"./images/{name}",
        lambda name: f"C:\\Users\\me\\set\\images\\{name}",
        lambda name: f"/home/me/set/images/{name}",
        lambda name: f"/data/local-files/?d=set/{name}",
        lambda name: name.upper(),
        lambda name: name.replace("0000", "%30000"),
    ],
)
def test_images_under_other_names(tmp_path, scenes, content, rename):
    for image in content["images"]:
        image["file_name"] = rename(image["file_name"])
    expected = load_coco(f"plain_{tmp_path.name}", scenes / "annotations.json", scenes / "images")
    assert plain(load(tmp_path, scenes, content)) == plain(expected)


def test_two_images_must_not_become_one(tmp_path, scenes, content):
    content["images"][1]["file_name"] = "val/" + content["images"][0]["file_name"]
    with pytest.raises(UserError, match="is already that of image 1"):
        load(tmp_path, scenes, content)


def test_unicode_names(tmp_path, scenes, content):
    """macOS decomposes accents in file names."""
    folder = tmp_path / "images"
    folder.mkdir()
    for image in content["images"]:
        source = scenes / "images" / image["file_name"]
        image["file_name"] = f"a\u0308_{image['id']}.png"
        (folder / f"\u00e4_{image['id']}.png").symlink_to(source)
    (tmp_path / "set.json").write_text(json.dumps(content))
    records = load_coco(f"set_{tmp_path.name}", tmp_path / "set.json", folder)
    assert records[0]["file_name"] == str(folder / "\u00e4_1.png")


def test_many_crowds_are_pointed_out(tmp_path, scenes, content, caplog):
    for annotation in content["annotations"][1:]:
        annotation["iscrowd"] = 1
    load(tmp_path, scenes, content)
    n = len(content["annotations"])
    assert f"{n - 1} of {n} annotations are crowds" in caplog.text
    assert "--crowds-as-objects" in caplog.text


def test_withheld_annotations(tmp_path, scenes, content):
    del content["annotations"]
    assert all("annotations" not in r for r in load(tmp_path, scenes, content))
