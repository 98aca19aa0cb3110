"""Faults of a data set, as its reader finds and reports them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A fault or a note.

    Attributes:
        kind: a key of ``FAULT_KINDS`` or ``NOTE_KINDS`` in :mod:`facenet_d2.checking.fault_kinds`.
        where: the entry, in words.
        message: description of the fault.
        fix: the remedy in the cleaned copy; empty if there is none.
        is_fatal: whether a data set with this fault cannot be used. Otherwise, the remedy is also
            applied whenever the data set is read.
    """

    kind: str
    where: str
    message: str
    fix: str = ""
    is_fatal: bool = False


Report = Callable[[Fault], None]


class FaultCounter:
    """Counts faults by kind and remedy, and keeps the first fault of each for messages."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._first: dict[tuple[str, str], Fault] = {}

    def __call__(self, fault: Fault) -> None:
        key = (fault.kind, fault.fix)
        self._counts[key] += 1
        self._first.setdefault(key, fault)

    def sentences(self) -> list[str]:
        """Return a sentence for each kind and remedy, the most frequent first."""
        sentences = []
        for key, number in self._counts.most_common():
            fault = self._first[key]
            times = f"{number} times, first in" if number > 1 else "in"
            sentences.append(f"{fault.fix} {times} {fault.where}: {fault.message}.")
        return sentences
