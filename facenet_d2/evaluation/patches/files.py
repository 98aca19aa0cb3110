"""Scenes made of patches: their place on the map, and files of their truth and their area."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import shapely
from affine import Affine
from rasterio.crs import CRS

from ...files import replaced
from ...scenes.description import SceneDescription
from ...scenes.geo import known_crs
from ...scenes.opening import open_dataset
from ...scenes.polygons import transformed
from ...scenes.vector_writers import write_package
from .places import Patch
from .truth import SceneTruth


def scene_place(patches: Sequence[Patch], folder: Path) -> tuple[Affine, CRS | None]:
    """Return the transform and the reference system of a scene, from the file of a patch.

    Args:
        patches: patches of the scene.
        folder: folder that their file names are relative to.

    Returns:
        The transform, and the coordinate reference system; the identity and None if no file exists,
        or the first that exists has no reference system.

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
            return transform @ Affine.translation(-patch.window[0], -patch.window[1]), crs
    return Affine.identity(), None


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
