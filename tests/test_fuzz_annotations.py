"""A part of tests/fuzz/annotations.py."""

import pytest
from fuzz import annotations
from fuzz.harness import GOOD, run_cases


def test_mutated_annotations_are_accepted_or_refused():
    outcomes = dict(run_cases(annotations.generate(25, seed=1)))
    assert len(outcomes) == 25
    bad = {name: o.detail for name, o in outcomes.items() if o.kind not in GOOD}
    assert not bad


def test_wrong_masks_are_found():
    """The check itself fails if the reader returns another mask than the file has."""
    given = {
        "images": [{"id": 1, "height": 2, "width": 3}],
        "annotations": [
            {"token": 0, "image_id": 1, "segmentation": {"size": [2, 3], "counts": [1, 2, 3]}}
        ],
    }
    annotations.compare_masks(given, given)
    moved = {
        **given,
        "annotations": [
            {"token": 0, "image_id": 1, "segmentation": {"size": [2, 3], "counts": [2, 2, 2]}}
        ],
    }
    with pytest.raises(AssertionError, match="2 pixels of an RLE differ"):
        annotations.compare_masks(moved, given)
