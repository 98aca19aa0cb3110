"""Commands of this project as functions that run in this process."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from pathlib import Path
from typing import Any

# The folders of the commands, as pytest sets them.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "demo"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from facenet_d2 import UserError
from facenet_d2.engine import run_command


class Traceback(AssertionError):
    """Raised if a command prints a traceback."""


def run(script: str, *arguments: Any) -> tuple[int, str]:
    """Run a command of this project, and return its exit code and what it printed.

    Args:
        script: name of the script without its suffix; its folder is in ``sys.path``.
        arguments: arguments of the command.

    Raises:
        UserError: If the command ends with code 2.
        Traceback: If it prints a traceback.
    """
    module = importlib.import_module(script)
    main = getattr(module, "run" if script == "train_net" else "main")
    argv, sys.argv = sys.argv, [f"{script}.py", *map(str, arguments)]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = run_command(main)
    finally:
        sys.argv = argv
    text = printed.getvalue()
    if "Traceback" in text:
        raise Traceback(text[text.index("Traceback") - 500 :])
    if code == 2:
        raise UserError(text.strip().splitlines()[-1])
    return code, text
