"""The annotated objects of a data set as arrays, and the settings they are checked against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from detectron2.config import CfgNode

from ..modeling.grids.layout import GridLayout
from ..stride import MASK_STRIDE, mask_stride


@dataclass(frozen=True)
class GridSettings:
    """The settings of a config that decide which objects can be found.

    Attributes:
        layout: the grids and their scale ranges.
        min_mask_areas: minimum area of a predicted mask on each level, in pixels at stride 4; masks
            of this area or less are dropped.
        shortest: size to which the shortest side of the input is scaled.
        longest: upper limit of the longest side of the input.
        divisibility: number whose multiples inputs are padded to.
        mask_stride: stride of the masks that the network is trained with.
    """

    layout: GridLayout
    min_mask_areas: tuple[int, ...]
    shortest: int
    longest: int
    divisibility: int = 32
    mask_stride: int = MASK_STRIDE

    @classmethod
    def from_config(cls, cfg: CfgNode, input_size: int | None = None) -> GridSettings:
        """Read the settings from a config.

        Args:
            cfg: the config.
            input_size: longest side of the input in pixels; by default the config's test size.
        """
        return cls(
            layout=GridLayout.from_config(cfg),
            min_mask_areas=tuple(cfg.MODEL.SOLOV2.MIN_MASK_AREAS),
            shortest=input_size or cfg.INPUT.MIN_SIZE_TEST,
            longest=input_size or cfg.INPUT.MAX_SIZE_TEST,
            mask_stride=mask_stride(cfg),
        )

    def resize_factors(self, image_sizes: np.ndarray) -> np.ndarray:
        """Return the factor by which ``ResizeShortestEdge`` scales each image.

        Args:
            image_sizes: ``(I, 2)``, (height, width).
        """
        short, long = image_sizes.min(axis=1), image_sizes.max(axis=1)
        factors = self.shortest / short
        return np.where(long * factors > self.longest, self.longest / long, factors)

    def overrides(self) -> str:
        """Return the grids as ``KEY VALUE`` pairs for a command line."""
        ranges = [list(r) for r in self.layout.scale_ranges]
        return (
            f"MODEL.SOLOV2.NUM_GRIDS {list(self.layout.num_grids)} "
            f"MODEL.SOLOV2.SCALE_RANGES {ranges} "
            f"MODEL.SOLOV2.MIN_MASK_AREAS {list(self.min_mask_areas)}"
        ).replace(", ", ",")


@dataclass(frozen=True)
class Measurement:
    """Measurements of one object's mask, in pixels of its image.

    Attributes:
        category_id: the object's category.
        box: tight box (x0, y0, x1, y1).
        area: number of pixels.
        center: mean x and y of the pixels, as pixel indices.
        best_iou: see :func:`~facenet_d2.checking.mask_ceiling.best_iou`; NaN if not computed.
    """

    category_id: int
    box: tuple[float, float, float, float]
    area: float
    center: tuple[float, float]
    best_iou: float


@dataclass(frozen=True)
class Objects:
    """The N objects of a data set of I images, in the order of the images. Crowds are left out.

    Attributes:
        category_ids: ``(N,)`` int.
        boxes: ``(N, 4)``, tight box (x0, y0, x1, y1) of each mask, in pixels.
        areas: ``(N,)``, number of pixels of each mask.
        centers: ``(N, 2)``, mean x and y of each mask's pixels, as pixel indices.
        best_ious: ``(N,)``, see :class:`Measurement`.
        image_of: ``(N,)`` int, index of each object's image.
        image_sizes: ``(I, 2)``, (height, width) of the images.
    """

    category_ids: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    centers: np.ndarray
    best_ious: np.ndarray
    image_of: np.ndarray
    image_sizes: np.ndarray

    @classmethod
    def from_measurements(
        cls,
        measurements: Sequence[Sequence[Measurement]],
        image_sizes: Sequence[tuple[int, int]],
    ) -> Objects:
        """Collect the objects of all images.

        Args:
            measurements: the measurements of the objects in each image.
            image_sizes: (height, width) of each image.
        """
        flat = [m for own in measurements for m in own]
        return cls(
            category_ids=np.array([m.category_id for m in flat], dtype=np.int64),
            boxes=np.array([m.box for m in flat], dtype=float).reshape(-1, 4),
            areas=np.array([m.area for m in flat], dtype=float),
            centers=np.array([m.center for m in flat], dtype=float).reshape(-1, 2),
            best_ious=np.array([m.best_iou for m in flat], dtype=float),
            image_of=np.array([i for i, own in enumerate(measurements) for _ in own], dtype=int),
            image_sizes=np.array(image_sizes, dtype=float).reshape(-1, 2),
        )

    def __len__(self) -> int:
        return len(self.category_ids)

    @property
    def sides(self) -> np.ndarray:
        """``(N,)``, square root of each box's area, which the scale ranges refer to."""
        widths, heights = (self.boxes[:, 2:] - self.boxes[:, :2]).T
        return np.sqrt(widths * heights)

    def scaled(self, settings: GridSettings) -> Objects:
        """Return the objects in pixels of the network's input, without its padding."""
        factors = settings.resize_factors(self.image_sizes)
        own = factors[self.image_of][:, None]
        return replace(
            self,
            boxes=self.boxes * own,
            areas=self.areas * own[:, 0] ** 2,
            # Centres are pixel indices: pixel i has its centre at i + 0.5.
            centers=(self.centers + 0.5) * own - 0.5,
            image_sizes=np.maximum(np.round(self.image_sizes * factors[:, None]), 1),
        )
