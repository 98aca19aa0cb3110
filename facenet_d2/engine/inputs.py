"""Input and output files of commands that process images and videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..inputs import find_files

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    *(".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".avif"),
    *(".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm"),
)
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


def find_inputs(patterns: Sequence[str], option: str = "--input") -> list[Path]:
    """Expand files, folders and glob patterns to a list of files without duplicates.

    A folder is replaced by the images in it, sorted by name; its other files are ignored.

    Args:
        patterns: files, folders and glob patterns.
        option: command-line option that the patterns were given to, for error messages.

    Raises:
        UserError: if a pattern matches nothing, or a folder is not readable or contains no images.
    """
    return find_files(patterns, option, kind="images", suffixes=IMAGE_SUFFIXES)


def output_names(inputs: Sequence[Path], folder: Path) -> list[Path]:
    """Return a unique output path for each input.

    JPEG and PNG keep their format; other images become PNG, and videos MP4.

    Args:
        inputs: the input files.
        folder: folder of the outputs.

    Raises:
        UserError: if an output would overwrite an input.
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
                f"--output {folder}: the overlay of {path} would overwrite an input; choose "
                "another folder."
            )
        names.append(folder / name)
    return names
