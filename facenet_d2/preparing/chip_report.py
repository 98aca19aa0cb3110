"""Report on a data set of chips, and the part of a config that trains on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..scenes.stretch import Stretch
from ..scenes.tiles import tile_overlap
from .chip_plan import ChipPlan


@dataclass(frozen=True)
class ChipSet:
    """A finished data set.

    Attributes:
        info: entries of "info" that all splits share.
        counts: objects of each class, by split.
        chips: number of chips, by split.
        notes: sentences about labels and chips that were left out or changed.
    """

    info: dict[str, Any]
    counts: dict[str, Counter[str]]
    chips: dict[str, int]
    notes: list[str]


def notes_on(
    records: Sequence[list[dict[str, Any]]],
    chosen: Sequence[list[dict[str, Any]]],
    plan: ChipPlan,
    counts: Mapping[str, Counter[str]],
    classes: Sequence[str],
) -> list[str]:
    """Return sentences about labels and chips that were left out or changed.

    Args:
        records: chips of each record of the survey.
        chosen: those of them that are kept.
        plan: plan of the data set.
        counts: objects of each class, by split.
        classes: class names.
    """
    labels = plan.labels
    notes = [
        f"{share:.1%} of the labels of {path} lie in the rasters"
        for path, share in labels.share_inside.items()
    ]
    reasons = {
        "repaired": "invalid polygons repaired",
        "without_area": "labels without an area left out",
        "left_out_by_class": "labels left out by their class",
        "repeated": "labels that repeat another one left out",
        "repeated_with_another_class": "labels kept that have the geometry of another label, but "
        "another class",
    }
    notes += [f"{labels.counts[key]} {text}" for key, text in reasons.items() if labels.counts[key]]
    everything = [patch for patches in records for patch in patches]
    kept = [patch for patches in chosen for patch in patches]
    annotations = [(p["scene"], a) for p in kept for a in p["annotations"]]
    slivers = sum(patch["slivers"] for patch in everything)
    if slivers:
        notes.append(f"{slivers} parts of objects with too few pixels left out")
    truncated = sum(a.get("truncated", 0) and not a["iscrowd"] for _, a in annotations)
    ignored = sum(a["iscrowd"] and "shared" not in a for _, a in annotations)
    shared = sum("shared" in a for _, a in annotations)
    notes.append(f"{truncated} objects are cut; {ignored} regions are ignored")
    whole = {(s, a["instance_id"]) for s, a in annotations if not a["iscrowd"]}
    parts = {(s, a["instance_id"]) for s, a in annotations if "instance_id" in a}
    if parts - whole:
        notes.append(
            f"{len(parts - whole)} objects are ignored in all chips; an --overlap of the objects' "
            "size keeps them"
        )
    if shared:
        notes.append(f"{shared} objects that reach into another split are ignored in one")
    invalid = sum(not patch["valid"] for patch in everything)
    if invalid:
        notes.append(f"{invalid} chips without valid pixels left out")
    empty = len(everything) - invalid - len(kept)
    if empty:
        notes.append(f"{empty} chips without objects left out")
    if plan.distance is not None:
        notes.append(
            f"splits are at least {plan.distance:.4g} pixels apart; {plan.dropped} chips were left "
            "out for this"
        )
    missing = [
        f"{name} in {split}" for split, c in counts.items() for name in classes if not c[name]
    ]
    if missing:
        notes.append(f"no objects of {', '.join(missing)}")
    return notes


def yaml_snippet(chip_set: ChipSet, output: Path) -> str:
    """Return the part of a config that trains on a data set.

    Args:
        chip_set: the data set.
        output: its folder.
    """
    folder = output.resolve()
    names = {split: f"{folder.name}_{split}" for split in chip_set.chips}
    first, *others = names.values()
    info = chip_set.info
    mean, std, bands = info["pixel_mean"], info["pixel_std"], info["bands"]
    stretch = Stretch.from_dict(info["stretch"])
    side = info["chip_size"]
    inputs: dict[str, Any] = {
        "MIN_SIZE_TRAIN": [side],
        "MAX_SIZE_TRAIN": side,
        "MIN_SIZE_TEST": side,
        "MAX_SIZE_TEST": side,
    }
    if info["format"] == "png":
        inputs["FORMAT"] = "RGB"
        if len(bands) == 1:
            # Grey images are read with three equal channels.
            mean, std, bands = mean * 3, std * 3, bands * 3
    else:
        inputs["BANDS"] = list(range(1, len(bands) + 1))
        # Of 8-bit values, the range is known without a stretch.
        is_plain = stretch.is_identity and info["dtype"] == "uint8"
        inputs["STRETCH"] = "" if is_plain else str(stretch.as_rule())
    scene = {
        "BANDS": bands,
        "PIXEL_SIZE": info["pixel_size"] or 0.0,
        "OVERLAP": tile_overlap(info["object_size"]["p95"], side),
    }
    if info["format"] == "png" and not stretch.is_identity:
        scene["STRETCH"] = str(stretch.as_rule())
    config = {
        "DATASETS": {
            "COCO": [
                [name, str(folder / f"{split}.json"), str(folder)] for split, name in names.items()
            ],
            "TRAIN": [first],
            "TEST": others[:1],
        },
        "DATALOADER": {"FILTER_EMPTY_ANNOTATIONS": False},
        "INPUT": inputs,
        "MODEL": {"PIXEL_MEAN": mean, "PIXEL_STD": [value or 1.0 for value in std]},
        "TEST": {"SCENE": scene},
    }
    return yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=1000).rstrip()
