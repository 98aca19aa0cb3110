"""Which cell of which grid is to find which instance (SOLOv2, section 3.3; SOLO, section 3.3)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks, Instances, PolygonMasks

MASK_STRIDE = 4
"""Stride of the mask features, and so of the masks the loss compares with."""

MASKS_AT_ONCE = 16
"""How many full-size masks are worked on together where that needs copies of other types."""


@dataclass(frozen=True)
class GridLayout:
    """The grids and the instance sizes each is responsible for.

    Attributes:
        num_grids: S of each level.
        scale_ranges: (least, greatest) square root of a box's area, in pixels of the network's
            input, both included, of each level.
        center_scale: side of the centre region as a share of the box's (the papers' epsilon, 0.2).
    """

    num_grids: tuple[int, ...]
    scale_ranges: tuple[tuple[float, float], ...]
    center_scale: float = 0.2

    @property
    def first_cells(self) -> list[int]:
        """The number of each level's first cell, and after the last level that of all cells."""
        return list(itertools.accumulate((s * s for s in self.num_grids), initial=0))

    @property
    def num_cells(self) -> int:
        return self.first_cells[-1]


@dataclass
class ImageTargets:
    """What the cells of one image's grids should say. N instances, P positive pairs.

    An instance's mask is held once, however many cells refer to it by index.

    Attributes:
        categories: ``(cells,)`` int64, the class of each cell, or ``num_classes`` for background.
        cells: ``(P,)`` int64, the cell of each pair.
        instances: ``(P,)`` int64, the instance of each pair, an index into ``masks``.
        masks: ``(N, H/4, W/4)`` bool.
    """

    categories: torch.Tensor
    cells: torch.Tensor
    instances: torch.Tensor
    masks: torch.Tensor


def full_size_masks(instances: Instances) -> torch.Tensor:
    """Ground-truth masks as ``(N, H, W)`` bool, whichever of Detectron2's kinds they are.

    Detectron2's own mapper gives an image without objects no ``gt_masks`` at all.
    """
    height, width = instances.image_size
    if len(instances) == 0:
        device = instances.gt_classes.device
        return torch.zeros((0, height, width), dtype=torch.bool, device=device)
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, height, width).to(instances.gt_classes.device)
    return masks.tensor


def downsample_masks(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Masks at a quarter of their size, padded to ``size``.

    A pixel is set where at least half of the middle 2x2 of its 4x4 block is: bilinear scaling by
    1/4, rounded. An instance too small or thin for that keeps each block it touches, so that none
    is trained towards an empty mask.

    Args:
        masks: ``(N, H, W)`` bool.
        size: (H', W') of the result, with 4H' >= H and 4W' >= W.

    Returns:
        ``(N, H', W')`` bool.
    """
    s = MASK_STRIDE
    h, w = masks.shape[-2:]
    if (h, w) != (size[0] * s, size[1] * s):
        masks = F.pad(masks, (0, size[1] * s - w, 0, size[0] * s - h))
    rows = masks[:, 1::s].to(torch.uint8) + masks[:, 2::s]
    small = (rows[:, :, 1::s] + rows[:, :, 2::s]) >= 2
    lost = ~small.flatten(1).any(dim=1)
    if lost.any():
        small[lost] = (
            masks[lost].unflatten(2, (size[1], s)).unflatten(1, (size[0], s)).any(4).any(2)
        )
    return small


def mass_centers(masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean x and y of each mask's pixels, as pixel indices; ``(N, H, W)`` to two ``(N,)`` float64.

    NaN for an empty mask.
    """
    # Summing bool makes a copy of eight bytes a pixel: some masks at a time. Sums of counts are
    # exact in float64, so the centres are.
    chunks = masks.split(MASKS_AT_ONCE)
    columns = torch.cat([m.sum(dim=1).double() for m in chunks])
    rows = torch.cat([m.sum(dim=2).double() for m in chunks])
    area = columns.sum(dim=1)
    xs = torch.arange(masks.shape[2], device=masks.device, dtype=torch.float64)
    ys = torch.arange(masks.shape[1], device=masks.device, dtype=torch.float64)
    return (columns @ xs) / area, (rows @ ys) / area


def assign_cells(
    boxes: torch.Tensor,
    center_x: torch.Tensor,
    center_y: torch.Tensor,
    extents: tuple[int | torch.Tensor, int | torch.Tensor],
    layout: GridLayout,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The cells of each level that are to find each instance.

    An instance belongs to every level whose scale range holds the square root of its box's area.
    There its cells are those that the centre region touches (the box shrunk to ``center_scale``
    around the mass centre), at most one away from the cell of the mass centre.

    Args:
        boxes: ``(N, 4)``, (x0, y0, x1, y1) in pixels of the network's input.
        center_x: ``(N,)``, of the mass centres.
        center_y: the same.
        extents: height and width of the padded input; one for all, or ``(N, 1)`` each.
        layout: the grids.

    Returns:
        of each level, the instances and the cells, row by row, of its P pairs: ``(P,)`` int64 each,
        in the order of the instances.
    """
    device = boxes.device
    boxes = boxes.double()
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    scales = (widths * heights).sqrt()[:, None]
    half_w, half_h = widths * layout.center_scale / 2, heights * layout.center_scale / 2
    grids = torch.tensor(layout.num_grids, device=device)
    ranges = torch.tensor(layout.scale_ranges, device=device, dtype=torch.float64)
    in_range = (scales >= ranges[:, 0]) & (scales <= ranges[:, 1])

    def cell_of(position: torch.Tensor, extent: int | torch.Tensor) -> torch.Tensor:
        # Multiplied before it is divided: exact on the border between two cells.
        return (position[:, None] * grids / extent).floor().long()

    def span(
        center: torch.Tensor, half: torch.Tensor, extent: int | torch.Tensor, offset: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cells at offsets from the centre's, ``(N, levels, 9)``; whether the region has them."""
        cell = cell_of(center, extent)[..., None] + offset
        first = cell_of(center - half, extent).clamp(min=0)[..., None]
        last = torch.minimum(cell_of(center + half, extent), grids - 1)[..., None]
        return cell, (cell >= first) & (cell <= last)

    # The 3x3 neighbourhood of a cell, row by row.
    neighbours = torch.arange(9, device=device)
    y, in_rows = span(center_y, half_h, extents[0], neighbours // 3 - 1)
    x, in_columns = span(center_x, half_w, extents[1], neighbours % 3 - 1)
    positive = in_range[..., None] & in_rows & in_columns
    cells = y * grids[:, None] + x
    pairs = []
    for level in range(len(grids)):
        owner, place = positive[:, level].nonzero(as_tuple=True)
        pairs.append((owner, cells[owner, level, place]))
    return pairs


@torch.no_grad()
def assign_targets(
    instances: Instances, layout: GridLayout, num_classes: int, mask_size: tuple[int, int]
) -> ImageTargets:
    """Assign one image's instances to cells, as :func:`assign_cells` says.

    Where instances share a cell, the last one gives its class and each one a mask pair, as in the
    published code.

    Unlike in AdelaiDet's SOLOv2, which drops instances of few pixels at a quarter of their size,
    every instance is assigned. For the smallest to be found too, ``MODEL.SOLOV2.MIN_MASK_AREAS``
    must not be over the area of their masks at a quarter of the input's size.

    Args:
        instances: ``gt_boxes`` and ``gt_classes`` of N instances, and either ``gt_centers`` and
            ``gt_quarter_masks`` of :class:`~facenet_d2.data.SceneMapper`, or ``gt_masks``, of which
            those that are empty are left out.
        layout: the grids.
        num_classes: number of classes C, and the label of background.
        mask_size: (H/4, W/4) of the mask features of the padded batch.
    """
    device = instances.gt_classes.device
    padded_size = (mask_size[0] * MASK_STRIDE, mask_size[1] * MASK_STRIDE)
    if instances.has("gt_quarter_masks"):
        masks = instances.gt_quarter_masks
        h, w = masks.shape[-2:]
        if (h, w) != tuple(mask_size):
            masks = F.pad(masks, (0, mask_size[1] - w, 0, mask_size[0] - h))
        center_x, center_y = instances.gt_centers.unbind(dim=1)
    else:
        full = full_size_masks(instances)
        keep = full.flatten(1).any(dim=1)
        if not keep.all():
            full, instances = full[keep], instances[keep]
        masks = downsample_masks(full, mask_size)
        center_x, center_y = mass_centers(full)
    classes = instances.gt_classes

    pairs = assign_cells(instances.gt_boxes.tensor, center_x, center_y, padded_size, layout)
    owners = torch.cat([owner for owner, _ in pairs])
    cells = torch.cat([first + cell for first, (_, cell) in zip(layout.first_cells, pairs)])
    last = torch.full((layout.num_cells,), -1, device=device)
    last.scatter_reduce_(0, cells, owners, reduce="amax")
    # Of an unassigned cell, -1: the last entry.
    labels = torch.cat([classes, classes.new_tensor([num_classes])])
    return ImageTargets(
        categories=labels[last],
        cells=cells,
        instances=owners,
        masks=masks,
    )
