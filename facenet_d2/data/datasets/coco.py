"""COCO-format data sets: loading with clear errors, registration, the number of classes."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ...config import CLASSES_NODES
from ...errors import UserError

logger = logging.getLogger(__name__)

# What dataset dicts keep of an annotation.
KEPT = ("iscrowd", "bbox")


def datasets_root() -> Path:
    """Where the built-in data sets are looked for: ``$DETECTRON2_DATASETS``, else ``datasets``."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


def load_coco(name: str, json_file: str | Path, image_root: str | Path) -> list[dict[str, Any]]:
    """What Detectron2's ``load_coco_json`` gives, with one clear sentence for what is wrong.

    The file is read once, and polygons are arrays from the start: annotations of iSAID's number
    take half of the time and two thirds of the memory.

    Args:
        name: of the data set; its metadata gets ``thing_classes`` and
            ``thing_dataset_id_to_contiguous_id``.
        json_file: annotations in COCO format.
        image_root: the folder that ``file_name`` in the JSON is relative to.

    Returns:
        Detectron2's dataset dicts. Polygons of fewer than three points are left out, and so are
        annotations of which none is left, with a warning.

    Raises:
        UserError: for a missing file or folder, JSON that is not COCO, images that are not there.
    """
    json_file, image_root = Path(json_file), Path(image_root)
    if not image_root.is_dir():
        raise UserError(f"dataset {name!r}: its image folder {image_root} does not exist.")
    content = read_coco(json_file, f"dataset {name!r}: its annotation file", compact=True)
    if not content["images"]:
        raise UserError(f"dataset {name!r}: {json_file} lists no images.")
    categories = sorted(content["categories"], key=lambda c: c["id"])
    class_of = {c["id"]: i for i, c in enumerate(categories)}
    metadata = MetadataCatalog.get(name)
    try:
        metadata.thing_classes = [c["name"] for c in categories]
        metadata.thing_dataset_id_to_contiguous_id = class_of
    except AssertionError as error:  # Detectron2's metadata cannot be changed.
        raise UserError(
            f"dataset {name!r}: {json_file} has other categories than expected ({error})."
        ) from error

    records = {
        image["id"]: {
            "file_name": os.path.join(image_root, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": [],
        }
        for image in sorted(content["images"], key=lambda image: image["id"])
    }
    unusable = 0
    annotations = content.get("annotations", [])
    annotations.reverse()
    while annotations:
        # Taken from the list, so that what is not needed goes at once.
        entry = annotations.pop()
        segmentation = _usable(entry["segmentation"])
        if segmentation is None:
            unusable += 1
            continue
        annotation = {key: entry[key] for key in KEPT if key in entry}
        annotation["category_id"] = class_of[entry["category_id"]]
        annotation["bbox_mode"] = BoxMode.XYWH_ABS
        if segmentation:
            annotation["segmentation"] = segmentation
        records[entry["image_id"]]["annotations"].append(annotation)
    if unusable:
        logger.warning(
            "%s: %d annotations without a polygon of three points are left out.", name, unusable
        )
    first = Path(next(iter(records.values()))["file_name"])
    if not first.is_file():
        raise UserError(
            f"dataset {name!r}: image {first} does not exist; is {image_root} the folder that the "
            f"file names in {json_file} are relative to?"
        )
    return list(records.values())


def _usable(segmentation: list | dict) -> list | dict | None:
    """A segmentation as training takes it; None where no polygon of it can be used."""
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            return mask_util.frPyObjects(segmentation, *segmentation["size"])
        return segmentation
    polygons = [p for p in segmentation if len(p) >= 6 and len(p) % 2 == 0]
    return polygons if polygons or not segmentation else None


def read_coco(
    json_file: str | Path, what: str, hint: str = "", *, compact: bool = False
) -> dict[str, Any]:
    """The content of a file of COCO annotations of masks, checked.

    Args:
        json_file: the file.
        what: names it in an error, as in "--json".
        hint: a sentence to add where the file is something else.
        compact: polygons as arrays, which take a third of the memory of lists of numbers.

    Raises:
        UserError: where it is missing, cannot be read, or :func:`coco_problem` finds something.
    """
    json_file = Path(json_file)
    if not json_file.is_file():
        raise UserError(f"{what} {json_file} does not exist.")
    content, problem = read_json(json_file, _compact if compact else None)
    problem = problem or coco_problem(content)
    if problem:
        raise UserError(f"{what} {json_file} is not COCO JSON: {problem}. {hint}".rstrip())
    return content


def read_json(
    file: Path, object_hook: Callable[[dict[str, Any]], Any] | None = None
) -> tuple[Any, str | None]:
    """The content of a file, or what keeps it from being read, in words.

    Args:
        file: JSON.
        object_hook: as of :func:`json.loads`.
    """
    try:
        return json.loads(file.read_bytes(), object_hook=object_hook), None
    except OSError as error:
        return None, f"it cannot be read ({error.strerror})"
    except ValueError as error:
        return None, f"it is not JSON ({error})"
    except RecursionError:
        return None, "its lists or objects are nested too deeply"


def _compact(entry: dict[str, Any]) -> dict[str, Any]:
    if isinstance(entry.get("segmentation"), list):
        entry["segmentation"] = [_as_array(p) for p in entry["segmentation"]]
    return entry


def _as_array(polygon: Any) -> Any:
    """Numbers as an array; anything else as it is, to be reported."""
    if isinstance(polygon, list) and all(type(v) in (int, float) for v in polygon):
        try:
            return np.array(polygon, dtype=float)
        except OverflowError:
            pass
    return polygon


def coco_problem(content: Any) -> str | None:
    """The first thing that keeps parsed JSON from being COCO annotations of masks, or None.

    Looked at is what Detectron2 and pycocotools rely on: the three lists, the fields of their
    entries with types, ids that are there and not there twice.
    """
    if not isinstance(content, dict):
        return f"its top level is a {type(content).__name__}, not an object"
    for key in FIELDS:
        if key == "annotations" and key not in content:
            continue  # A test set whose annotations are not published.
        entries = content.get(key)
        if not isinstance(entries, list):
            return f'it has no list "{key}"'
        for i, entry in enumerate(entries):
            problem = entry_problem(entry, key)
            if problem:
                joint = ": " if problem.startswith("its ") else " "
                return f"entry {i} of {key!r}{joint}{problem}"
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
            np.abs(polygon).max() > reach for polygon in a["segmentation"]
        ):
            return f"annotation {a['id']} has a polygon far outside of its image"
    return None


def entry_problem(entry: Any, key: str) -> str | None:
    """What is wrong with the fields of an entry of one of the three lists, or None."""
    if not isinstance(entry, dict):
        return "is no object"
    for field, valid, what in FIELDS[key]:
        if field not in entry and field not in OPTIONAL:
            return f"has no {field!r}"
        if field in entry and not valid(entry[field]):
            return f"its {field!r} must be {what}, not {repr(entry[field])[:80]}"
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
    # Polygons of two points are left out on loading, with a warning.
    return isinstance(value, list) and all(map(_is_polygon, value))


def _is_polygon(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return len(value) >= 4 and bool((np.abs(value) < MAX_NUMBER).all())
    return isinstance(value, list) and len(value) >= 4 and all(map(is_number, value))


# Of a coordinate, and of an image's height and width.
MAX_NUMBER, MAX_EXTENT = 1e12, 100_000
# Fields that need not be there.
OPTIONAL = ("iscrowd", "ignore")
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
        ("ignore", lambda v: v == 0, "0 (Detectron2 has no annotations to ignore, but crowds)"),
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
    if node.NUM_CLASSES == 0:
        node.NUM_CLASSES = len(names)
    if len(names) != node.NUM_CLASSES:
        raise UserError(
            f"{key} is {node.NUM_CLASSES}, but dataset {datasets[0]!r} has {len(names)} classes: "
            f"{', '.join(names)}. Set {key} {len(names)} (or 0, to take it from the data)."
        )
    if "POINT_HEAD" in cfg.MODEL:
        # PointRend's, which must be the same.
        cfg.MODEL.POINT_HEAD.NUM_CLASSES = len(names)
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
    node = CLASSES_NODES.get(cfg.MODEL.META_ARCHITECTURE, "ROI_HEADS")
    return f"MODEL.{node}.NUM_CLASSES", cfg.MODEL[node]
