"""Work in several processes, and its end."""

import multiprocessing
import os
import signal
import time

import pytest
import torch

from facenet_d2 import UserError
from facenet_d2.parallel import parallel_map


def squared(x):
    return x * x


def slow(seconds):
    time.sleep(seconds)
    return seconds


def killed(x):
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def summed(size):
    return torch.ones(size).cumsum(0).sigmoid().sum().item()


def run(function, items, workers=2):
    return parallel_map(function, items, workers=workers, description="Working", unit="item")


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_result_has_its_place(workers):
    assert sorted(run(squared, range(20), workers)) == [(i, i * i) for i in range(20)]


def test_workers_can_use_torch_after_this_process_has():
    """A fork has the parent's pool of threads, but none of the threads: waiting for them hangs."""

    def give_up(*_):
        raise TimeoutError

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    previous = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    try:
        expected = summed(4_000_000)
        assert [x for _, x in run(summed, [4_000_000] * 4)] == [expected] * 4
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
        torch.set_num_threads(threads)


def test_an_interruption_waits_for_nothing():
    """Ctrl-C ends the loop over the results; minutes of work in the workers end with it."""

    def interrupted():
        for _ in run(slow, [0, 300, 300, 300]):
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - start < 30
    assert multiprocessing.active_children() == []


def test_a_killed_worker_is_named():
    with pytest.raises(UserError, match="a worker process was killed"):
        list(run(killed, range(6)))
    with pytest.raises(ValueError, match="negative"):
        list(run(squared, [1, 2], workers=-1))
