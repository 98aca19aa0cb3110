"""Signals that ask a command to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Ctrl-C; kill, systemd and containers; a closed terminal; the warning of a scheduler such as Slurm.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class StopRequested(KeyboardInterrupt):
    """Raised when a command has stopped on request.

    Attributes:
        signum: number of the signal; the exit code is 128 more by convention.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


def is_ignored(signum: int) -> bool:
    """Return whether the parent process asked to ignore a signal, as ``nohup`` does for SIGHUP."""
    return signum != signal.SIGINT and signal.getsignal(signum) is signal.SIG_IGN


def _stop(signum: int, frame: FrameType | None) -> None:
    raise StopRequested(signum)


@contextmanager
def stop_requests() -> Iterator[None]:
    """Raise :class:`StopRequested` on the signals in :data:`STOP_SIGNALS`.

    Without a handler, a process ends at once on all of them but Ctrl-C, and leaves its temporary
    files. Signals that the parent process asked to ignore stay ignored.
    """
    previous: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for signum in STOP_SIGNALS:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                previous[signum] = signal.signal(signum, _stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
