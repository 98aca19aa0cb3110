"""Interface of the masks of grid cells, whose logits are computed in parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Generic, TypeVar

Array = TypeVar("Array")
ALL = slice(None)

# Number of mask logits that are computed at a time on a CPU: 2 MiB, which fit into its cache.
BLOCK_FLOATS = 2**19


class CellMasks(ABC, Generic[Array]):
    """The masks of K cells of an image, as PyTorch tensors or NumPy arrays.

    All logits together may take more than a gigabyte, so they are computed where they are needed.

    Attributes:
        BY_ROWS: whether blocks are some rows of all masks, not all rows of some masks.
        size: (h, w), height and width of the padded input divided by the stride of the masks.
    """

    BY_ROWS: ClassVar[bool]

    size: tuple[int, int]

    @abstractmethod
    def __len__(self) -> int: ...

    def blocks(self, floats: int) -> Iterator[tuple[slice, slice]]:
        """Divide the masks into blocks for :meth:`logits`.

        Args:
            floats: maximum number of logits in a block; a block of a single row or mask may have
                more.

        Yields:
            cells and rows of a block.
        """
        height, width = self.size
        if self.BY_ROWS:
            step = max(1, floats // max(1, len(self) * width))
            return ((ALL, slice(row, row + step)) for row in range(0, height, step))
        step = max(1, floats // (height * width))
        return ((slice(cell, cell + step), ALL) for cell in range(0, len(self), step))

    @abstractmethod
    def logits(
        self,
        cells: slice | Array = ALL,
        rows: slice = ALL,
        columns: slice = ALL,
        buffer: Array | None = None,
    ) -> Array:
        """Compute a part of the logits.

        Args:
            cells: slice of the K cells, or k indices.
            rows: slice of the h rows.
            columns: slice of the w columns.
            buffer: ``(n,)`` float32 that may hold the result, which the next call with it then
                overwrites; without gradients only. On a CPU, new memory for each block can take
                longer than the product.

        Returns:
            ``(k, rows, columns)`` float32.
        """
