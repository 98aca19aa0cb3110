"""Validation and conversion of COCO's run-length encoded masks (RLE).

pycocotools does not check an RLE before it decodes it: a damaged one makes it write outside the
mask, or return uninitialised memory.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

# Groups of a compressed count: characters with the continuation bit, then one without. Seven of 5
# bits each hold any difference of two counts.
COUNTS = re.compile(rb"(?:[P-o]{0,6}[0-O])+")
# pycocotools stores a count in 32 bits.
MAX_COUNT = 2**32 - 1
# Characters that are decoded together, to bound the memory.
CHARACTERS_AT_ONCE = 2**20


def segmentation_to_rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Return the mask of an annotation as compressed RLE.

    Args:
        segmentation: polygons or RLE, compressed or not.
        height: height of the image.
        width: width of the image.

    Raises:
        ValueError: if the segmentation is not usable for an image of this size.
    """
    if isinstance(segmentation, dict):
        return compress_rle(segmentation, height, width)
    if not segmentation or any(len(p) < 6 or len(p) % 2 for p in segmentation):
        raise ValueError("its polygons are not lists of three or more x, y pairs")
    return mask_util.merge(mask_util.frPyObjects(segmentation, height, width))


def compress_rle(rle: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """Validate an RLE, and compress it if it is not.

    Args:
        rle: ``size`` and ``counts`` as in COCO JSON or as pycocotools encodes masks: a list, or
            compressed counts as text or bytes.
        height: height of the image.
        width: width of the image.

    Raises:
        ValueError: if the RLE has another size than the image, or is damaged.
    """
    problem = size_or_list_problem(rle, height, width)
    counts = rle["counts"]
    if problem is None and isinstance(counts, list):
        return mask_util.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    if problem is None and num_pixels([counts])[0] != height * width:
        problem = "its compressed counts are damaged, or do not add up to the image"
    if problem is not None:
        raise ValueError(problem)
    if isinstance(counts, str):
        counts = counts.encode("ascii")
    return {"size": [height, width], "counts": counts}


def size_or_list_problem(rle: dict[str, Any], height: int, width: int) -> str | None:
    """Return the problem with the size of an RLE, or with a list of counts; None if there is none.

    Compressed counts are checked by :func:`num_pixels`, for many masks at once.

    Args:
        rle: ``size`` and ``counts`` as in COCO JSON.
        height: height of the image.
        width: width of the image.
    """
    if rle["size"] != [height, width]:
        return f"its RLE has the size {repr(rle['size'])[:40]}, not {[height, width]}"
    counts = rle["counts"]
    if isinstance(counts, list):
        if not all(type(c) is int and 0 <= c <= MAX_COUNT for c in counts):
            return "the counts of its RLE are not non-negative integers"
        if sum(counts) != height * width:
            return f"the counts of its RLE add up to {sum(counts)}, not {height * width} pixels"
    return None


def num_pixels(texts: Sequence[str | bytes]) -> np.ndarray:
    """Return the number of pixels that each compressed RLE describes.

    The format: a count is stored in groups of 5 bits, lowest first, as characters from "0" on; 32
    marks a continuation, and the last group is signed. From the fourth count on, the difference to
    the count two places earlier is stored.

    Args:
        texts: compressed counts of each mask.

    Returns:
        ``(N,)`` int64; -1 for an RLE that is damaged.
    """
    encoded = [t.encode("ascii", "replace") if isinstance(t, str) else t for t in texts]
    result = np.full(len(encoded), -1, np.int64)
    chunk: list[int] = []
    size = 0
    for place, text in enumerate(encoded):
        if COUNTS.fullmatch(text):
            chunk.append(place)
            size += len(text)
        if size > CHARACTERS_AT_ONCE or (chunk and place == len(encoded) - 1):
            result[chunk] = _sums([encoded[i] for i in chunk])
            chunk, size = [], 0
    return result


def run_edges(rle: dict[str, Any]) -> np.ndarray:
    """Return where the runs of a mask start and end.

    Args:
        rle: compressed RLE from :func:`compress_rle` or :func:`segmentation_to_rle`.

    Returns:
        ``(2 R,)`` int64: the first pixel of each run and the pixel after its last one, in
        column-major order.
    """
    counts, _ = _stored_counts(np.frombuffer(rle["counts"], np.uint8))
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    edges = np.cumsum(counts)
    runs = edges[: len(edges) // 2 * 2].reshape(-1, 2)
    # Empty runs, and adjacent runs that were not joined, are allowed.
    runs = runs[runs[:, 0] < runs[:, 1]]
    if len(runs) == 0:
        return np.zeros(0, np.int64)
    apart = runs[1:, 0] != runs[:-1, 1]
    first, last = runs[np.append(True, apart), 0], runs[np.append(apart, True), 1]
    return np.stack([first, last], axis=1).ravel()


def _stored_counts(characters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the counts and differences of counts that are stored, and where each starts.

    Args:
        characters: ``(N,)`` uint8, compressed counts.
    """
    codes = characters.astype(np.int64) - 48
    is_last = (codes & 32) == 0
    starts = np.flatnonzero(np.append(True, is_last[:-1]))
    place = np.arange(len(codes)) - starts[np.cumsum(is_last) - is_last]
    counts = np.add.reduceat((codes & 31) << (5 * place), starts)
    ends = np.flatnonzero(is_last)
    counts -= np.where(codes[ends] & 16, np.int64(1) << (5 * (place[ends] + 1)), 0)
    return counts, starts


def _sums(texts: list[bytes]) -> np.ndarray:
    """Return the sum of the counts in each text that matches :data:`COUNTS`; -1 if one is < 0."""
    counts, starts = _stored_counts(np.frombuffer(b"".join(texts), np.uint8))
    owner = np.repeat(np.arange(len(texts)), [len(t) for t in texts])[starts]
    position = np.arange(len(counts)) - np.searchsorted(owner, owner)
    # Each mask has three chains of differences: the first count, odd and even positions.
    chain = 3 * owner + np.where(position == 0, 0, 1 + position % 2)
    order = np.argsort(chain, kind="stable")
    totals = np.cumsum(counts[order])
    first = np.searchsorted(chain[order], chain[order])
    values = totals - totals[first] + counts[order][first]
    sums = np.bincount(owner[order], values, minlength=len(texts)).astype(np.int64)
    sums[owner[order][(values < 0) | (values > MAX_COUNT)]] = -1
    return sums
