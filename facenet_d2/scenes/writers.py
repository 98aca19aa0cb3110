"""Writing the instances of a scene to several files at once; the suffix selects the format."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rasterio.errors import RasterioError

from ..errors import UserError
from ..files import remove_temporary_files, replaced
from ..inputs import check_not_inputs
from .base_writer import SceneWriter
from .description import SceneDescription, SceneInstance
from .mask_writers import CocoResultsWriter, IdRasterWriter, check_rle
from .overview import OverviewWriter
from .vector_writers import (
    FlatGeobufWriter,
    GeoJSONWriter,
    GeoPackageWriter,
    GeoParquetWriter,
    require_pyarrow,
)
from .vectors import Batch, Vectorizer, batches
from .wgs84 import LongitudeLatitude

FORMATS = {
    ".gpkg": "GeoPackage with a QGIS style",
    ".geojson": "GeoJSON (RFC 7946, WGS84)",
    ".fgb": "FlatGeobuf",
    ".parquet": "GeoParquet 1.1, with pyarrow",
    ".json": "COCO results",
    ".tif": "raster of ids (GeoTIFF)",
    ".png": "overview picture",
}
"""What each suffix of an output file means."""


@dataclass(frozen=True)
class WrittenScene:
    """What was written.

    Attributes:
        files: paths of the files.
        instances: number of instances.
        classes: number of instances of each class, by name, in the order of the classes.
    """

    files: tuple[Path, ...]
    instances: int
    classes: dict[str, int]


def check_outputs(
    outputs: Sequence[str | Path], scene: SceneDescription, *, picture: bool = False
) -> None:
    """Check, before a long prediction, that the files can be written.

    Args:
        outputs: paths of the files.
        scene: description of the scene.
        picture: whether a picture of the scene will be available.

    Raises:
        UserError: For an unknown suffix, a folder that is missing or not writable, a format that
            cannot hold the scene or needs a missing package, a path that occurs twice, and a file
            that the scene was read from.
    """
    paths = [Path(output) for output in outputs]
    check_not_inputs(paths, scene.sources)
    for path in paths:
        if path.suffix not in FORMATS:
            known = ", ".join(FORMATS)
            raise UserError(f"{path}: {path.suffix!r} is not a known format; use one of {known}.")
        if paths.count(path) > 1:
            raise UserError(f"{path} is given twice as output.")
        if path.is_dir():
            raise UserError(f"{path} is a folder; give the path of a file.")
        if not path.parent.is_dir():
            raise UserError(f"{path}: the folder {path.parent} does not exist; create it first.")
        if not os.access(path.parent, os.W_OK):
            raise UserError(f"{path}: the folder {path.parent} is not writable; choose another.")
        if path.suffix == ".parquet":
            require_pyarrow(path)
        elif path.suffix == ".json":
            check_rle(path, scene)
        elif path.suffix == ".png" and not picture:
            raise UserError(f"{path}: an overview needs a picture of the scene.")
        elif path.suffix == ".geojson" and scene.crs is not None:
            try:
                LongitudeLatitude(scene)
            except UserError as error:
                raise UserError(f"{path}: GeoJSON has longitudes and latitudes. {error}") from error


def write_scene(
    outputs: Sequence[str | Path],
    scene: SceneDescription,
    instances: Iterable[SceneInstance],
    *,
    simplify: float = 0.0,
    picture: np.ndarray | None = None,
) -> WrittenScene:
    """Write the instances of a scene to files, whose suffixes are those of :data:`FORMATS`.

    Instances are read once and written in batches, so they need not fit into memory. Either all
    files appear or, after an error, none.

    Args:
        outputs: paths of the files, in existing folders.
        scene: description of the scene.
        instances: stream of instances; those with an empty mask are left out.
        simplify: tolerance in pixels of a simplification of the polygons; 0 for none.
        picture: ``(h, w, 3)`` uint8, RGB; the whole scene at any reduction, for ``.png``.

    Raises:
        UserError: see :func:`check_outputs`, or if a file cannot be written.
        ValueError: If an instance does not fit the scene.
    """
    check_outputs(outputs, scene, picture=picture is not None)
    makers: dict[str, Callable[[Path, SceneDescription], SceneWriter]] = {
        ".gpkg": GeoPackageWriter,
        ".geojson": GeoJSONWriter,
        ".fgb": FlatGeobufWriter,
        ".parquet": GeoParquetWriter,
        ".json": CocoResultsWriter,
        ".tif": IdRasterWriter,
    }
    if picture is not None:
        makers[".png"] = partial(OverviewWriter, picture=picture)
    paths = tuple(Path(output) for output in outputs)
    for path in paths:
        remove_temporary_files(path.parent, glob.escape(path.stem))
    vectorize = Vectorizer(scene, simplify=simplify)
    counts = np.zeros(len(scene.class_names), int)
    try:
        with ExitStack() as files, ExitStack() as writers:
            open_writers = [
                writers.enter_context(
                    makers[path.suffix](files.enter_context(replaced(path)), scene)
                )
                for path in paths
            ]
            for group in batches(scene, instances):
                batch = Batch(group, vectorize)
                for writer in open_writers:
                    writer.write(batch)
                classes = [instance.class_index for instance in batch.instances]
                counts += np.bincount(classes, minlength=len(counts))
    except RasterioError as error:
        raise UserError(f"the raster of ids cannot be written ({error}).") from error
    return WrittenScene(paths, int(counts.sum()), dict(zip(scene.class_names, counts.tolist())))
