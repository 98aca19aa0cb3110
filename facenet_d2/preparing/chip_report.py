"""Report on a data set of chips, and the part of a config that trains on it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    mean, std = chip_set.info["pixel_mean"], chip_set.info["pixel_std"]
    image_format = chip_set.info["format"]
    if image_format == "png" and len(mean) == 1:
        # Grey images are read with three equal channels.
        mean, std = mean * 3, std * 3
    lines = ["DATASETS:", "  COCO:"]
    for split, name in names.items():
        entry = [name, str(folder / f"{split}.json"), str(folder)]
        lines.append(f"    - {json.dumps(entry)}")
    lines += [f"  TRAIN: {json.dumps([first])}", f"  TEST: {json.dumps(others[:1])}"]
    lines += ["DATALOADER:", "  FILTER_EMPTY_ANNOTATIONS: False"]
    if image_format == "png":
        lines += ["INPUT:", '  FORMAT: "RGB"']
    lines += ["MODEL:", f"  PIXEL_MEAN: {json.dumps(mean)}"]
    lines += [f"  PIXEL_STD: {json.dumps([value or 1.0 for value in std])}"]
    return "\n".join(lines)
