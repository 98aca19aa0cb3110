"""Maps over items in several processes."""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from tqdm import tqdm

from .cores import default_workers as default_workers
from .errors import UserError
from .signals import ignore_stop_signals


def add_workers_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--workers``, the number of processes of :func:`parallel_map`."""
    parser.add_argument(
        "--workers",
        type=int,
        default=default_workers(),
        help="number of processes (default: %(default)s)",
    )


def parallel_map(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    *,
    workers: int,
    description: str,
    unit: str,
) -> Iterator[tuple[int, Any]]:
    """Apply a function to every item in worker processes, with a progress bar.

    On an error, on a signal, or when the caller stops iterating, the workers are killed at once.
    Files that ``function`` writes must therefore be complete or absent at any time.

    Args:
        function: function at the top level of a module, called as ``function(item)``.
        items: arguments of the calls.
        workers: number of processes; 0 to work in this process.
        description: text in front of the progress bar.
        unit: name of an item in the progress bar.

    Yields:
        (index of the item, result) in the order of completion.

    Raises:
        UserError: if the function raises it, or a worker is killed.
        ValueError: if ``workers`` is negative.
    """
    if workers < 0:
        raise ValueError(f"workers must not be negative, got {workers}")
    with tqdm(total=len(items), desc=description, unit=unit, disable=not items) as bar:
        if workers == 0 or len(items) < 2:
            for index, item in enumerate(items):
                yield index, function(item)
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
            indices = {executor.submit(function, item): i for i, item in enumerate(items)}
            for future in as_completed(indices):
                yield indices.pop(future), future.result()
                bar.update()
            finished = True
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, most likely because memory ran out; use fewer "
                "--workers."
            ) from error
        finally:
            if not finished:
                # An item can take a minute, which is too long to wait after Ctrl-C.
                for worker in multiprocessing.active_children():
                    if worker not in others:
                        worker.kill()
            executor.shutdown(cancel_futures=True)


def _start_worker() -> None:
    ignore_stop_signals()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Not above: exported models run without it.
    import torch

    # The processes keep all cores busy. PyTorch would also wait forever for the threads of the
    # parent's pool, which do not exist after a fork.
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    # A killed parent cannot stop its workers.
    parent = multiprocessing.parent_process()
    assert parent is not None, "this runs in worker processes only"
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
