"""Instances of a scene as features: polygons on the map with attributes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .description import SceneDescription, SceneInstance
from .measures import Measurer
from .polygons import mask_polygons, simplified, transformed

# A batch ends at either of these limits.
BATCH_INSTANCES = 1000
_BATCH_PIXELS = 1 << 24


@dataclass(frozen=True)
class Features:
    """Features of N instances.

    Attributes:
        pixels: array of N MultiPolygons in pixels of the scene, along the edges of the masks.
        polygons: the same in the scene's coordinates, simplified if this was requested.
        attributes: columns ``(N,)`` by name: id, class, class_id, score, area, perimeter, length
            and width with their units, angle, tiles, cut, scene. For the measures see
            :class:`~facenet_d2.scenes.measures.Measures`; the others are those of
            :class:`~facenet_d2.scenes.description.SceneInstance`.
    """

    pixels: np.ndarray
    polygons: np.ndarray
    attributes: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.polygons)


class Vectorizer:
    """Converts instances of a scene to features.

    Polygons follow the edges of the pixels, see
    :func:`~facenet_d2.scenes.polygons.mask_polygons`.
    """

    def __init__(self, scene: SceneDescription, *, simplify: float = 0.0) -> None:
        """
        Args:
            scene: description of the scene.
            simplify: tolerance in pixels of a simplification of the polygons; 0 for none. The
                measures remain those of the masks.
        """
        self.scene = scene
        self.simplify = simplify
        self.measurer = Measurer(scene)

    def __call__(self, instances: Sequence[SceneInstance]) -> Features:
        """Convert a batch of instances with masks that are not empty."""
        scene, measurer = self.scene, self.measurer
        pixels = mask_polygons([i.mask for i in instances], [(i.x0, i.y0) for i in instances])
        measures = measurer(pixels)
        area, length = measurer.area_unit, measurer.length_unit
        classes = np.array([i.class_index for i in instances], np.int64)
        names = np.array(scene.class_names, dtype=object)
        return Features(
            pixels=pixels,
            polygons=transformed(simplified(pixels, self.simplify), scene.transform),
            attributes={
                "id": np.array([i.id for i in instances], np.int64),
                "class": names[classes],
                "class_id": np.array(scene.class_ids, np.int64)[classes],
                "score": np.array([i.score for i in instances], float),
                f"area_{area}": measures.area,
                f"perimeter_{length}": measures.perimeter,
                f"length_{length}": measures.length,
                f"width_{length}": measures.width,
                "angle": measures.angle,
                "tiles": np.array([i.tiles for i in instances], np.int32),
                "cut": np.array([i.cut for i in instances], bool),
                "scene": np.array([scene.name] * len(instances), dtype=object),
            },
        )


class Batch:
    """Some instances of a scene, and their features, which are computed when they are needed."""

    def __init__(self, instances: Sequence[SceneInstance], vectorize: Vectorizer) -> None:
        self.instances = instances
        self._vectorize = vectorize

    @cached_property
    def features(self) -> Features:
        """The instances as features."""
        return self._vectorize(self.instances)


def batches(
    scene: SceneDescription, instances: Iterable[SceneInstance], size: int = BATCH_INSTANCES
) -> Iterator[list[SceneInstance]]:
    """Group a stream of instances into batches of bounded memory.

    Args:
        scene: description of the scene.
        instances: stream of instances; those with an empty mask are left out.
        size: maximum number of instances in a batch.

    Raises:
        ValueError: If an instance does not lie in the scene, or its class or id is impossible.
    """
    batch: list[SceneInstance] = []
    pixels = 0
    for instance in instances:
        _check(scene, instance)
        if not instance.mask.any():
            continue
        batch.append(instance)
        pixels += instance.mask.size
        if len(batch) >= size or pixels >= _BATCH_PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def _check(scene: SceneDescription, instance: SceneInstance) -> None:
    height, width = instance.mask.shape
    right, bottom = instance.x0 + width, instance.y0 + height
    inside = min(instance.x0, instance.y0) >= 0 and right <= scene.width and bottom <= scene.height
    if not inside:
        raise ValueError(
            f"instance {instance.id}: its crop ({instance.x0}, {instance.y0}, {right}, {bottom}) "
            f"is not within the scene of {scene.width}x{scene.height} pixels"
        )
    if not 0 <= instance.class_index < len(scene.class_names):
        raise ValueError(f"instance {instance.id}: there is no class {instance.class_index}")
    if not 0 < instance.id < 1 << 32:
        raise ValueError(f"instance {instance.id}: ids are between 1 and {(1 << 32) - 1}")
    if instance.mask.dtype != bool:
        raise ValueError(f"instance {instance.id}: its mask is {instance.mask.dtype}, not bool")
