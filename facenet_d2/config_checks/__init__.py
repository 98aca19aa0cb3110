"""Checks of config values against the table of allowed values."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode

from .relations import RELATIONS
from .rules import Rule
from .table import NORMS, OPEN_NODES, RULES

__all__ = ["NORMS", "OPEN_NODES", "RULES", "Rule", "check_nodes", "check_values"]

# Number of wrong values that a message lists.
LISTED = 5

_short = reprlib.Repr()
_short.maxlevel, _short.maxlist, _short.maxtuple = 3, 8, 8
_short.maxstring = _short.maxother = 80


def check_values(cfg: CfgNode) -> None:
    """Check all values of a config.

    Keys of other projects, which are not in the table, may have any value.

    Raises:
        ValueError: if a value is not allowed; the message names key, value and allowed values.
    """
    _raise_for([*_problems(cfg, "")] or [p for p in (r(cfg) for r in RELATIONS) if p])


def check_nodes(cfg: CfgNode, *names: str) -> None:
    """Check the values in nodes of a config.

    Args:
        cfg: the whole config.
        names: names of the nodes, for example ``MODEL.SOLOV2``.

    Raises:
        ValueError: if a value is not allowed; the message names key, value and allowed values.
    """
    problems: list[str] = []
    for name in names:
        node = cfg
        for part in name.split("."):
            node = node[part]
        problems += _problems(node, f"{name}.")
    _raise_for(problems)


def _raise_for(problems: list[str]) -> None:
    if problems:
        more = len(problems) - LISTED
        listed = problems[:LISTED] + ([f"and {more} more"] if more > 0 else [])
        raise ValueError(". ".join(listed))


def _problems(node: dict[str, Any], prefix: str) -> Iterator[str]:
    for key, value in node.items():
        name = f"{prefix}{key}"
        rule = OPEN_NODES.get(name) or RULES.get(name)
        if rule is None:
            if isinstance(value, dict):
                yield from _problems(value, f"{name}.")
        elif not rule.allows(value):
            yield f"{name} is {_shown(value)}; it must be {rule.words}"


def _shown(value: Any) -> str:
    """Return a short text of a value, in the words of a config file."""
    if isinstance(value, dict):
        value = dict(value)
    return "null" if value is None else _short.repr(value)
