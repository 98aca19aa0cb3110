"""Predictions with many instances, to measure post-processing without a trained model."""

from __future__ import annotations

import math

import torch

from ..errors import UserError
from ..modeling import SOLOv2
from ..modeling.solov2 import SOLOv2Predictions
from ..modeling.solov2.window import INITIAL_WINDOW


def dense_predictions(
    model: SOLOv2,
    size: tuple[int, int],
    candidates: int,
    kept: int,
    batch_size: int,
    *,
    radius: float = 32.0,
) -> SOLOv2Predictions:
    """Make predictions of a scene of evenly spread discs, whose radii vary by up to 10 %.

    The kernels and four channels of the mask features make mask logits ``s (r^2 - |p - c|^2)``.
    If the model has windows, they have no effect.

    Args:
        model: SOLOv2 model with the grids and numbers of channels.
        size: (height, width) of the padded input.
        candidates: number of cells above the score threshold, each with the mask of a disc.
        kept: number of discs. Further candidates repeat them with lower scores.
        batch_size: number of equal images.
        radius: mean radius of the discs in pixels of the input.

    Raises:
        UserError: if there are more candidates than cells, or more discs than candidates.
    """
    stride = model.mask_stride
    h, w = size[0] // stride, size[1] // stride
    cells, first = [], 0
    for grid in model.layout.num_grids:
        # Points NMS would suppress one of two neighbouring cells.
        cells += [first + y * grid + x for y in range(0, grid, 2) for x in range(0, grid, 2)]
        first += grid * grid
    if candidates > len(cells):
        raise UserError(f"--candidates is {candidates}, but the grids hold at most {len(cells)}.")
    if not 1 <= kept <= max(1, candidates):
        raise UserError(f"--kept is {kept}; it must be between 1 and --candidates.")
    depth = model.instance_head.kernel_pred.out_channels
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(h).double(), torch.arange(w).double(), indexing="ij")
    features = torch.zeros(depth, h, w, dtype=torch.float64)
    # Coordinates are scaled to at most 1, where float32 is exact enough for their products.
    unit = max(h, w)
    features[:4] = torch.stack([x, y, torch.ones_like(x) * unit, (x * x + y * y) / unit]) / unit
    side = math.ceil(math.sqrt(kept))
    logits = torch.full((first, model.num_classes), -10.0)
    kernels = torch.zeros(first, depth, dtype=torch.float64)
    for i in range(candidates):
        disc = i % kept
        cell = cells[i * len(cells) // candidates]
        r = radius / stride * (0.9 + 0.2 * torch.rand(1, generator=generator).item())
        cy, cx = ((v + 0.5) / side * extent for v, extent in zip(divmod(disc, side), (h, w)))
        coefficients = [2 * cx * unit, 2 * cy * unit, r**2 - cx**2 - cy**2, -(unit**2)]
        kernels[cell, :4] = 8 / r**2 * torch.tensor(coefficients, dtype=torch.float64)
        logits[cell, disc % model.num_classes] = 3.0 if i < kept else 1.0
    scene = [logits, kernels, features]
    if model.instance_head.window_pred is not None:
        scene.append(torch.zeros(first, len(INITIAL_WINDOW)))
    batches = (x.float().to(model.device).expand(batch_size, *x.shape).contiguous() for x in scene)
    return SOLOv2Predictions(*batches)
