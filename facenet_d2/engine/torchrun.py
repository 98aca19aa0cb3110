"""Training processes that PyTorch's ``torchrun`` starts, on one or several machines."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from ..errors import UserError

# Set by torchrun; other launchers that set them all work, too.
VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)


def is_worker() -> bool:
    """Return whether torchrun has started this process."""
    return all(name in os.environ for name in VARIABLES)


def local_rank() -> int:
    """Return the number of this process among those of its machine."""
    return int(os.environ["LOCAL_RANK"])


def check_local_processes() -> None:
    """Check that this machine has a GPU for each of its processes, or none at all.

    Raises:
        UserError: if it has fewer.
    """
    processes, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if 0 < gpus < processes:
        raise UserError(
            f"torchrun started {processes} processes on this machine, but {gpus} GPUs are "
            f"available; use --nproc-per-node {gpus}."
        )


@contextmanager
def process_group(device: str) -> Iterator[bool]:
    """Connect the processes, as Detectron2's ``launch`` does for those that it starts.

    Args:
        device: ``MODEL.DEVICE``; processes communicate by NCCL between GPUs, otherwise by gloo.

    Yields:
        Whether torchrun has restarted the processes, the same value in all of them.
    """
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(local_rank())
    store, rank, size = next(rendezvous("env://", timeout=DEFAULT_TIMEOUT))
    number = _agree_on_session(store, rank, size)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=PrefixStore(f"session_{number}", store),
        rank=rank,
        world_size=size,
        timeout=DEFAULT_TIMEOUT,
    )
    # Detectron2 asks for the processes of this machine. torchrun numbers them machine by machine.
    per_machine = int(os.environ["LOCAL_WORLD_SIZE"])
    for first in range(0, size, per_machine):
        ranks = list(range(first, min(first + per_machine, size)))
        group = dist.new_group(ranks)
        if rank in ranks:
            comm._LOCAL_PROCESS_GROUP = group
    comm.synchronize()
    # A machine that replaces another one counts fewer restarts, and one that joins causes a restart
    # that torchrun does not count.
    restarts = max(comm.all_gather(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))))
    yield restarts > 0 or number > 1
    # After an error, other processes may be gone, and waiting for them would hide the error.
    dist.destroy_process_group()


def _agree_on_session(store: Store, rank: int, size: int) -> int:
    """Return the number of this session, which no earlier session with the same store had.

    torchrun keeps its store when it restarts the processes (PyTorch issue 135712), which would read
    the addresses of their predecessors. A process therefore waits for an answer to a token of its
    own, which an earlier group cannot have given.

    Args:
        store: store that the processes share.
        rank: number of this process.
        size: number of processes.

    Raises:
        UserError: in the first process, if the others do not answer within the timeout.
    """
    if rank > 0:
        token = uuid.uuid4().hex
        store.set(f"token_{rank}", token)
        number = int(store.get(f"answer_{token}"))
        store.add(f"connected_{number}", 1)
        return number
    number = store.add("sessions", 1)
    deadline = time.monotonic() + DEFAULT_TIMEOUT.total_seconds()
    while (connected := store.add(f"connected_{number}", 0)) < size - 1:
        for other in range(1, size):
            # A token of an earlier session is replaced as soon as the new process has started.
            if store.check([f"token_{other}"]):
                store.set(f"answer_{store.get(f'token_{other}').decode()}", str(number))
        if time.monotonic() > deadline:
            raise UserError(
                f"only {connected + 1} of {size} processes have started; see their logs."
            )
        time.sleep(0.02)
    return number
