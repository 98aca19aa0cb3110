"""Programs of this project in processes of their own, without the seconds of their imports.

A process that has imported everything is forked for each program. Where the imports themselves or
the start of the interpreter are tested, tests use ``subprocess`` instead.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parent.parent

# The server starts with the first program, in the folder in which pytest runs; a module that it
# does not find there is imported by each program.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["train_net"])


def start_program(script: str, arguments: Sequence[object], printed: Path) -> BaseProcess:
    """Start a program as the leader of a process group, as a shell does.

    Args:
        script: path of the program, relative to the repository.
        arguments: its arguments.
        printed: file for what it prints.

    Returns:
        the process; it has ended with ``exitcode``, which is negative after a signal.
    """
    process = CONTEXT.Process(target=_run, args=(script, list(map(str, arguments)), printed))
    process.start()
    return process


def run_program(script: str, arguments: Sequence[object], printed: Path) -> str:
    """Run a program that must succeed, and return what it prints; see :func:`start_program`."""
    process = start_program(script, arguments, printed)
    process.join()
    text = printed.read_text()
    assert process.exitcode == 0, text
    return text


def _run(script: str, arguments: list[str], printed: Path) -> None:
    os.setpgid(0, 0)
    descriptor = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    # nohup, for example, ignores SIGHUP in all child processes.
    for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(REPOSITORY)
    # More threads than cores would slow the processes down.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    sys.argv = [script, *arguments]
    sys.path.insert(0, str((REPOSITORY / script).parent))
    runpy.run_path(script, run_name="__main__")


def wait_for_group(group: int) -> None:
    """Wait until all processes of a process group have ended."""
    deadline = time.monotonic() + 60
    while _has_processes(group):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _has_processes(group: int) -> bool:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, process_group, *_ = stat.read_text().rpartition(")")[2].split()
            if int(process_group) == group and state not in "ZX":
                return True
    return False
