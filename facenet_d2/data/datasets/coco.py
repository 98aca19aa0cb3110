"""COCO-format data sets: loading with clear errors, registration, the number of classes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pycocotools.mask as mask_util
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ...errors import UserError
from ..coco_json import read_coco

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


def check_available(datasets: Sequence[str]) -> None:
    """See that the annotation files are there, before hours are spent on training.

    Raises:
        UserError: as loading the data set does.
    """
    for dataset in datasets:
        json_file = MetadataCatalog.get(dataset).get("json_file", None)
        if json_file is not None and not Path(json_file).is_file():
            DatasetCatalog.get(dataset)
