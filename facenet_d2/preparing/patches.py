"""Cutting of large scenes, with their instances, into patches of the network's input size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..data.images import open_rgb
from ..errors import UserError
from ..files import replaced, write_whole
from .color_maps import InstanceMap, find_regions, read_instance_map


@dataclass(frozen=True)
class CutSettings:
    """Settings of the cutting.

    Attributes:
        patch_size: side of a patch in pixels.
        overlap: overlap of neighbouring patches in pixels.
        cut_narrow: whether to cut scenes that exceed a patch in one direction only. The publisher's
            tools keep them whole.
        drop_empty: whether to leave out patches without instances, unless the scene is not
            annotated.
        min_area: minimum number of pixels of an instance in a patch; smaller parts are left out.
        class_colors: RGB colour of each class in the class images.
    """

    patch_size: int
    overlap: int
    cut_narrow: bool
    drop_empty: bool
    min_area: int
    class_colors: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class CutJob:
    """A scene to be cut.

    Attributes:
        image: image file of the scene.
        id_file: image of its instances; None if they are not published.
        class_file: image of their classes; None if they are not published.
        folder: folder of the patches.
        record: JSON file that lists the patches and their annotations; it is written last.
        settings: settings of the cutting.
    """

    image: Path
    id_file: Path | None
    class_file: Path | None
    folder: Path
    record: Path
    settings: CutSettings


def patch_starts(length: int, patch_size: int, overlap: int) -> list[int]:
    """Return the starts of the patches along one side of a scene.

    The last patch is moved back to end with the scene, so that no padding is needed. A side that is
    not longer than a patch has a single patch of the side's length.
    """
    steps = range(0, length, patch_size - overlap)
    return sorted({max(0, min(start, length - patch_size)) for start in steps})


def patch_windows(
    width: int, height: int, settings: CutSettings
) -> list[tuple[int, int, int, int]]:
    """Return (left, top, right, bottom) of every patch of a scene, row by row.

    As in the publisher's tools for iSAID, a scene that is not larger than a patch in one direction
    stays whole, unless ``settings.cut_narrow`` is set.
    """
    size, overlap = settings.patch_size, settings.overlap
    if min(width, height) <= size and not settings.cut_narrow:
        return [(0, 0, width, height)]
    return [
        (x, y, min(x + size, width), min(y + size, height))
        for y in patch_starts(height, size, overlap)
        for x in patch_starts(width, size, overlap)
    ]


def patch_name(
    scene: str, window: tuple[int, int, int, int], whole: bool, suffix: str = ".png"
) -> str:
    """Return the publisher's file name: ``SCENE_top_bottom_left_right.png``, or ``SCENE.png``."""
    left, top, right, bottom = window
    return scene + ("" if whole else f"_{top}_{bottom}_{left}_{right}") + suffix


def write_png(path: Path, image: Image.Image) -> None:
    """Write a patch as PNG, atomically."""
    with replaced(path) as temporary:
        image.save(temporary, compress_level=1)


def cut_scene(job: CutJob) -> None:
    """Cut one scene, and write its patches and then its record.

    One image and one 32-bit label map of the scene are held in memory.

    Raises:
        UserError: if an image is unusable or the folder cannot be written.
    """
    instances = None
    if job.id_file is not None:
        assert job.class_file is not None, "both label images are published, or neither"
        instances = read_instance_map(job.id_file, job.class_file, job.settings.class_colors)
    scene = open_rgb(job.image)
    width, height = scene.size
    shape = None if instances is None else instances.labels.shape
    if job.id_file is not None and shape is not None and shape != (height, width):
        raise UserError(
            f"{job.image} is {width}x{height} pixels, but {job.id_file.name} is "
            f"{shape[1]}x{shape[0]}."
        )
    windows = patch_windows(width, height, job.settings)
    patches = []
    for window in windows:
        annotations = [] if instances is None else _annotations(instances, window, job.settings)
        if job.settings.drop_empty and instances is not None and not annotations:
            continue
        left, top, right, bottom = window
        name = patch_name(job.image.stem, window, whole=len(windows) == 1)
        write_png(job.folder / name, scene.crop(window))
        patches.append(
            {
                "name": name,
                "x": left,
                "y": top,
                "width": right - left,
                "height": bottom - top,
                "annotations": annotations,
            }
        )
    record = {
        "settings": settings_record(job.settings),
        "sources": sources_record(job),
        "patches": patches,
        "annotated": instances is not None,
        "without_class": 0 if instances is None else int((instances.classes < 0).sum()),
        "mixed": 0 if instances is None else instances.num_mixed,
    }
    write_whole(job.record, json.dumps(record))


def _annotations(
    instances: InstanceMap, window: tuple[int, int, int, int], settings: CutSettings
) -> list[dict[str, Any]]:
    left, top, right, bottom = window
    annotations = []
    for region in find_regions(instances.labels[top:bottom, left:right]):
        class_index = int(instances.classes[region.label - 1])
        if class_index < 0 or region.area < settings.min_area:
            continue
        annotations.append(
            {
                "category_id": class_index + 1,
                "instance_id": int(instances.colors[region.label - 1]),
                "segmentation": region.rle,
                "bbox": list(region.box),
                "area": region.area,
                "iscrowd": 0,
            }
        )
    return annotations


def settings_record(settings: CutSettings) -> dict[str, Any]:
    """Return the settings as they are stored in a record."""
    return json.loads(json.dumps(asdict(settings)))


def sources_record(job: CutJob) -> list[list[Any]]:
    """Return name, size and modification time of a scene's files, to detect changes."""
    files = [f for f in (job.image, job.id_file, job.class_file) if f is not None]
    return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]


def finished_record(job: CutJob) -> dict[str, Any] | None:
    """Return the record of a scene that has been cut completely, or None.

    Raises:
        UserError: if the scene was cut with other settings.
    """
    try:
        record = json.loads(job.record.read_text())
        settings, sources, patches = record["settings"], record["sources"], record["patches"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if settings != settings_record(job.settings):
        now = settings_record(job.settings)
        other = [f"{k} {settings.get(k)}" for k in now if settings.get(k) != now[k]]
        raise UserError(
            f"{job.folder} contains patches cut with other settings ({', '.join(other)}); choose "
            "another --output, or remove the folder."
        )
    if sources != sources_record(job):
        return None
    return record if all((job.folder / p["name"]).is_file() for p in patches) else None


def merge_records(
    records: Sequence[tuple[str, dict[str, Any]]], folder: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Merge the records of scenes into the images and annotations of a COCO JSON.

    Args:
        records: (scene, record) pairs, in the order of the ids.
        folder: prefix of the file names.

    Returns:
        images, with their ``scene`` and the ``x`` and ``y`` of their upper left pixel in it, and
        annotations, whose ``instance_id`` is the same in every patch of a scene.

    Raises:
        UserError: if patches of two scenes have the same name.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    scene_of: dict[str, str] = {}
    for scene, record in records:
        for patch in record["patches"]:
            other = scene_of.setdefault(patch["name"], scene)
            if other != scene:
                raise UserError(
                    f"scenes {other} and {scene} both have a patch {patch['name']}; rename one of "
                    "them, and prepare them again in another --output."
                )
            images.append(
                {
                    "id": len(images) + 1,
                    "file_name": f"{folder}/{patch['name']}",
                    **{key: patch[key] for key in ("height", "width", "x", "y")},
                    "scene": scene,
                }
            )
            for annotation in patch["annotations"]:
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": len(images), **annotation}
                )
    return images, annotations
