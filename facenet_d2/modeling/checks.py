"""Checks of arguments, and of configured values that depend on one another.

Every check raises a ValueError with the name that it is given: a constructor passes the names of
its arguments, a ``from_config`` the keys of the config. The allowed values of single keys are in
``facenet_d2/config_checks/table.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.layers import ShapeSpec

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
    """Require a width that group normalisation can divide into its groups."""
    if norm == "GN" and channels % GROUPS:
        raise ValueError(
            f"{channels_name} is {channels}; it must be a multiple of {GROUPS}, the number of "
            f"groups of {norm_name} GN"
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


def check_multiple(name: str, value: int, divisor_name: str, divisor: int) -> None:
    """Require a number that another one divides."""
    if value % divisor:
        raise ValueError(
            f"{name} is {value}; it must be a multiple of {divisor_name}, which is {divisor}"
        )
