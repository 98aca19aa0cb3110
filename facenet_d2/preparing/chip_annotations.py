"""Survey of chips: annotations of the labels in them, and statistics of their pixels."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..data.statistics import PixelStatistics
from ..files import write_whole
from ..scenes.geo import gdal_settings
from ..scenes.mask_writers import scene_rle
from .burning import burn, count_pixels
from .chip_files import ChipPixels, chip_type, read_chip
from .chips import Chip, ChipJob, ChipSettings, Objects
from .label_classes import IGNORED


def survey_chips(job: ChipJob) -> None:
    """Annotate chips and measure their pixels; write both to the record of the job.

    Raises:
        UserError: if the scene cannot be read.
    """
    settings = job.settings
    counts: dict[int, float] = {}
    patches = []
    # Otherwise rasterio makes an environment for each object.
    with gdal_settings(), job.site.open(settings) as raster:
        dtype = chip_type(raster, settings)
        for chip in job.chips:
            pixels = read_chip(raster, chip, settings, dtype)
            seen = pixels.valid
            stretched = pixels.values
            if settings.format == "tif":
                stretched = settings.stretch.apply(pixels.values, seen)
            annotations, slivers = _annotations(
                job.objects.within(chip.window), chip, pixels, settings, counts
            )
            left, top, right, bottom = chip.window
            patches.append(
                {
                    "name": chip.name,
                    "scene": job.site.scene,
                    "split": chip.split,
                    "x": left,
                    "y": top,
                    "width": right - left,
                    "height": bottom - top,
                    "valid": int((seen & pixels.labelled).sum()),
                    "statistics": PixelStatistics.of(stretched[:, seen]).to_dict(),
                    "slivers": slivers,
                    "annotations": annotations,
                }
            )
    write_whole(job.record, json.dumps({"patches": patches}))


def _annotations(
    objects: Objects,
    chip: Chip,
    pixels: ChipPixels,
    settings: ChipSettings,
    counts: dict[int, float],
) -> tuple[list[dict[str, Any]], int]:
    """Return the annotations of a chip, and the number of parts with too few pixels.

    Args:
        objects: objects whose boxes reach into the chip.
        chip: the chip.
        pixels: its pixels.
        settings: settings of the chips.
        counts: pixels of each whole object by its number; missing ones are added.
    """
    left, top, right, bottom = chip.window
    size = (bottom - top, right - left)
    visible = pixels.valid & pixels.labelled
    ignored = pixels.valid & ~pixels.labelled
    annotations: list[dict[str, Any]] = []
    slivers = 0
    columns = (objects.polygons, objects.classes, objects.source_ids, objects.numbers)
    for polygon, class_index, source_id, number in zip(*columns):
        mask, x, y, is_whole = burn(polygon, chip.window)
        x, y = x - left, y - top
        place = np.s_[y : y + mask.shape[0], x : x + mask.shape[1]]
        if class_index == IGNORED:
            ignored[place] |= mask & pixels.valid[place]
            continue
        if int(number) not in counts:
            counts[int(number)] = float(mask.sum()) if is_whole else count_pixels(polygon)
        whole = counts[int(number)]
        mask = mask & visible[place]
        area = int(mask.sum())
        if area < settings.min_pixels:
            # An object whose box, but not its mask, reaches into the chip is not a sliver of it.
            slivers += area > 0 or whole < settings.min_pixels
            continue
        share = min(1.0, area / whole)
        annotations.append(
            {
                "category_id": int(class_index) + 1,
                "instance_id": int(number),
                "source_id": int(source_id),
                **_mask_fields(mask, x, y, size),
                "iscrowd": int(share < settings.min_visible),
                "truncated": int(area < whole),
                "visible": round(share, 4),
            }
        )
    if ignored.any():
        fields = _mask_fields(ignored, 0, 0, size)
        # Evaluators ignore a crowd for its own class only.
        annotations += [
            {"category_id": index + 1, **fields, "iscrowd": 1, "region": 1}
            for index in range(settings.num_classes)
        ]
    return annotations, slivers


def _mask_fields(mask: np.ndarray, x: int, y: int, size: tuple[int, int]) -> dict[str, Any]:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = [x + columns[0], y + rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]
    return {
        "segmentation": scene_rle(mask, x, y, *size),
        "bbox": [float(value) for value in box],
        "area": int(mask.sum()),
    }
