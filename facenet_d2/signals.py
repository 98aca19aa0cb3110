"""Signals that ask a command to stop."""

from __future__ import annotations

import signal

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
