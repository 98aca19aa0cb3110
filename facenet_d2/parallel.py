"""Independent pieces of work in several processes."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch
from tqdm import tqdm

from .errors import UserError


def default_workers() -> int:
    """As many processes as there are cores for this one."""
    return len(os.sched_getaffinity(0))


def parallel_map(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    *,
    workers: int,
    description: str,
    unit: str,
) -> Iterator[tuple[int, Any]]:
    """``function`` of every item, in worker processes, with a progress bar.

    On an error, Ctrl-C, or when no more results are taken, the workers are ended where they are:
    what ``function`` writes must be there whole or not at all.

    Args:
        function: of the module's top level; called as ``function(item)``.
        items: its arguments.
        workers: the number of processes; 0 works in this one.
        description: of the progress bar.
        unit: what an item is called there.

    Yields:
        (place of the item, result), in the order in which they are ready.

    Raises:
        UserError: of the function, or where a worker was killed.
        ValueError: for a negative number of workers.
    """
    if workers < 0:
        raise ValueError(f"workers must not be negative, got {workers}")
    with tqdm(total=len(items), desc=description, unit=unit, disable=not items) as bar:
        if workers == 0 or len(items) < 2:
            for place, item in enumerate(items):
                yield place, function(item)
                bar.update()
            return
        executor = ProcessPoolExecutor(
            min(workers, len(items)),
            mp_context=multiprocessing.get_context("fork"),
            initializer=_start_worker,
        )
        others = multiprocessing.active_children()
        finished = False
        try:
            places = {executor.submit(function, item): i for i, item in enumerate(items)}
            for future in as_completed(places):
                yield places.pop(future), future.result()
                bar.update()
            finished = True
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, most likely for memory; use fewer --workers."
            ) from error
        finally:
            if not finished:
                # An item can take a minute; nobody who pressed Ctrl-C waits for that.
                for worker in multiprocessing.active_children():
                    if worker not in others:
                        worker.terminate()
            executor.shutdown(cancel_futures=True)


def _start_worker() -> None:
    # Ctrl-C reaches every process of the terminal; the parent alone decides what is stopped.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The processes are the parallelism. And a pool of threads does not survive a fork: PyTorch
    # would wait for the parent's forever.
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    # A parent that is killed cannot tell its workers to stop.
    parent = multiprocessing.parent_process()
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
