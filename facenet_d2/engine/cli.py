"""What all commands share: how they end."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ..errors import UserError


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command and turn its end into an exit code.

    Args:
        command: does the work; gives an exit code, or None for 0.

    Returns:
        the command's own code; 2 for a :class:`UserError`, printed as one sentence; 130 for Ctrl-C.
    """
    try:
        return command() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
