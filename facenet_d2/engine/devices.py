"""Names and number of the devices that models run on."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from ..errors import UserError


def device_name(device: torch.device | str) -> str:
    """Return a GPU's name, or the CPU's name and the number of threads that PyTorch uses."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"


def check_num_gpus(num_gpus: int) -> None:
    """Check ``--num-gpus``; 1 is allowed on a machine without GPUs, where it means the CPU.

    Raises:
        UserError: if the machine has fewer GPUs.
    """
    available = torch.cuda.device_count()
    if num_gpus > max(1, available):
        hint = "; omit the option to run on the CPU." if available == 0 else "."
        raise UserError(f"--num-gpus is {num_gpus}, but {available} GPUs are available{hint}")
