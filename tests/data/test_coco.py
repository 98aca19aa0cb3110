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
        (lambda c: {**c, "images": [{"id": 1}]}, "entry 0 of 'images' has no 'file_name'"),
        (
            lambda c: {**c, "annotations": [{**c["annotations"][0], "category_id": 77}]},
            "category_id 77",
        ),
        (lambda c: {**c, "annotations": [c["annotations"][0]] * 2}, "annotations share an id"),
        (lambda c: {**c, "images": [{**c["images"][0], "height": None}]}, "'height' must be a pos"),
        (lambda c: spoil_first(c, bbox=[1, 2, float("nan"), 4]), "'bbox' must be four numbers"),
        (lambda c: spoil_first(c, segmentation="abc"), "'segmentation' must be polygons"),
        (lambda c: spoil_first(c, segmentation=[[1, "2", 3, 4, 5, 6]]), "'segmentation' must be"),
        (lambda c: spoil_first(c, segmentation=[[1e9, 1, 3, 4, 5, 6]]), "far outside its im"),
        (lambda c: spoil_first(c, segmentation=[[float("nan")] * 6]), "'segmentation' must be"),
        (lambda c: spoil_first(c, image_id=999), "has image_id 999, which is not listed"),
        (lambda c: spoil_first(c, id="a7"), "'id' must be an integer, not 'a7'"),
        (
            lambda c: {**c, "images": [{**i, "file_name": "gone.png"} for i in c["images"]]},
            "gone.png does not exist",
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
    assert plain(actual) == plain(expected)
    assert "1 annotations without a polygon" in caplog.text
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
    cfg.DATASETS.CLASS_NAMES = ["vehicle", "ship", "airplane", "storage_tank", "tennis_court"]
    with pytest.raises(UserError, match=r"DATASETS\.CLASS_NAMES.*vehicle, ship"):
        resolve_num_classes(cfg)
