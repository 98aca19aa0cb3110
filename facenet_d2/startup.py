"""Ctrl-C while a command of this project imports its modules, which takes seconds.

Python would print a traceback of the imports. With the default action of the signal, the process
just ends; ``run_command`` restores Python's handler.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _is_command() -> bool:
    # Also in the child processes of a command, whose main module is imported under another name.
    script = Path(sys.argv[0] if sys.argv else "").resolve()
    # The command "facenet NAME" replaces the name of its script.
    if script.name.startswith("facenet "):
        return True
    roots = (_PACKAGE.parent, _PACKAGE / "commands")
    return any(script.parent in (root, root / "tools", root / "demo") for root in roots)


if (
    threading.current_thread() is threading.main_thread()
    # Another handler is that of a program around this package; an ignored signal stays so.
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    and _is_command()
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
