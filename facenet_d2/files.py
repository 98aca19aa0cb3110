"""Atomic writing of files, and reading of JSON."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Names of temporary files: a dot, the name, a random part, the process, "tmp", and the suffix.
# SQLite's journals of GeoPackages have a further part.
TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp(\.\w+)?(-\w+)?")
# Processes in containers that share a disk can have the same number.
_RANDOM = secrets.token_hex(4)


@contextmanager
def replaced(path: str | Path, *, durable: bool = False) -> Iterator[Path]:
    """Write a file or a folder atomically: ``path`` keeps its old content if the body fails.

    Args:
        path: destination; its parent folder exists. A folder can only replace an empty one.
        durable: whether the file must also survive a power failure once it is written.

    Yields:
        Temporary path in the same folder, with the same suffix, for the body to create. It replaces
        ``path`` at the end.
    """
    path = Path(path)
    temporary = temporary_path(path)
    try:
        yield temporary
        if durable:
            _flush_to_disk(temporary)
        temporary.replace(path)
        if durable:
            _flush_to_disk(path.parent)
    finally:
        _remove(temporary)


def temporary_path(path: Path) -> Path:
    """Return the path at which this process writes a file before it replaces ``path``."""
    return path.with_name(f".{path.stem}.{_RANDOM}.{os.getpid()}.tmp{path.suffix}")


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_whole(path: str | Path, content: str | bytes, *, durable: bool = False) -> None:
    """Write a file atomically, see :func:`replaced`.

    Args:
        path: destination; its parent folder exists.
        content: content of the file; text is encoded as UTF-8.
        durable: whether the file must also survive a power failure once it is written.
    """
    with replaced(path, durable=durable) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replaced_files(folder: str | Path) -> Iterator[Path]:
    """Write files of a folder atomically, by code that chooses their names itself.

    Args:
        folder: existing folder of the files.

    Yields:
        Temporary folder, whose files replace those of ``folder`` at the end, unless the body fails.
    """
    temporary = temporary_path(Path(folder) / "files")
    try:
        temporary.mkdir(exist_ok=True)
        yield temporary
        for file in temporary.iterdir():
            file.replace(Path(folder) / file.name)
    finally:
        _remove(temporary)


@contextmanager
def kept_on_error(path: str | Path) -> Iterator[None]:
    """Restore the old content of a file if the body, which writes it, fails."""
    path = Path(path)
    backup = temporary_path(path)
    existed = path.is_file()
    try:
        if existed:
            shutil.copyfile(path, backup)
        try:
            yield
        except BaseException:
            if existed:
                backup.replace(path)
            else:
                path.unlink(missing_ok=True)
            raise
    finally:
        _remove(backup)


@contextmanager
def disk_errors_of_torch() -> Iterator[None]:
    """Raise the OSError that PyTorch hides behind a RuntimeError if a disk is full."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def remove_partial_line(file: Path) -> None:
    """Remove the incomplete last line that a killed process may have left in a file."""
    if not file.is_file():
        return
    content = file.read_bytes()
    if content and not content.endswith(b"\n"):
        os.truncate(file, content.rfind(b"\n") + 1)


def remove_temporary_files(folder: str | Path, stem: str = "*") -> None:
    """Remove temporary files of :func:`replaced` whose process has ended.

    A process that is killed while it writes leaves one. Call this before this process writes to the
    folder: a file with its own number is that of an earlier process, as happens in containers.

    Args:
        folder: the folder. Processes on other machines must not be writing to it.
        stem: name of the files without suffix; by default, files of any name.
    """
    for file in Path(folder).glob(f".{stem}.*.tmp*"):
        match = TEMPORARY.fullmatch(file.name)
        if match and (int(match[1]) == os.getpid() or not is_running(int(match[1]))):
            _remove(file)


def is_running(process: int) -> bool:
    """Return whether a process is running; one that has ended but was not reaped is not."""
    try:
        stat = Path("/proc", str(process), "stat").read_text()
    except OSError:
        return False
    # The name, in brackets, may contain brackets itself.
    return stat.rpartition(")")[2].split()[0] not in "ZX"


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
