"""Files of masks on the pixel grid: COCO results and a raster of ids."""

from __future__ import annotations

import importlib
import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from ..errors import UserError
from .base_writer import SceneWriter, scene_metadata
from .description import SceneDescription
from .vectors import Batch

# pycocotools counts pixels in 32 bits.
MAX_RLE_PIXELS = (1 << 32) - 1
# Side of the raster's tiles, and height of the strips that it is written in.
_BLOCK = 256


def check_rle(path: Path, scene: SceneDescription) -> None:
    """Check that the masks of a scene can be written as RLE.

    Raises:
        UserError: If the scene has too many pixels, or pycocotools is not installed.
    """
    try:
        importlib.import_module("pycocotools.mask")
    except ImportError as error:
        raise UserError(
            f"{path}: COCO results need pycocotools, which cannot be imported ({error}); install "
            "it with pip install pycocotools, or use .gpkg, .fgb or .geojson."
        ) from error
    pixels = scene.height * scene.width
    if pixels > MAX_RLE_PIXELS:
        raise UserError(
            f"{path}: the RLE of COCO results counts at most {MAX_RLE_PIXELS:,} pixels, and the "
            f"scene has {pixels:,} ({scene.width}x{scene.height}); write .gpkg, .fgb, .parquet, "
            ".geojson or .tif instead."
        )


def scene_rle(mask: np.ndarray, x0: int, y0: int, height: int, width: int) -> dict[str, object]:
    """Return the RLE of a mask in its scene without making a mask of the scene's size.

    Args:
        mask: bool crop ``(h, w)``.
        x0: column of the crop in the scene.
        y0: row of the crop in the scene.
        height: number of rows of the scene.
        width: number of columns of the scene.

    Returns:
        ``size`` (height, width) and ``counts``, the compressed runs as text.
    """
    # Runs go down the columns. A row of background on both sides separates those of two columns.
    columns = np.pad(mask.T.astype(np.int8), ((0, 0), (1, 1)))
    steps = np.diff(columns, axis=1)
    column, row = np.nonzero(steps)
    places = (x0 + column) * height + y0 + row
    starts, ends = places[steps[column, row] > 0], places[steps[column, row] < 0]
    # A run that ends at the scene's last row continues if the next column starts with one.
    apart = starts[1:] != ends[:-1]
    starts = starts[np.concatenate([[True], apart])]
    ends = ends[np.concatenate([apart, [True]])]
    edges = np.stack([starts, ends], axis=1).ravel()
    counts = np.diff(edges, prepend=0, append=height * width).tolist()
    # There is no run after a mask that ends with the scene.
    counts = counts if counts[-1] else counts[:-1]
    # Not above: exported models run without it.
    import pycocotools.mask as mask_util

    rle = mask_util.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode()}


class CocoResultsWriter(SceneWriter):
    """Writes COCO results: masks as RLE in the scene, whose number is the ``image_id``."""

    def __init__(self, path: Path, scene: SceneDescription) -> None:
        """
        Raises:
            UserError: If the scene has too many pixels.
        """
        super().__init__(path, scene)
        check_rle(path, scene)
        self._file = path.open("w", encoding="utf-8")
        self._separator = "[\n"

    def write(self, batch: Batch) -> None:
        scene = self.scene
        for instance in batch.instances:
            rows = np.flatnonzero(instance.mask.any(axis=1))
            columns = np.flatnonzero(instance.mask.any(axis=0))
            x, y = instance.x0 + int(columns[0]), instance.y0 + int(rows[0])
            size = int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)
            result = {
                "image_id": scene.scene_id,
                "file_name": scene.name,
                "id": instance.id,
                "category_id": scene.class_ids[instance.class_index],
                "score": float(instance.score),
                "bbox": [x, y, *size],
                "segmentation": scene_rle(
                    instance.mask, instance.x0, instance.y0, scene.height, scene.width
                ),
            }
            self._file.write(self._separator + json.dumps(result, separators=(",", ":")))
            self._separator = ",\n"

    def finish(self) -> None:
        self._file.write("[]\n" if self._separator == "[\n" else "\n]\n")

    def release(self) -> None:
        self._file.close()


class IdRasterWriter(SceneWriter):
    """Writes a raster of the instances' ids: uint32, 0 is background; tiled, deflated GeoTIFF.

    Where instances overlap, the one with the higher score is seen. The masks wait in a temporary
    file until the end, when the raster is written strip by strip.
    """

    _ROW = np.dtype(
        [
            ("score", "f8"),
            ("id", "i8"),
            ("x0", "i8"),
            ("y0", "i8"),
            ("height", "i8"),
            ("width", "i8"),
            ("offset", "i8"),
        ]
    )

    def __init__(self, path: Path, scene: SceneDescription) -> None:
        super().__init__(path, scene)
        self._masks = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115
        self._tables: list[np.ndarray] = []

    def write(self, batch: Batch) -> None:
        rows = []
        for instance in batch.instances:
            place = (instance.x0, instance.y0, *instance.mask.shape, self._masks.tell())
            rows.append((instance.score, instance.id, *place))
            self._masks.write(np.packbits(instance.mask).tobytes())
        self._tables.append(np.array(rows, self._ROW))

    def finish(self) -> None:
        scene = self.scene
        table = np.concatenate([np.empty(0, self._ROW), *self._tables])
        # The best is pasted last; of equal scores, the one with the smallest id.
        table = table[np.lexsort((-table["id"], table["score"]))]
        profile = {
            "driver": "GTiff",
            "width": scene.width,
            "height": scene.height,
            "count": 1,
            "dtype": "uint32",
            "nodata": 0,
            "crs": scene.crs,
            "transform": scene.transform,
            "tiled": True,
            "blockxsize": _BLOCK,
            "blockysize": _BLOCK,
            "compress": "deflate",
            "bigtiff": "if_safer",
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(self.path, "w", **profile) as raster:
                raster.update_tags(FACENET_D2=json.dumps(scene_metadata(scene)))
                for top in range(0, scene.height, _BLOCK):
                    bottom = min(top + _BLOCK, scene.height)
                    touched = (table["y0"] < bottom) & (table["y0"] + table["height"] > top)
                    strip = self._strip(table[touched], top, bottom)
                    raster.write(strip, 1, window=Window(0, top, scene.width, bottom - top))

    def _strip(self, table: np.ndarray, top: int, bottom: int) -> np.ndarray:
        strip = np.zeros((bottom - top, self.scene.width), np.uint32)
        for row in table:
            height, width, x0, y0 = (int(row[name]) for name in ("height", "width", "x0", "y0"))
            self._masks.seek(row["offset"])
            bits = np.frombuffer(self._masks.read((height * width + 7) // 8), np.uint8)
            mask = np.unpackbits(bits, count=height * width).reshape(height, width).astype(bool)
            first, last = max(y0, top), min(y0 + height, bottom)
            window = strip[first - top : last - top, x0 : x0 + width]
            window[mask[first - y0 : last - y0]] = row["id"]
        return strip

    def release(self) -> None:
        self._masks.close()
