"""Ground truth of whole scenes, from the annotations of their patches or of the scenes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import shapely

from ...data.coco_entries import as_int, class_key, is_number
from ...errors import UserError
from ...scenes.detections import Detections, TileDetections
from ...scenes.merge import MergeSettings
from ...scenes.patch_grid import PatchGrid
from ...scenes.polygons import mask_polygons
from ...scenes.prediction import InstanceStream
from ...scenes.tiles import Tile
from .places import Crop, Patch, Window, mask_crop
from .sources import Found, detections_of, window_of

# Visible share from which a cut object counts, unless the COCO JSON states it.
MIN_VISIBLE = 0.5
# A call of GDAL costs more than a small mask.
_TRACED_AT_ONCE = 256


@dataclass(frozen=True)
class SceneTruth:
    """True objects of a scene.

    Attributes:
        polygons: array of N MultiPolygons along the edges of pixels, in pixels of the scene.
        classes: ``(N,)`` int64, class indices.
        instance_ids: ``(N,)`` int64, ids of the objects in the annotations; 0 for none.
        ignored: ``(N,)`` bool: crowds and regions, in which results are ignored.
        without_id: number of annotations without an id, which the merge has put together.
    """

    polygons: np.ndarray
    classes: np.ndarray
    instance_ids: np.ndarray
    ignored: np.ndarray
    without_id: int = 0

    def __len__(self) -> int:
        return len(self.polygons)


class WholeScene(NamedTuple):
    """Size and annotations of a scene.

    Attributes:
        size: height and width.
        annotations: entries of COCO JSON, with the class index as ``category_id``.
    """

    size: tuple[int, int]
    annotations: list[dict[str, Any]]


@dataclass
class _Object:
    """An object, or the ignored regions of a class.

    Attributes:
        class_index: class.
        instance_id: id in the annotations, or None.
        parts: polygons of its masks in pixels of the scene.
        annotations: annotation of each part.
    """

    class_index: int
    instance_id: int | None
    parts: list[shapely.MultiPolygon] = field(default_factory=list)
    annotations: list[Mapping[str, Any]] = field(default_factory=list)

    def is_ignored(self, area: float, min_visible: float) -> bool:
        """Return whether results in the object are ignored.

        Args:
            area: number of pixels of all parts together.
            min_visible: minimum visible share of an object.
        """
        if any(annotation.get("shared") for annotation in self.annotations):
            return True
        if not all(annotation["iscrowd"] for annotation in self.annotations):
            return False
        shares = [a["visible"] for a in self.annotations if is_number(a.get("visible"))]
        if len(shares) < len(self.annotations) or min(shares) <= 0:
            return True
        # Shares are rounded, the largest by the smallest part of its value.
        largest = int(np.argmax(shares))
        whole = self.parts[largest].area / shares[largest]
        return bool(area < min_visible * whole)


def truth_of_patches(
    grid: PatchGrid,
    patches: Sequence[Patch],
    annotations: Mapping[int, Sequence[Mapping[str, Any]]],
    class_of: Mapping[int, int],
    *,
    min_visible: float = MIN_VISIBLE,
) -> SceneTruth:
    """Put the annotations of a scene's patches together.

    - Annotations with the same ``instance_id`` are one object: the union of their masks. The object
      is ignored if one of them has the field ``shared``: it belongs to another split. It is also
      ignored if all of them are crowds, unless their fields ``visible`` show that the patches
      together see at least ``min_visible`` of it.
    - Crowds without an ``instance_id``, such as unlabelled regions, become one crowd per class.
    - Other annotations are merged like results.

    Args:
        grid: the patches as tiles.
        patches: the patches.
        annotations: annotations of each image by its id, from
            :func:`~facenet_d2.data.coco_json.read_coco`.
        class_of: class index of each category id.
        min_visible: minimum visible share of an object.

    Raises:
        UserError: if a mask is not usable.
    """
    objects: dict[tuple[int, int | None], _Object] = {}
    others = _Unnamed()
    for patch in patches:
        left, top = patch.window[:2]
        named, masks, unnamed = [], [], []
        for annotation in annotations.get(patch.image_id, ()):
            crop, x, y = _crop(annotation, patch.size, patch.file_name)
            if not crop.size:
                continue
            class_index = class_of[annotation["category_id"]]
            number = as_int(annotation.get("instance_id"))
            if number is None and not annotation["iscrowd"]:
                unnamed.append(Found(class_index, 1.0, crop, x, y))
            else:
                named.append((class_index, number, annotation))
                masks.append((crop, left + x, top + y))
        others.add(patch, unnamed)
        for (class_index, number, annotation), polygon in zip(named, _traced(masks)):
            found = objects.setdefault((class_index, number), _Object(class_index, number))
            found.parts.append(polygon)
            found.annotations.append(annotation)
    return _truth([*objects.values(), *others.objects(grid)], min_visible, others.count)


def _crop(annotation: Mapping[str, Any], size: tuple[int, int], name: str) -> Crop:
    try:
        return mask_crop(annotation["segmentation"], *size)
    except ValueError as error:
        raise UserError(f"annotation {annotation['id']} of {name}: {error}.") from error


def _truth(objects: Sequence[_Object], min_visible: float, without_id: int = 0) -> SceneTruth:
    polygons = np.empty(len(objects), dtype=object)
    polygons[:] = [_union(found.parts) for found in objects]
    areas = shapely.area(polygons).tolist()
    return SceneTruth(
        polygons,
        np.array([found.class_index for found in objects], np.int64),
        np.array([found.instance_id or 0 for found in objects], np.int64),
        np.array([o.is_ignored(area, min_visible) for o, area in zip(objects, areas)], bool),
        without_id,
    )


def _traced(masks: Iterable[Crop]) -> list[shapely.MultiPolygon]:
    """Trace masks in pixels of the scene, some of them at once."""
    polygons: list[shapely.MultiPolygon] = []
    waiting = iter(masks)
    while batch := list(islice(waiting, _TRACED_AT_ONCE)):
        origins = [(x, y) for _, x, y in batch]
        polygons += mask_polygons([crop for crop, _, _ in batch], origins).tolist()
    return polygons


def _union(polygons: Sequence[shapely.MultiPolygon]) -> shapely.MultiPolygon:
    """Return the union of polygons along the edges of pixels, which is exact."""
    if len(polygons) == 1:
        return polygons[0]
    return shapely.MultiPolygon(shapely.get_parts(shapely.union_all(polygons)).tolist())


class _Unnamed:
    """Annotations without ids; a source of detections for the merge.

    Attributes:
        count: number of annotations.
    """

    def __init__(self) -> None:
        self.count = 0
        self._found: dict[Window, Detections] = {}

    def add(self, patch: Patch, found: Sequence[Found]) -> None:
        """Add the annotations of a patch."""
        if found:
            self._found[patch.window] = detections_of(patch.window, found)
            self.count += len(found)

    def load(self, tile: Tile) -> TileDetections:
        """Return the annotations of a patch as its detections."""
        window = window_of(tile)
        found = self._found.get(window) or detections_of(window, [])
        return TileDetections(tile.row, tile.column, found)

    def objects(self, grid: PatchGrid) -> list[_Object]:
        """Return the objects of the scene."""
        if not self.count:
            return []
        classes = []

        def masks() -> Iterator[Crop]:
            for found in InstanceStream(grid, self, MergeSettings(tolerance=0)):
                classes.append(found.class_index)
                yield found.mask, found.x0, found.y0

        polygons = _traced(masks())
        return [
            _Object(class_index, None, [polygon], [{"iscrowd": 0}])
            for class_index, polygon in zip(classes, polygons)
        ]


def whole_scenes(
    content: Mapping[str, Any], scenes: Iterable[str], class_names: Sequence[str], label: str
) -> dict[str, WholeScene]:
    """Find scenes in COCO annotations whose images are whole scenes.

    Args:
        content: annotations from :func:`~facenet_d2.data.coco_json.read_coco`.
        scenes: names of the scenes: those of the image files, without folder and suffix.
        class_names: name of each class index; see
            :func:`~facenet_d2.data.coco_entries.class_key` for what is ignored in the comparison.
        label: name of the file in messages.

    Raises:
        UserError: if a scene is missing, a class is unknown, or there are no annotations.
    """
    if "annotations" not in content:
        raise UserError(f'{label} has no list "annotations".')
    indices = {class_key(name): index for index, name in enumerate(class_names)}
    names = {category["id"]: category["name"] for category in content["categories"]}
    by_image: dict[int, list[dict[str, Any]]] = {}
    for annotation in content["annotations"]:
        name = names[annotation["category_id"]]
        if class_key(name) not in indices:
            raise UserError(
                f"{label} has the class {name!r}, which the patches do not have; their classes are "
                f"{', '.join(class_names)}."
            )
        own = annotation | {"category_id": indices[class_key(name)]}
        by_image.setdefault(annotation["image_id"], []).append(own)
    images = {PurePosixPath(image["file_name"]).stem: image for image in content["images"]}
    found = {}
    for scene in scenes:
        if scene not in images:
            raise UserError(f"{label} has no image of scene {scene}, of which there are patches.")
        image = images[scene]
        size = (image["height"], image["width"])
        found[scene] = WholeScene(size, by_image.get(image["id"], []))
    return found


def truth_of_scene(whole: WholeScene, name: str) -> SceneTruth:
    """Return the truth of a scene from its own annotations.

    Args:
        whole: the scene.
        name: its name, for messages.

    Raises:
        UserError: if a mask is not usable.
    """
    kept = []

    def masks() -> Iterator[Crop]:
        for annotation in whole.annotations:
            mask = _crop(annotation, whole.size, name)
            if mask[0].size:
                kept.append(annotation)
                yield mask

    polygons = _traced(masks())
    objects = [
        _Object(a["category_id"], as_int(a.get("instance_id")), [polygon], [a])
        for a, polygon in zip(kept, polygons)
    ]
    return _truth(objects, inf)
