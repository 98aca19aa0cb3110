"""Atomic writing of files, and reading of JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replaced(path: str | Path) -> Iterator[Path]:
    """Write a file atomically: ``path`` keeps its old content if the body fails.

    Args:
        path: destination; its folder exists.

    Yields:
        Temporary file in the same folder, with the same suffix, for the body to write. It replaces
        ``path`` at the end.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file atomically, see :func:`replaced`.

    Args:
        path: destination; its folder exists.
        content: content of the file; text is encoded as UTF-8.
    """
    with replaced(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def read_json(
    file: Path, object_hook: Callable[[dict[str, Any]], Any] | None = None
) -> tuple[Any, str | None]:
    """The content of a file, or what keeps it from being read, in words.

    Args:
        file: JSON.
        object_hook: as of :func:`json.loads`.
    """
    try:
        return json.loads(file.read_bytes(), object_hook=object_hook), None
    except OSError as error:
        return None, f"it cannot be read ({error.strerror})"
    except ValueError as error:
        return None, f"it is not JSON ({error})"
    except RecursionError:
        return None, "its lists or objects are nested too deeply"
