"""Checks, repairs and output of published COCO annotations, shared by the prepare commands."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pycocotools.mask as mask_util
from tqdm import tqdm

from ..data.coco_entries import class_key
from ..data.coco_json import read_coco
from ..data.images import ImageError, size_problem
from ..data.rle import segmentation_to_rle
from ..errors import UserError
from ..files import replaced, write_whole
from ..wording import counted

# Published data sets contain a few bad annotations. A file with more is damaged, or another set.
MAX_BAD_SHARE = 0.01


def read_published(
    json_file: Path, image_root: Path, label: str = "--annotations", hint: str = ""
) -> dict[str, Any]:
    """Read published COCO annotations of images in a folder, see :func:`read_coco`.

    Raises:
        UserError: also if more than 1 % of the annotations are left out.
    """
    return read_coco(json_file, label, hint, image_root=image_root, max_left_out=MAX_BAD_SHARE)


def check_images(images: Sequence[dict[str, Any]], folder: Path) -> None:
    """Check that each image is in the folder, listed once, decodable and of the annotated size.

    Raises:
        UserError: if there are others; it names the first five.
    """
    problems = []
    seen: set[str] = set()
    for image in tqdm(images, desc="Checking images", unit="image"):
        file = folder / image["file_name"]
        name = os.path.normpath(image["file_name"])
        if os.path.isabs(name) or name.startswith(".."):
            problems.append(f"{file} is not in {folder}")
        elif name in seen:
            problems.append(f"{file} is listed twice")
        else:
            try:
                problem = size_problem(file, image)
            except ImageError as error:
                problem = error.reason
            if problem:
                problems.append(f"{file}: {problem}")
        seen.add(name)
    if problems:
        raise UserError(
            f"{counted(len(problems), 'image')} cannot be used: {_first_five(problems)}."
        )


def clean_annotations(content: dict[str, Any], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Renumber annotations from 1, match categories by name, and recompute boxes and areas.

    Unusable annotations are left out and named on standard error.

    Args:
        content: COCO annotations from :func:`read_published`.
        classes: class names; the category id is the position in the list, from 1. Case, blanks,
            hyphens and underscores are ignored in the comparison.

    Raises:
        UserError: if a class is not in the list, or more than 1 % of the annotations are unusable.
    """
    ids = {class_key(name): i + 1 for i, name in enumerate(classes)}
    names = {c["id"]: c["name"] for c in content["categories"]}
    annotations = content.get("annotations", [])
    used = {a["category_id"] for a in annotations}
    unknown = sorted({names[i] for i in used if class_key(names[i]) not in ids})
    if unknown:
        raise UserError(
            f"the annotations have classes that are not in the data set: {', '.join(unknown)}; its "
            f"classes are {', '.join(classes)}."
        )
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    cleaned: list[dict[str, Any]] = []
    problems: list[str] = []
    for a in annotations:
        try:
            rle = segmentation_to_rle(a["segmentation"], *sizes[a["image_id"]])
        except Exception as error:
            problems.append(f"annotation {a['id']}: {error}")
            continue
        area = int(mask_util.area(rle))
        if area == 0:
            problems.append(f"annotation {a['id']} has an empty mask")
            continue
        cleaned.append(
            {
                # Starting from 1: pycocotools treats a match with annotation 0 as no match.
                "id": len(cleaned) + 1,
                "image_id": a["image_id"],
                "category_id": ids[class_key(names[a["category_id"]])],
                "segmentation": a["segmentation"],
                "bbox": [float(v) for v in mask_util.toBbox(rle)],
                "area": area,
                "iscrowd": a.get("iscrowd", 0),
            }
        )
    if len(problems) > MAX_BAD_SHARE * len(annotations):
        raise UserError(
            f"{len(problems)} of {len(annotations)} annotations are unusable: "
            f"{_first_five(problems)}. tools/check_dataset.py lists them all."
        )
    if problems:
        left_out = counted(len(problems), "annotation")
        print(f"Left out {left_out}: {_first_five(problems)}.", file=sys.stderr)
    return cleaned


def _first_five(problems: Sequence[str]) -> str:
    more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
    return "; ".join(problems[:5]) + more


def image_entries(images: Iterable[dict[str, Any]], folder: str) -> list[dict[str, Any]]:
    """Return entries of images whose files are in a folder of the prepared data set."""
    fields = ("id", "height", "width")
    return [
        {"file_name": f"{folder}/{image['file_name']}", **{f: image[f] for f in fields}}
        for image in images
    ]


def write_split(
    path: Path,
    images: Iterable[dict[str, Any]],
    annotations: Iterable[dict[str, Any]] | None,
    classes: Sequence[str],
    description: str,
    info: Mapping[str, Any] | None = None,
) -> Counter[str]:
    """Write one split as COCO JSON, atomically.

    Args:
        path: the file.
        images: images of the split.
        annotations: annotations; those of images in other splits are skipped. If they are None
            (not published), the file has no list of annotations, and an evaluation only writes the
            predictions.
        classes: class names in the order of the ids.
        description: name of the data set.
        info: further entries of "info".

    Returns:
        the number of annotations of each class.

    Raises:
        UserError: if there are no images.
    """
    images = list(images)
    if not images:
        raise UserError(f"no image is left for {path.name}; a split needs at least one.")
    ids = {image["id"] for image in images}
    content: dict[str, Any] = {
        "info": {"description": description, **(info or {})},
        "images": images,
    }
    kept = [a for a in annotations or () if a["image_id"] in ids]
    if annotations is not None:
        content["annotations"] = kept
    content["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
    write_whole(path, json.dumps(content))
    return Counter(classes[a["category_id"] - 1] for a in kept)


def print_counts(
    classes: Sequence[str], instances: dict[str, Counter[str]], images: dict[str, int]
) -> None:
    """Print a table with the numbers of instances per class, and of images, in each split."""
    splits = list(images)
    print(f"{'class':20}" + "".join(f"{s:>9}" for s in (*splits, "all")))
    rows = [(name, [instances[s][name] for s in splits]) for name in classes]
    rows.append(("instances", [instances[s].total() for s in splits]))
    rows.append(("images", [images[s] for s in splits]))
    for name, numbers in rows:
        print(f"{name:20}" + "".join(f"{n:9}" for n in (*numbers, sum(numbers))))


def check_target(source: Path, target: Path, option: str = "--images") -> None:
    """Check, before anything is written, that :func:`provide_images` will not modify images.

    Args:
        source: folder of the published images.
        target: folder or link that :func:`provide_images` would create.
        option: command-line option of the source, for the error message.

    Raises:
        UserError: if the target exists or lies in the source.
    """
    source = source.resolve()
    if target.resolve() == source or target.is_symlink():
        return
    if target.exists():
        raise UserError(
            f"{target} exists already and is not a link made by this tool; move it, or choose "
            "another --output."
        )
    if target.resolve().is_relative_to(source):
        raise UserError(
            f"--output {target.parent} is inside {option} {source}; choose another folder."
        )


def provide_images(source: Path, target: Path, copy: bool) -> None:
    """Link or copy a folder of images to another place.

    Args:
        source: the folder.
        target: the link or copy; a link that exists is replaced.
        copy: whether to copy the images.
    """
    source = source.resolve()
    if target.resolve() == source and (not copy or not target.is_symlink()):
        return
    target.unlink(missing_ok=True)
    if not copy:
        target.symlink_to(source, target_is_directory=True)
        return
    with replaced(target) as temporary:
        shutil.copytree(source, temporary)
