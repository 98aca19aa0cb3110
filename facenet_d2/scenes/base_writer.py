"""The interface of the writers of a scene's instances, and what all files say about the scene."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from .coordinates import describe
from .description import SceneDescription
from .measures import measuring_method
from .vectors import Batch


class SceneWriter:
    """Writes the instances of a scene to a file, batch by batch.

    A writer is a context manager: at the end of the ``with`` block the file is finished or, after
    an exception, left incomplete. Its path is a temporary one of
    :func:`facenet_d2.files.replaced`.
    """

    def __init__(self, path: Path, scene: SceneDescription) -> None:
        self.path = path
        self.scene = scene

    def write(self, batch: Batch) -> None:
        """Write some instances."""
        raise NotImplementedError

    def finish(self) -> None:
        """Complete the file."""

    def release(self) -> None:
        """Close files and remove temporary ones, after success and failure."""

    def __enter__(self) -> SceneWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.finish()
        finally:
            self.release()


_MEASURES = {
    "grid": "metres in the plane of the CRS, which is true to scale here",
    "ground": "metres on the ground, by local equal-area projections",
    "pixels": "pixels, because the scene has no CRS that can be converted to metres",
}


def scene_metadata(scene: SceneDescription) -> dict[str, Any]:
    """Return the JSON values that files store about their scene, its own metadata included."""
    metadata: dict[str, Any] = {
        "scene": scene.name,
        "crs": describe(scene.crs) if scene.crs else None,
        "size": [scene.width, scene.height],
        "transform": list(scene.transform)[:6],
        "measures": _MEASURES[measuring_method(scene)],
    }
    if scene.crs is None:
        has_place = metadata["transform"] != [1, 0, 0, 0, 1, 0]
        metadata["coordinates"] = (
            "those of the scene's transform, whose unit is unknown without a CRS"
            if has_place
            else "pixels: column and row from the upper left corner of the scene"
        )
    return {**metadata, **scene.metadata}
