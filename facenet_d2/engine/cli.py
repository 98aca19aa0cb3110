"""Exit codes and error reporting of all commands."""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ..errors import UserError, user_message
from ..signals import StopRequested, restore_handlers, set_handlers, stop_requests

TRACEBACK = "FACENET_D2_TRACEBACK"
"""Environment variable: if set, user errors are printed with their traceback."""


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit code.

    Args:
        command: function that does the work; returns an exit code, or None for 0.

    Returns:
        The command's own code; 2 after a :class:`UserError` or an error of the operating system,
        which are printed as one sentence; 128 plus the number of the signal that stopped it, which
        is 130 for Ctrl-C. Any other exception is a bug and is raised.
    """
    for stream in (sys.stdout, sys.stderr):
        # A command must not fail because the terminal cannot display a character.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        with stop_requests(), _no_tracebacks_of_logs():
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
    except KeyboardInterrupt as error:
        print("interrupted", file=sys.stderr)
        return 128 + (error.signum if isinstance(error, StopRequested) else signal.SIGINT)


@contextmanager
def _no_tracebacks_of_logs() -> Iterator[None]:
    """Suppress the tracebacks that a full disk causes in logs.

    Python prints one for each line of a log file that cannot be written, and TensorBoard's thread
    another, before it passes its error on to the main thread.
    """
    logged, hook = logging.raiseExceptions, threading.excepthook

    def report(args: threading.ExceptHookArgs) -> None:
        if not isinstance(args.exc_value, OSError):
            hook(args)

    logging.raiseExceptions, threading.excepthook = False, report
    try:
        yield
    finally:
        logging.raiseExceptions, threading.excepthook = logged, hook


@contextmanager
def forward_signals_to_workers() -> Iterator[None]:
    """Let training processes stop gracefully on the first signal; terminate them on the second.

    The signals are those of :data:`~facenet_d2.signals.STOP_SIGNALS`.

    Raises:
        StopRequested: After a signal, when the processes have ended.
    """
    from torch.multiprocessing.spawn import ProcessExitedException

    requests: list[int] = []

    def forward(signum: int, frame: FrameType | None) -> None:
        requests.append(signum)
        for process in multiprocessing.active_children():
            if len(requests) > 1:
                process.terminate()
            # A terminal sends Ctrl-C to all processes itself.
            elif signum != signal.SIGINT and process.pid is not None:
                os.kill(process.pid, signum)

    previous = set_handlers(forward, always_ctrl_c=True)
    try:
        yield
    except ProcessExitedException as error:
        # Terminated above, or by a signal before they had installed their handlers.
        if requests:
            raise StopRequested(requests[0]) from error
        raise
    finally:
        restore_handlers(previous)
    if requests:
        raise StopRequested(requests[0])


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
