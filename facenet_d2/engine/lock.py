"""Exclusive use of an output folder."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError
from ..files import is_running

logger = logging.getLogger(__name__)

# Seconds to wait for the children of a killed process to end, such as data loader workers or a
# training that saves a checkpoint.
ORPHAN_TIMEOUT = 60.0
POLL_PERIOD = 0.5


@contextmanager
def locked(folder: str | Path, option: str = "OUTPUT_DIR") -> Iterator[int]:
    """Prevent other processes from training into the same folder.

    The lock is released when this process and all processes that inherited it have ended, even if
    they are killed. If only the latter are left, a new process waits for them.

    Args:
        folder: existing folder to lock.
        option: key or option that sets the folder, for the error message.

    Yields:
        Descriptor of the lock file, which a child process can inherit.

    Raises:
        UserError: If another process holds the lock.
    """
    with (Path(folder) / ".lock").open("a+") as handle:
        deadline = time.monotonic() + ORPHAN_TIMEOUT
        while not _lock(handle.fileno()):
            handle.seek(0)
            owner = handle.read().strip()
            if (owner.isdigit() and is_running(int(owner))) or time.monotonic() > deadline:
                raise UserError(
                    f"{option} {folder} is in use by another training (process {owner or '?'}); "
                    f"wait until it ends, or choose another {option}."
                )
            time.sleep(POLL_PERIOD)
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        yield handle.fileno()


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        logger.warning(
            "The file system does not support locks (%s); do not start a second training in this "
            "folder.",
            error,
        )
    return True
