"""The most memory that is held at a time, of a GPU or of this process.

Beside the commands that use it, not in the package: benchmark.py measures other checkouts' packages
too.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch


def reset_peak(device: torch.device) -> float | None:
    """Let the peak begin anew.

    Returns:
        what is held now, in MB; None where the system does not tell.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 1e6
    try:
        # Freed memory that the allocator keeps would hide what is taken of it.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except (OSError, AttributeError):
        return None


def peak(device: torch.device) -> float:
    """The most that was held since :func:`reset_peak`, in MB, if that told what was held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return _status("VmHWM")


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError(f"/proc/self/status has no {field}")
