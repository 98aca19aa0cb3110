"""Numbers and nouns in messages."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return a number and its noun, such as "1 overlay" or "2 overlays".

    Args:
        number: number of things.
        noun: name of one of them, whose plural ends with an added s, or with es after an s.
    """
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}{'es' if noun.endswith('s') else 's'}"
