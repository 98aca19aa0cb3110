"""Synthetic scenes as a data set in COCO format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import pycocotools.mask as mask_util
from shapely.geometry import MultiPolygon, Polygon

from ..errors import UserError
from ..files import replaced
from . import CLASSES, SCENES_VERSION
from .scenes import draw_scene


def _annotation(polygon: Polygon | MultiPolygon, size: int) -> dict[str, Any] | None:
    parts = [p for p in getattr(polygon, "geoms", [polygon]) if p.geom_type == "Polygon"]
    segmentation = [
        [round(float(v), 2) for point in p.exterior.coords[:-1] for v in point] for p in parts
    ]
    rle = mask_util.merge(mask_util.frPyObjects(segmentation, size, size))
    area = int(mask_util.area(rle))
    if area == 0:
        return None
    # Box and area are those of the rasterised mask, which the evaluation uses.
    return {
        "segmentation": segmentation,
        "area": area,
        "bbox": [float(v) for v in mask_util.toBbox(rle)],
        "iscrowd": 0,
    }


def write_dataset(out_dir: str | Path, *, num_scenes: int, seed: int, size: int = 192) -> Path:
    """Write scenes as PNG images and one COCO annotation file, atomically.

    An existing folder is not changed.

    Args:
        out_dir: folder of ``images/`` and ``annotations.json``.
        num_scenes: number of scenes.
        seed: seed of the data set; scene i depends on (seed, i) only.
        size: side of the images in pixels.

    Returns:
        the annotation file.

    Raises:
        UserError: if the folder cannot be written.
    """
    out_dir = Path(out_dir)
    try:
        with replaced(out_dir) as temporary:
            (temporary / "images").mkdir(parents=True)
            _write_scenes(temporary, num_scenes, seed, size)
    except OSError as error:
        # Another process may have been faster; its scenes are the same.
        if not (out_dir / "annotations.json").is_file():
            raise UserError(
                f"the synthetic scenes cannot be written to {out_dir} ({error.strerror}); set "
                "DETECTRON2_DATASETS to a writable folder."
            ) from error
    return out_dir / "annotations.json"


def _write_scenes(folder: Path, num_scenes: int, seed: int, size: int) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(num_scenes):
        image, objects = draw_scene((seed, i), size)
        name = f"{i:05d}.png"
        # OpenCV does not report a full disk when it writes a file.
        (folder / "images" / name).write_bytes(cv2.imencode(".png", image)[1].tobytes())
        images.append({"id": i + 1, "file_name": name, "height": size, "width": size})
        for category, polygon in objects:
            annotation = _annotation(polygon, size)
            if annotation is not None:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": i + 1,
                        "category_id": category + 1,
                        **annotation,
                    }
                )
    content = {
        "info": {"description": "Synthetic aerial scenes", "version": str(SCENES_VERSION)},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
    }
    (folder / "annotations.json").write_text(json.dumps(content))
