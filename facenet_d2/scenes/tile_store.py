"""Detections of the tiles of a scene, kept until all tiles are there to be merged."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ..errors import UserError
from ..files import write_whole
from .detections import TileDetections
from .tiles import Tile

FINGERPRINT = "fingerprint.json"


class TileSource(Protocol):
    """Where the detections of tiles come from."""

    def load(self, tile: Tile) -> TileDetections:
        """Return the detections of a tile that has been processed."""


class TileStore(TileSource, Protocol):
    """Where the detections of tiles are kept."""

    def __contains__(self, tile: Tile) -> bool:
        """Return whether a tile has been processed."""

    def save(self, tile: Tile, detections: TileDetections) -> None:
        """Keep the detections of a tile."""


class MemoryStore:
    """A store in memory, for scenes that are processed at once."""

    def __init__(self) -> None:
        self._tiles: dict[str, TileDetections] = {}

    def __contains__(self, tile: Tile) -> bool:
        return tile.name in self._tiles

    def save(self, tile: Tile, detections: TileDetections) -> None:
        self._tiles[tile.name] = detections

    def load(self, tile: Tile) -> TileDetections:
        return self._tiles[tile.name]


class FolderStore:
    """A store in a folder, one file per tile, which processes on several machines can share.

    The folder's name contains a hash of the fingerprint, so that results of other settings are
    never mixed.

    Attributes:
        folder: the folder.
        fingerprint: JSON values that identify the scene, the model and the settings.
    """

    def __init__(self, parent: Path, name: str, fingerprint: Mapping[str, Any]) -> None:
        """
        Args:
            parent: folder that contains the store; it exists.
            name: first part of the folder's name.
            fingerprint: JSON values that identify the scene, the model and the settings.
        """
        text = json.dumps(fingerprint, indent=1, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.folder = parent / f".{name}.{digest}.tiles"
        self.fingerprint = dict(fingerprint)
        self._text = text

    def open(self) -> None:
        """Create the folder, if it does not exist.

        Raises:
            UserError: if the folder is that of another fingerprint.
        """
        self.folder.mkdir(exist_ok=True)
        file = self.folder / FINGERPRINT
        if not file.is_file():
            write_whole(file, self._text)
        elif file.read_text() != self._text:
            raise UserError(
                f"{self.folder} contains tiles of other settings, see {file}; delete the folder."
            )

    def _file(self, tile: Tile) -> Path:
        return self.folder / f"{tile.name}.npz"

    def __contains__(self, tile: Tile) -> bool:
        return self._file(tile).is_file()

    def save(self, tile: Tile, detections: TileDetections) -> None:
        detections.save(self._file(tile))

    def load(self, tile: Tile) -> TileDetections:
        return TileDetections.load(self._file(tile))

    def delete(self) -> None:
        """Delete the folder with all tiles."""
        shutil.rmtree(self.folder, ignore_errors=True)
