"""Assignment of objects to positions (FCOS, section 3.2), around the masks' centres of mass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.structures import Instances

from ...structures.masks import full_size_masks, mass_centers, mass_covariances

# Upper bound of a level's range of object sizes, in strides: 64 pixels at stride 8. A size is the
# largest distance from the position to a side of the box.
SIZE_OF_INTEREST = 8


def position_centers(anchors: torch.Tensor) -> torch.Tensor:
    """Return the centres (x, y) of anchor boxes, ``(R, 4)`` to ``(R, 2)``."""
    return (anchors[:, :2] + anchors[:, 2:]) / 2


def anchor_strides(anchors: torch.Tensor) -> torch.Tensor:
    """Return the stride of each position, the side of its anchor box: ``(R, 4)`` to ``(R,)``."""
    return anchors[:, 2] - anchors[:, 0]


@torch.no_grad()
def match_positions(
    anchors: Sequence[torch.Tensor],
    boxes: torch.Tensor,
    centers: torch.Tensor,
    radius: float,
) -> torch.Tensor:
    """Find the object of each position.

    A position is positive for an object if it lies inside the object's box, less than ``radius``
    strides from the object's centre in both directions, and the largest distance to a side of the
    box is in the level's range: from 4 to 8 strides, without a lower bound on the finest level and
    an upper bound on the coarsest. The object with the smallest box wins.

    Args:
        anchors: one box of the stride's size around each position, per level, ``(R_l, 4)``.
        boxes: boxes of the objects, ``(N, 4)``.
        centers: centres (x, y) of the objects, ``(N, 2)``.
        radius: radius of centre sampling, in strides.

    Returns:
        Object of each position of all levels in turn, -1 for background, ``(R,)`` int64.
    """
    every = torch.cat([*anchors])
    if len(boxes) == 0:
        return torch.full((len(every),), -1, device=every.device)
    positions, strides = position_centers(every), anchor_strides(every)
    minimum = strides * (SIZE_OF_INTEREST / 2)
    minimum[: len(anchors[0])] = 0
    maximum = strides * SIZE_OF_INTEREST
    maximum[-len(anchors[-1]) :] = float("inf")

    near = (positions[:, None] - centers).abs().amax(dim=2) < radius * strides[:, None]
    sides = torch.cat([positions[:, None] - boxes[:, :2], boxes[:, 2:] - positions[:, None]], dim=2)
    inside = sides.amin(dim=2) > 0
    size = sides.amax(dim=2)
    in_range = (size > minimum[:, None]) & (size < maximum[:, None])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    # In float32, as in Detectron2's FCOS: areas that differ by less than 8 may count as equal.
    quality, owners = ((near & inside & in_range).float() * (1e8 - areas)).max(dim=1)
    owners[quality < 1e-5] = -1
    return owners


def mask_centers(instances: Instances) -> torch.Tensor:
    """Return the centres of mass of ground-truth masks.

    Args:
        instances: N objects with the ``gt_centers`` of :class:`~facenet_d2.data.SceneMapper` or
            with ``gt_masks``.

    Returns:
        (x, y) in pixels of the network's input, ``(N, 2)`` float32.
    """
    if instances.has("gt_centers"):
        centers = instances.gt_centers
    else:
        centers = torch.stack(mass_centers(full_size_masks(instances)), dim=1)
    # Centres are pixel indices; + 0.5 converts them to continuous coordinates.
    return centers.float() + 0.5


def centerness_targets(distances: torch.Tensor) -> torch.Tensor:
    """Compute FCOS's centerness, equation (3) there.

    Args:
        distances: distances to the left, top, right and bottom side of the box, ``(P, 4)``.

    Returns:
        Centerness between 0 and 1, ``(P,)``.
    """
    pairs = distances[:, [0, 2]], distances[:, [1, 3]]
    horizontal, vertical = (p.min(dim=1).values / p.max(dim=1).values for p in pairs)
    return torch.sqrt(horizontal * vertical)


def mask_covariances(instances: Instances) -> torch.Tensor:
    """Return the covariances of ground-truth masks.

    Args:
        instances: N objects with the ``gt_covariances`` of :class:`~facenet_d2.data.SceneMapper` or
            with ``gt_masks``.

    Returns:
        variance of x, covariance of x and y, variance of y, in squared pixels of the network's
        input, ``(N, 3)`` float32.
    """
    if instances.has("gt_covariances"):
        return instances.gt_covariances.float()
    return mass_covariances(full_size_masks(instances)).float()


def elliptic_centerness_targets(
    offsets: torch.Tensor, covariances: torch.Tensor, border: float
) -> torch.Tensor:
    """Compute a centerness that falls from an object's centre of mass as a Gaussian.

    An ellipse with the object's centre and covariance has half-axes of twice the standard
    deviations. The centerness is 1 at the centre and ``border`` on the ellipse. This is our reading
    of the abstract of Luo et al., Journal of Remote Sensing 2022, which gives no equation.

    Args:
        offsets: positions relative to the centres of their objects, (x, y), ``(P, 2)``.
        covariances: variance of x, covariance, variance of y of the objects, ``(P, 3)``.
        border: centerness on the ellipse, between 0 and 1.

    Returns:
        Centerness between 0 and 1, ``(P,)``.
    """
    x, y = offsets.unbind(dim=1)
    xx, xy, yy = covariances.unbind(dim=1)
    # The squared Mahalanobis distance, which is 4 on the ellipse.
    distance = (yy * x.square() - 2 * xy * x * y + xx * y.square()) / (xx * yy - xy.square())
    return border ** (distance / 4)
