"""Replacement of modules by others that compute the same and suit exported files."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def replace_modules(module: nn.Module, replacement: Callable[[nn.Module], nn.Module | None]) -> int:
    """Replace modules at any depth inside a module.

    Args:
        module: changed in place. It is not replaced itself.
        replacement: function that returns what takes the place of a module, or None to keep the
            module and look inside it.

    Returns:
        The number of replaced modules.
    """
    number = 0
    for name, child in module.named_children():
        new = replacement(child)
        if new is None:
            number += replace_modules(child, replacement)
        else:
            setattr(module, name, new)
            number += 1
    return number
