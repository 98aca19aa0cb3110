"""Exit codes and error reporting of all commands."""

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

from torch.multiprocessing.spawn import ProcessExitedException

from ..errors import UserError, user_message

TRACEBACK = "FACENET_D2_TRACEBACK"
"""Environment variable: if set, user errors are printed with their traceback."""


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit code.

    Args:
        command: function that does the work; returns an exit code, or None for 0.

    Returns:
        The command's own code; 2 after a :class:`UserError` or an error of the operating system,
        which are printed as one sentence; 130 after Ctrl-C. Any other exception is a bug and is
        raised.
    """
    for stream in (sys.stdout, sys.stderr):
        # A command must not fail because the terminal cannot display a character.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        return command() or 0
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has closed it; the flush at exit would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UserError, OSError) as error:
        # An OSError is due to the state of the machine, such as a full disk or missing permission.
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        else:
            print(f"error: {user_message(error)[:1000]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


@contextmanager
def forward_interrupt_to_workers() -> Iterator[None]:
    """Let training processes stop gracefully on the first Ctrl-C; terminate them on the second.

    Raises:
        KeyboardInterrupt: After Ctrl-C, when the processes have ended.
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
        # Terminated above, or by a Ctrl-C before they had installed their handler.
        if requests:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, previous)
    if requests:
        raise KeyboardInterrupt


# Exceptions that PyTorch, Detectron2, fvcore and timm raise for invalid config values.
VALUE_ERRORS = (
    ArithmeticError,
    AssertionError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


@contextmanager
def user_errors(what: str) -> Iterator[None]:
    """Convert errors that invalid config values cause to :class:`UserError`.

    Only :data:`VALUE_ERRORS` are converted. Other exceptions, for example an AttributeError or a
    TypeError, are bugs and pass unchanged.

    Args:
        what: beginning of the message, which says what failed.

    Raises:
        UserError: With ``what`` and the message of the original exception, its ``__cause__``.
    """
    try:
        yield
    except VALUE_ERRORS as error:
        raise UserError(f"{what}: {_message(error)} ({type(error).__name__}).") from error


def _message(error: Exception) -> str:
    # Assertions often have no message; their source line takes its place.
    words = " ".join(map(str, error.args))
    if not words and error.__traceback__ is not None:
        words = traceback.extract_tb(error.__traceback__)[-1].line or ""
    return " ".join(words.split())[:500]
