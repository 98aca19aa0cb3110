"""Measurement of time and peak memory."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


class Meter:
    """Time and peak memory of named phases.

    Attributes:
        seconds: durations of each phase.
        peaks: peak memory of each phase in MB, above what was in use before it; a phase is missing
            if the system does not report it.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.peaks: dict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the body as a phase."""
        before = _reset_peak(self.device)
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds[name].append(time.perf_counter() - start)
        if before is not None:
            self.peaks[name] = max(self.peaks[name], _peak(self.device) - before)

    def repeat(self, function: Callable[[], None], *, warmup: int, iterations: int) -> None:
        """Call a function ``warmup`` times and then, measured, ``iterations`` times."""
        for i in range(warmup + iterations):
            if i == warmup:
                self.seconds.clear()
                self.peaks.clear()
            function()

    def median(self, name: str) -> float:
        """Return the median duration of a phase in seconds."""
        return statistics.median(self.seconds[name])

    def results(self) -> dict[str, Any]:
        """Return median, quartiles, number of runs and peak of each phase, and the total time."""
        phases = {}
        for name, values in self.seconds.items():
            low, median, high = (
                statistics.quantiles(values, n=4, method="inclusive")
                if len(values) > 1
                else values * 3
            )
            phases[name] = {
                "median_s": median,
                "quartiles_s": [low, high],
                "runs": len(values),
                "peak_mb": self.peaks.get(name),
            }
        return {"phases": phases, "total_s": sum(map(self.median, self.seconds))}


def _reset_peak(device: torch.device) -> float | None:
    """Start a new measurement of the peak.

    Returns:
        Memory in use now, in MB; None if the system does not report it.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 1e6
    try:
        # Reuse of freed memory that the allocator has kept would not be visible.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except (OSError, AttributeError):
        return None


def _peak(device: torch.device) -> float:
    """Return the peak in MB since :func:`_reset_peak`, which must not have returned None."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return _status("VmHWM")


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError(f"/proc/self/status has no {field}")
