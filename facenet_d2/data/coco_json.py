"""Reading of COCO JSON."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import read_json
from .coco_entries import clean_annotations, clean_categories, clean_images, number_annotations
from .faults import Fault, FaultCounter
from .image_names import ImageFinder
from .images import ImageError, image_size

logger = logging.getLogger(__name__)

# Share of crowds among the annotations from which a warning is logged.
MANY_CROWDS = 0.5


def read_coco(
    json_file: str | Path,
    label: str,
    hint: str = "",
    *,
    image_root: str | Path | None = None,
    compact: bool = False,
    max_left_out: float = 1.0,
) -> dict[str, Any]:
    """Read, validate and clean a file of COCO instance annotations.

    Training, evaluation and all tools read annotations by this function, so that they agree on what
    is in a file. What other tools write differently is converted, and annotations without a mask
    are left out, with a warning for each kind of change; see
    :mod:`~facenet_d2.data.coco_entries` for the form of the result.

    Args:
        json_file: the file.
        label: name of the file in messages, such as "--json".
        hint: sentence added to the error message if the file is not COCO JSON.
        image_root: folder of the images. If given, each image must exist, under its name or one
            that :class:`~facenet_d2.data.image_names.ImageFinder` finds, and sizes that the file
            lacks are read from the images.
        compact: whether to convert polygons to arrays, which need a third of the memory.
        max_left_out: maximum share of annotations that are left out, from 0 to 1. A published data
            set contains few bad annotations; one with more is damaged, or another set.

    Returns:
        The content of the file. A test set whose annotations are withheld has no "annotations".

    Raises:
        UserError: if the file is missing or unreadable, an image does not exist, an entry is
            unusable, or too many annotations are left out.
    """
    json_file = Path(json_file)
    content = read_coco_lists(json_file, label, hint, compact=compact)
    faults = FaultCounter()
    missing: list[str] = []
    finder = ImageFinder(image_root) if image_root is not None else None

    def report(fault: Fault) -> None:
        if fault.is_fatal:
            raise UserError(
                f"{label} {json_file} is not usable: {fault.where}: {fault.message}. "
                "tools/check_dataset.py lists all faults, and repairs them with --fix. "
                f"{hint}".rstrip()
            )
        faults(fault)

    def find_file(name: str) -> str | None:
        assert finder is not None
        found = finder.find(name)
        if found is None:
            missing.append(name)
        return found

    categories = clean_categories(content["categories"], report)
    images = clean_images(
        content["images"],
        report,
        find_file if finder else None,
        lambda name: read_size(Path(image_root or "") / name),
    )
    if missing:
        raise UserError(
            f"{label} {json_file}: {len(missing)} of {len(images)} images do not exist in "
            f"{image_root}, for example {missing[0]}. File names must be relative to this folder."
        )
    content |= {"categories": categories, "images": images}
    if "annotations" in content:
        listed = len(content["annotations"])
        annotations = clean_annotations(content["annotations"], images, categories, report)
        if listed - len(annotations) > max_left_out * listed:
            raise UserError(
                f"{label} {json_file}: {listed - len(annotations)} of {listed} annotations are not "
                f"usable: {' '.join(faults.sentences())} {hint}".rstrip()
            )
        number_annotations(annotations, report)
        content["annotations"] = annotations
        crowds = sum(a["iscrowd"] for a in annotations)
        if crowds > MANY_CROWDS * len(annotations):
            logger.warning(
                "%s %s: %d of %d annotations are crowds, which are not trained on. Some tools mark "
                "all RLE as crowds; tools/check_dataset.py --fix --crowds-as-objects changes it.",
                label,
                json_file,
                crowds,
                len(annotations),
            )
    for sentence in faults.sentences():
        logger.warning("%s %s: %s", label, json_file, sentence)
    return content


def read_coco_lists(
    json_file: Path, label: str, hint: str = "", *, compact: bool = False
) -> dict[str, Any]:
    """Read a JSON file that has the lists of COCO, without checking their entries.

    Args:
        json_file: the file.
        label: name of the file in error messages.
        hint: sentence added to the error messages.
        compact: whether to convert polygons to arrays.

    Raises:
        UserError: if the file is missing, is not JSON, or lacks a list other than "annotations".
    """
    if not json_file.is_file():
        raise UserError(f"{label} {json_file} does not exist.")
    content, problem = read_json(json_file, _compact_polygons if compact else None)
    if not problem and not isinstance(content, dict):
        problem = f"its top level is a {type(content).__name__}, not an object"
    for key in ("images", "categories", "annotations"):
        if not problem and not isinstance(content.get(key, key == "annotations" and []), list):
            problem = f'it has no list "{key}"'
    if problem:
        raise UserError(f"{label} {json_file} is not COCO JSON: {problem}. {hint}".rstrip())
    return content


def read_size(file: Path) -> tuple[int, int] | None:
    """Return (height, width) of an image, or None if it cannot be read.

    Pillow refuses images of more bits or bands, which ``INPUT.BANDS`` and ``INPUT.STRETCH`` allow;
    their size is read with GDAL if it is installed.
    """
    try:
        return image_size(file)
    except ImageError as error:
        if error.kind not in ("image-depth", "image-bands"):
            return None
    except Exception:  # Pillow raises errors of many types for broken files.
        return None
    try:
        from ..scenes.raster import Raster

        with Raster(file, on_map=False) as raster:
            return raster.height, raster.width
    except UserError:
        return None


def _compact_polygons(entry: dict[str, Any]) -> dict[str, Any]:
    if isinstance(entry.get("segmentation"), list):
        entry["segmentation"] = [_to_array(p) for p in entry["segmentation"]]
    return entry


def _to_array(polygon: Any) -> Any:
    """Convert a list of numbers to an array; return anything else unchanged, to be reported."""
    if isinstance(polygon, list) and all(type(v) in (int, float) for v in polygon):
        try:
            return np.array(polygon, dtype=float)
        except OverflowError:
            pass
    return polygon
