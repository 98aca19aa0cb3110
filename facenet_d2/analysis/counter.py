"""Counts of multiply-adds by part of a model; operators without a count are reported."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode

from .operators import FORMULAS, count_operations, multiplies_nothing, operator_name

# Modules with weights of two or more dimensions that are not used in matrix products.
_NO_PRODUCTS = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm)


@dataclass
class Counts:
    """Counts of a part of a model.

    Attributes:
        multiply_adds: multiply-adds of convolutions and matrix products.
        activations: number of elements of their outputs.
        operations: operations that published counters count differently, by kind; see
            :func:`~.operators.count_operations`. "deformable" are the multiply-adds of deformable
            convolutions, which are also among ``multiply_adds``.
    """

    multiply_adds: int = 0
    activations: int = 0
    operations: Counter[str] = field(default_factory=Counter)

    def published(self, weights: Mapping[str, int]) -> int:
        """Return the multiply-adds plus a weighted sum of the other operations."""
        return self.multiply_adds + sum(w * self.operations[kind] for kind, w in weights.items())


class OperatorCounter:
    """Context manager that counts multiply-adds and activations of all operators that run.

    Convolutions and matrix products are counted by PyTorch's ``FlopCounterMode`` and
    :data:`~.operators.FORMULAS`, whether or not a module calls them. An operator belongs to the
    part of the innermost running module or, outside of all modules, to the part named by
    :meth:`part`.

    Attributes:
        parts: counts of each part.
        counted: number of calls of each counted operator.
        not_multiplying: number of calls of each operator that is known to contain no convolution or
            matrix product.
        not_counted: number of calls of each other operator, and of modules with weights that called
            no counted operator. Such modules may call extensions, which PyTorch's dispatcher does
            not see.
    """

    def __init__(self, model: nn.Module, part_of: Callable[[str], str]) -> None:
        """
        Args:
            model: model to count; it has hooks while the counter is entered.
            part_of: function from the name of a module in the model to its part.
        """
        self.model = model
        self.part_of = part_of
        self.parts: dict[str, Counts] = defaultdict(Counts)
        self.counted: Counter[str] = Counter()
        self.not_multiplying: Counter[str] = Counter()
        self.not_counted: Counter[str] = Counter()
        self._running: list[tuple[str, int]] = [(part_of(""), 0)]
        # Only the total is used: the counts by module depend on which module is called first.
        self._flops = FlopCounterMode(display=False, custom_mapping=dict(FORMULAS))

    def __enter__(self) -> OperatorCounter:
        self._stack = ExitStack()
        for name, module in self.model.named_modules():
            part = self.part_of(name)
            handles = (
                module.register_forward_pre_hook(self._begin(part)),
                module.register_forward_hook(self._end),
            )
            for handle in handles:
                self._stack.callback(handle.remove)
        self._stack.enter_context(self._flops)
        # The mode entered last sees operators first; its call is what FlopCounterMode counts.
        self._stack.enter_context(_Watcher(self))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()
        if error[0] is None and self.multiply_adds != self._flops.get_total_flops() // 2:
            raise AssertionError("the counts of the parts do not add up to the total")

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of all parts."""
        return sum(p.multiply_adds for p in self.parts.values())

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Attribute operators that the body calls outside of modules to a part."""
        self._running.append((name, self.counted.total()))
        yield
        self._running.pop()

    def _begin(self, part: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self._running.append((part, self.counted.total()))

        return hook

    def _end(self, module: nn.Module, *arguments: Any) -> None:
        _, before = self._running.pop()
        weights = [p for p in module._parameters.values() if p is not None and p.dim() > 1]
        if weights and before == self.counted.total() and not isinstance(module, _NO_PRODUCTS):
            self.not_counted[f"weights of {type(module).__name__}"] += 1

    def _knows(self, operator: Any) -> bool:
        return operator._overloadpacket in self._flops.get_flop_counts().get("Global", {})

    def run(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an operator, count it, and return its output."""
        before = self._flops.get_total_flops()
        output = operator(*args, **kwargs)
        flops = self._flops.get_total_flops() - before
        name = operator_name(operator)
        harmless = not flops and multiplies_nothing(operator)
        counts = self.parts[self._running[-1][0]]
        counts.operations.update(count_operations(operator, args, output))
        # A counted operator on empty tensors has a count of zero.
        if flops or (not harmless and self._knows(operator)):
            self.counted[name] += 1
            counts.multiply_adds += flops // 2
            if name == "torchvision.deform_conv2d":
                counts.operations["deformable"] += flops // 2
            outputs = tree_flatten(output)[0]
            counts.activations += sum(x.numel() for x in outputs if isinstance(x, torch.Tensor))
        elif harmless:
            self.not_multiplying[name] += 1
        else:
            self.not_counted[name] += 1
        return output


class _Watcher(TorchDispatchMode):
    def __init__(self, counter: OperatorCounter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return self.counter.run(func, args, kwargs or {})
