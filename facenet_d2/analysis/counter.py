"""Counts what operators do while they run, part by part, and leaves out none silently."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode

from .operators import FORMULAS, counted_besides, multiplies_nothing, operator_name

# Their weights are looked up or scale elements, whatever their shape.
_NO_PRODUCTS = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm)


@dataclass
class Counts:
    """Of one part.

    Attributes:
        multiply_adds: of convolutions and matrix products.
        activations: elements of their outputs.
        besides: what MMDetection counts too, see :func:`~.operators.counted_besides`.
    """

    multiply_adds: int = 0
    activations: int = 0
    besides: int = 0


class OperatorCounter:
    """While entered, counts the multiply-adds and activations of all operators that run.

    Counted are convolutions and matrix products, whichever way they are called, by PyTorch's
    ``FlopCounterMode`` and :data:`~.operators.FORMULAS`. Each belongs to the part of the innermost
    module that is running, and outside of all modules to the part last named by :meth:`part`.

    Attributes:
        parts: counts by part.
        counted: calls of each operator that was counted.
        not_multiplying: calls of operators known to multiply nothing along a kernel or a matrix.
        not_counted: calls of all others, and of modules with weights that reached no operator
            (extensions that are called past PyTorch's operators cannot be seen).
    """

    def __init__(self, model: nn.Module, part_of: Callable[[str], str]) -> None:
        """
        Args:
            model: has hooks while the counter is entered.
            part_of: gives the part of a module by its name in the model.
        """
        self.model = model
        self.part_of = part_of
        self.parts: dict[str, Counts] = defaultdict(Counts)
        self.counted: Counter[str] = Counter()
        self.not_multiplying: Counter[str] = Counter()
        self.not_counted: Counter[str] = Counter()
        self._running: list[tuple[str, int]] = [(part_of(""), 0)]
        # It could count by module itself, but names them after the first that is called.
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
        # Entered last, so that it sees an operator first and calls FlopCounterMode with it.
        self._stack.enter_context(_Watcher(self))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()
        if error[0] is None and self.multiply_adds != self._flops.get_total_flops() // 2:
            raise AssertionError("the parts do not add up to what ran")

    @property
    def multiply_adds(self) -> int:
        """Of all parts."""
        return sum(p.multiply_adds for p in self.parts.values())

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Within it, what runs outside of the parts' modules belongs to this part."""
        self._running.append((name, self.counted.total()))
        yield
        self._running.pop()

    def _begin(self, part: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self._running.append((part, self.counted.total()))

        return hook

    def _end(self, module: nn.Module, *_: Any) -> None:
        _, before = self._running.pop()
        weights = [p for p in module._parameters.values() if p is not None and p.dim() > 1]
        if weights and before == self.counted.total() and not isinstance(module, _NO_PRODUCTS):
            self.not_counted[f"weights of {type(module).__name__}"] += 1

    def _knows(self, operator: Any) -> bool:
        return operator._overloadpacket in self._flops.get_flop_counts().get("Global", {})

    def run(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an operator and count it."""
        before = self._flops.get_total_flops()
        output = operator(*args, **kwargs)
        flops = self._flops.get_total_flops() - before
        name = operator_name(operator)
        harmless = not flops and multiplies_nothing(operator)
        counts = self.parts[self._running[-1][0]]
        counts.besides += counted_besides(operator, args, output)
        # The count of an operator on nothing at all is zero.
        if flops or (not harmless and self._knows(operator)):
            self.counted[name] += 1
            counts.multiply_adds += flops // 2
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
