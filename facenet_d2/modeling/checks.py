"""Checks of configured values when a model is built; each names the key and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detectron2.layers import ShapeSpec

# Those that `detectron2.layers.get_norm` knows by name; empty for none.
NORMS = ("", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "LN")
GROUPS = 32


def check_norm(norm_key: str, norm: str, channels_key: str, channels: int) -> None:
    """Raise a ValueError for an unknown normalisation, or a width that its groups do not divide."""
    if norm not in NORMS:
        raise ValueError(f"{norm_key} is {norm!r}; it must be one of {list(NORMS)}")
    if channels < 1 or (norm == "GN" and channels % GROUPS):
        what = (
            f"a multiple of {GROUPS}, the groups of {norm_key} GN" if norm == "GN" else "positive"
        )
        raise ValueError(f"{channels_key} is {channels}; it must be {what}")


def check_dilations(key: str, dilations: Sequence[int]) -> None:
    """Raise a ValueError unless there is at least one dilation and all are at least 1."""
    if not dilations or min(dilations) < 1:
        raise ValueError(
            f"{key} is {list(dilations)}; it must be one or more dilations, each 1 or more"
        )


def check_levels(
    key: str, names: Sequence[str], shapes: Mapping[str, ShapeSpec], strides: Sequence[int]
) -> None:
    """Raise a ValueError unless the named levels have just these strides."""
    found = [shapes[name].stride if name in shapes else None for name in names]
    if found != list(strides):
        raise ValueError(
            f"{key} is {list(names)}, with strides {found}; it must name levels of strides "
            f"{list(strides)} among the backbone's {sorted(shapes)}"
        )


def check_probability(key: str, value: float) -> None:
    """Raise a :class:`ValueError`, naming the key, for what does not lie between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{key} is {value}; it must lie between 0 and 1")


def check_at_least(least: float, key: str, node: Mapping[str, float], names: Sequence[str]) -> None:
    """Raise a ValueError for a number of a node of the config that is below the least.

    Args:
        least: the smallest that is allowed.
        key: of the node.
        node: itself.
        names: of the numbers.
    """
    for name in names:
        if not node[name] >= least:
            raise ValueError(f"{key}.{name} is {node[name]}; it must be at least {least}")


def check_share(key: str, node: Mapping[str, float], names: Sequence[str]) -> None:
    """As :func:`check_at_least`, for numbers outside of 0 to 1."""
    for name in names:
        if not 0 <= node[name] <= 1:
            raise ValueError(f"{key}.{name} is {node[name]}; it must be from 0 to 1")


def check_num_classes(key: str, number: int) -> None:
    """Raise a ValueError where the number of classes has not been set."""
    if number < 1:
        raise ValueError(
            f"{key} is {number}; train_net.py and demo.py take it from the dataset, elsewhere set "
            "it to the number of classes"
        )


def dense_levels(
    key: str, names: Sequence[str], shapes: Mapping[str, ShapeSpec]
) -> list[ShapeSpec]:
    """The named levels' shapes; a ValueError unless they are there, each twice as coarse as the one
    before.
    """
    strides = [shapes[name].stride for name in names if name in shapes]
    if not strides or strides != [strides[0] * 2**i for i in range(len(names))]:
        raise ValueError(
            f"{key} is {list(names)}; it must name levels of the backbone, each at twice the "
            f"stride of the one before: it has { ({n: s.stride for n, s in shapes.items()}) }"
        )
    return [shapes[name] for name in names]
