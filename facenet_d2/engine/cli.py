"""What all commands share: how they end."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from torch.multiprocessing import ProcessExitedException

from ..errors import UserError


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command and turn its end into an exit code.

    Args:
        command: does the work; gives an exit code, or None for 0.

    Returns:
        the command's own code; 2 for a :class:`UserError` or an error of the operating system,
        printed as one sentence; 130 for Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a dash of a table is no reason to fail after the work is done.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        return command() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of a pipe, as `head`, has seen enough. Python would try to write the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        # A full disk, a file that may not be read: the machine's state, not the program's.
        print(f"error: {' '.join(str(error).split())[:500]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


@contextmanager
def patient_with_processes() -> Iterator[None]:
    """Around the processes of a training, which stop by themselves on Ctrl-C.

    On a second one they are ended.

    Raises:
        KeyboardInterrupt: after Ctrl-C, when they have ended.
    """
    requests = 0

    def count(signum: int, frame: FrameType | None) -> None:
        nonlocal requests
        requests += 1
        if requests > 1:
            for process in multiprocessing.active_children():
                process.terminate()

    previous = signal.signal(signal.SIGINT, count)
    try:
        yield
    except ProcessExitedException as error:
        # Ended here, or before they were ready to stop by themselves.
        if requests:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, previous)
    if requests:
        raise KeyboardInterrupt


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn what goes wrong inside into one sentence, where only configured values drive the code.

    Raises:
        UserError: ``what``, and the error's own words.
    """
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        # An assertion often has no words but its own line.
        words = " ".join(map(str, error.args)) or traceback.extract_tb(error.__traceback__)[-1].line
        words = " ".join((words or "").split())[:500]
        raise UserError(f"{what}: {words} ({type(error).__name__}).") from error
