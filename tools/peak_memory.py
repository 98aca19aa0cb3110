"""Peak memory of a GPU or of this process.

This file is not part of the package, since benchmark.py can measure other versions of it.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch


def reset_peak(device: torch.device) -> float | None:
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


def peak(device: torch.device) -> float:
    """Return the peak since :func:`reset_peak`, in MB; only if that did not return None."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return _status("VmHWM")


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError(f"/proc/self/status has no {field}")
