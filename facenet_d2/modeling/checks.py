"""Checks of arguments and configured values.

Every check raises a ValueError with the name that it is given: a constructor passes the names of
its arguments, a ``from_config`` the keys of the config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.layers import ShapeSpec

# Names that `detectron2.layers.get_norm` accepts; "" for no normalisation.
NORMS = ("", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "LN")
GROUPS = 32


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Require one of the given values."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {list(choices)}")


def check_choices(name: str, values: Sequence[Any], choices: Sequence[Any]) -> None:
    """Require a list that contains nothing but the given values."""
    unknown = sorted(set(values) - set(choices))
    if unknown:
        raise ValueError(
            f"{name} is {list(values)}; {unknown} must be replaced by names from {list(choices)}"
        )


def check_range(name: str, value: float, minimum: float, maximum: float) -> None:
    """Require a number from ``minimum`` to ``maximum``."""
    if not minimum <= value <= maximum:
        raise ValueError(f"{name} is {value}; it must be between {minimum} and {maximum}")


def check_equal_lengths(lists: Mapping[str, Sequence[Any]]) -> None:
    """Require lists, given by name, of the same length: one entry for each level."""
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"these must have one entry for each level, but their lengths are {lengths}"
        )


def check_norm(norm_name: str, norm: str, channels_name: str, channels: int) -> None:
    """Require a known normalisation and a width that is a multiple of its number of groups."""
    check_choice(norm_name, norm, NORMS)
    if channels < 1 or (norm == "GN" and channels % GROUPS):
        allowed = (
            f"a multiple of {GROUPS}, the number of groups of {norm_name} GN"
            if norm == "GN"
            else "positive"
        )
        raise ValueError(f"{channels_name} is {channels}; it must be {allowed}")


def check_dilations(name: str, dilations: Sequence[int]) -> None:
    """Require at least one dilation, each at least 1."""
    if not dilations or min(dilations) < 1:
        raise ValueError(
            f"{name} is {list(dilations)}; it must be one or more dilations, each at least 1"
        )


def check_levels(
    name: str, levels: Sequence[str], shapes: Mapping[str, ShapeSpec], strides: Sequence[int]
) -> None:
    """Require levels of the given strides.

    Args:
        name: name of the argument or key.
        levels: names of the levels.
        shapes: shapes of all available levels by name.
        strides: required strides, in order.
    """
    found = [shapes[level].stride if level in shapes else None for level in levels]
    if found != list(strides):
        raise ValueError(
            f"{name} is {list(levels)}, with strides {found}; it must name levels of strides "
            f"{list(strides)} among the backbone's {sorted(shapes)}"
        )


def check_probability(name: str, value: float) -> None:
    """Require a number between 0 and 1, both excluded."""
    if not 0 < value < 1:
        raise ValueError(f"{name} is {value}; it must lie between 0 and 1")


def check_positive(name: str, value: float) -> None:
    """Require a number above 0."""
    if value <= 0:
        raise ValueError(f"{name} is {value}; it must be positive")


def check_minimum(
    minimum: float, node_name: str, node: Mapping[str, float], names: Sequence[str]
) -> None:
    """Require numbers of at least ``minimum``.

    Args:
        minimum: smallest allowed value.
        node_name: name of the config node.
        node: the config node.
        names: names of the node's numbers.
    """
    for name in names:
        if not node[name] >= minimum:
            raise ValueError(f"{node_name}.{name} is {node[name]}; it must be at least {minimum}")


def check_share(node_name: str, node: Mapping[str, float], names: Sequence[str]) -> None:
    """Require numbers from 0 to 1.

    Args:
        node_name: name of the config node.
        node: the config node.
        names: names of the node's numbers.
    """
    for name in names:
        if not 0 <= node[name] <= 1:
            raise ValueError(f"{node_name}.{name} is {node[name]}; it must be from 0 to 1")


def check_num_classes(key: str, number: int) -> None:
    """Require a number of classes that has been set."""
    if number < 1:
        raise ValueError(
            f"{key} is {number}; train_net.py and demo.py take it from the dataset, elsewhere set "
            "it to the number of classes"
        )


def dense_levels(
    name: str, levels: Sequence[str], shapes: Mapping[str, ShapeSpec]
) -> list[ShapeSpec]:
    """Return the shapes of levels that must each have twice the stride of the previous one.

    Args:
        name: name of the argument or key.
        levels: names of the levels, finest first.
        shapes: shapes of all available levels by name.

    Raises:
        ValueError: if a level is missing or a stride is not twice the previous one.
    """
    available = {level: shape.stride for level, shape in shapes.items()}
    strides = [available[level] for level in levels if level in available]
    if not strides or strides != [strides[0] * 2**i for i in range(len(levels))]:
        raise ValueError(
            f"{name} is {list(levels)}; it must name levels of the backbone, each at twice the "
            f"stride of the previous one. The strides of the backbone are {available}"
        )
    return [shapes[level] for level in levels]
