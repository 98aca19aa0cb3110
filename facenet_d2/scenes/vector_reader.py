"""Reading of polygons from vector files."""

from __future__ import annotations

import importlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pyogrio.raw
import shapely
from rasterio.crs import CRS
from rasterio.errors import CRSError

from ..errors import UserError
from .vector_writers import require_pyarrow

# Geometries, attributes, coordinate reference system and ids of the features of a file.
_Content = tuple[np.ndarray, dict[str, Any], CRS | None, np.ndarray]


@dataclass(frozen=True)
class VectorFile:
    """Polygons of a file with their attributes.

    Attributes:
        path: the file, for messages.
        polygons: array of N valid polygons, two-dimensional and not empty.
        attributes: columns ``(N,)`` by name.
        crs: coordinate reference system, or None.
        ids: ``(N,)`` int: id of each feature in the file, GDAL's FID; in GeoParquet its row.
        repaired: number of polygons that were invalid, with rings that cross for example.
        dropped: number of features without an area.
    """

    path: str
    polygons: np.ndarray
    attributes: dict[str, np.ndarray]
    crs: CRS | None
    ids: np.ndarray
    repaired: int = 0
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.polygons)

    def column(self, name: str, option: str) -> np.ndarray:
        """Return an attribute.

        Args:
            name: name of the attribute.
            option: command-line option that selects it, for the message.

        Raises:
            UserError: If the file does not have it.
        """
        if name not in self.attributes:
            fields = ", ".join(self.attributes) or "none"
            raise UserError(
                f"{self.path} has no attribute {name!r}; choose one of its attributes ({fields}) "
                f"with {option}."
            )
        return self.attributes[name]


def read_polygons(path: str | Path, *, layer: str | None = None) -> VectorFile:
    """Read polygons from a file: any vector format of GDAL, or GeoParquet if pyarrow is installed.

    Args:
        path: file, or what GDAL accepts in its place.
        layer: name of the layer; by default the only one with geometries.

    Raises:
        UserError: If the file cannot be read, has several layers, or contains points or lines.
    """
    path = str(path)
    if path.endswith(".parquet"):
        geometries, attributes, crs, ids = _read_parquet(Path(path))
    else:
        geometries, attributes, crs, ids = _read_ogr(path, layer)
    types = shapely.get_type_id(geometries)
    polygonal = np.isin(types, (-1, 3, 6))  # Missing, Polygon, MultiPolygon.
    if not polygonal.all():
        number = int(np.argmin(polygonal))
        raise UserError(
            f"{path}: feature {number} is a {geometries[number].geom_type}; objects and areas must "
            "be polygons."
        )
    invalid = ~shapely.is_valid(geometries) & (types >= 0)
    # Lines and points that a repair leaves have no area.
    geometries[invalid] = [_area_of(g) for g in shapely.make_valid(geometries[invalid])]
    kept = shapely.area(geometries) > 0  # NaN for a missing geometry.
    return VectorFile(
        path=path,
        polygons=geometries[kept],
        attributes={name: values[kept] for name, values in attributes.items()},
        crs=crs,
        ids=ids[kept],
        repaired=int((invalid & kept).sum()),
        dropped=int((~kept).sum()),
    )


def _area_of(geometry: shapely.Geometry) -> shapely.Geometry:
    parts = [part for part in shapely.get_parts(geometry) if shapely.area(part) > 0]
    return shapely.union_all(parts)


def _read_ogr(path: str, layer: str | None) -> _Content:
    try:
        layer = _choose_layer(path, layer)
        with warnings.catch_warnings():
            # A file without a CRS is allowed.
            warnings.filterwarnings("ignore", message="'crs' was not provided")
            meta, ids, geometries, columns = pyogrio.raw.read(
                path, layer=layer, force_2d=True, return_fids=True
            )
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as vectors ({reason}).") from error
    try:
        polygons = shapely.from_wkb(geometries)
    except shapely.errors.GEOSException as error:
        raise UserError(f"{path}: a geometry cannot be read ({error}).") from error
    return (
        np.asarray(polygons, dtype=object).reshape(-1),
        dict(zip(meta["fields"], columns)),
        _crs(path, meta["crs"]),
        ids,
    )


def _choose_layer(path: str, layer: str | None) -> str:
    layers = pyogrio.list_layers(path)
    names = [name for name, kind in layers if kind is not None]
    if layer in names:
        return str(layer)
    if layer is None and len(names) == 1:
        return str(names[0])
    listed = ", ".join(names) or "none with geometries"
    if layer is not None:
        raise UserError(f"{path} has no layer {layer!r}; its layers are: {listed}.")
    if names:
        raise UserError(f"{path} has several layers ({listed}); choose one of them.")
    raise UserError(f"{path} has no layer with geometries.")


def _read_parquet(path: Path) -> _Content:
    require_pyarrow(path)
    parquet = importlib.import_module("pyarrow.parquet")
    arrow = importlib.import_module("pyarrow")
    try:
        table = parquet.read_table(path)
        geo = json.loads(parquet.read_metadata(path).metadata[b"geo"])
        name = geo["primary_column"]
        column = geo["columns"][name]
        geometries = shapely.from_wkb(table[name].to_numpy(zero_copy_only=False))
    except (OSError, arrow.ArrowException, shapely.errors.GEOSException) as error:
        raise UserError(f"{path} cannot be read as Parquet ({error}).") from error
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is not GeoParquet: its metadata lacks {error}.") from error
    flat = [f.name for f in table.schema if f.name != name and not arrow.types.is_nested(f.type)]
    attributes = {field: table[field].to_numpy(zero_copy_only=False) for field in flat}
    crs = column.get("crs", "OGC:CRS84")
    crs = _crs(str(path), json.dumps(crs) if isinstance(crs, dict) else crs)
    geometries = np.asarray(geometries, dtype=object).reshape(-1)
    return geometries, attributes, crs, np.arange(len(geometries))


def _crs(path: str, text: str | None) -> CRS | None:
    if text is None:
        return None
    try:
        return CRS.from_user_input(text)
    except CRSError as error:
        raise UserError(f"{path}: its CRS is not understood ({error}).") from error
