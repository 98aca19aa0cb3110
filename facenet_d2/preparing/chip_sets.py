"""Data sets of chips: the run over all rasters, from the plan to the files of the splits."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.statistics import PixelStatistics
from ..errors import UserError
from ..files import read_json, remove_temporary_files, write_whole
from ..inputs import check_not_inputs
from ..parallel import parallel_map
from ..scenes.area import Area, file_of_area
from ..scenes.raster import Raster
from ..scenes.stretch import DEFAULT_PERCENTILES, StretchRule, default_rule
from .chip_annotations import survey_chips
from .chip_files import chip_type, write_chips
from .chip_plan import (
    ChipPlan,
    SplitRules,
    make_plan,
    plan_record,
    scene_names,
)
from .chip_report import ChipSet, notes_on
from .chips import ChipJob, ChipSettings
from .label_sources import LabelReport, LabelSources, place_labels
from .patches import merge_records
from .published import write_split

RECORDS_FOLDER = ".chips"
# Value of invalid pixels if no pixel is measured.
_GREY = 127


@dataclass(frozen=True)
class ChipSetOptions:
    """What a data set is made of.

    Attributes:
        rasters: names of the rasters.
        labels: where the labels come from.
        split: how the chips are divided.
        output: folder of the data set.
        area: vector file of the area of interest, or None.
        size: side of a chip in pixels.
        overlap: overlap of chips in pixels.
        bands: numbers of the bands, or None.
        pixel_size: side of a pixel in metres, or None.
        scale: pixels of a chip per pixel of the raster, or None.
        stretch: rule of the stretch, or None for the default.
        format: "png", "tif", or "auto".
        min_visible: see :class:`ChipSettings`.
        min_pixels: see :class:`ChipSettings`.
        keep_outside: see :class:`ChipSettings`.
        empty_share: maximum share of chips without objects in the first split.
        workers: number of processes.
    """

    rasters: tuple[str, ...]
    labels: LabelSources
    split: SplitRules
    output: Path
    area: str | None = None
    size: int = 800
    overlap: int = 0
    bands: tuple[int, ...] | None = None
    pixel_size: float | None = None
    scale: float | None = None
    stretch: str | None = None
    format: str = "auto"
    min_visible: float = 0.5
    min_pixels: int = 4
    keep_outside: bool = False
    empty_share: float = 0.1
    workers: int = 1


def prepare_chips(options: ChipSetOptions) -> ChipSet:
    """Cut rasters into chips, and write them with their annotations.

    An interrupted run continues when it is repeated; the files are the same.

    Raises:
        UserError: if the input is not usable, or the folder has chips of other options.
    """
    names = scene_names(options.rasters)
    with ExitStack() as stack:
        bands = options.bands
        if bands is None:
            bands = _default_bands(options.rasters)
        rasters = {
            name: stack.enter_context(
                Raster(path, bands=bands, pixel_size=options.pixel_size, scale=options.scale)
            )
            for name, path in zip(names, options.rasters)
        }
        settings, dtype = _settings(options, bands, list(rasters.values()))
        objects, labels = place_labels(rasters, options.labels)
        plan = make_plan(
            rasters,
            objects,
            labels,
            area=Area.from_file(options.area) if options.area else None,
            split=options.split,
            size=options.size,
            overlap=options.overlap,
            suffix=f".{settings.format}",
        )
        _check_folder(options, settings, plan, list(rasters.values()))
        resolutions = [r.pixel_metres for r in rasters.values() if r.pixel_metres]
        info = _info(options, settings, next(iter(rasters.values())).bands, dtype, labels)
        places = {name: _place(raster) for name, raster in rasters.items()}
    if options.pixel_size is None and resolutions:
        info["pixel_size"] = float(np.median([np.sqrt(x * y) for x, y in resolutions]))
    jobs = _jobs(plan, settings, options.output)
    _run(survey_chips, jobs, options.workers, "Annotating", lambda job: job.record.is_file())
    records = [_read_record(job) for job in jobs]
    chosen = _choose(records, options)
    first = [p for patches in chosen for p in patches if p["split"] == options.split.first]
    statistics = PixelStatistics.combined(
        PixelStatistics.from_dict(patch["statistics"]) for patch in first
    )
    if not statistics.count:
        raise _no_chip_error(options.split.first, records)
    info["pixel_mean"] = [round(value, 4) for value in statistics.mean.tolist()]
    info["pixel_std"] = [round(value, 4) for value in statistics.std.tolist()]
    info["fill"] = [round(min(255.0, max(0.0, value))) for value in statistics.mean.tolist()]
    kept = [
        replace(
            job,
            chips=tuple(c for c in job.chips if c.name in {p["name"] for p in patches}),
            fill=tuple(info["fill"]),
        )
        for job, patches in zip(jobs, chosen)
    ]
    _run(write_chips, kept, options.workers, "Writing chips", lambda job: not job.chips)
    return _write_splits(jobs, records, chosen, plan, info, places, options)


def _default_bands(paths: Sequence[str]) -> tuple[int, ...] | None:
    """Return the bands of the first raster in the order red, green, blue, if it has no others."""
    with Raster(paths[0]) as raster:
        if raster.rgb_bands is not None and len(raster.bands) == 3:
            return raster.rgb_bands
    return None


def _settings(
    options: ChipSetOptions, bands: tuple[int, ...] | None, rasters: Sequence[Raster]
) -> tuple[ChipSettings, str]:
    """Return the settings of the chips, and the type of their values."""
    numbers = {raster.bands for raster in rasters}
    if len({len(bands) for bands in numbers}) > 1:
        listed = ", ".join(f"{raster.name} ({len(raster.bands)})" for raster in rasters[:5])
        raise UserError(
            f"the rasters have different numbers of bands: {listed}; choose those that all have "
            "with --bands."
        )
    count = len(rasters[0].bands)
    if options.stretch is not None:
        rule = StretchRule.parse(options.stretch)
    elif all(raster.dtype == np.uint8 for raster in rasters):
        rule = default_rule(rasters[0])
    else:
        rule = StretchRule("percentile", DEFAULT_PERCENTILES[:1], DEFAULT_PERCENTILES[1:])
    stretch = rule.fit(rasters)
    kind = options.format
    if kind == "auto":
        kind = "png" if count in (1, 3) else "tif"
    if kind == "png" and count not in (1, 3):
        raise UserError(
            f"--format png has 1 or 3 bands, but {rasters[0].name} is read with {count}; choose "
            "them with --bands, or --format tif."
        )
    if kind == "png" and stretch.is_identity and any(r.dtype != np.uint8 for r in rasters):
        raise UserError(
            "--format png needs a --stretch to 0 to 255 for rasters that do not have 8 bits."
        )
    settings = ChipSettings(
        bands=bands,
        pixel_size=options.pixel_size,
        scale=options.scale,
        format=kind,
        stretch=stretch,
        min_visible=options.min_visible,
        min_pixels=options.min_pixels,
        keep_outside=options.keep_outside,
        num_classes=len(options.labels.rules.names),
    )
    types = {chip_type(raster, settings).name for raster in rasters}
    return settings, ", ".join(sorted(types))


def _info(
    options: ChipSetOptions,
    settings: ChipSettings,
    bands: Sequence[int],
    dtype: str,
    labels: LabelReport,
) -> dict[str, Any]:
    sizes = labels.sizes
    percentiles = np.percentile(sizes, [50, 95, 99, 100]) if len(sizes) else np.zeros(4)
    return {
        "chip_size": options.size,
        "overlap": options.overlap,
        "format": settings.format,
        "bands": list(bands),
        "dtype": dtype,
        "pixel_size": options.pixel_size,
        "stretch": settings.stretch.to_dict(),
        "object_size": {
            "unit": "pixels",
            **dict(zip(("p50", "p95", "p99", "max"), np.round(percentiles, 2).tolist())),
        },
        "min_visible": options.min_visible,
        "min_pixels": options.min_pixels,
    }


def _place(raster: Raster) -> dict[str, Any]:
    """Return the size of a scene in pixels of its chips and its place, as JSON values."""
    crs = raster.crs
    code = crs.to_epsg() if crs else None
    return {
        "height": raster.height,
        "width": raster.width,
        "transform": list(raster.transform)[:6],
        "crs": f"EPSG:{code}" if code else crs.to_wkt() if crs else None,
    }


def _check_folder(
    options: ChipSetOptions, settings: ChipSettings, plan: ChipPlan, rasters: Sequence[Raster]
) -> None:
    """Check that the output folder is new or of the same options, and prepare it.

    Raises:
        UserError: otherwise, or if a file of a split would replace an input.
    """
    inputs = [path for raster in rasters for path in raster.sources]
    areas = [*options.split.parts.values(), *([options.area] if options.area else [])]
    inputs += [*plan.labels.share_inside, *map(file_of_area, areas)]
    check_not_inputs((options.output / f"{name}.json" for name in options.split.parts), inputs)
    state = {
        "settings": asdict(settings) | {"stretch": settings.stretch.to_dict()},
        "classes": list(options.labels.rules.names),
        "empty_share": options.empty_share,
        "splits": list(options.split.parts),
        "rasters": [raster.fingerprint() for raster in rasters],
        "plan": hashlib.sha256(json.dumps(plan_record(plan)).encode()).hexdigest(),
    }
    state = json.loads(json.dumps(state))
    folder = options.output / RECORDS_FOLDER
    file = folder / "plan.json"
    if file.is_file():
        content, _ = read_json(file)
        known = content if isinstance(content, dict) else {}
        splits = {*known.get("splits", ()), *options.split.parts}
        if content != state and not any(_has_files(options.output / name) for name in splits):
            # An earlier run has failed or was stopped before it wrote chips.
            shutil.rmtree(folder)
        elif content != state:
            other = [key for key, value in state.items() if known.get(key) != value]
            raise UserError(
                f"{options.output} contains chips of other options or files ({', '.join(other)} "
                "differ); choose another --output, or remove the folder."
            )
    for split in options.split.parts:
        target = options.output / split
        if _has_files(target) and not file.is_file():
            raise UserError(f"{target} was not created by this tool; choose another --output.")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(state))
    for used in (folder, options.output, *(options.output / s for s in options.split.parts)):
        used.mkdir(exist_ok=True)
        remove_temporary_files(used)


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(not p.name.startswith(".") for p in folder.iterdir())


def _jobs(plan: ChipPlan, settings: ChipSettings, output: Path) -> list[ChipJob]:
    jobs = []
    for number, (site, chips) in enumerate(plan.chips):
        windows = np.array([chip.window for chip in chips])
        around = (*windows[:, :2].min(axis=0).tolist(), *windows[:, 2:].max(axis=0).tolist())
        record = output / RECORDS_FOLDER / f"{number:06d}.json"
        objects = plan.objects[site.scene].within(around)
        jobs.append(ChipJob(site, chips, objects, settings, record, output))
    return jobs


def _run(
    function: Callable[[ChipJob], None],
    jobs: Sequence[ChipJob],
    workers: int,
    description: str,
    is_finished: Callable[[ChipJob], bool],
) -> None:
    todo = [job for job in jobs if not is_finished(job)]
    for _ in parallel_map(
        function,
        todo,
        workers=workers if workers > 1 else 0,
        description=description,
        unit="group",
    ):
        pass


def _read_record(job: ChipJob) -> list[dict[str, Any]]:
    content, problem = read_json(job.record)
    if problem:
        raise UserError(f"{job.record} is damaged: {problem}; remove it and repeat the command.")
    patches: list[dict[str, Any]] = content["patches"]
    return patches


def has_objects(patch: Mapping[str, Any]) -> bool:
    """Return whether a chip has an object that is trained on."""
    return any(not annotation["iscrowd"] for annotation in patch["annotations"])


def _choose(
    records: Sequence[list[dict[str, Any]]], options: ChipSetOptions
) -> list[list[dict[str, Any]]]:
    """Return the chips of each record that are kept, and ignore objects of several splits.

    Chips without valid pixels are dropped. In the first split, so are chips without objects beyond
    the share ``options.empty_share``.
    """
    valid = [[patch for patch in patches if patch["valid"]] for patches in records]
    _ignore_shared(valid, options.split)
    first = [p for patches in valid for p in patches if p["split"] == options.split.first]
    filled = sum(has_objects(patch) for patch in first)
    empty = [patch for patch in first if not has_objects(patch)]
    limit = len(empty)
    if options.empty_share < 1:
        limit = int(options.empty_share * filled / (1 - options.empty_share) + 1e-9)
    # Hashes of the names select chips from all over the scenes.
    empty.sort(key=lambda patch: hashlib.sha256(patch["name"].encode()).hexdigest())
    dropped = {patch["name"] for patch in empty[limit:]}
    return [
        [p for p in patches if p["split"] != options.split.first or p["name"] not in dropped]
        for patches in valid
    ]


def _no_chip_error(split: str, records: Sequence[list[dict[str, Any]]]) -> UserError:
    own = [patch for patches in records for patch in patches if patch["split"] == split]
    if not own:
        why = "all of them are too close to those of other splits, or outside of the area"
    elif not any(patch["valid"] for patch in own):
        why = "none of them has valid pixels"
    else:
        why = "none of them has an object, and --empty-share limits those without"
    return UserError(f"no chip is left for {split}: {why}.")


def _ignore_shared(records: Sequence[list[dict[str, Any]]], split: SplitRules) -> None:
    """Mark an object in chips of several splits as a crowd in all but the last of these splits."""
    rank = {name: i for i, name in enumerate(split.parts)}
    last: dict[tuple[str, int], str] = {}
    for patch in (p for patches in records for p in patches):
        for annotation in patch["annotations"]:
            if not annotation["iscrowd"]:
                key = (patch["scene"], annotation["instance_id"])
                last[key] = max(last.get(key, split.first), patch["split"], key=rank.__getitem__)
    for patch in (p for patches in records for p in patches):
        for annotation in patch["annotations"]:
            key = (patch["scene"], annotation.get("instance_id"))
            if not annotation["iscrowd"] and last[key] != patch["split"]:
                annotation |= {"iscrowd": 1, "shared": 1}


def _write_splits(
    jobs: Sequence[ChipJob],
    records: Sequence[list[dict[str, Any]]],
    chosen: Sequence[list[dict[str, Any]]],
    plan: ChipPlan,
    info: dict[str, Any],
    places: Mapping[str, dict[str, Any]],
    options: ChipSetOptions,
) -> ChipSet:
    classes = options.labels.rules.names
    contents = {}
    for split in options.split.parts:
        own = [
            (job.site.scene, {"patches": [p for p in patches if p["split"] == split]})
            for job, patches in zip(jobs, chosen)
        ]
        contents[split] = merge_records(own, split)
    counts, chips = {}, {}
    info["split"] = {
        "distance": None if plan.distance is None else round(plan.distance, 3),
        "dropped_chips": plan.dropped,
    }
    # Training finds the JSON files only when all of them can be written.
    for split, (images, _) in contents.items():
        if not images:
            raise _no_chip_error(split, records)
    for split, (images, entries) in contents.items():
        objects = Counter(classes[a["category_id"] - 1] for a in entries if not a["iscrowd"])
        own_info = info | {
            "class_counts": {name: objects[name] for name in classes},
            "ignored": sum(a["iscrowd"] for a in entries),
            "scenes": {name: places[name] for name in sorted({i["scene"] for i in images})},
        }
        write_split(
            options.output / f"{split}.json",
            images,
            entries,
            classes,
            options.output.resolve().name,
            own_info,
        )
        counts[split], chips[split] = objects, len(images)
    return ChipSet(info, counts, chips, notes_on(records, chosen, plan, counts, classes))
