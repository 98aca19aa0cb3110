"""COCO-format data sets: loading with clear errors, registration, the number of classes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from ...errors import UserError


def datasets_root() -> Path:
    """Where the built-in data sets are looked for: ``$DETECTRON2_DATASETS``, else ``datasets``."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


def load_coco(name: str, json_file: str | Path, image_root: str | Path) -> list[dict[str, Any]]:
    """Detectron2's ``load_coco_json``, with one clear sentence for what is wrong.

    Args:
        name: of the data set; its metadata gets ``thing_classes`` and
            ``thing_dataset_id_to_contiguous_id``.
        json_file: annotations in COCO format.
        image_root: the folder that ``file_name`` in the JSON is relative to.

    Returns:
        Detectron2's dataset dicts.

    Raises:
        UserError: for a missing file or folder, JSON that is not COCO, images that are not there.
    """
    json_file, image_root = Path(json_file), Path(image_root)
    if not image_root.is_dir():
        raise UserError(f"dataset {name!r}: its image folder {image_root} does not exist.")
    read_coco(json_file, f"dataset {name!r}: its annotation file")
    try:
        dicts = load_coco_json(str(json_file), str(image_root), name)
    except Exception as error:
        raise UserError(
            f"dataset {name!r}: {json_file} cannot be used as COCO annotations "
            f"({type(error).__name__}: {error})."
        ) from error
    if not dicts:
        raise UserError(f"dataset {name!r}: {json_file} lists no images.")
    first = Path(dicts[0]["file_name"])
    if not first.is_file():
        raise UserError(
            f"dataset {name!r}: image {first} does not exist; is {image_root} the folder that the "
            f"file names in {json_file} are relative to?"
        )
    return dicts


def read_coco(json_file: str | Path, what: str, hint: str = "") -> dict[str, Any]:
    """The content of a file of COCO annotations of masks, checked.

    Args:
        json_file: the file.
        what: names it in an error, as in "--json".
        hint: a sentence to add where the file is something else.

    Raises:
        UserError: where it is missing, cannot be read, or :func:`coco_problem` finds something.
    """
    json_file = Path(json_file)
    if not json_file.is_file():
        raise UserError(f"{what} {json_file} does not exist.")
    content, problem = read_json(json_file)
    problem = problem or coco_problem(content)
    if problem:
        raise UserError(f"{what} {json_file} is not COCO JSON: {problem}. {hint}".rstrip())
    return content


def read_json(file: Path) -> tuple[Any, str | None]:
    """The content of a file, or what keeps it from being read, in words."""
    try:
        return json.loads(file.read_text()), None
    except OSError as error:
        return None, f"it cannot be read ({error.strerror})"
    except ValueError as error:
        return None, f"it is not JSON ({error})"
    except RecursionError:
        return None, "its lists or objects are nested too deeply"


def coco_problem(content: Any) -> str | None:
    """The first thing that keeps parsed JSON from being COCO annotations of masks, or None.

    Looked at is what Detectron2 and pycocotools rely on: the three lists, the fields of their
    entries with types, ids that are there and not there twice.
    """
    if not isinstance(content, dict):
        return f"its top level is a {type(content).__name__}, not an object"
    for key, fields in FIELDS.items():
        if key == "annotations" and key not in content:
            continue  # A test set whose annotations are not published.
        entries = content.get(key)
        if not isinstance(entries, list):
            return f'it has no list "{key}"'
        for i, entry in enumerate(entries):
            if not isinstance(entry, dict):
                return f"entry {i} of {key!r} is no object"
            for field, valid, what in fields:
                if field not in entry and field not in OPTIONAL:
                    return f"entry {i} of {key!r} has no {field!r}"
                if field in entry and not valid(entry[field]):
                    return (
                        f"entry {i} of {key!r}: its {field!r} must be {what}, not "
                        + repr(entry[field])[:80]
                    )
        ids = [entry["id"] for entry in entries]
        if len(set(ids)) < len(ids):
            return f"some {key} share an id"
    categories = {c["id"] for c in content["categories"]}
    sizes = {i["id"]: (i["height"], i["width"]) for i in content["images"]}
    for a in content.get("annotations", ()):
        if a["category_id"] not in categories:
            return (
                f"annotation {a['id']} has category_id {a['category_id']}, which is not among its "
                f"categories {sorted(categories)}"
            )
        if a["image_id"] not in sizes:
            return f"annotation {a['id']} is of image {a['image_id']}, which is not listed"
        # pycocotools takes all memory, or crashes, on polygons far outside of their image.
        reach = 2 * max(sizes[a["image_id"]])
        if isinstance(a["segmentation"], list) and any(
            abs(v) > reach for polygon in a["segmentation"] for v in polygon
        ):
            return f"annotation {a['id']} has a polygon far outside of its image"
    return None


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def is_number(value: Any) -> bool:
    """Whether a value is a number that can be a coordinate or an area."""
    # Compared, not converted: an integer of JSON can be too large for a float.
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and -MAX_NUMBER < value < MAX_NUMBER
    )


def _is_file_name(value: Any) -> bool:
    if not isinstance(value, str) or value == "" or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


def _is_extent(value: Any) -> bool:
    return _is_int(value) and 0 < value <= MAX_EXTENT


def _is_segmentation(value: Any) -> bool:
    if isinstance(value, dict):
        return isinstance(value.get("counts"), (str, list)) and isinstance(value.get("size"), list)
    # Polygons of fewer than three points are left out by Detectron2, with a warning.
    return isinstance(value, list) and all(
        isinstance(p, list) and len(p) >= 4 and all(map(is_number, p)) for p in value
    )


# Of a coordinate, and of an image's height and width.
MAX_NUMBER, MAX_EXTENT = 1e12, 100_000
# Fields that need not be there.
OPTIONAL = ("iscrowd",)
# (field, test, what it must be) of the entries of each list.
FIELDS: dict[str, tuple[tuple[str, Callable[[Any], bool], str], ...]] = {
    "categories": (
        ("id", _is_int, "an integer"),
        ("name", lambda v: isinstance(v, str) and v != "", "a text"),
    ),
    "images": (
        ("id", _is_int, "an integer"),
        ("file_name", _is_file_name, "the name of a file"),
        ("height", _is_extent, "a positive integer, at most 100,000"),
        ("width", _is_extent, "a positive integer, at most 100,000"),
    ),
    "annotations": (
        ("id", _is_int, "an integer"),
        ("image_id", _is_int, "an integer"),
        ("category_id", _is_int, "an integer"),
        (
            "bbox",
            lambda v: isinstance(v, list) and len(v) == 4 and all(map(is_number, v)),
            "four numbers",
        ),
        ("segmentation", _is_segmentation, "polygons or run lengths"),
        ("iscrowd", lambda v: v in (0, 1), "0 or 1"),
    ),
}


def register_coco(
    name: str,
    json_file: str | Path,
    image_root: str | Path,
    *,
    loader: Callable[[], list[dict[str, Any]]] | None = None,
    classes: Sequence[str] | None = None,
    colors: Sequence[tuple[int, int, int]] | None = None,
) -> None:
    """Register a COCO-format data set with Detectron2; nothing is read before it is used.

    Args:
        name: to use in ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        json_file: annotations.
        image_root: folder of the images.
        loader: gives the dataset dicts; :func:`load_coco` of the three above by default.
        classes: class names in order, where they are known beforehand; checked on loading.
        colors: one RGB colour a class, for drawing.
    """
    DatasetCatalog.register(name, loader or (lambda: load_coco(name, json_file, image_root)))
    metadata = MetadataCatalog.get(name)
    metadata.set(
        json_file=str(json_file),
        image_root=str(image_root),
        evaluator_type="coco",
        registered_by="facenet_d2",
    )
    if classes is not None:
        metadata.set(thing_classes=list(classes))
    if colors is not None:
        metadata.set(thing_colors=[tuple(c) for c in colors])


def register_coco_from_config(cfg: CfgNode) -> None:
    """Register the sets in ``DATASETS.COCO``: [name, JSON file, image folder] each.

    Registering one of the same name again replaces it, unless it is a built-in set's name.

    Raises:
        UserError: where an entry has another form or takes the name of another data set.
    """
    for entry in cfg.DATASETS.COCO:
        if not (isinstance(entry, (list, tuple)) and len(entry) == 3 and all(entry)):
            raise UserError(
                f"DATASETS.COCO: each entry is [name, JSON file, image folder], not {entry!r}."
            )
        name, json_file, image_root = map(str, entry)
        if name in DatasetCatalog.list():
            if not getattr(MetadataCatalog.get(name), "from_config", False):
                raise UserError(
                    f"DATASETS.COCO: {name!r} is already the name of a registered data set; "
                    "choose another."
                )
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        register_coco(name, json_file, image_root)
        MetadataCatalog.get(name).set(from_config=True)


def class_names(dataset: str) -> list[str]:
    """Class names of a registered data set, read from its JSON where they are not known yet.

    Raises:
        UserError: for an unknown name, or as :func:`load_coco`.
    """
    if dataset not in DatasetCatalog.list():
        own = [
            d
            for d in DatasetCatalog.list()
            if MetadataCatalog.get(d).get("registered_by", None) == "facenet_d2"
        ]
        raise UserError(
            f"dataset {dataset!r} is not registered; this project knows {', '.join(sorted(own))}, "
            "Detectron2's own, and what DATASETS.COCO lists."
        )
    metadata = MetadataCatalog.get(dataset)
    if not hasattr(metadata, "thing_classes"):
        DatasetCatalog.get(dataset)
    return list(metadata.thing_classes)


def resolve_num_classes(cfg: CfgNode) -> None:
    """Take the number of classes from the first data set, or check it against every one.

    ``MODEL.SOLOV2.NUM_CLASSES`` 0 takes it. For Detectron2's own meta-architectures
    ``MODEL.ROI_HEADS.NUM_CLASSES`` is checked. ``DATASETS.CLASS_NAMES`` is set to the names.

    Args:
        cfg: changed in place.

    Raises:
        UserError: where the numbers or the names differ, or there is no data set to ask.
    """
    key, node = num_classes_key(cfg)
    datasets = list(dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]))
    if not datasets:
        raise UserError("DATASETS.TRAIN and DATASETS.TEST are both empty; name a data set.")
    names = class_names(datasets[0])
    trained = list(cfg.DATASETS.CLASS_NAMES)
    if trained and trained != names:
        raise UserError(
            f"DATASETS.CLASS_NAMES, of the model, are {', '.join(trained)}, but dataset "
            f"{datasets[0]!r} has {', '.join(names)}. To train a new model on it, add "
            "DATASETS.CLASS_NAMES []."
        )
    if key == "MODEL.SOLOV2.NUM_CLASSES" and node.NUM_CLASSES == 0:
        node.NUM_CLASSES = len(names)
    if len(names) != node.NUM_CLASSES:
        way_out = " (or 0, to take it from the data)" if "SOLOV2" in key else ""
        raise UserError(
            f"{key} is {node.NUM_CLASSES}, but dataset {datasets[0]!r} has {len(names)} classes: "
            f"{', '.join(names)}. Set {key} {len(names)}{way_out}."
        )
    for dataset in datasets[1:]:
        if class_names(dataset) != names:
            raise UserError(
                f"datasets {datasets[0]!r} and {dataset!r} have other classes: {', '.join(names)} "
                f"and {', '.join(class_names(dataset))}."
            )
    cfg.DATASETS.CLASS_NAMES = names


def check_available(datasets: Sequence[str]) -> None:
    """See that the annotation files are there, before hours are spent on training.

    Raises:
        UserError: as loading the data set does.
    """
    for dataset in datasets:
        json_file = MetadataCatalog.get(dataset).get("json_file", None)
        if json_file is not None and not Path(json_file).is_file():
            DatasetCatalog.get(dataset)


def num_classes_key(cfg: CfgNode) -> tuple[str, CfgNode]:
    """The key with the number of classes of the config's model, and the node it is in."""
    if cfg.MODEL.META_ARCHITECTURE == "SOLOv2":
        return "MODEL.SOLOV2.NUM_CLASSES", cfg.MODEL.SOLOV2
    return "MODEL.ROI_HEADS.NUM_CLASSES", cfg.MODEL.ROI_HEADS
