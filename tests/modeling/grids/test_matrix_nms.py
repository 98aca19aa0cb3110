"""Matrix NMS against its definition, pair by pair."""

import importlib
import math

import pytest
import torch

from facenet_d2.modeling.grids import matrix_nms

# The package's name for it is the function's.
matrix_nms_module = importlib.import_module("facenet_d2.modeling.grids.matrix_nms")


def nms_by_loops(masks, classes, scores, kernel, sigma):
    n = len(scores)

    def iou(i, j):
        if classes[i] != classes[j]:
            return 0.0
        both = (masks[i] & masks[j]).sum().item()
        return both / ((masks[i] | masks[j]).sum().item())

    def f(value):
        return math.exp(-sigma * value**2) if kernel == "gaussian" else 1 - value

    result = []
    for j in range(n):
        decay = 1.0
        for i in range(j):
            covered = max([iou(k, i) for k in range(i)], default=0.0)
            decay = min(decay, f(iou(i, j)) / f(covered))
        # Lower-scored masks do not lower a score, and their term is one over their own cover.
        result.append(scores[j].item() * decay)
    return result


def nms(masks, classes, scores, mask_of=None, **options):
    """Apply Matrix NMS; by default, each candidate has its own mask."""
    mask_of = torch.arange(len(scores)) if mask_of is None else mask_of
    areas = masks.flatten(1).sum(dim=1).float()
    return matrix_nms(masks, classes, scores, mask_of, areas, **options)


def random_masks(n, seed):
    g = torch.Generator().manual_seed(seed)
    masks = torch.zeros(n, 24, 24, dtype=torch.bool)
    for i in range(n):
        y, x = torch.randint(0, 14, (2,), generator=g).tolist()
        h, w = torch.randint(3, 10, (2,), generator=g).tolist()
        masks[i, y : y + h, x : x + w] = True
    classes = torch.randint(0, 3, (n,), generator=g)
    scores = torch.rand(n, generator=g).sort(descending=True).values
    return masks, classes, scores


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
@pytest.mark.parametrize("n", [1, 2, 30])
@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_definition(kernel, n, sigma):
    masks, classes, scores = random_masks(n, seed=n)
    actual = nms(masks, classes, scores, kernel=kernel, sigma=sigma)
    expected = nms_by_loops(masks, classes, scores, kernel, sigma)
    torch.testing.assert_close(actual, torch.tensor(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_candidates_that_share_masks(kernel):
    masks, *_ = random_masks(5, seed=1)
    mask_of = torch.tensor([3, 0, 0, 4, 1, 1, 3])
    classes = torch.tensor([0, 1, 0, 0, 0, 1, 1])
    scores = torch.linspace(0.9, 0.3, 7)
    actual = nms(masks, classes, scores, mask_of, kernel=kernel)
    expected = nms_by_loops(masks[mask_of], classes, scores, kernel, 2.0)
    torch.testing.assert_close(actual, torch.tensor(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_a_duplicate_is_suppressed_and_other_classes_are_not(kernel):
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 2:6, 2:6] = True
    masks = mask.repeat(3, 1, 1)
    scores = torch.tensor([0.9, 0.8, 0.7])
    out = nms(masks, torch.tensor([1, 1, 2]), scores, kernel=kernel)
    assert out[0] == scores[0]
    assert out[2] == scores[2]
    full = math.exp(-2.0) if kernel == "gaussian" else 0.0
    assert out[1].item() == pytest.approx(0.8 * full, abs=1e-6)


def test_three_duplicates_stay_finite():
    masks = torch.ones(3, 4, 4, dtype=torch.bool)
    scores = torch.tensor([0.9, 0.8, 0.7])
    for kernel in ("gaussian", "linear"):
        out = nms(masks, torch.zeros(3, dtype=torch.int64), scores, kernel=kernel, sigma=500)
        assert torch.isfinite(out).all()
        assert out[1] < 0.01
        assert out[2] < 0.01


def test_nothing_to_suppress():
    empty = torch.zeros(0, 4, 4, dtype=torch.bool)
    assert nms(empty, torch.zeros(0, dtype=torch.int64), torch.zeros(0)).shape == (0,)


def test_unknown_kernel():
    masks, classes, scores = random_masks(2, 0)
    with pytest.raises(ValueError, match="kernel is 'hard'"):
        nms(masks, classes, scores, kernel="hard")


@pytest.mark.parametrize("chunk", [1, 10**9])
def test_more_masks_than_a_byte_counts(monkeypatch, chunk):
    """256 masks do not overflow: intersections against PyTorch's own products."""
    monkeypatch.setattr(matrix_nms_module, "CHUNK_FLOATS", chunk)
    masks = torch.rand(600, 300, 3) > 0.4
    masks[:512, 7, 1] = True
    masks[512:, 7, 1] = False
    flat = masks.flatten(1).double()
    classes = torch.arange(600) % 2
    expected = (flat @ flat.T) * (classes[:, None] == classes)
    actual = matrix_nms_module._intersections(masks.flatten(1), classes, torch.arange(600))
    off_diagonal = ~torch.eye(600, dtype=torch.bool)
    assert torch.equal(actual[off_diagonal].double(), expected[off_diagonal])
    single = torch.zeros(256, 2, dtype=torch.bool)
    single[:, 0] = True
    assert matrix_nms_module._shared_pixels(single).tolist() == [0]
