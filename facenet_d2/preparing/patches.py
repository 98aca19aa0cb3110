"""Large scenes cut into patches that a network can take, with their instances."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..data.images import open_picture
from ..errors import UserError
from ..files import write_whole
from .color_maps import InstanceMap, read_instance_map, regions


@dataclass(frozen=True)
class CutSettings:
    """How scenes are cut.

    Attributes:
        patch_size: side of a patch in pixels.
        overlap: of neighbouring patches, in pixels.
        cut_narrow: cut scenes that are longer than a patch in one direction only, too. As
            published, they stay whole.
        drop_empty: leave out patches without instances, where instances are annotated.
        min_area: instances with fewer pixels in a patch are left out of it.
        class_colors: RGB of each class in the pictures of classes.
    """

    patch_size: int
    overlap: int
    cut_narrow: bool
    drop_empty: bool
    min_area: int
    class_colors: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class CutJob:
    """One scene to be cut.

    Attributes:
        image: the scene's file.
        id_file: the picture of its instances; None where they are not published.
        class_file: the picture of their classes.
        folder: gets the patches.
        record: the file that says which patches there are and what is in them; written last.
        settings: how it is cut.
    """

    image: Path
    id_file: Path | None
    class_file: Path | None
    folder: Path
    record: Path
    settings: CutSettings


def patch_starts(length: int, patch_size: int, overlap: int) -> list[int]:
    """Where patches start along one side of a scene.

    The last one is moved back to end with the scene, so that none has to be padded; a side no
    longer than a patch has one patch, of the side's length.
    """
    steps = range(0, length, patch_size - overlap)
    return sorted({max(0, min(start, length - patch_size)) for start in steps})


def patch_windows(
    width: int, height: int, settings: CutSettings
) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of every patch of a scene, row by row.

    As iSAID's publisher cuts: a scene no larger than a patch in one direction stays whole, unless
    the settings say otherwise.
    """
    size, overlap = settings.patch_size, settings.overlap
    if min(width, height) <= size and not settings.cut_narrow:
        return [(0, 0, width, height)]
    return [
        (x, y, min(x + size, width), min(y + size, height))
        for y in patch_starts(height, size, overlap)
        for x in patch_starts(width, size, overlap)
    ]


def patch_name(scene: str, window: tuple[int, int, int, int], whole: bool) -> str:
    """The publisher's name of a patch: ``SCENE_top_bottom_left_right.png``, or ``SCENE.png``."""
    left, top, right, bottom = window
    return f"{scene}.png" if whole else f"{scene}_{top}_{bottom}_{left}_{right}.png"


def cut_scene(job: CutJob) -> None:
    """Cut one scene, write its patches and then its record.

    Holds one picture and one 32-bit map of the scene in memory.

    Raises:
        UserError: for pictures that cannot be used, or a folder that cannot be written.
    """
    instances = None
    if job.id_file is not None:
        instances = read_instance_map(job.id_file, job.class_file, job.settings.class_colors)
    scene = open_picture(job.image)
    width, height = scene.size
    if instances is not None and instances.labels.shape != (height, width):
        raise UserError(
            f"{job.image} is {width}x{height} pixels, {job.id_file.name} "
            f"{instances.labels.shape[1]}x{instances.labels.shape[0]}."
        )
    windows = patch_windows(width, height, job.settings)
    patches = []
    for window in windows:
        annotations = [] if instances is None else _annotations(instances, window, job.settings)
        if job.settings.drop_empty and instances is not None and not annotations:
            continue
        left, top, right, bottom = window
        name = patch_name(job.image.stem, window, whole=len(windows) == 1)
        scene.crop(window).save(job.folder / name, compress_level=1)
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
        "mixed": 0 if instances is None else instances.mixed,
    }
    write_whole(job.record, json.dumps(record))


def _annotations(
    instances: InstanceMap, window: tuple[int, int, int, int], settings: CutSettings
) -> list[dict[str, Any]]:
    left, top, right, bottom = window
    annotations = []
    for region in regions(instances.labels[top:bottom, left:right]):
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
    """The settings as they stand in a record."""
    return json.loads(json.dumps(asdict(settings)))


def sources_record(job: CutJob) -> list[list[Any]]:
    """Name, size and time of change of a scene's files: what tells that they are still the same."""
    files = [f for f in (job.image, job.id_file, job.class_file) if f is not None]
    return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]


def finished_record(job: CutJob) -> dict[str, Any] | None:
    """The record of a scene that needs no work any more, else None.

    Raises:
        UserError: where it was cut with other settings.
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
            f"{job.folder} holds patches cut with other settings ({', '.join(other)}); choose "
            "another --output, or remove it."
        )
    if sources != sources_record(job):
        return None
    return record if all((job.folder / p["name"]).is_file() for p in patches) else None


def assemble(
    records: Sequence[tuple[str, dict[str, Any]]], folder: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Images and annotations of COCO JSON from scenes' records.

    Args:
        records: (scene, record), in the order of the ids.
        folder: put before the file names.

    Returns:
        images, which also say their ``scene`` and the ``x`` and ``y`` of their upper left pixel in
        it, and annotations, whose ``instance_id`` is the same in every patch of a scene.

    Raises:
        UserError: where patches of two scenes have the same name.
    """
    images, annotations = [], []
    scene_of: dict[str, str] = {}
    for scene, record in records:
        for patch in record["patches"]:
            other = scene_of.setdefault(patch["name"], scene)
            if other != scene:
                raise UserError(
                    f"scenes {other} and {scene} both have a patch {patch['name']}; rename one of "
                    "them, and prepare both anew in another --output."
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
