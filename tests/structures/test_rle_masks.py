"""Run-length masks against pycocotools, and in the place of Detectron2's tensor of masks."""

import itertools

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data.catalog import Metadata
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.visualizer import Visualizer

from facenet_d2.evaluation.results import instances_to_results
from facenet_d2.structures.rle_masks import RLEMasks, find_changes, join_changes


def random_masks(seed):
    """Noise, a full mask, an empty one, and random rectangles, some of the image's height."""
    rng = np.random.default_rng(seed)
    height, width = (int(x) for x in rng.integers(1, 30, 2))
    masks = np.zeros((9, height, width), bool)
    masks[0] = rng.random((height, width)) < 0.5
    masks[1] = True
    for mask in masks[3:]:
        y0, y1 = np.sort(rng.integers(0, height + 1, 2))
        x0, x1 = np.sort(rng.integers(0, width + 1, 2))
        mask[y0:y1, x0:x1] = True
    masks[8, :, rng.integers(width)] = True
    return masks


def encode(mask):
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [*mask.shape], "counts": rle["counts"].decode()}


@pytest.mark.parametrize("seed", range(30))
def test_against_pycocotools(seed):
    dense = random_masks(seed)
    masks = RLEMasks.from_dense(iter(dense), dense.shape[1:])
    assert masks.shape == dense.shape
    assert masks.rles() == [encode(m) for m in dense]
    assert masks.areas().tolist() == dense.sum(axis=(1, 2)).tolist()
    boxes = BitMasks(torch.from_numpy(dense)).get_bounding_boxes().tensor
    assert torch.equal(masks.boxes(), boxes)
    assert torch.equal(masks.to_tensor(), torch.from_numpy(dense))
    for i, (x0, y0, x1, y1) in enumerate(boxes.int().tolist()):
        crop, x, y = masks.crop(i)
        if x1:
            assert (x, y) == (x0, y0)
            assert np.array_equal(crop, dense[i, y0:y1, x0:x1])
        else:
            assert crop.size == 0


@pytest.mark.parametrize("seed", range(30))
def test_parts_are_joined(seed):
    """A mask in bands of columns, each with the rows from its first to its last pixel."""
    dense = random_masks(seed)
    height, width = dense.shape[1:]
    rows = dense.any(axis=(0, 2)).nonzero()[0]
    top, bottom = rows[0], rows[-1] + 1
    cuts = [0, *np.sort(np.random.default_rng(seed).integers(0, width, 2)), width]
    bands = []
    for start, end in itertools.pairwise(cuts):
        columns = torch.from_numpy(dense[:, top:bottom, start:end]).transpose(1, 2)
        bands.append(find_changes(columns, start, top, height))
    joined = RLEMasks([join_changes(parts) for parts in zip(*bands)], (height, width))
    assert joined.rles() == [encode(m) for m in dense]


@pytest.mark.parametrize(
    "item",
    [
        3,
        -1,
        slice(2, 7),
        slice(None, None, 3),
        [4, 0],
        torch.tensor([8, 1, 1]),
        torch.arange(9) % 2 == 0,
        torch.zeros(9, dtype=torch.bool),
        np.array([5, 2]),
    ],
)
def test_indices_select_as_of_a_tensor(item):
    dense = torch.from_numpy(random_masks(0))
    masks = RLEMasks.from_dense(dense, dense.shape[1:])
    selected = masks[item]
    expected = dense[item]
    if expected.dim() == 3:
        selected = selected.to_tensor()
    assert torch.equal(selected, expected)


def test_an_index_out_of_range():
    masks = RLEMasks([], (4, 5))
    assert masks.shape == (0, 4, 5)
    assert masks.to_tensor().shape == (0, 4, 5)
    assert masks.boxes().shape == (0, 4)
    assert masks.rles() == []
    with pytest.raises(IndexError):
        masks[0]


@pytest.fixture
def instances():
    dense = torch.from_numpy(random_masks(1))
    size = tuple(dense.shape[1:])
    masks = RLEMasks.from_dense(dense, size)
    return dense, Instances(
        size,
        pred_masks=masks,
        pred_boxes=Boxes(masks.boxes()),
        scores=torch.linspace(0.1, 0.9, 9),
        pred_classes=torch.arange(9) % 2,
    )


def test_as_a_field_of_instances(instances):
    dense, instances = instances
    some = instances[instances.scores > 0.5].to("cpu")
    assert torch.equal(some.pred_masks.to_tensor(), dense[instances.scores > 0.5])
    both = Instances.cat([some, instances])
    assert torch.equal(both.pred_masks.to_tensor(), torch.cat([dense[5:], dense])[-len(both) :])
    assert np.array_equal(np.asarray(instances.pred_masks), dense.numpy())
    # The usual line of scripts for Detectron2.
    assert np.array_equal(instances.pred_masks.cpu().numpy(), dense.numpy())
    assert np.asarray(instances.pred_masks, dtype=np.uint8).dtype == np.uint8


def test_detectron2s_results_and_overlay(instances):
    dense, instances = instances
    with_tensor = Instances(instances.image_size, **instances.get_fields())
    with_tensor.remove("pred_masks")
    with_tensor.pred_masks = dense
    expected = instances_to_coco_json(with_tensor, 7)
    assert instances_to_coco_json(instances, 7) == expected
    assert instances_to_results(instances, 7) == expected
    assert instances_to_results(with_tensor, 7) == expected
    drawn = []
    for some in (instances, with_tensor):
        image = np.full((*some.image_size, 3), 90, np.uint8)
        visualizer = Visualizer(image, Metadata(thing_classes=["a", "b"]), scale=20)
        np.random.seed(0)
        drawn.append(visualizer.draw_instance_predictions(some).get_image())
    assert np.array_equal(*drawn)
    assert len(np.unique(drawn[0])) > 10


def test_memory_is_that_of_the_outline():
    """A disc of 3,000 pixels in an image of 81 million has two changes for each column."""
    height = width = 9000
    ys, xs = np.ogrid[-30:31, -30:31]
    disc = torch.from_numpy(xs**2 + ys**2 <= 900)
    changes = find_changes(disc.T[None], 8000, 8500, height)
    masks = RLEMasks(changes, (height, width))
    assert sum(c.nbytes for c in masks.changes) == 61 * 2 * 4
    assert masks.areas().tolist() == [int(disc.sum())]
    assert masks.boxes().tolist() == [[8000, 8500, 8061, 8561]]
    assert mask_util.area(masks.rles()).tolist() == [int(disc.sum())]
