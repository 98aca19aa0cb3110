"""Which images and videos a command line means, and what their results are to be called."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


def find_inputs(patterns: Sequence[str], option: str = "--input") -> list[Path]:
    """Files for a list of files, folders and glob patterns, in order and without repetition.

    A folder stands for the images in it, sorted by name; other files in it are left out.

    Args:
        patterns: the files, folders and patterns.
        option: of the command line, to be named in an error.

    Raises:
        UserError: where one of them gives nothing.
    """
    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
            raise UserError(f"{option} {pattern}: the folder may not be read.")
        if path.is_dir():
            files = sorted(
                p for p in path.iterdir() if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES
            )
            if not files:
                raise UserError(
                    f"{option} {pattern}: no images ({', '.join(IMAGE_SUFFIXES)}) in it."
                )
        elif path.is_file():
            files = [path]
        else:
            files = sorted(p for p in map(Path, glob.glob(pattern, recursive=True)) if p.is_file())
            if not files:
                raise UserError(f"{option} {pattern}: no such file, folder or match.")
        found.extend(files)
    return list(dict.fromkeys(found))


def output_names(inputs: Sequence[Path], folder: Path) -> list[Path]:
    """One result path an input, none twice, none the input itself.

    JPEG and PNG keep their kind; other images become PNG, videos MP4.

    Raises:
        UserError: where a result would be written over an input.
    """
    names: list[Path] = []
    taken: set[str] = set()
    originals = {p.resolve() for p in inputs}
    for path in inputs:
        suffix = path.suffix.lower()
        if suffix in VIDEO_SUFFIXES:
            suffix = ".mp4"
        elif suffix not in (".jpg", ".jpeg", ".png"):
            suffix = ".png"
        name, repeat = f"{path.stem}{suffix}", 2
        while name in taken:
            name, repeat = f"{path.stem}_{repeat}{suffix}", repeat + 1
        taken.add(name)
        if (folder / name).resolve() in originals:
            raise UserError(
                f"--output {folder}: the overlay of {path} would be written over an input; choose "
                "another folder."
            )
        names.append(folder / name)
    return names
