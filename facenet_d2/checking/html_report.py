"""The report as one self-contained HTML page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import detection_utils
from detectron2.data.catalog import Metadata
from matplotlib.figure import Figure
from PIL import Image

from ..files import write_whole
from ..visualization.overlay import draw_masks
from .examine import Examination
from .fault_kinds import KINDS, NOTES
from .grids import Setting, scaled_objects

LISTED = 200
PICTURES = 8
# COCO's limits between small, medium and large, in pixels of area.
SMALL, LARGE = 32**2, 96**2

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1000px; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .2em .8em; text-align: left }
tr:nth-child(even) { background: #f2f2f2 } td.number { text-align: right }
img { max-width: 100% } figure { margin: 1em 0 } .good { color: #0a7d33 } .bad { color: #b00020 }
code { background: #f2f2f2; padding: .1em .3em }
"""


def sizes_by_class(examination: Examination) -> list[tuple[str, int, int, int]]:
    """(name, small, medium, large) objects of each class, by COCO's limits."""
    categories, areas = examination.measures[:, 0], examination.measures[:, 5]
    rows = []
    for number, name in examination.categories:
        own = areas[categories == number]
        small, large = int((own < SMALL).sum()), int((own >= LARGE).sum())
        rows.append((name, small, len(own) - small - large, large))
    return rows


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _png(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, bbox_inches="tight")
    return _data_uri(file.getvalue(), "png")


def _class_plot(rows: Sequence[tuple[str, int, int, int]]) -> str:
    figure = Figure(figsize=(9, 1 + 0.32 * len(rows)))
    axes = figure.subplots()
    left = np.zeros(len(rows))
    names = [row[0] for row in rows]
    colors = ("#ffb703", "#219ebc", "#023047")
    labels = ("small (under 32² pixels)", "medium", "large (96² and more)")
    for i, (label, color) in enumerate(zip(labels, colors, strict=True)):
        values = np.array([row[1 + i] for row in rows])
        axes.barh(names, values, left=left, label=label, color=color)
        left += values
    axes.invert_yaxis()
    axes.set_xlabel("objects")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    return _png(figure)


def _size_plot(examination: Examination, setting: Setting) -> str:
    objects = scaled_objects(examination.sizes, examination.image_of, examination.measures, setting)
    sides = np.sqrt((objects[:, 3] - objects[:, 1]) * (objects[:, 4] - objects[:, 2]))
    figure = Figure(figsize=(9, 4))
    axes = figure.subplots()
    top = max(2048.0, sides.max(initial=1))
    axes.hist(sides, bins=np.geomspace(1, top, 60), color="#219ebc")
    axes.set_xscale("log")
    axes.set_xlabel(f"side √(width·height) of the box, input's longest side {setting.longest}")
    axes.set_ylabel("objects")
    height = axes.get_ylim()[1]
    colormap = matplotlib.colormaps["autumn"]
    levels = len(setting.layout.scale_ranges)
    for level, (least, greatest) in enumerate(setting.layout.scale_ranges):
        y = height * (1.03 + 0.05 * level)
        axes.plot([least, greatest], [y, y], color=colormap(level / levels), linewidth=5)
        axes.text(greatest, y, f" {setting.layout.num_grids[level]}²", va="center", fontsize=8)
    axes.set_title("Sizes; above, the scale range and grid of each level", fontsize=10)
    return _png(figure)


def _pictures(examination: Examination, image_root: Path) -> list[tuple[str, str]]:
    """(caption, picture) of the fullest images and of some chosen evenly from the others."""
    images = examination.cleaned["images"]
    by_image: dict[int, list[dict[str, Any]]] = {}
    for annotation in examination.cleaned.get("annotations", []):
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    order = sorted(images, key=lambda i: -len(by_image.get(i["id"], [])))
    others = order[PICTURES // 2 :]
    step = max(1, -(-len(others) // (PICTURES // 2)))
    number_of = {c: i for i, (c, _) in enumerate(examination.categories)}
    metadata = Metadata(thing_classes=[name for _, name in examination.categories])
    pictures = []
    for image in [*order[: PICTURES // 2], *others[::step]]:
        annotations = by_image.get(image["id"], [])
        masks = [_mask(a["segmentation"], image) for a in annotations]
        classes = [number_of[a["category_id"]] for a in annotations]
        scene = detection_utils.read_image(str(image_root / image["file_name"]), format="RGB")
        drawn = Image.fromarray(draw_masks(scene, masks, classes, metadata))
        drawn.thumbnail((1000, 1000))
        file = io.BytesIO()
        drawn.save(file, format="JPEG", quality=85)
        caption = f"{image['file_name']}: {len(annotations)} objects"
        pictures.append((caption, _data_uri(file.getvalue(), "jpeg")))
    return pictures


def _mask(segmentation: Any, image: dict[str, Any]) -> np.ndarray:
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        return mask_util.decode(segmentation).astype(bool)
    rles = mask_util.frPyObjects(segmentation, image["height"], image["width"])
    return mask_util.decode(mask_util.merge(rles) if isinstance(rles, list) else rles).astype(bool)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def cell(value: Any) -> str:
        number = ' class="number"' if isinstance(value, (int, float)) else ""
        return f"<td{number}>{html.escape(str(value))}</td>"

    head = "".join(f"<th>{html.escape(h)}</th>" for h in header)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def write_page(
    path: Path,
    title: str,
    examination: Examination,
    image_root: Path,
    setting: Setting,
    verdict: Sequence[str],
) -> None:
    """Write the page; it needs no other file.

    Args:
        path: of the page.
        title: what was checked.
        examination: of the data set.
        image_root: folder of its images.
        setting: the grids that it is shown with.
        verdict: sentences about the grids.
    """
    counts = examination.counts()
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if counts:
        parts.append(f'<p class="bad">{counts.total()} faults.</p>')
        parts.append(
            _table(("kind", "number", ""), [(k, n, KINDS[k]) for k, n in counts.most_common()])
        )
    else:
        parts.append('<p class="good">No faults.</p>')
    rows = sizes_by_class(examination)
    parts.append("<h2>Classes and sizes</h2>")
    parts.append(
        _table(
            ("class", "small", "medium", "large", "all"),
            [(*row, sum(row[1:])) for row in rows],
        )
    )
    if len(examination.measures):
        parts.append(f'<img alt="objects of each class" src="{_class_plot(rows)}">')
        parts.append("<h2>Grids and scale ranges</h2>")
        parts.append(f'<img alt="sizes" src="{_size_plot(examination, setting)}">')
        parts += [f"<p>{html.escape(sentence)}</p>" for sentence in verdict]
    parts.append("<h2>Pictures</h2><p>The fullest images, and some of the others.</p>")
    for caption, picture in _pictures(examination, image_root):
        parts.append(
            f'<figure><img alt="" src="{picture}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
    for name, found, kinds in (
        ("Faults", examination.faults, KINDS),
        ("Notes", examination.notes, NOTES),
    ):
        if not found:
            continue
        parts.append(f"<h2>{name}</h2>")
        if len(found) > LISTED:
            parts.append(f"<p>The first {LISTED} of {len(found)}; --json has them all.</p>")
        listed = [(f.where, f.kind, f.message, f.fix) for f in found[:LISTED]]
        parts.append(_table(("where", "kind", "what", "--fix"), listed))
        parts.append(_table(("kind", ""), [(k, kinds[k]) for k in {f.kind: 0 for f in found}]))
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style>{''.join(parts)}</html>"
    )
    write_whole(path, page)
