"""What the prepare commands share: published COCO annotations checked, mended and split."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pycocotools.mask as mask_util
from tqdm import tqdm

from ..checking.fault_kinds import Fault
from ..checking.segmentations import check_run_lengths
from ..data.images import size_problem
from ..errors import UserError
from ..files import replaced, write_whole

# A published set has a few bad annotations; a file with more is not that set, or is damaged.
BAD_SHARE = 0.01


def check_images(images: Sequence[dict[str, Any]], folder: Path) -> None:
    """See that every image is in the folder, listed once, decodable, of the annotated size.

    Raises:
        UserError: naming the first five that are not.
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
                problem = size_problem(str(file), image)
            except Exception as error:
                # Pillow raises errors of many types for broken files.
                problem = getattr(error, "strerror", None) or " ".join(str(error).split())
            if problem:
                problems.append(f"{file}: {problem}")
        seen.add(name)
    if problems:
        raise UserError(f"{len(problems)} images are wrong: {_first_five(problems)}.")


def clean_annotations(content: dict[str, Any], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Annotations with ids from 1, categories by name, boxes and areas of the masks.

    Some that cannot be used are left out, and named on standard error.

    Args:
        content: COCO annotations, as :func:`~facenet_d2.data.datasets.coco.read_coco` gives them.
        classes: names; the category id is the place in the list, from 1. Upper and lower case,
            blanks and underscores do not count.

    Raises:
        UserError: for a class not in the list, or where more than one in a hundred is bad.
    """
    places = {_plain(name): i + 1 for i, name in enumerate(classes)}
    names = {c["id"]: c["name"] for c in content["categories"]}
    annotations = content.get("annotations", [])
    used = {a["category_id"] for a in annotations}
    wrong = sorted({names[i] for i in used if _plain(names[i]) not in places})
    if wrong:
        raise UserError(
            f"the annotations have classes that the data set has not: {', '.join(wrong)}; its "
            f"classes are {', '.join(classes)}."
        )
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    cleaned, problems = [], []
    for a in annotations:
        try:
            rle = _run_lengths(a["segmentation"], *sizes[a["image_id"]])
        except Exception as error:
            problems.append(f"annotation {a['id']}: {error}")
            continue
        area = int(mask_util.area(rle))
        if area == 0:
            problems.append(f"annotation {a['id']} has an empty mask")
            continue
        cleaned.append(
            {
                # From 1: pycocotools takes a match with annotation 0 for no match.
                "id": len(cleaned) + 1,
                "image_id": a["image_id"],
                "category_id": places[_plain(names[a["category_id"]])],
                "segmentation": a["segmentation"],
                "bbox": [float(v) for v in mask_util.toBbox(rle)],
                "area": area,
                "iscrowd": a.get("iscrowd", 0),
            }
        )
    if len(problems) > BAD_SHARE * len(annotations):
        raise UserError(
            f"{len(problems)} of {len(annotations)} annotations cannot be used: "
            f"{_first_five(problems)}. tools/check_dataset.py reports them all."
        )
    if problems:
        print(
            f"{len(problems)} annotations are left out: {_first_five(problems)}.", file=sys.stderr
        )
    return cleaned


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _run_lengths(segmentation: list | dict, height: int, width: int) -> dict[str, Any]:
    if isinstance(segmentation, list):
        if not segmentation or any(len(p) < 6 or len(p) % 2 for p in segmentation):
            raise ValueError("its polygons are not lists of three or more x, y pairs")
        return mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    faults: list[Fault] = []
    rle = check_run_lengths(segmentation, height, width, "", faults)
    if rle is None:
        raise ValueError(faults[0].message)
    return rle


def _first_five(problems: Sequence[str]) -> str:
    more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
    return "; ".join(problems[:5]) + more


def image_entries(images: Iterable[dict[str, Any]], folder: str) -> list[dict[str, Any]]:
    """COCO's entries of images that are in a folder of the data set's own."""
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
) -> Counter[str]:
    """Write one split as COCO JSON, whole or not at all.

    Args:
        path: of the file.
        images: the split's.
        annotations: of these and other images; those of others are left out. None where they are
            not published: then the file has none, and evaluation only writes the predictions.
        classes: names in the order of the ids.
        description: of the data set.

    Returns:
        the number of annotations of each class.

    Raises:
        UserError: where there is no image.
    """
    images = list(images)
    if not images:
        raise UserError(f"no image is left for {path.name}; a data set needs one.")
    ids = {image["id"] for image in images}
    content: dict[str, Any] = {"info": {"description": description}, "images": images}
    kept = [a for a in annotations or () if a["image_id"] in ids]
    if annotations is not None:
        content["annotations"] = kept
    content["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
    write_whole(path, json.dumps(content))
    return Counter(classes[a["category_id"] - 1] for a in kept)


def print_counts(
    classes: Sequence[str], instances: dict[str, Counter[str]], images: dict[str, int]
) -> None:
    """Print a table of instances of each class, and images, in each split and in all."""
    splits = list(images)
    print(f"{'class':20}" + "".join(f"{s:>9}" for s in (*splits, "all")))
    rows = [(name, [instances[s][name] for s in splits]) for name in classes]
    rows.append(("instances", [instances[s].total() for s in splits]))
    rows.append(("images", [images[s] for s in splits]))
    for name, numbers in rows:
        print(f"{name:20}" + "".join(f"{n:9}" for n in (*numbers, sum(numbers))))


def check_target(source: Path, target: Path, option: str = "--images") -> None:
    """Refuse, before anything is written, what would touch images that are there already.

    Args:
        source: folder of the published images.
        target: what :func:`provide_images` would make.
        option: names the source in an error.
    """
    source = source.resolve()
    if target.resolve() == source or target.is_symlink():
        return
    if target.exists():
        raise UserError(
            f"{target} exists already and is no link of this tool's; move it away, or choose "
            "another --output."
        )
    if target.resolve().is_relative_to(source):
        raise UserError(f"--output {target.parent} lies in {option} {source}; choose another.")


def provide_images(source: Path, target: Path, copy: bool) -> None:
    """Make the images of a folder available in another place, by a link or as copies."""
    source = source.resolve()
    if target.resolve() == source and (not copy or not target.is_symlink()):
        return
    target.unlink(missing_ok=True)
    if not copy:
        target.symlink_to(source, target_is_directory=True)
        return
    with replaced(target) as temporary:
        shutil.copytree(source, temporary)
