"""Checkpoints that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer


class AtomicCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, which writes beside and renames.

    A run that is killed, or whose disk is full, while it saves keeps the checkpoint of the same
    name that was there.
    """

    def save(self, name: str, **kwargs: Any) -> None:
        """
        Args:
            name: of the checkpoint, without ``.pth``.
            kwargs: saved with it.
        """
        if not (self.save_dir and self.save_to_disk):
            return
        beside = Path(self.save_dir) / f"{name}.new.pth"
        previous = self.get_checkpoint_file() if self.has_checkpoint() else None
        try:
            super().save(beside.stem, **kwargs)
            beside.replace(beside.with_name(f"{name}.pth"))
            self.tag_last_checkpoint(f"{name}.pth")
        except BaseException:
            beside.unlink(missing_ok=True)
            if previous is not None:
                self.tag_last_checkpoint(Path(previous).name)
            raise
