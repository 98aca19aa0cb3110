"""Atomic writing of files, and reading of JSON."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Names of temporary files: a dot, the name, the process, and the suffix.
TEMPORARY = re.compile(r"\..+\.(\d+)\.\w+")


@contextmanager
def replaced(path: str | Path) -> Iterator[Path]:
    """Write a file or a folder atomically: ``path`` keeps its old content if the body fails.

    Args:
        path: destination; its parent folder exists. A folder can only replace an empty one.

    Yields:
        Temporary path in the same folder, with the same suffix, for the body to create. It replaces
        ``path`` at the end.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file atomically, see :func:`replaced`.

    Args:
        path: destination; its parent folder exists.
        content: content of the file; text is encoded as UTF-8.
    """
    with replaced(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def remove_partial_line(file: Path) -> None:
    """Remove the incomplete last line that a killed process may have left in a file."""
    if not file.is_file():
        return
    content = file.read_bytes()
    if content and not content.endswith(b"\n"):
        os.truncate(file, content.rfind(b"\n") + 1)


def remove_temporary_files(folder: str | Path) -> None:
    """Remove temporary files of :func:`replaced` whose process has ended.

    A process that is killed while it writes leaves one.
    """
    for file in Path(folder).glob(".*.*"):
        match = TEMPORARY.fullmatch(file.name)
        if match and not Path("/proc", match[1]).exists() and file.is_file():
            file.unlink(missing_ok=True)


def read_json(
    file: Path, object_hook: Callable[[dict[str, Any]], Any] | None = None
) -> tuple[Any, str | None]:
    """Read a JSON file.

    Args:
        file: path of the file.
        object_hook: passed to :func:`json.loads`.

    Returns:
        The content and None, or None and a description of the problem.
    """
    try:
        return json.loads(file.read_bytes(), object_hook=object_hook), None
    except OSError as error:
        return None, f"it cannot be read ({error.strerror})"
    except ValueError as error:
        return None, f"it is not JSON ({error})"
    except RecursionError:
        return None, "its lists or objects are nested too deeply"
