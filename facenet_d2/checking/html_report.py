"""The report of a check as one self-contained HTML page."""

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
from detectron2.data.catalog import Metadata
from matplotlib.figure import Figure
from PIL import Image

from ..data.readers import ImageReader, PillowReader
from ..data.rle import segmentation_to_rle
from ..files import write_whole
from ..visualization.overlay import draw_masks
from ..wording import counted
from .dataset_checks import DatasetReport
from .fault_kinds import FAULT_KINDS, NOTE_KINDS
from .objects import GridSettings, Objects

# Maximum number of faults and of images on the page.
MAX_LISTED = 200
MAX_IMAGES = 8
# COCO's limits between small, medium and large areas, in pixels.
SMALL, LARGE = 32**2, 96**2

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1000px; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .2em .8em; text-align: left }
tr:nth-child(even) { background: #f2f2f2 } td.number { text-align: right }
img { max-width: 100% } figure { margin: 1em 0 } .good { color: #0a7d33 } .bad { color: #b00020 }
code { background: #f2f2f2; padding: .1em .3em }
"""


def count_sizes(report: DatasetReport) -> list[tuple[str, int, int, int]]:
    """Return (class name, small, medium, large): numbers of objects by COCO's size limits."""
    objects, rows = report.objects, []
    for number, name in report.categories:
        own = objects.areas[objects.category_ids == number]
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


def _size_plot(objects: Objects, settings: GridSettings) -> str:
    sides = objects.scaled(settings).sides
    figure = Figure(figsize=(9, 4))
    axes = figure.subplots()
    top = max(2048.0, sides.max(initial=1))
    axes.hist(sides, bins=np.geomspace(1, top, 60).tolist(), color="#219ebc")
    axes.set_xscale("log")
    axes.set_xlabel(f"√(width·height) of the box, at an input of {settings.longest} pixels")
    axes.set_ylabel("objects")
    height = axes.get_ylim()[1]
    colormap = matplotlib.colormaps["autumn"]
    layout = settings.layout
    for level, (low, high) in enumerate(layout.scale_ranges):
        y = height * (1.03 + 0.05 * level)
        color = colormap(level / len(layout.scale_ranges))
        axes.plot([low, high], [y, y], color=color, linewidth=5)
        axes.text(high, y, f" {layout.num_grids[level]}²", va="center", fontsize=8)
    axes.set_title("Sizes, and the scale range and grid of each level (top)", fontsize=10)
    return _png(figure)


def _draw_images(
    report: DatasetReport, image_root: Path, reader: ImageReader
) -> list[tuple[str, str]]:
    """Return (caption, data URI) of the fullest images and of an even selection of the others."""
    images = report.cleaned["images"]
    by_image: dict[int, list[dict[str, Any]]] = {}
    for annotation in report.cleaned.get("annotations", []):
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    order = sorted(images, key=lambda i: -len(by_image.get(i["id"], [])))
    others = order[MAX_IMAGES // 2 :]
    step = max(1, -(-len(others) // (MAX_IMAGES // 2)))
    class_of = {c: i for i, (c, _) in enumerate(report.categories)}
    metadata = Metadata(thing_classes=[name for _, name in report.categories])
    drawn = []
    for image in [*order[: MAX_IMAGES // 2], *others[::step]]:
        annotations = by_image.get(image["id"], [])
        size = (image["height"], image["width"])
        rles = [segmentation_to_rle(a["segmentation"], *size) for a in annotations]
        masks = (mask_util.decode(rle) for rle in rles)
        classes = [class_of[a["category_id"]] for a in annotations]
        pixels = reader.picture(reader(image_root / image["file_name"]))
        overlay = Image.fromarray(draw_masks(pixels, masks, classes, metadata))
        overlay.thumbnail((1000, 1000))
        file = io.BytesIO()
        overlay.save(file, format="JPEG", quality=85)
        caption = f"{image['file_name']}: {counted(len(annotations), 'object')}"
        drawn.append((caption, _data_uri(file.getvalue(), "jpeg")))
    return drawn


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def cell(value: Any) -> str:
        number = ' class="number"' if isinstance(value, (int, float)) else ""
        return f"<td{number}>{html.escape(str(value))}</td>"

    head = "".join(f"<th>{html.escape(h)}</th>" for h in header)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def write_html_report(
    path: Path,
    title: str,
    report: DatasetReport,
    image_root: Path,
    settings: GridSettings,
    grid_sentences: Sequence[str],
    *,
    reader: ImageReader | None = None,
) -> None:
    """Write the page, which needs no other file.

    Args:
        path: file of the page.
        title: title of the page.
        report: the result of the check.
        image_root: folder of the data set's images.
        settings: the grids and the input size.
        grid_sentences: findings about the grids.
        reader: reader of the images; by default Pillow's.
    """
    counts = report.fault_counts()
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if counts:
        parts.append(f'<p class="bad">{counted(counts.total(), "fault")}.</p>')
        rows = [(kind, number, FAULT_KINDS[kind]) for kind, number in counts.most_common()]
        parts.append(_table(("kind", "number", ""), rows))
    else:
        parts.append('<p class="good">No faults.</p>')
    sizes = count_sizes(report)
    parts.append("<h2>Classes and sizes</h2>")
    parts.append(
        _table(
            ("class", "small", "medium", "large", "all"),
            [(*row, sum(row[1:])) for row in sizes],
        )
    )
    if len(report.objects):
        parts.append(f'<img alt="objects of each class" src="{_class_plot(sizes)}">')
        parts.append("<h2>Grids and scale ranges</h2>")
        parts.append(f'<img alt="sizes" src="{_size_plot(report.objects, settings)}">')
        parts += [f"<p>{html.escape(sentence)}</p>" for sentence in grid_sentences]
    parts.append("<h2>Images</h2><p>The fullest images, and a selection of the others.</p>")
    for caption, uri in _draw_images(report, image_root, reader or PillowReader()):
        parts.append(
            f'<figure><img alt="" src="{uri}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
    for name, found, kinds in (
        ("Faults", report.faults, FAULT_KINDS),
        ("Notes", report.notes, NOTE_KINDS),
    ):
        if not found:
            continue
        parts.append(f"<h2>{name}</h2>")
        if len(found) > MAX_LISTED:
            parts.append(f"<p>The first {MAX_LISTED} of {len(found)}; --json lists them all.</p>")
        listed = [(f.where, f.kind, f.message, f.fix) for f in found[:MAX_LISTED]]
        parts.append(_table(("where", "kind", "message", "--fix"), listed))
        parts.append(_table(("kind", ""), [(k, kinds[k]) for k in {f.kind: 0 for f in found}]))
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style>{''.join(parts)}</html>"
    )
    write_whole(path, page)
