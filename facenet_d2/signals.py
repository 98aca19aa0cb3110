"""Signals that ask a command to stop."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
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


def set_handlers(
    handler: Callable[[int, FrameType | None], None], *, always_ctrl_c: bool = False
) -> dict[int, Any]:
    """Handle the signals in :data:`STOP_SIGNALS`.

    Signals that the parent process asked to ignore stay ignored: ``nohup`` does so for SIGHUP, and
    a shell for SIGINT of a command in the background.

    Args:
        handler: function of the number of the signal and the stack frame.
        always_ctrl_c: whether SIGINT is handled even then. Trainings need it: they get SIGINT from
            ``reproduce.py``, or from PyTorch if their parent has ended.

    Returns:
        The previous handlers, for :func:`restore_handlers`.
    """
    handled = [
        s
        for s in STOP_SIGNALS
        if signal.getsignal(s) is not signal.SIG_IGN or (always_ctrl_c and s == signal.SIGINT)
    ]
    return {s: signal.signal(s, handler) for s in handled}


def restore_handlers(previous: Mapping[int, Any]) -> None:
    """Set the handlers that :func:`set_handlers` has replaced."""
    for signum, handler in previous.items():
        signal.signal(signum, handler)


def ignore_stop_signals() -> None:
    """Ignore the signals in :data:`STOP_SIGNALS`.

    For worker processes: terminals and schedulers signal all processes, but the parent alone
    decides when to stop.
    """
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


class _Handler:
    """Handler of stop signals that raises :class:`StopRequested` where it is not lost.

    Python prints, but does not raise, exceptions in finalisers and around a fork. The handler is
    then called again a little later: after a fork almost at once, since the next fork, which takes
    a large process long, may follow.
    """

    RETRY = 0.05  # in seconds
    RETRY_AFTER_FORK = 0.001

    def __init__(self) -> None:
        self.signum = 0
        self.is_forking = False
        self.is_pending = False
        # Python runs the last `before` first and the last `after_in_parent` last, so that these
        # include all other functions at a fork.
        os.register_at_fork(
            before=partial(setattr, self, "is_forking", True),
            after_in_parent=self._after_fork,
            after_in_child=partial(setattr, self, "is_forking", False),
        )

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if signum != signal.SIGALRM:
            self.signum = signum
        if self.is_forking:
            self.is_pending = True
        else:
            raise StopRequested(self.signum)

    def _after_fork(self) -> None:
        self.is_forking = False
        if self.is_pending:
            self.is_pending = False
            self.call_later(self.RETRY_AFTER_FORK)

    def call_later(self, delay: float = RETRY) -> None:
        signal.setitimer(signal.ITIMER_REAL, delay)


_handler: _Handler | None = None


@contextmanager
def stop_requests() -> Iterator[None]:
    """Raise :class:`StopRequested` on the signals in :data:`STOP_SIGNALS`.

    Without a handler, a process ends at once on all of them but Ctrl-C, and leaves its temporary
    files. Signals that the parent process asked to ignore stay ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global _handler
    handler = _handler = _handler or _Handler()
    previous = set_handlers(handler)
    previous[signal.SIGALRM] = signal.signal(signal.SIGALRM, handler)
    hook = sys.unraisablehook

    def retry(lost: sys.UnraisableHookArgs) -> None:
        if isinstance(lost.exc_value, StopRequested):
            handler.call_later()
        else:
            hook(lost)

    sys.unraisablehook = retry
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.setitimer(signal.ITIMER_REAL, 0)
        restore_handlers(previous)


class StopAfter:
    """Context manager that lets a piece of work be finished after a stop signal.

    The first of :data:`STOP_SIGNALS` takes effect at the next :meth:`check`; a second one at once,
    as outside the context. Further ones are ignored, while the command cleans up.
    """

    def __init__(self, work: str) -> None:
        """
        Args:
            work: name of the piece of work, such as "image", for the notice.
        """
        self.work = work
        self._requested = 0
        self._ignoring = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopAfter:
        self._previous = set_handlers(self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        restore_handlers(self._previous)

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
        if is_first:
            notice = f"{signal.Signals(signum).name}: stopping after this {self.work}"
            # A handler must not print: it may have interrupted another print.
            os.write(2, f"\n{notice} (again: stop at once) ...\n".encode())
            return
        self._ignoring = True
        if callable(self._previous[signum]):
            self._previous[signum](signum, frame)
        raise StopRequested(signum)
