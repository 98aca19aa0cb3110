"""train_net.py with several processes on the CPU: they communicate by gloo, not NCCL.

gloo_train_net.py [--fork] --config-file ... --num-gpus 2

With --fork, the processes are forked instead of spawned, which saves their imports.
"""

from __future__ import annotations

import importlib
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import facenet_d2.compat  # noqa: F401  isort: skip
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

import train_net
from facenet_d2.engine import run_command


def worker(
    rank: int, main: Any, world_size: int, per_machine: int, machine: int, url: str, args: Any, *_
) -> None:
    """Detectron2's, but for the GPUs."""
    dist.init_process_group("gloo", init_method=url, world_size=world_size, rank=rank)
    comm._LOCAL_PROCESS_GROUP = dist.new_group(list(range(world_size)), timedelta(minutes=5))
    main(*args)


if "--fork" in sys.argv:
    sys.argv.remove("--fork")
    mp.start_processes = partial(mp.start_processes, start_method="fork")
    mp.spawn = mp.start_processes
# Every spawned process imports this module.
torch.cuda.device_count = lambda: 2
importlib.import_module("detectron2.engine.launch")._distributed_worker = worker

if __name__ == "__main__":
    sys.exit(run_command(train_net.run))
