"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file beside ``path`` and rename it; a failure leaves what was there as it was.

    Args:
        path: of the file; its folder exists.
        content: text is written as UTF-8.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


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
