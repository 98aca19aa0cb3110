"""Image files under the names that annotation tools write."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from urllib.parse import unquote


class ImageFinder:
    """Finds image files whose names in COCO JSON differ from those on the disk.

    Tools write backslashes, percent-encoded characters, another Unicode normalisation, upper-case
    suffixes, or the path on the machine where the data were annotated. The files of each folder are
    listed once, so that finding a file does not access the disk.
    """

    def __init__(self, image_root: str | Path) -> None:
        """
        Args:
            image_root: folder that the names are relative to.
        """
        self.image_root = Path(image_root)
        self._folders: dict[Path, tuple[set[str], dict[str, list[str]]]] = {}

    def find(self, name: str) -> str | None:
        """Return the name of an existing file, relative to the image folder, or None.

        The given name is preferred. Otherwise, the name is decoded, and leading folders are
        dropped one after another until exactly one file matches it, ignoring case.

        Args:
            name: ``file_name`` of an image in COCO JSON.
        """
        path = Path(name)
        if path.name in self._list(self.image_root / path.parent)[0]:
            return name
        decoded = unquote(name).replace("\\", "/")
        # Label Studio serves local files as "/data/local-files/?d=folder/image.png".
        decoded = decoded.rpartition("?d=")[2]
        parts = [part for part in decoded.split("/") if part not in ("", ".", "..")]
        for start in range(len(parts)):
            found = self._match(parts[start:])
            if found is not None:
                return found
        return None

    def _match(self, parts: list[str]) -> str | None:
        """Return the only path that matches the parts of a name, ignoring case, or None."""
        folder = Path()
        for part in parts:
            names, by_key = self._list(self.image_root / folder)
            same = [part] if part in names else by_key.get(_key(part), [])
            if len(same) != 1:
                return None
            folder /= same[0]
        return str(folder) if (self.image_root / folder).is_file() else None

    def _list(self, folder: Path) -> tuple[set[str], dict[str, list[str]]]:
        """Return the names in a folder, as a set and by normalised name."""
        if folder not in self._folders:
            try:
                names = set(os.listdir(folder))
            except OSError:
                names = set()
            by_key: dict[str, list[str]] = {}
            for name in names:
                by_key.setdefault(_key(name), []).append(name)
            self._folders[folder] = (names, by_key)
        return self._folders[folder]


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
