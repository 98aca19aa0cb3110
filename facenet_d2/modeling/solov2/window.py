"""Gaussian windows, which confine the mask of a cell to its neighbourhood.

A mask is the product of the cell's kernel and mask features that all cells share. The features of
similar objects are similar wherever they are, so in a row of them a mask often covers several. With
``MODEL.SOLOV2.MASK_WINDOW``, each cell also predicts a window, exp(-q), by which the odds of its
mask are multiplied:

    logit(x, y) = kernel . features(x, y) - q(dx - ox, dy - oy)
    q(u, v) = (a u)^2 + (b u + c v)^2

(dx, dy) is the position relative to the centre of the cell, in cells of its grid, and (a, b, c, ox,
oy) are the five predicted numbers. As q is a polynomial of the position in the image, it is the dot
product of six coefficients of the cell and six position maps: a dynamic 1x1 convolution, like that
of the features. The published SOLOv2 has no window. CondInst (Tian et al., ECCV 2020) gives its
dynamic convolutions relative coordinates for the same purpose.

The mask loss trains the windows. :func:`window_loss` also fits them to the pixels of the objects:
up to a factor, exp(-q) is the density of a normal distribution.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

INITIAL_WINDOW = (0.3, 0.0, 0.3, 0.0, 0.0)
"""(a, b, c, ox, oy) of a new model: a circular window; q reaches 1 at a distance of 3.3 cells."""


def cell_positions(num_grids: Sequence[int]) -> torch.Tensor:
    """Return the centre of each cell, relative to the image, and the size S of its grid.

    Args:
        num_grids: number of cells S along each side, per level.

    Returns:
        x and y of the centre, from -0.5 to 0.5, and S, ``(cells, 3)``.
    """
    positions = []
    for grid in num_grids:
        centers = (torch.arange(grid) + 0.5) / grid - 0.5
        y, x = torch.meshgrid(centers, centers, indexing="ij")
        positions.append(torch.stack([x, y, torch.full_like(x, grid)], dim=-1).flatten(0, 1))
    return torch.cat(positions)


def window_coefficients(windows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Compute the coefficients of -q for the maps of :func:`position_maps`.

    Args:
        windows: (a, b, c, ox, oy) of K cells, ``(..., K, 5)``.
        positions: positions of the cells, ``(K, 3)`` or ``(..., K, 3)``; see
            :func:`cell_positions`.

    Returns:
        ``(..., K, 6)`` float32.
    """
    a, b, c, offset_x, offset_y = windows.float().unbind(dim=-1)
    x, y, grid = positions.float().unbind(dim=-1)
    a, b, c = a * grid, b * grid, c * grid
    x, y = x + offset_x / grid, y + offset_y / grid
    # q = xx (X - x)^2 + xy (X - x) (Y - y) + yy (Y - y)^2 at the position (X, Y).
    xx, xy, yy = a.square() + b.square(), 2 * b * c, c.square()
    constant = xx * x.square() + xy * x * y + yy * y.square()
    return -torch.stack([xx, xy, yy, -2 * xx * x - xy * y, -2 * yy * y - xy * x, constant], dim=-1)


def window_loss(
    windows: torch.Tensor,
    positions: torch.Tensor,
    centers: torch.Tensor,
    covariances: torch.Tensor,
) -> torch.Tensor:
    """Compute log(1 + D), with the Kullback-Leibler divergence D of the object from the window.

    Object and window are taken as normal distributions: the object has the mean and covariance C of
    its pixels, the window has a density proportional to exp(-q). With all lengths in cells,

        D = mean of q over the object - 1 - log(2 |a c| sqrt(det C))

    The outer logarithm bounds the gradient, as in the KLD loss of rotated boxes (Yang et al.,
    NeurIPS 2021).

    Args:
        windows: (a, b, c, ox, oy) of P cells, ``(P, 5)``.
        positions: positions of the cells, ``(P, 3)``; see :func:`cell_positions`.
        centers: centre (x, y) of each cell's object, as shares of the image's width and height from
            -0.5 to 0.5, ``(P, 2)``.
        covariances: variance of x, covariance of x and y, and variance of y of each object in the
            same units, ``(P, 3)``.

    Returns:
        Losses, at least 0, ``(P,)`` float32.
    """
    a, b, c, offset_x, offset_y = windows.float().unbind(dim=-1)
    x, y, grid = positions.float().unbind(dim=-1)
    u, v = ((centers - torch.stack([x, y], dim=-1)) * grid[:, None]).float().unbind(dim=-1)
    u, v = u - offset_x, v - offset_y
    scaled = covariances * grid[:, None].square()
    xx, xy, yy = scaled.float().unbind(dim=-1)
    # Of float64 covariances: the terms of a thin diagonal object almost cancel.
    determinant = (scaled[:, 0] * scaled[:, 2] - scaled[:, 1].square()).float()
    mean_q = (a * u).square() + (b * u + c * v).square()
    mean_q = mean_q + (a.square() + b.square()) * xx + 2 * b * c * xy + c.square() * yy
    volume = (a * c).square() * determinant
    # Rounding may make D slightly negative.
    divergence = mean_q - 1 - (4 * volume.clamp(min=1e-20)).log() / 2
    return divergence.clamp(min=0).log1p()


def position_maps(size: tuple[int, int], device: torch.device) -> torch.Tensor:
    """Return X^2, XY, Y^2, X, Y and 1 at the centre of each pixel.

    X and Y are shares of the image's width and height, from -0.5 to 0.5.

    Args:
        size: (h, w) of the mask features.
        device: device of the result.

    Returns:
        ``(6, h * w)`` float32.
    """
    y, x = ((torch.arange(n, device=device) + 0.5) / n - 0.5 for n in size)
    x, y = x.expand(size), y[:, None].expand(size)
    return torch.stack([x * x, x * y, y * y, x, y, torch.ones_like(x)]).flatten(1)
