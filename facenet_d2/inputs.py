"""The files that a user names on the command line: files, folders and glob patterns."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from .errors import UserError


def find_files(
    patterns: Sequence[str],
    option: str,
    *,
    kind: str,
    suffixes: Sequence[str],
    folder_suffixes: Collection[str] = (),
) -> list[Path]:
    """Expand files, folders and glob patterns to a list of files without duplicates.

    A file that is named or matches a pattern is taken whatever its suffix. A folder is replaced by
    those of its files that have one of the suffixes, sorted by name.

    Args:
        patterns: files, folders and glob patterns.
        option: command-line option that the patterns were given to, for error messages.
        kind: name of the files in the plural, such as "images", for error messages.
        suffixes: suffixes in lower case of the files that are taken from a folder.
        folder_suffixes: suffixes of folders that count as a single file, such as ".zarr".

    Raises:
        UserError: If a pattern matches nothing, or a folder is not readable or contains no files of
            this kind.
    """

    def is_file(path: Path) -> bool:
        return path.is_file() or (path.is_dir() and path.suffix.lower() in folder_suffixes)

    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if is_file(path):
            files = [path]
        elif path.is_dir():
            if not os.access(path, os.R_OK | os.X_OK):
                raise UserError(f"{option} {pattern}: the folder is not readable.")
            taken = {*suffixes, *folder_suffixes}
            files = sorted(p for p in path.iterdir() if is_file(p) and p.suffix.lower() in taken)
            if not files:
                raise UserError(
                    f"{option} {pattern}: the folder contains no {kind} ({', '.join(suffixes)})."
                )
        else:
            files = sorted(p for p in map(Path, glob.glob(pattern, recursive=True)) if is_file(p))
            if not files:
                raise UserError(f"{option} {pattern}: no such file, folder or match.")
        found.extend(files)
    return list(dict.fromkeys(found))


def check_not_inputs(outputs: Iterable[str | Path], inputs: Iterable[str | Path]) -> None:
    """Check that no output file would replace an input file, also if a link leads to it.

    Args:
        outputs: paths of the output files.
        inputs: paths of the input files; names that are not paths, such as URLs, are allowed.

    Raises:
        UserError: if one would.
    """
    originals = {Path(path).resolve() for path in inputs}
    for path in outputs:
        if Path(path).resolve() in originals:
            raise UserError(
                f"the output {path} would replace an input; choose another name or folder for the "
                "output."
            )
