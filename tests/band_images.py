"""The synthetic scenes as GeoTIFFs of seven bands and 16 bits, by a known linear transform."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from helpers import write_tiny_config
from scenes.rasters import write_raster

# Colour of each band, as an index into red, green and blue, and values of its 0 and 255.
COLOURS = (0, 1, 2, 0, 1, 2, 2)
LOW = tuple(1000.0 + 10 * i for i in range(7))
HIGH = tuple(60_000.0 - 500 * i for i in range(7))
# Blue, green and red first, as the weights of Detectron2's ResNets expect, and so on.
BANDS = (3, 2, 1, 6, 5, 4, 7)

_text = [",".join(str(values[band - 1]) for band in BANDS) for values in (LOW, HIGH)]
STRETCH = f"range {' '.join(_text)}"


def write_band_dataset(folder: Path, scenes: Path) -> Path:
    """Write ``images`` and ``annotations.json``.

    Args:
        folder: an empty folder.
        scenes: synthetic scenes.
    """
    (folder / "images").mkdir(parents=True)
    content = json.loads((scenes / "annotations.json").read_text())
    for entry in content["images"]:
        rgb = cv2.imread(str(scenes / "images" / entry["file_name"]))[..., ::-1]
        values = [
            np.round(rgb[..., c] / 255 * (high - low) + low)
            for c, low, high in zip(COLOURS, LOW, HIGH)
        ]
        entry["file_name"] = entry["file_name"].replace(".png", ".tif")
        write_raster(
            folder / "images" / entry["file_name"],
            np.array(values, dtype=np.uint16),
        )
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def write_band_config(folder: Path, scenes: Path, **options: str) -> Path:
    """Write the config of a small model on the band images of ``scenes``."""
    file = write_tiny_config(folder, scenes, **options)
    keys = f"""\
  PIXEL_MEAN: {[115.0] * 7}
  PIXEL_STD: {[1.0] * 7}
"""
    text = file.read_text().replace("MODEL:\n", "MODEL:\n" + keys, 1)
    text = text.replace("INPUT: {", f'INPUT: {{BANDS: {list(BANDS)}, STRETCH: "{STRETCH}", ')
    file.write_text(text)
    return file
