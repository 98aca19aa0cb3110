"""Georeferencing of scenes made of patches, and files of their ground truth and their area."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError

from ...errors import UserError
from ...files import replaced
from ...scenes.description import SceneDescription
from ...scenes.geo import known_crs
from ...scenes.opening import open_dataset
from ...scenes.polygons import transformed
from ...scenes.vector_writers import write_package
from .places import Patch
from .truth import SceneTruth


class ScenePlace(NamedTuple):
    """Size of a scene and its place on the map.

    Attributes:
        size: height and width, or None if they are unknown.
        transform: transform from (column, row) of pixel corners to coordinates; the identity for
            pixels.
        crs: coordinate reference system, or None for pixels.
    """

    size: tuple[int, int] | None
    transform: Affine
    crs: CRS | None


NOWHERE = ScenePlace(None, Affine.identity(), None)


def stated_place(name: str, entry: Any) -> ScenePlace:
    """Return the place of a scene that a COCO JSON states.

    Args:
        name: name of the scene, for messages.
        entry: its value in "scenes" of "info", with ``height``, ``width``, ``transform`` and
            ``crs``, as ``tools/prepare_scenes.py`` writes it.

    Raises:
        UserError: if the entry is not usable.
    """
    try:
        transform = Affine(*entry["transform"])
        size = (int(entry["height"]), int(entry["width"]))
        if entry["crs"] is None or not transform.determinant:
            return ScenePlace(size, Affine.identity(), None)
        return ScenePlace(size, transform, CRS.from_user_input(entry["crs"]))
    except (LookupError, TypeError, ValueError, CRSError) as error:
        raise UserError(
            f'scene {name}: its place in "info" is not usable ({error}); remove it to get pixel '
            "coordinates."
        ) from error


def place_from_file(patches: Sequence[Patch], folder: Path) -> ScenePlace:
    """Return the place of a scene, from the first file of a patch that exists.

    Args:
        patches: patches of the scene.
        folder: folder that their file names are relative to.

    Raises:
        UserError: if the file is not a raster.
    """
    for patch in patches:
        file = folder / patch.file_name
        if file.is_file():
            with open_dataset(str(file)) as dataset:
                transform, crs = dataset.transform, known_crs(dataset.crs)
            if crs is None or transform.is_identity:
                break
            left, top = patch.window[:2]
            return ScenePlace(None, transform @ Affine.translation(-left, -top), crs)
    return NOWHERE


def write_truth(path: Path, scene: SceneDescription, truth: SceneTruth) -> None:
    """Write true objects to a GeoPackage that ``tools/evaluate_scenes.py`` reads.

    Attributes are ``id``, ``class``, ``class_id``, ``instance_id``, ``ignored`` and ``scene``.
    """
    count = len(truth)
    columns = {
        "id": np.arange(1, count + 1),
        "class": np.array(scene.class_names, dtype=object)[truth.classes],
        "class_id": np.array(scene.class_ids, np.int64)[truth.classes],
        "instance_id": truth.instance_ids,
        "ignored": truth.ignored,
        "scene": np.array([scene.name] * count, dtype=object),
    }
    with replaced(path) as temporary:
        polygons = transformed(truth.polygons, scene.transform)
        write_package(temporary, scene, "objects", polygons, columns)


def write_area(path: Path, scene: SceneDescription, patches: Sequence[Patch]) -> None:
    """Write the area of the patches of a scene to a GeoPackage."""
    area = shapely.union_all([shapely.box(*patch.window) for patch in patches])
    polygons = np.empty(1, dtype=object)
    polygons[0] = shapely.MultiPolygon(shapely.get_parts(area).tolist())
    columns = {"scene": np.array([scene.name], dtype=object)}
    with replaced(path) as temporary:
        write_package(temporary, scene, "area", transformed(polygons, scene.transform), columns)
