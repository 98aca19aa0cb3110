"""Assignment of instances to the cells of grids (SOLOv2, section 3.3; SOLO, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.structures import Instances

from ...structures.masks import (
    MASK_STRIDE,
    downsample_masks,
    full_size_masks,
    inside_map,
    masks_field,
    mass_centers,
    mass_covariances,
    strided_masks,
)
from .layout import GridLayout


@dataclass
class ImageTargets:
    """Targets of the cells of one image: P positive pairs of a cell and one of N instances.

    Each mask is stored once; pairs refer to it by index.

    Attributes:
        categories: class of each cell, ``num_classes`` for background, ``(cells,)`` int64.
        cells: cell of each pair, ``(P,)`` int64.
        instances: instance of each pair, an index into ``masks``, ``(P,)`` int64.
        masks: masks of the instances at the stride of the loss, ``(N, h, w)`` bool.
        centers: centre of mass (x, y) of each instance, as shares of the padded width and height
            from -0.5 to 0.5, ``(N, 2)`` float64.
        covariances: variance of x, covariance of x and y, and variance of y of each mask in the
            same units, ``(N, 3)`` float64; None if no loss needs them.
        ignored: cells without a category loss, ``(cells,)`` bool; None if there are none.
    """

    categories: torch.Tensor
    cells: torch.Tensor
    instances: torch.Tensor
    masks: torch.Tensor
    centers: torch.Tensor
    covariances: torch.Tensor | None = None
    ignored: torch.Tensor | None = None


def assign_cells(
    boxes: torch.Tensor,
    center_x: torch.Tensor,
    center_y: torch.Tensor,
    extents: tuple[int | torch.Tensor, int | torch.Tensor],
    layout: GridLayout,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Find the cells of each level that are positive for each instance.

    An instance belongs to every level whose scale range contains the square root of its box's area.
    Its cells are those that intersect the centre region (the box shrunk by ``center_scale`` around
    the centre of mass) and lie in the 3x3 neighbourhood of the centre's cell.

    Args:
        boxes: (x0, y0, x1, y1) in pixels of the network's input, ``(N, 4)``.
        center_x: x of the masks' centres of mass, ``(N,)``.
        center_y: y of the masks' centres of mass, ``(N,)``.
        extents: height and width of the padded input, as numbers or ``(N, 1)`` each.
        layout: grids and scale ranges.

    Returns:
        For each level, the instances and the cells of its P pairs, ``(P,)`` int64 each, sorted by
        instance. Cells are numbered row by row within their level.
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
        # Multiplying first is exact on the border between two cells.
        return (position[:, None] * grids / extent).floor().long()

    def span(
        center: torch.Tensor, half: torch.Tensor, extent: int | torch.Tensor, offset: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return rows or columns, ``(N, levels, 9)``, and whether the region contains them."""
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
    instances: Instances,
    layout: GridLayout,
    num_classes: int,
    mask_size: tuple[int, int],
    stride: int = MASK_STRIDE,
    with_covariances: bool = False,
) -> ImageTargets:
    """Assign the instances of one image to cells by :func:`assign_cells`.

    If instances share a cell, the last instance decides the class and every instance gets its own
    mask pair, as in the published code.

    AdelaiDet's SOLOv2 drops instances whose stride-4 mask has few pixels; here every instance is
    assigned. To find the smallest ones in inference too, ``MODEL.SOLOV2.MIN_MASK_AREAS`` must be
    below the areas of their stride-4 masks.

    Args:
        instances: ``gt_boxes`` and ``gt_classes`` of N instances, and either ``gt_masks`` or the
            fields of :class:`~facenet_d2.data.SceneMapper`: ``gt_centers``, ``gt_covariances`` and,
            at stride 4, ``gt_stride4_masks``. Instances with an empty mask in ``gt_masks`` are
            ignored.
        layout: grids and scale ranges.
        num_classes: number of classes C, and the label of background.
        mask_size: (H/stride, W/stride) of the padded batch.
        stride: stride of the masks in the loss.
        with_covariances: whether the covariances of the masks are computed.
    """
    device = instances.gt_classes.device
    padded_size = (mask_size[0] * stride, mask_size[1] * stride)
    if instances.has(masks_field(stride)):
        masks = strided_masks(instances, mask_size, stride)
        center_x, center_y = instances.gt_centers.unbind(dim=1)
        covariances = instances.gt_covariances if with_covariances else None
    else:
        full = full_size_masks(instances)
        keep = full.flatten(1).any(dim=1)
        if not keep.all():
            full, instances = full[keep], instances[keep]
        masks = downsample_masks(full, mask_size, stride)
        center_x, center_y = mass_centers(full)
        covariances = mass_covariances(full) if with_covariances else None
    classes = instances.gt_classes

    pairs = assign_cells(instances.gt_boxes.tensor, center_x, center_y, padded_size, layout)
    owners = torch.cat([owner for owner, _ in pairs])
    cells = torch.cat([first + cell for first, (_, cell) in zip(layout.first_cells, pairs)])
    last = torch.full((layout.num_cells,), -1, device=device)
    last.scatter_reduce_(0, cells, owners, reduce="amax")
    # The index -1 of an unassigned cell selects the last entry.
    labels = torch.cat([classes, classes.new_tensor([num_classes])])
    height, width = padded_size
    # Centres are pixel indices; + 0.5 converts them to continuous coordinates.
    centers = torch.stack([(center_x + 0.5) / width, (center_y + 0.5) / height], dim=1) - 0.5
    if covariances is not None:
        covariances = covariances / covariances.new_tensor([width**2, width * height, height**2])
    return ImageTargets(
        categories=labels[last],
        cells=cells,
        instances=owners,
        masks=masks,
        centers=centers,
        covariances=covariances,
    )


def ignored_cells(
    ignore_map: torch.Tensor,
    is_background: torch.Tensor,
    layout: GridLayout,
    padded_size: tuple[int, int],
) -> torch.Tensor:
    """Find the background cells whose centres lie in an ignored region.

    Args:
        ignore_map: the region at stride 4, ``(h, w)`` bool, without the padding of the batch.
        is_background: whether each cell is not positive, ``(cells,)`` bool.
        layout: grids.
        padded_size: (height, width) of the padded batch, which the grids divide.

    Returns:
        ``(cells,)`` bool.
    """
    levels = []
    for number in layout.num_grids:
        places = (torch.arange(number, device=ignore_map.device) + 0.5) / number
        y, x = torch.meshgrid(places * padded_size[0], places * padded_size[1], indexing="ij")
        levels.append(inside_map(ignore_map, x, y).flatten())
    return is_background & torch.cat(levels)
