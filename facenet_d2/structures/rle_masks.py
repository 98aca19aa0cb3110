"""Binary masks as run lengths, whose memory grows with their outlines instead of their pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
import torch.nn.functional as F

from .crops import Crop


class RLEMasks:
    """N binary masks of one image, the ``pred_masks`` of this project's models.

    They replace Detectron2's ``(N, H, W)`` tensor: ``Instances`` can select and concatenate them,
    evaluators iterate over masks of full size, of which only one exists at a time, and
    ``Visualizer`` converts them to an array.

    Attributes:
        changes: for each mask, indices of pixels in column-major order, as in COCO's RLE: the first
            pixel of a run and the pixel after its last one, for all runs in turn. Increasing uint32
            on the CPU, also if other fields are on a GPU.
        image_size: (H, W).
    """

    def __init__(self, changes: Sequence[np.ndarray], image_size: tuple[int, int]) -> None:
        self.changes = list(changes)
        self.image_size = (int(image_size[0]), int(image_size[1]))

    @classmethod
    def from_dense(
        cls, masks: Iterable[np.ndarray | torch.Tensor], image_size: tuple[int, int]
    ) -> RLEMasks:
        """Encode masks one after the other.

        Args:
            masks: ``(N, H, W)``, or any iterable of N ``(H, W)`` masks. Pixels are set where the
                value is not 0.
            image_size: (H, W).
        """
        columns = (torch.as_tensor(np.ascontiguousarray(m)).bool().T[None] for m in masks)
        return cls([find_changes(c, 0, 0, image_size[0])[0] for c in columns], image_size)

    @classmethod
    def from_crops(cls, crops: Iterable[Crop], image_size: tuple[int, int]) -> RLEMasks:
        """Encode masks in their tight boxes.

        Args:
            crops: N masks.
            image_size: (H, W).
        """
        return cls([changes_of_crop(crop, image_size[0]) for crop in crops], image_size)

    @staticmethod
    def cat(masks: Sequence[RLEMasks]) -> RLEMasks:
        """Concatenate masks of the same image."""
        return RLEMasks([c for m in masks for c in m.changes], masks[0].image_size)

    @property
    def shape(self) -> torch.Size:
        """The shape (N, H, W)."""
        return torch.Size((len(self), *self.image_size))

    def to(self, *args: Any, **kwargs: Any) -> RLEMasks:
        """Return the masks themselves, which are always on the CPU."""
        return self

    def cpu(self) -> RLEMasks:
        """Return the masks themselves, which are always on the CPU."""
        return self

    def numpy(self) -> np.ndarray:
        """Return all masks at full size, ``(N, H, W)`` bool."""
        return self.to_tensor().numpy()

    def __len__(self) -> int:
        return len(self.changes)

    def __getitem__(self, item: Any) -> Any:
        """Select masks as a tensor does.

        Args:
            item: an index for one mask; a slice, a bool or an integer tensor for several.

        Returns:
            One ``(H, W)`` bool tensor, or :class:`RLEMasks`.
        """
        chosen = torch.arange(len(self))[item.cpu() if isinstance(item, torch.Tensor) else item]
        if chosen.dim():
            return RLEMasks([self.changes[i] for i in chosen.tolist()], self.image_size)
        mask = np.zeros(self.image_size, bool)
        crop, x, y = self.crop(int(chosen))
        mask[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
        return torch.from_numpy(mask)

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield one ``(H, W)`` bool tensor after the other."""
        return (self[i] for i in range(len(self)))

    def to_tensor(self) -> torch.Tensor:
        """Return all masks at full size, ``(N, H, W)`` bool."""
        full = torch.zeros(self.shape, dtype=torch.bool)
        for row, mask in zip(full, self):
            row.copy_(mask)
        return full

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        full = self.numpy()
        return full if dtype is None else full.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} of {self.image_size[0]}x{self.image_size[1]})"

    def rles(self) -> list[dict[str, Any]]:
        """Return the masks as COCO's compressed RLE, with ``counts`` as text, ready for JSON."""
        height, width = self.image_size
        runs = []
        for changes in self.changes:
            # COCO's RLE does not end with an empty run.
            inside = changes[changes < height * width].astype(np.int64)
            counts = np.diff(inside, prepend=0, append=height * width)
            runs.append({"size": [height, width], "counts": counts.tolist()})
        rles = mask_util.frPyObjects(runs, height, width) if runs else []
        return [{**rle, "counts": rle["counts"].decode()} for rle in rles]

    def areas(self) -> np.ndarray:
        """Return the number of pixels of each mask, ``(N,)`` int64."""
        return np.array([int(np.diff(c)[::2].sum()) for c in self.changes], np.int64)

    def boxes(self) -> torch.Tensor:
        """Return the tight box (x0, y0, x1, y1) of each mask, zeros for an empty one.

        Returns:
            ``(N, 4)`` float.
        """
        return torch.tensor([self._box(c) for c in self.changes]).view(-1, 4).float()

    def _box(self, changes: np.ndarray) -> tuple[int, int, int, int]:
        if len(changes) == 0:
            return 0, 0, 0, 0
        height = self.image_size[0]
        columns, rows = np.divmod(changes, height)
        # The last pixel of a run is the one before its end.
        last_columns, last_rows = np.divmod(changes[1::2] - 1, height)
        x0, x1 = int(columns[0]), int(last_columns[-1]) + 1
        if (columns[::2] != last_columns).any():
            return x0, 0, x1, height  # A run over two columns touches both borders.
        return x0, int(rows[::2].min()), x1, int(last_rows.max()) + 1

    def crop(self, index: int) -> tuple[np.ndarray, int, int]:
        """Return a mask inside its tight box.

        Returns:
            ``(h, w)`` bool, and the column and the row at which it starts.
        """
        changes = self.changes[index]
        x0, y0, x1, y1 = self._box(changes)
        height = self.image_size[0]
        inside = changes.astype(np.int64) - x0 * height
        counts = np.diff(inside, prepend=0, append=(x1 - x0) * height)
        columns = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(x1 - x0, height)
        return columns[:, y0:y1].T, x0, y0


def changes_of_crop(crop: Crop, height: int) -> np.ndarray:
    """Find where the runs of a mask start and end.

    Args:
        crop: the mask.
        height: height of the image.

    Returns:
        An array as in :attr:`RLEMasks.changes`.
    """
    rows, columns = crop.mask.shape
    padded = np.zeros((columns, rows + 2), bool)
    padded[:, 1:-1] = crop.mask.T
    column, row = np.nonzero(padded[:, 1:] != padded[:, :-1])
    return join_changes([(column + crop.x) * height + (row + crop.y)])


def find_changes(columns: torch.Tensor, x: int, y: int, height: int) -> list[np.ndarray]:
    """Find where the runs of N masks start and end.

    Args:
        columns: parts of N masks, transposed, ``(N, w, h)`` bool.
        x: column of the image at which the parts start.
        y: row of the image at which the parts start.
        height: height of the image.

    Returns:
        N arrays as in :attr:`RLEMasks.changes`. :func:`join_changes` joins those of a
        mask's parts.
    """
    padded = F.pad(columns, (1, 1))
    found = (padded[..., 1:] ^ padded[..., :-1]).nonzero().cpu().numpy()
    owners, places = found[:, 0], (found[:, 1] + x) * height + (found[:, 2] + y)
    parts = np.split(places, np.searchsorted(owners, np.arange(1, len(columns))))
    return [join_changes([p]) for p in parts[: len(columns)]]


def join_changes(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Join the changes of parts of one mask, given from left to right.

    A run that reaches the bottom of the image and the one that starts at the top of the next column
    become one.
    """
    changes = np.concatenate(parts) if len(parts) != 1 else parts[0]
    twice = changes[1:] == changes[:-1]
    if twice.any():
        single = np.ones(len(changes), bool)
        single[1:] &= ~twice
        single[:-1] &= ~twice
        changes = changes[single]
    return changes.astype(np.uint32)
