"""Mutated COCO JSON, given to the reader, the training mapper, the evaluator and the checker.

  python tests/fuzz/annotations.py --cases 2200 --seed 0

An input is accepted or refused with a UserError. The masks of an accepted one are compared with an
independent decoding of the JSON; the copy that the checker repairs must be accepted without faults.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import facenet_d2.compat  # noqa: F401  isort: skip
import numpy as np
import pycocotools.mask as mask_util
from detectron2.config import get_cfg
from PIL import Image, ImageDraw

from facenet_d2 import UserError, add_facenet_config
from facenet_d2.checking import check_dataset
from facenet_d2.data import SceneMapper
from facenet_d2.data.coco_json import read_coco
from facenet_d2.data.datasets.coco import register_coco
from facenet_d2.evaluation import InstanceEvaluator
from fuzz.harness import main

SIZES = ((96, 128), (80, 80), (128, 60))

NUMBERS = (0, 1, -1, 2, 0.5, 1e9, -1e9, 1e300, 10**400, 2**31, 2**63, float("nan"), float("inf"))
TEXTS = ("", "1", " 7", "abc", "\0", "\ud800", "../x.png", "/etc/passwd", "a" * 5000, "~~~~", "54")
ODD_VALUES = (None, True, False, [], {}, [[]], [None], [[[1, 2]]], {"a": 1}, *NUMBERS, *TEXTS)


def make_dataset(folder: Path, rng: random.Random) -> dict[str, Any]:
    """Write three images, and return annotations of each form that is valid."""
    images, annotations = [], []
    for number, (height, width) in enumerate(SIZES, start=1):
        name = f"{number}.png"
        if not (folder / name).exists():
            Image.new("RGB", (width, height), (90, 120, 150)).save(folder / name)
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for form in ("polygons", "polygons", "counts", "text"):
            x, y = rng.randrange(width - 24), rng.randrange(height - 24)
            w, h = rng.randrange(4, 24), rng.randrange(4, 24)
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            rle = mask_util.frPyObjects([polygon], height, width)[0]
            segmentation: Any = [polygon]
            if form != "polygons":
                counts: Any = rle["counts"].decode()
                if form == "counts":
                    flat = mask_util.decode(rle).flatten(order="F")
                    edges = np.flatnonzero(np.diff(flat)) + 1
                    bounds = [0] * (1 + int(flat[0])) + edges.tolist() + [len(flat)]
                    counts = np.diff(bounds).tolist()
                segmentation = {"size": [height, width], "counts": counts}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1 + len(annotations) % 2,
                    "iscrowd": 0,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "segmentation": segmentation,
                }
            )
    categories = [{"id": 1, "name": "ship"}, {"id": 2, "name": "plane"}]
    return {"images": images, "categories": categories, "annotations": annotations}


def mutate(content: dict[str, Any], rng: random.Random) -> None:
    """Change one value at a random place: replace, remove, repeat, exchange or alter it."""
    places: list[tuple[Any, Any]] = []

    def collect(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            if key == "token":
                continue
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                collect(node[key])

    collect(content)
    node, key = rng.choice(places)
    value = node[key]
    action = rng.choice(("replace", "replace", "replace", "remove", "repeat", "exchange", "alter"))
    if action == "replace":
        node[key] = json.loads(json.dumps(rng.choice(ODD_VALUES)))
    elif action == "remove":
        del node[key]
    elif action == "repeat" and isinstance(node, list):
        node.insert(key, json.loads(json.dumps(value)))
    elif action == "exchange":
        other, place = rng.choice(places)
        node[key] = (
            json.loads(json.dumps(other[place]))
            if place in range(len(other)) or (isinstance(other, dict) and place in other)
            else None
        )
    elif isinstance(value, str) and value:
        place = rng.randrange(len(value))
        node[key] = value[:place] + chr(rng.randrange(32, 127)) + value[place + 1 :]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        node[key] = value + rng.choice((-1, 1, 0.5, -100, 100, 10**6))
    elif isinstance(value, list):
        rng.shuffle(value)


def independent_mask(entry: dict[str, Any], height: int, width: int) -> np.ndarray:
    """Decode a segmentation of the JSON by plain loops, or by Pillow for polygons."""
    segmentation = entry["segmentation"]
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        if isinstance(counts, str):
            counts = decode_text(counts)
        flat = np.repeat(np.arange(len(counts)) % 2, counts)
        assert len(flat) == height * width, "the counts do not add up to the image"
        return flat.reshape(width, height).T
    image = Image.new("1", (width, height))
    flat_numbers = np.asarray(
        [v for p in segmentation for v in np.ravel(p)] if isinstance(segmentation, list) else []
    )
    is_list_of_polygons = all(isinstance(p, list) and len(p) >= 6 for p in segmentation)
    polygons = [np.ravel(p) for p in segmentation] if is_list_of_polygons else [flat_numbers]
    for polygon in polygons:
        if len(polygon) >= 6 and len(polygon) % 2 == 0:
            ImageDraw.Draw(image).polygon([float(v) for v in polygon], fill=1)
    return np.asarray(image).astype(np.uint8)


def decode_text(text: str) -> list[int]:
    """Decode compressed counts: 5 bits a character, lowest first; differences from the fourth."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        value += (code % 32) << shift
        shift += 5
        if code < 32:
            if code >= 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts


def compare_masks(read: dict[str, Any], given: dict[str, Any]) -> None:
    """Assert that the masks of an accepted file are those of the JSON."""
    sizes = {i["id"]: (i["height"], i["width"]) for i in read["images"]}
    entries = [a for a in given["annotations"] if isinstance(a, dict) and "token" in a]
    tokens = Counter(a["token"] for a in entries)
    by_token = {a["token"]: a for a in entries}
    for annotation in read["annotations"]:
        if tokens[annotation.get("token")] != 1:
            continue  # A copy of another annotation.
        height, width = sizes[annotation["image_id"]]
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, list):
            rle = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
        elif isinstance(segmentation["counts"], list):
            rle = mask_util.frPyObjects(segmentation, height, width)
        else:
            rle = segmentation
        own = mask_util.decode(rle)
        expected = independent_mask(by_token[annotation["token"]], height, width)
        different = int((own != expected).sum())
        if isinstance(segmentation, dict):
            assert different == 0, f"{different} pixels of an RLE differ"
            continue
        # Rasterisers differ along outlines, which the points bound.
        points = [np.reshape(p, (-1, 2)) for p in segmentation]
        outline = sum(np.abs(np.diff(p, axis=0, append=p[:1])).sum() for p in points)
        assert different <= 2 * outline + 8, f"{different} pixels of polygons differ"


def check(folder: Path, text: str, number: int) -> Callable[[], None]:
    """Return the check of one file."""

    def run() -> None:
        file = folder / f"{number}.json"
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        name = f"fuzz_{number}"
        repaired = None
        try:
            report = check_dataset(file, folder, workers=0)
            repaired = report.cleaned
        except UserError:
            report = None
        try:
            read = read_coco(file, "file", image_root=folder)
            if "annotations" in read:
                compare_masks(read, json.loads(text))
            use(name, file, folder)
            assert report is not None, "the checker refuses a file that the reader accepts"
        finally:
            if repaired is not None and not {f.kind for f in report.faults if not f.fix}:
                file.write_text(json.dumps(repaired))
                again = check_dataset(file, folder, workers=0)
                assert not again.faults, f"the repaired copy has faults: {again.faults[:2]}"
                if repaired["images"]:
                    read_coco(file, "file", image_root=folder)

    return run


def use(name: str, file: Path, folder: Path) -> None:
    """Load, map and evaluate a data set."""
    from detectron2.data import DatasetCatalog

    cfg = get_cfg()
    add_facenet_config(cfg)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (64,), 96
    register_coco(name, file, folder)
    for mask_format in ("stride4", "polygon", "bitmask"):
        cfg.INPUT.MASK_FORMAT = mask_format
        mapper = SceneMapper(cfg, is_train=True)
        for record in DatasetCatalog.get(name):
            is_mixed = len({type(a["segmentation"]) for a in record.get("annotations", ())}) > 1
            if mask_format != "polygon" or not is_mixed:
                mapper(record)
    InstanceEvaluator(name)


def generate(cases: int, seed: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield checks of files with one to three mutations each, some of them in the text itself."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for number in range(cases):
            rng = random.Random(f"{seed} {number}")
            content = make_dataset(folder, rng)
            for token, annotation in enumerate(content["annotations"]):
                annotation["token"] = token
            for _ in range(rng.randrange(1, 4)):
                mutate(content, rng)
            text = json.dumps(content)
            if rng.random() < 0.1:
                start = rng.randrange(len(text))
                text = text[:start] + text[start + rng.randrange(1, 200) :]
            yield f"annotations {seed}/{number}", check(folder, text, number)


if __name__ == "__main__":
    sys.exit(main(generate, 2200))
