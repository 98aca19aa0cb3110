"""Signals that ask a command to stop."""

from __future__ import annotations

import os
import signal
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


class StopSignals:
    """Context manager in which a signal of :data:`STOP_SIGNALS` raises :class:`StopRequested`.

    It is raised once; while the command cleans up after it, further signals are ignored.

    Attributes:
        work: name of a piece of work, such as "image", that the first signal does not interrupt; it
            takes effect at the next :meth:`check`. Empty if signals take effect at once.
    """

    def __init__(self) -> None:
        self.work = ""
        self._requested = 0
        self._ignoring = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for signum in STOP_SIGNALS:
            if not is_ignored(signum):
                self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def check(self) -> None:
        """Raise :class:`StopRequested` if there was a signal."""
        if self._requested and not self._ignoring:
            self._ignoring = True
            raise StopRequested(self._requested)

    def ignore(self) -> None:
        """Ignore signals from now on."""
        self._ignoring = True

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._ignoring:
            return
        is_first, self._requested = not self._requested, signum
        if not (self.work and is_first):
            self.check()
        notice = f"{signal.Signals(signum).name}: stopping after this {self.work}"
        # A handler must not print: it may have interrupted another print.
        os.write(2, f"\n{notice} (again: stop at once) ...\n".encode())
