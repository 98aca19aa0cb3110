"""Exclusive use of an output folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Prevent other processes from training into the same folder.

    The lock ends with this process, however it ends; child processes do not hold it.

    Raises:
        UserError: If another process holds the lock.
    """
    file = Path(folder) / ".lock"
    with file.open("a+") as handle:
        try:
            # A record lock, which data loader workers do not inherit.
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            handle.seek(0)
            owner = handle.read().strip() or "?"
            raise UserError(
                f"OUTPUT_DIR {folder} is in use by another training (process {owner}); wait until "
                "it ends, or choose another OUTPUT_DIR."
            ) from error
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        yield
