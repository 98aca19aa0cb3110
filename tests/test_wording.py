"""Numbers and nouns in messages."""

import pytest

from facenet_d2.wording import counted


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [
        (0, "overlay", "0 overlays"),
        (1, "overlay", "1 overlay"),
        (2, "overlay", "2 overlays"),
        (1, "class", "1 class"),
        (15, "class", "15 classes"),
    ],
)
def test_plurals(number, noun, expected):
    assert counted(number, noun) == expected
