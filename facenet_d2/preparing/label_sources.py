"""Label files of rasters: which belongs to which, and the objects of all rasters."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

from ..errors import UserError
from ..scenes.raster import Raster
from ..scenes.sources import is_gdal_name
from .chips import Objects
from .label_classes import IGNORED, ClassRules
from .labels import Labels, check_share_inside, labels_on_raster, read_labels

LABEL_SUFFIXES = (".gpkg", ".geojson", ".json", ".shp", ".fgb", ".parquet")


@dataclass(frozen=True)
class LabelSources:
    """Where labels come from.

    Attributes:
        files: vector files or folders of them: one file for all rasters, or one for each, of the
            same name.
        rules: classes of the labels.
        layer: layer of the files, if they have several.
        crs: reference system that replaces that of the files, see :func:`read_labels`.
        explode: whether each part of a MultiPolygon is an object.
    """

    files: tuple[str, ...]
    rules: ClassRules
    layer: str | None = None
    crs: str | None = None
    explode: bool = False


@dataclass(frozen=True)
class LabelReport:
    """What has become of the labels.

    Attributes:
        inside: number of labels that reach into each scene, by its name.
        share_inside: share of each label file that lies inside the rasters, by its path.
        counts: numbers of features by reason, over all files.
        sizes: ``(N,)`` longer sides of the boxes of all objects inside, in pixels.
    """

    inside: dict[str, int]
    share_inside: dict[str, float]
    counts: Counter[str]
    sizes: np.ndarray


def place_labels(
    rasters: Mapping[str, Raster], sources: LabelSources
) -> tuple[dict[str, Objects], LabelReport]:
    """Read labels and place them on the rasters.

    Args:
        rasters: open rasters by name.
        sources: where the labels come from.

    Raises:
        UserError: if files cannot be read or matched, or less than half of the labels lie inside.
    """
    file_of = match_labels(list(rasters), sources.files)
    objects: dict[str, Objects] = {}
    counts: Counter[str] = Counter()
    shares = {}
    sizes = []
    for path in dict.fromkeys(file_of.values()):
        labels = read_labels(
            path,
            sources.rules,
            layer=sources.layer,
            crs=sources.crs,
            explode=sources.explode,
        )
        counts += labels.counts
        own = [name for name in rasters if file_of[name] == path]
        used: set[int] = set()
        for name in own:
            objects[name] = _objects(labels, rasters[name])
            used |= set((objects[name].numbers - 1).tolist())
            trained = objects[name].polygons[objects[name].classes != IGNORED]
            left, top, right, bottom = shapely.bounds(trained).reshape(-1, 4).T
            sizes.append(np.maximum(right - left, bottom - top))
        where = rasters[own[0]].name if len(own) == 1 else f"the {len(own)} rasters"
        shares[path] = check_share_inside(labels, len(used), where)
    inside = {name: len(objects[name]) for name in rasters}
    return objects, LabelReport(inside, shares, counts, np.concatenate(sizes))


def _objects(labels: Labels, raster: Raster) -> Objects:
    indices, polygons = labels_on_raster(labels, raster)
    return Objects(polygons, labels.classes[indices], labels.source_ids[indices], indices + 1)


def match_labels(scenes: Sequence[str], patterns: Sequence[str]) -> dict[str, str]:
    """Return the label file of each scene: the only one, or that of the same name.

    Args:
        scenes: names of the scenes.
        patterns: vector files, folders of them, or glob patterns.

    Raises:
        UserError: if a pattern matches nothing, or a scene has no file of its name, or several.
    """
    files: list[str] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            found = [str(p) for p in sorted(path.iterdir()) if p.suffix.lower() in LABEL_SUFFIXES]
        elif path.is_file() or is_gdal_name(pattern):
            found = [pattern]
        else:
            found = sorted(glob.glob(pattern, recursive=True))
        if not found:
            raise UserError(
                f"--labels {pattern}: no such file or match; label files in a folder end with "
                f"{', '.join(LABEL_SUFFIXES)}."
            )
        files += found
    files = list(dict.fromkeys(files))
    if len(files) == 1:
        return dict.fromkeys(scenes, files[0])
    result = {}
    for scene in scenes:
        own = [file for file in files if Path(file).stem == scene]
        if len(own) != 1:
            listed = f": {', '.join(own)}" if own else ""
            raise UserError(
                f"--labels: raster {scene!r} has {len(own)} label files of its name{listed}; give "
                "each raster one, or a single file for all."
            )
        result[scene] = own[0]
    unused = [file for file in files if file not in result.values()]
    if unused:
        raise UserError(
            f"--labels: {len(unused)} label files have no raster of their name, for example "
            f"{unused[0]}."
        )
    return result
