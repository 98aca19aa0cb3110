"""Files of vectors: GeoPackage, FlatGeobuf, GeoJSON and GeoParquet."""

from __future__ import annotations

import importlib
import json
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pyogrio.raw
import shapely

from ..errors import UserError
from .base_writer import SceneWriter, scene_metadata
from .description import SceneDescription
from .polygons import single_parts
from .styles import qgis_style
from .vectors import Batch, Features, Vectorizer
from .wgs84 import LongitudeLatitude, geojson_geometry

LAYER = "instances"
# Key of the scene's metadata in files that have a place for it.
METADATA = "facenet_d2"
# A GeoPackage contains the time of its last change. A constant makes equal results equal files.
_TIMESTAMP = "2000-01-01T00:00:00.000Z"
# Significant digits of measures in GeoJSON.
_MEASURE_DIGITS = 9


class GeoPackageWriter(SceneWriter):
    """Writes a GeoPackage with a QGIS style in it; the layer is :data:`LAYER`."""

    def __init__(self, path: Path, scene: SceneDescription) -> None:
        super().__init__(path, scene)
        metadata = {METADATA: json.dumps(scene_metadata(scene))}
        # An empty batch defines the columns.
        self._append(Vectorizer(scene)([]), append=False, layer_metadata=metadata)

    def write(self, batch: Batch) -> None:
        self._append(batch.features, append=True)

    def _append(self, features: Features, **options: Any) -> None:
        write_package(
            self.path, self.scene, LAYER, features.polygons, features.attributes, **options
        )

    def finish(self) -> None:
        with closing(sqlite3.connect(self.path)) as database, database:
            _add_style(database, qgis_style(self.scene))


def write_package(
    path: Path,
    scene: SceneDescription,
    layer: str,
    polygons: np.ndarray,
    attributes: Mapping[str, np.ndarray],
    **options: Any,
) -> None:
    """Write a layer of a GeoPackage.

    Args:
        path: the file.
        scene: description of the scene.
        layer: name of the layer.
        polygons: array of N MultiPolygons in the scene's coordinates.
        attributes: columns ``(N,)`` by name.
        options: further options of ``pyogrio.raw.write``.

    Raises:
        UserError: if the file cannot be written.
    """
    with _gdal(path):
        pyogrio.raw.write(
            path,
            shapely.to_wkb(polygons),
            list(attributes.values()),
            list(attributes),
            geometry_type="MultiPolygon",
            crs=_wkt(scene),
            driver="GPKG",
            layer=layer,
            **options,
        )


def _add_style(database: sqlite3.Connection, style: str) -> None:
    """Add QGIS's table of styles, and register it, since QGIS does not find it otherwise."""
    database.execute(
        "CREATE TABLE layer_styles (id INTEGER PRIMARY KEY AUTOINCREMENT, f_table_catalog TEXT, "
        "f_table_schema TEXT, f_table_name TEXT, f_geometry_column TEXT, styleName TEXT, "
        "styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN, description TEXT, owner TEXT, "
        "ui TEXT, update_time DATETIME)"
    )
    database.execute(
        "INSERT INTO gpkg_contents (table_name, data_type, identifier, last_change) "
        "VALUES ('layer_styles', 'attributes', 'layer_styles', ?)",
        (_TIMESTAMP,),
    )
    database.execute(
        "INSERT INTO layer_styles VALUES (1, '', '', ?, 'geom', 'classes', ?, '', 1, "
        "'instances coloured by class', '', '', ?)",
        (LAYER, style, _TIMESTAMP),
    )


class FlatGeobufWriter(SceneWriter):
    """Writes FlatGeobuf by way of a temporary GeoPackage, since its index needs all features."""

    def __init__(self, path: Path, scene: SceneDescription) -> None:
        super().__init__(path, scene)
        # The other output may be a GeoPackage of the same name.
        self._package = path.with_name(f".fgb{path.stem}.gpkg")
        self._writer = GeoPackageWriter(self._package, scene)

    def write(self, batch: Batch) -> None:
        self._writer.write(batch)

    def finish(self) -> None:
        with (
            _gdal(self.path),
            pyogrio.raw.open_arrow(self._package, layer=LAYER, use_pyarrow=False) as (meta, stream),
        ):
            pyogrio.raw.write_arrow(
                stream,
                self.path,
                driver="FlatGeobuf",
                layer=LAYER,
                geometry_name=meta["geometry_name"],
                geometry_type="MultiPolygon",
                crs=_wkt(self.scene),
                layer_options={"DESCRIPTION": json.dumps(scene_metadata(self.scene))},
            )

    def release(self) -> None:
        self._package.unlink(missing_ok=True)


class GeoJSONWriter(SceneWriter):
    """Writes GeoJSON by RFC 7946, see :class:`~facenet_d2.scenes.wgs84.LongitudeLatitude`.

    The standard knows no scenes without a CRS: their coordinates are those of the scene, and the
    member ``metadata`` says so.
    """

    def __init__(self, path: Path, scene: SceneDescription) -> None:
        super().__init__(path, scene)
        self._convert = LongitudeLatitude(scene) if scene.crs else single_parts
        self._separator = "\n"
        self._file = path.open("w", encoding="utf-8")
        metadata = json.dumps(scene_metadata(scene), ensure_ascii=False)
        self._file.write(f'{{"type": "FeatureCollection", "metadata": {metadata}, "features": [')

    def write(self, batch: Batch) -> None:
        features = batch.features
        columns = [_json_values(name, column) for name, column in features.attributes.items()]
        for geometry, values in zip(self._convert(features.polygons), zip(*columns)):
            properties = dict(zip(features.attributes, values))
            feature = {
                "type": "Feature",
                "id": properties["id"],
                "properties": properties,
                "geometry": geojson_geometry(geometry),
            }
            text = json.dumps(feature, ensure_ascii=False, separators=(",", ":"))
            self._file.write(self._separator + text)
            self._separator = ",\n"

    def finish(self) -> None:
        self._file.write("\n]}\n")

    def release(self) -> None:
        self._file.close()


def _json_values(name: str, column: np.ndarray) -> list[Any]:
    """Return a column as JSON values, with measures shortened to their significant digits."""
    values: list[Any] = column.tolist()
    if column.dtype != float or name == "score":
        return values
    return [float(f"{value:.{_MEASURE_DIGITS}g}") for value in values]


class GeoParquetWriter(SceneWriter):
    """Writes GeoParquet 1.1: geometries as WKB, and a column with the bounds of each."""

    def __init__(self, path: Path, scene: SceneDescription) -> None:
        """
        Raises:
            UserError: If pyarrow is not installed.
        """
        super().__init__(path, scene)
        require_pyarrow(path)
        self._arrow = importlib.import_module("pyarrow")
        self._bounds = np.empty((0, 4))
        schema = self._table(Vectorizer(scene)([])).schema
        parquet = importlib.import_module("pyarrow.parquet")
        self._writer = parquet.ParquetWriter(path, schema, compression="zstd")

    def _table(self, features: Features) -> Any:
        arrow = self._arrow
        columns = {
            name: arrow.array(column, arrow.string() if column.dtype == object else None)
            for name, column in features.attributes.items()
        }
        geometries = single_parts(features.polygons)
        edges = [arrow.array(edge) for edge in shapely.bounds(geometries).reshape(-1, 4).T]
        columns["bbox"] = arrow.StructArray.from_arrays(edges, list(_EDGES))
        columns["geometry"] = arrow.array(shapely.to_wkb(geometries), arrow.binary())
        return arrow.table(columns)

    def write(self, batch: Batch) -> None:
        self._writer.write_table(self._table(batch.features))
        bounds = np.concatenate([self._bounds, shapely.bounds(batch.features.polygons)])
        self._bounds = np.concatenate([bounds[:, :2].min(0), bounds[:, 2:].max(0)])[None]

    def finish(self) -> None:
        crs = self.scene.crs
        column: dict[str, Any] = {
            "encoding": "WKB",
            "geometry_types": ["Polygon", "MultiPolygon"],
            # Without this member, coordinates would be longitudes and latitudes.
            "crs": crs.to_dict(projjson=True) if crs else None,
            "covering": {"bbox": {edge: ["bbox", edge] for edge in _EDGES}},
        }
        if len(self._bounds):
            column["bbox"] = self._bounds[0].tolist()
        geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
        self._writer.add_key_value_metadata(
            {"geo": json.dumps(geo), METADATA: json.dumps(scene_metadata(self.scene))}
        )

    def release(self) -> None:
        self._writer.close()


_EDGES = ("xmin", "ymin", "xmax", "ymax")


def require_pyarrow(path: Path) -> None:
    """Check that pyarrow, which writes and reads GeoParquet, is installed.

    Args:
        path: file that needs it, for the message.

    Raises:
        UserError: If it is missing.
    """
    try:
        importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError(
            f"{path}: GeoParquet needs pyarrow, which cannot be imported ({error}); install it "
            "with pip install pyarrow, or use .gpkg, .fgb or .geojson."
        ) from error


def _wkt(scene: SceneDescription) -> str | None:
    return scene.crs.to_wkt(version="WKT2_2019") if scene.crs else None


@contextmanager
def _gdal(path: Path) -> Iterator[None]:
    """Set GDAL's timestamp, and report its errors for a file that it writes.

    Raises:
        UserError: If GDAL cannot write, for example because the disk is full.
    """
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": _TIMESTAMP})
    try:
        with warnings.catch_warnings():
            # A scene without a CRS makes a file without one.
            warnings.filterwarnings("ignore", message="'crs' was not provided")
            yield
    except (pyogrio.errors.DataSourceError, pyogrio.errors.FeatureError) as error:
        raise UserError(f"{path} cannot be written ({error}).") from error
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})
