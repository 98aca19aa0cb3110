"""Overlays: colours, places and sizes, against NumPy and Detectron2's Visualizer."""

import numpy as np
import pytest
from detectron2.data.catalog import Metadata
from detectron2.utils.visualizer import GenericMask, Visualizer

from facenet_d2.visualization import draw_masks

METADATA = Metadata(thing_classes=["a", "b"], thing_colors=[(0, 0, 255), (255, 128, 0)])


def disc(size, center, radius):
    ys, xs = np.ogrid[: size[0], : size[1]]
    return (ys - center[0]) ** 2 + (xs - center[1]) ** 2 <= radius**2


def test_the_colour_is_blended_inside_the_mask_only():
    image = np.random.default_rng(0).integers(0, 256, (900, 1000, 3), np.uint8)
    mask = disc((900, 1000), (400, 300), 100) & ~disc((900, 1000), (400, 300), 40)
    given = image.copy()
    overlay = draw_masks(image, mask[None], [1], METADATA, with_labels=False)
    assert np.array_equal(image, given)
    blended = (0.6 * image + 0.4 * np.array([255, 128, 0])).round()
    # Apart from the outlines, which are a few pixels wide.
    inside = disc((900, 1000), (400, 300), 95) & ~disc((900, 1000), (400, 300), 45)
    outside = ~disc((900, 1000), (400, 300), 105) | disc((900, 1000), (400, 300), 35)
    assert np.abs(overlay[inside] - blended[inside]).max() <= 1
    assert np.array_equal(overlay[outside], image[outside])


DISCS = [(0.3, 0.3, 0.25), (0.45, 0.5, 0.15), (0.8, 0.9, 0.18)]


@pytest.mark.parametrize(("side", "tolerance"), [(100, 0.03), (300, 0.015), (900, 0.005)])
def test_as_detectron2_draws(side, tolerance):
    """All but labels and outlines, which Detectron2 draws through the centres of pixels."""
    image = np.full((side, side, 3), 100, np.uint8)
    masks = [disc((side, side), (side * y, side * x), side * r) for y, x, r in DISCS]
    overlay = draw_masks(image, masks, [0, 1, 0], METADATA)
    scale = max(1, round(800 / side))
    visualizer = Visualizer(image, METADATA, scale=scale)
    visualizer.overlay_instances(
        masks=[GenericMask(m, side, side) for m in masks],
        labels=["a", "b", "a"],
        assigned_colors=[(0, 0, 1), (1, 128 / 255, 0), (0, 0, 1)],
        alpha=0.4,
    )
    expected = visualizer.output.get_image()
    assert overlay.shape == expected.shape
    difference = np.abs(overlay.astype(int) - expected).max(axis=2)
    assert (difference > 30).mean() < tolerance
    drawn = (np.abs(expected.astype(int) - 100).max(axis=2) > 30).mean()
    assert drawn > 0.2


def test_labels_lie_on_their_objects_and_can_be_left_out():
    image = np.full((900, 900, 3), 100, np.uint8)
    masks = [disc((900, 900), center, 60) for center in ((200, 700), (700, 200))]
    plain = draw_masks(image, masks, [0, 1], METADATA, with_labels=False)
    labelled = draw_masks(image, masks, [0, 1], METADATA, labels=["first", "second"])
    ys, xs = (labelled != plain).any(axis=2).nonzero()
    near = [(np.abs(ys - y) < 60) & (np.abs(xs - x) < 60) for y, x in ((200, 700), (700, 200))]
    assert (near[0] | near[1]).all()
    assert min(near[0].sum(), near[1].sum()) > 200


@pytest.mark.parametrize(
    "text", ["", "Flugzeug äöü", "\ud800", "two\nlines", "\0\x85\t\u2028", "船" * 200]
)
def test_any_text_can_be_a_label(text):
    image = np.full((60, 90, 3), 100, np.uint8)
    mask = disc((60, 90), (30, 40), 20)
    plain = draw_masks(image, [mask], [0], METADATA, with_labels=False)
    labelled = draw_masks(image, [mask], [0], METADATA, labels=[text])
    assert (labelled != plain).any()


def test_labels_at_the_border_are_whole():
    """A label of a small object in a corner is as large as that of one in the middle."""
    image = np.full((900, 900, 3), 100, np.uint8)
    sizes = []
    for y, x in ((0, 0), (450, 450), (890, 890), (0, 890)):
        mask = np.zeros((900, 900), bool)
        mask[y : y + 10, x : x + 10] = True
        plain = draw_masks(image, [mask], [0], METADATA, with_labels=False)
        labelled = draw_masks(image, [mask], [0], METADATA, labels=["a long name"])
        ys, xs = (labelled != plain).any(axis=2).nonzero()
        sizes.append((np.ptp(ys), np.ptp(xs)))
    assert len(set(sizes)) == 1


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (33, 2), (2, 33), (9000, 2), (3, 1)])
def test_thin_images(size):
    image = np.full((*size, 3), 100, np.uint8)
    mask = np.ones(size, bool)
    overlay = draw_masks(image, [mask, np.zeros(size, bool)], [1, 0], METADATA)
    scale = max(1, round(800 / max(size)))
    assert overlay.shape == (size[0] * scale, size[1] * scale, 3)
    assert (overlay != 100).any()


def test_boxes_and_smaller_objects_on_top():
    image = np.full((900, 900, 3), 100, np.uint8)
    small, large = np.zeros((2, 900, 900), bool)
    large[100:800, 100:800] = True
    small[300:500, 300:500] = True
    boxes = np.array([[300, 300, 500, 500], [100, 100, 800, 800]], np.float32)
    for order in ([0, 1], [1, 0]):
        masks = [[small, large][i] for i in order]
        overlay = draw_masks(image, masks, order, METADATA, boxes=boxes[order], with_labels=False)
        # The border of the large object is orange, that of the small one blue.
        assert overlay[100, 450].tolist() == [255, 128, 0]
        assert overlay[300, 450].tolist() == [0, 0, 255]
        below = 0.6 * np.array([100, 100, 100]) + 0.4 * np.array([255, 128, 0])
        expected = 0.6 * below + 0.4 * np.array([0, 0, 255])
        assert np.abs(overlay[400, 400] - expected).max() <= 1
