"""What can be wrong with a data set."""

from __future__ import annotations

from dataclasses import dataclass

# What is looked for. Notes are no faults: a data set may be so on purpose.
KINDS = {
    "image-entry": "an image's entry has missing or wrong fields",
    "image-id-twice": "two images have the same id",
    "image-file-twice": "two images are the same file",
    "image-missing": "an image's file is not there",
    "image-unreadable": "an image's file cannot be decoded",
    "image-depth": "an image has more than 8 bits a channel",
    "image-size": "an image has another size than stated",
    "category-entry": "a category's entry has missing or wrong fields",
    "category-id-twice": "two categories have the same id",
    "category-name-twice": "two categories have the same name",
    "annotation-entry": "an annotation's entry has missing or wrong fields",
    "annotation-id-twice": "two annotations have the same id",
    "annotation-twice": "two annotations of an image have the same class and mask",
    "category-unknown": "an annotation's category is not listed",
    "image-unknown": "an annotation's image is not listed",
    "box-empty": "a box has no width or height",
    "box-outside": "a box leaves its image",
    "box-disagrees": "a box is not that of its polygons or run lengths",
    "polygon-degenerate": "a polygon has fewer than three points, or no area",
    "polygon-outside": "a polygon leaves its image",
    "polygon-self-crossing": "a polygon crosses itself",
    "rle-invalid": "run lengths do not fit their image",
    "mask-empty": "a mask has no pixel",
    "area-missing": "an annotation has no area (the COCO evaluator wants one)",
    "area-disagrees": "an area is not its mask's",
}
NOTES = {
    "crowd": "annotations that are crowds: not trained on, and ignored in evaluation",
    "annotation-id-zero": "an annotation has the id 0, which pycocotools takes for no match",
    "category-unused": "categories without annotations",
    "image-empty": "images without annotations",
}


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        kind: a key of :data:`KINDS` or :data:`NOTES`.
        where: the entry, in words.
        message: what is wrong with it.
        fix: what is done about it in the cleaned copy; empty where nothing can be.
    """

    kind: str
    where: str
    message: str
    fix: str = ""
