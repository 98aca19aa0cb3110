"""The kinds of faults and notes that a check of a data set reports."""

from __future__ import annotations

FAULT_KINDS = {
    "image-entry": "an image's entry has missing or invalid fields",
    "image-name": "an image's file has another name than listed",
    "image-no-size": "an image's entry has no height or width",
    "image-id-twice": "two images have the same id",
    "image-file-twice": "two images have the same file",
    "image-missing": "an image's file does not exist",
    "image-unreadable": "an image's file cannot be decoded",
    "image-depth": "an image does not have 8 bits per channel",
    "image-bands": "an image has other bands than grey or colours, with or without alpha",
    "image-frames": "an image's file contains several pictures",
    "image-large": "an image does not fit into memory",
    "image-size": "an image's size differs from its annotation",
    "category-entry": "a category's entry has missing or invalid fields",
    "category-id-twice": "two categories have the same id",
    "category-name-twice": "two categories have the same name",
    "annotation-entry": "an annotation's entry has missing or invalid fields",
    "field-type": "a field has another type than in COCO, such as an id as text",
    "ignored": "an annotation is to be ignored, but is not a crowd",
    "annotation-id-missing": "an annotation has no id",
    "annotation-id-twice": "two annotations have the same id",
    "annotation-twice": "two annotations of an image have the same class and mask",
    "category-unknown": "an annotation's category is not listed",
    "image-unknown": "an annotation's image is not listed",
    "box-missing": "an annotation has no box",
    "box-empty": "a box has no width or height",
    "box-outside": "a box extends beyond its image",
    "box-disagrees": "a box does not match its polygons or RLE",
    "polygon-degenerate": "a polygon has fewer than three points, or no area",
    "polygon-outside": "a polygon extends beyond its image",
    "polygon-self-crossing": "a polygon crosses itself",
    "rle-invalid": "an RLE does not fit its image",
    "mask-missing": "an annotation has no mask",
    "mask-empty": "a mask has no pixels",
    "area-missing": "an annotation has no area (the COCO evaluator requires one)",
    "area-disagrees": "an area does not match its mask",
}
# Notes describe what may be intended, and are not faults.
NOTE_KINDS = {
    "crowd": "annotations are crowds: not trained on, and ignored in evaluation",
    "annotation-id-zero": "an annotation has the id 0, which pycocotools treats as no match",
    "category-unused": "categories have no annotations",
    "image-empty": "images have no annotations",
}
