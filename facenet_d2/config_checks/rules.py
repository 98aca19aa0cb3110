"""Rules for config values: what is allowed, and the words that say so."""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# Longest text that a value may be: that of a path on Linux.
MAX_TEXT = 4096


@dataclass(frozen=True)
class Rule:
    """Allowed values of a config key.

    Attributes:
        words: description of the allowed values that completes "it must be ...".
        allows: function that returns whether a value is allowed.
    """

    words: str
    allows: Callable[[Any], bool]


def integer(minimum: int, maximum: int | None = None) -> Rule:
    """Allow integers from ``minimum`` to ``maximum``, both included."""
    if maximum is None:
        return Rule(f"an integer of at least {minimum}", lambda v: _is_int(v) and v >= minimum)
    return Rule(
        f"an integer from {minimum} to {maximum}",
        lambda v: _is_int(v) and minimum <= v <= maximum,
    )


def number(minimum: float, maximum: float, *, above: bool = False, below: bool = False) -> Rule:
    """Allow finite numbers from ``minimum`` to ``maximum``.

    Args:
        minimum: smallest allowed number.
        maximum: largest allowed number.
        above: whether ``minimum`` itself is excluded; not together with ``below``.
        below: whether ``maximum`` itself is excluded.
    """

    def allows(value: Any) -> bool:
        # NaN is not between any two numbers.
        return (
            _is_number(value)
            and minimum <= value <= maximum
            and not (above and value == minimum)
            and not (below and value == maximum)
        )

    low, high = _decimal(minimum), _decimal(maximum)
    if above:
        words = f"a number above {low} and at most {high}"
    elif below:
        words = f"a number of at least {low} and below {high}"
    else:
        words = f"a number from {low} to {high}"
    return Rule(words, allows)


def choice(*values: Any) -> Rule:
    """Allow the given values."""
    listed = ", ".join(map(repr, values[:-1]))
    words = f"{listed} or {values[-1]!r}" if listed else repr(values[0])
    # 1 == True, but a switch is not a number.
    return Rule(words, lambda v: any(type(v) is type(w) and v == w for w in values))


def or_null(rule: Rule) -> Rule:
    """Also allow null, None in Python."""
    return Rule(f"{rule.words}, or null", lambda v: v is None or rule.allows(v))


def items(
    rule: Rule,
    lengths: int | tuple[int, int],
    *,
    order: str = "",
    words: str = "",
) -> Rule:
    """Allow lists and tuples of allowed values.

    Args:
        rule: rule of each value.
        lengths: number of values, or minimum and maximum number.
        order: "increasing" if each value must be above the previous one, "sorted" if it may be
            equal to it, empty for any order.
        words: description; by default it is made of that of ``rule``.
    """
    minimum, maximum = lengths if isinstance(lengths, tuple) else (lengths, lengths)

    def allows(value: Any) -> bool:
        return (
            isinstance(value, (list, tuple))
            and minimum <= len(value) <= maximum
            and all(map(rule.allows, value))
            and _is_ordered(value, order)
        )

    if not words:
        number = str(minimum) if minimum == maximum else f"{minimum} to {maximum}"
        ordered = {"": "", "increasing": " in increasing order", "sorted": " in ascending order"}
        words = f"a list of {number} values{ordered[order]}, each {rule.words}"
    return Rule(words, allows)


def either(*rules: Rule) -> Rule:
    """Allow what one of the rules allows."""
    return Rule(
        ", or ".join(rule.words for rule in rules),
        lambda v: any(rule.allows(v) for rule in rules),
    )


def _decimal(value: float) -> str:
    return f"{value:.9f}".rstrip("0").rstrip(".")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_int(value) or isinstance(value, float)


def _is_ordered(values: Sequence[Any], order: str) -> bool:
    pairs = list(itertools.pairwise(values))
    if order == "increasing":
        return all(a < b for a, b in pairs)
    return order == "" or all(a <= b for a, b in pairs)


def _is_text(value: Any) -> bool:
    # Lone surrogates cannot be written to a file.
    return (
        isinstance(value, str)
        and len(value) <= MAX_TEXT
        and not any(unicodedata.category(c) in ("Cc", "Cs") for c in value)
    )


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def name_other_than(*names: str, reason: str) -> Rule:
    """Allow names except the given ones.

    Args:
        names: names that are not allowed.
        reason: why, as the end of a sentence that lists them.
    """
    return Rule(
        f"{NAME.words}, but not {' or '.join(names)}, {reason}",
        lambda v: NAME.allows(v) and v not in names,
    )


BOOLEAN = choice(True, False)
TEXT = Rule(f"text of at most {MAX_TEXT} characters without control characters", _is_text)
NAME = Rule(
    f"text of 1 to {MAX_TEXT} characters without control characters",
    lambda v: _is_text(v) and bool(v.strip()),
)
FINITE = Rule("a value without infinite or NaN numbers", _is_finite)
SHARE = number(0, 1)
# Closer to 0 and 1, the logarithm of the odds is not exact in float32.
PROBABILITY = number(1e-6, 1 - 1e-6)
