"""The seam merge: tiles give what one pass over the scene gives, in any order and division."""

import time
import tracemalloc
from math import fsum

import numpy as np
import pytest
from compare_merging import CLASSES, DENSE_SCENES, car_row, full_boxes, lattice_size
from stub import (
    Change,
    Faults,
    as_set,
    colour,
    corner_rule,
    dense_scene,
    detect,
    detect_tiles,
    draw_object,
    ellipse,
    find_faults,
    merge,
    objects_of,
    random_scene,
    rotated_rectangle,
    rows_of,
    visible_parts,
)

from facenet_d2.errors import UserError
from facenet_d2.scenes.detections import Detections, TileDetections
from facenet_d2.scenes.merge import MergeSettings, SceneInstances, SeamMerger, merge_rows
from facenet_d2.scenes.prediction import InstanceStream
from facenet_d2.scenes.tile_store import MemoryStore
from facenet_d2.scenes.tiles import TileGrid


def as_bytes(instances):
    arrays = [instances.ids, instances.parts, instances.whole]
    found = instances.detections
    arrays += [found.classes, found.scores, found.boxes, found.bits]
    return [(array.dtype.str, array.shape, array.tobytes()) for array in arrays]


def with_scores(detections):
    return {
        (*value, score)
        for i, score in enumerate(detections.scores.tolist())
        for value in as_set(select(detections, i))
    }


def select(detections, i):
    return Detections.from_crops(
        detections.classes[[i]],
        detections.scores[[i]],
        detections.boxes[[i]],
        [detections.mask(i)],
    )


# Tiles give the objects of one pass.


@pytest.mark.parametrize("seed", range(40))
def test_tiles_give_the_instances_of_one_pass(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(12, 60))
    overlap = int(rng.integers(4, size))
    tolerance = int(rng.integers(0, 3))
    largest = max(1, overlap - 2 * (tolerance + 1))
    # Remainders of one pixel, scenes smaller than a tile, and anything else.
    sides = [size + (size - overlap) * int(rng.integers(0, 4)) + int(rng.integers(-1, 2)), 0]
    sides[1] = int(rng.choice([1, size - 3, size, size + 1, int(rng.integers(2, 250))]))
    height, width = rng.permutation([max(1, side) for side in sides]).tolist()
    scene = random_scene(rng, height, width, 150, largest)
    classes = int(rng.integers(1, 4))
    picture = colour(scene, classes)
    one_pass = Detections.from_crops(*detect(picture))
    assert as_set(one_pass) == objects_of(scene, classes)

    grid = TileGrid(height, width, size, overlap)
    tiles = detect_tiles(picture, grid)
    instances, report = merge(tiles, grid, tolerance)
    # No object is larger than the overlap, so that the scores, too, are those of one pass.
    assert with_scores(instances.detections) == with_scores(one_pass)
    assert len(instances) == len(one_pass)
    assert report.oversized == report.fragments == report.slivers == report.leftovers == 0
    assert instances.ids.tolist() == list(range(1, len(instances) + 1))
    if tolerance == 0:
        assert as_set(corner_rule(tiles, grid)) == as_set(one_pass)
        assert instances.whole.all()


@pytest.mark.parametrize("seed", range(15))
def test_objects_larger_than_the_overlap_and_than_a_tile_are_restored(seed):
    rng = np.random.default_rng(seed)
    scene = np.zeros((200, 260), np.int32)
    label = 1
    for _ in range(60):
        make = (rotated_rectangle, ellipse)[rng.integers(2)]
        shape = make(rng.uniform(5, 150), rng.uniform(5, 60), rng.uniform(0, 180))
        x, y = rng.integers(0, 250), rng.integers(0, 190)
        label += draw_object(scene, label, shape, int(x), int(y))
    grid = TileGrid(*scene.shape, size=50, overlap=int(rng.integers(8, 30)))
    instances, report = merge(detect_tiles(colour(scene, 2), grid), grid)
    assert as_set(instances.detections) == objects_of(scene, 2)
    sizes = {
        (class_id, box): max(box[2] - box[0], box[3] - box[1])
        for class_id, box, _ in objects_of(scene, 2)
    }
    larger = sum(size > 50 for size in sizes.values())
    assert 0 < larger <= report.united == report.oversized == (instances.parts > 1).sum()
    assert not instances.whole[instances.parts > 1].any()


def test_seams_at_every_offset_through_an_object():
    size, overlap = 24, 9
    shape = np.ones((7, 7), bool)
    shape[2:5, 2:5] = False  # a ring
    shape[3, 6] = False  # without symmetry
    for offset in range(size + 1):
        scene = np.zeros((70, 70), np.int32)
        assert draw_object(scene, 1, shape, 20 + offset, 20)
        assert draw_object(scene, 2, shape, 20, 30 + offset // 2)
        assert draw_object(scene, 3, shape.T, 38 + offset, 38 + offset)
        grid = TileGrid(70, 70, size, overlap)
        for tiles in (detect_tiles(colour(scene, 1), grid), visible_parts(scene, grid, 1)):
            instances, _ = merge(tiles, grid)
            assert as_set(instances.detections) == objects_of(scene, 1)


def u_shape():
    """Arms that a tile sees apart, the bend in the next tile."""
    shape = np.zeros((60, 40), bool)
    shape[:, :8] = shape[:, -8:] = shape[-8:] = True
    return shape


def snake():
    shape = np.zeros((60, 64), bool)
    for i in range(4):
        shape[:, 18 * i : 18 * i + 8] = True
    for i in range(3):
        shape[(-8 if i % 2 else 0) or slice(0, 8), 18 * i : 18 * i + 26] = True
    shape[-8:, 18:44] = True
    return shape[:, :62]


@pytest.mark.parametrize("shape", [u_shape(), np.rot90(u_shape()), snake(), snake().T])
def test_pieces_that_a_tile_sees_apart_are_joined(shape):
    scene = np.zeros((120, 120), np.int32)
    assert draw_object(scene, 1, shape, 20, 25)
    picture = colour(scene, 1)
    grid = TileGrid(120, 120, 60, 20)
    tiles = detect_tiles(picture, grid)
    assert any(len(tile.detections) > 1 for tile in tiles)
    instances, report = merge(tiles, grid)
    assert as_set(instances.detections) == objects_of(scene, 1)
    assert report.united == 1
    filled = [len(tile.detections) for tile in tiles if len(tile.detections)]
    assert (instances.parts.tolist(), instances.tiles.tolist()) == ([sum(filled)], [len(filled)])
    store = MemoryStore()
    for tile, found in zip(grid, tiles, strict=True):
        store.save(tile, found)
    (instance,) = InstanceStream(grid, store, MergeSettings(tolerance=0))
    assert instance.tiles == len(filled) < sum(filled)


def test_four_neighbours_at_a_corner_of_four_tiles_stay_apart():
    grid = TileGrid(90, 90, 50, 10)
    scene = np.zeros((90, 90), np.int32)
    # All four tiles see a part of each; two of them touch the corner of the overlap's centre.
    for label, (x, y) in enumerate([(24, 24), (45, 24), (24, 45), (45, 45)], start=1):
        assert draw_object(scene, label, np.ones((20, 20), bool), x, y)
    instances, report = merge(visible_parts(scene, grid, 1), grid)
    assert as_set(instances.detections) == objects_of(scene, 1)
    assert report.detections > 4


# Dense scenes and imperfect detectors.


@pytest.fixture(scope="module")
def dense_scenes():
    return [dense_scene(seed, count) for seed, count in DENSE_SCENES]


@pytest.mark.parametrize("faults", [{}, {"short": 3}])
def test_dense_scenes_are_exact(dense_scenes, faults):
    grid = TileGrid(*dense_scenes[0].shape, 512, 128)
    total = Faults()
    for k, scene in enumerate(dense_scenes):
        change = Change(np.random.default_rng(k), noise=False, **faults)
        instances, _ = merge(visible_parts(scene, grid, CLASSES, change), grid, tolerance=4)
        total += find_faults(instances.detections, scene)
    assert total == Faults(3173, 3173, 3173, 3173, 0, 0)


@pytest.mark.parametrize("short", [0, 3])
def test_noise_leaves_at_most_two_surplus_instances_and_merges_none(dense_scenes, short):
    grid = TileGrid(*dense_scenes[0].shape, 512, 128)
    total = Faults()
    for k, scene in enumerate(dense_scenes):
        change = Change(np.random.default_rng([0, k]), noise=True, short=short)
        instances, _ = merge(visible_parts(scene, grid, CLASSES, change), grid, tolerance=4)
        total += find_faults(instances.detections, scene)
    assert total.surplus <= 2
    assert total.merged == 0
    assert total.hit >= 0.98 * 3173


# The rules, against an independent version with loops and masks of the whole scene.


def noisy_tiles(seed, classes=2, grid=None):
    rng = np.random.default_rng(seed)
    scene = random_scene(rng, *((90, 110) if grid is None else (grid.height, grid.width)), 90, 24)
    grid = grid or TileGrid(90, 110, 40, 16)
    change = Change(rng, noise=True, short=1)
    tiles = visible_parts(scene, grid, classes, change)
    return [confuse_classes(tile, rng, classes) for tile in tiles], grid


def confuse_classes(tile, rng, classes):
    """Give a quarter of the detections a second class, with another score, as networks do."""
    found = tile.detections
    doubled = [i for i in range(len(found)) if rng.random() < 0.25]
    index = [*range(len(found)), *doubled]
    new = (np.arange(len(index)) >= len(found)).astype(np.int32)
    again = Detections.from_crops(
        (found.classes[index] + new) % classes,
        found.scores[index] - 0.3 * rng.random(len(index)) * new,
        found.boxes[index],
        [found.mask(i) for i in index],
    )
    return TileDetections(tile.row, tile.column, again)


def plain_merge(tiles, grid, tolerance, repeat_iou):
    """All steps of the merge at once: every pair is compared, masks are as large as the scene."""
    parts = []
    for detections in sorted(tiles, key=lambda t: (t.row, t.column)):
        tile = grid.tile(detections.row, detections.column)
        window = np.zeros((grid.height, grid.width), bool)
        window[tile.top : tile.bottom, tile.left : tile.right] = True
        for i in range(len(detections.detections)):
            mask = np.zeros_like(window)
            x0, y0, x1, y1 = detections.detections.boxes[i]
            mask[y0:y1, x0:x1] = detections.detections.mask(i)
            ys, xs = np.nonzero(mask)
            sides = (
                (tile.left > 0, xs - tile.left),
                (tile.top > 0, ys - tile.top),
                (tile.right < grid.width, tile.right - 1 - xs),
                (tile.bottom < grid.height, tile.bottom - 1 - ys),
            )
            parts.append(
                {
                    "tile": (tile.row, tile.column),
                    "window": window,
                    "sides": (tile.left, tile.top, tile.right, tile.bottom),
                    "mask": mask,
                    "box": (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1),
                    "class": int(detections.detections.classes[i]),
                    "score": float(detections.detections.scores[i]),
                    "margin": min((d.min() for inner, d in sides if inner), default=np.inf),
                    "depth": min((d.max() + 1 for inner, d in sides if inner), default=np.inf),
                }
            )
    links = []
    for j, b in enumerate(parts):
        for i, a in enumerate(parts[:j]):
            if a["tile"] == b["tile"] or a["class"] != b["class"]:
                continue
            either_is_cut = min(a["margin"], b["margin"]) <= tolerance
            low, high = sorted((a["score"], b["score"]))
            if low < (0.35 if either_is_cut else 0.7) * high:
                continue
            both = a["window"] & b["window"]
            shared = (a["mask"] & b["mask"]).sum()
            areas = (a["mask"] & both).sum(), (b["mask"] & both).sum()
            if shared and shared / min(areas) > 0.5:
                iou = shared / (areas[0] + areas[1] - shared)
                links.append((-iou, -shared / min(areas), -shared, i, j))
    links.sort()
    strong = {i: set() for i in range(len(parts))}
    for _, agreement, _, i, j in links:
        if agreement < -0.8:
            strong[i].add(j)
            strong[j].add(i)
    groups = plain_groups(range(len(parts)), links, parts, strong, tolerance)
    instances = []
    while groups:
        instance, others = plain_instance(sorted(groups.pop()), parts, links, tolerance)
        instances.append(instance)
        groups += plain_groups(others, links, parts, strong, tolerance)
    instances = [x for x in instances if not plain_sliver(x, grid, parts, tolerance)]
    instances = plain_suppression(
        instances,
        lambda x: (x["whole"], x["whole"] * x["score"], x["area"], -x["members"][0]),
        lambda x, y: (
            x["class"] == y["class"]
            and (
                not x["tiles"] & y["tiles"] and plain_iou(x, y) > 0.5
                if x["whole"]
                else y["score"] >= 0.35 * x["score"]
                and 2 * (x["mask"] & outside(y, x["tiles"], parts)).sum() > x["area"]
            )
        ),
    )
    if repeat_iou is not None:
        instances = plain_suppression(
            instances,
            lambda x: (x["score"], x["area"], -x["members"][0]),
            lambda x, y: x["class"] != y["class"] and plain_iou(x, y) > repeat_iou,
        )
    return instances


def plain_groups(members, links, parts, strong, tolerance):
    groups = [{i} for i in members]
    for *_, i, j in links:
        if i not in members or j not in members:
            continue
        a, b = (next(g for g in groups if k in g) for k in (i, j))
        if a is b or not all(
            joinable(tile, a, b, parts, strong, tolerance)
            for tile in {parts[k]["tile"] for k in a} & {parts[k]["tile"] for k in b}
        ):
            continue
        groups.remove(b)
        a |= b
    return groups


def joinable(tile, a, b, parts, strong, tolerance):
    x, y = ([k for k in group if parts[k]["tile"] == tile] for group in (a, b))
    cut = all(parts[k]["margin"] <= tolerance for k in x + y)
    reached = set(x)
    for _ in parts:
        reached |= {j for i in reached for j in strong[i] if j in a | b}
    apart = not any((parts[i]["mask"] & parts[j]["mask"]).any() for i in x for j in y)
    return cut and apart and bool(reached & set(y))


def plain_cut(part, members, tolerance):
    """Whether a seam cuts a part, or nearly cuts it where another one continues."""
    if part["margin"] <= tolerance:
        return True
    for other in members:
        for i, sign in ((0, 1), (1, 1), (2, -1), (3, -1)):
            side = sign * part["sides"][i]
            beyond = sign * other["box"][i] < side
            if beyond and sign * part["box"][i] - side <= 4 * tolerance:
                return True
    return False


def plain_instance(group, parts, links, tolerance):
    """Return the instance of a group, and those of its members that are not linked with it."""
    members = [parts[k] for k in group]
    whole = [k for k in group if not plain_cut(parts[k], members, tolerance)]
    others = set()
    if whole:
        best = min(
            whole,
            key=lambda k: (-parts[k]["margin"], -parts[k]["score"], -parts[k]["mask"].sum(), k),
        )
        pairs = {frozenset((i, j)) for *_, i, j in links}
        others = {k for k in group if k != best and frozenset((k, best)) not in pairs}
        scores = [parts[k]["score"] for k in whole if k not in others]
        used, score = [best], fsum(scores) / len(scores)
    else:
        areas = [float(p["mask"].sum()) for p in members]
        used = group
        score = fsum(p["score"] * area for p, area in zip(members, areas)) / fsum(areas)
    mask = np.logical_or.reduce([parts[k]["mask"] for k in used])
    return {
        "members": used,
        "tiles": {parts[k]["tile"] for k in group if k not in others},
        "mask": mask,
        "area": mask.sum(),
        "class": members[0]["class"],
        "score": score,
        "whole": bool(whole),
    }, others


def plain_sliver(instance, grid, parts, tolerance):
    if any(parts[k]["depth"] > 2 * tolerance for k in instance["members"]):
        return False
    ys, xs = np.nonzero(instance["mask"])
    return any(
        (tile.row, tile.column) not in instance["tiles"]
        and xs.min() - tile.left > (tolerance if tile.left > 0 else -1)
        and ys.min() - tile.top > (tolerance if tile.top > 0 else -1)
        and tile.right - 1 - xs.max() > (tolerance if tile.right < grid.width else -1)
        and tile.bottom - 1 - ys.max() > (tolerance if tile.bottom < grid.height else -1)
        for tile in grid
    )


def outside(instance, tiles, parts):
    masks = [parts[k]["mask"] for k in instance["members"] if parts[k]["tile"] not in tiles]
    return np.logical_or.reduce([np.zeros_like(instance["mask"]), *masks])


def plain_iou(x, y):
    return (x["mask"] & y["mask"]).sum() / (x["mask"] | y["mask"]).sum()


def plain_suppression(instances, rank, loses):
    kept = []
    for x in sorted(instances, key=rank, reverse=True):
        if not any(loses(x, y) for y in kept):
            kept.append(x)
    return kept


@pytest.mark.parametrize("repeat_iou", [None, 0.6])
@pytest.mark.parametrize("seed", range(6))
def test_the_merge_follows_its_rules(seed, repeat_iou):
    tiles, grid = noisy_tiles(seed)
    instances, report = merge(tiles, grid, 2, repeat_iou=repeat_iou)
    found = instances.detections
    expected = plain_merge(tiles, grid, 2, repeat_iou)
    masks = set()
    for x in expected:
        ys, xs = np.nonzero(x["mask"])
        box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
        mask = x["mask"][box[1] : box[3], box[0] : box[2]].tobytes()
        masks.add((x["class"], box, mask, float(np.float32(x["score"]))))
    assert len(expected) == len(found) == report.instances
    assert with_scores(found) == masks
    assert sorted(instances.parts) == sorted(len(x["members"]) for x in expected)
    assert instances.whole.sum() == sum(x["whole"] for x in expected)
    assert (report.repeats > 0) == (repeat_iou is not None)


def detections_of(grid, row, column, *found):
    """Return detections (class, score, box in scene pixels) with masks that fill their boxes."""
    boxes = [box for _, _, box in found]
    crops = [np.ones((y1 - y0, x1 - x0), bool) for x0, y0, x1, y1 in boxes]
    return TileDetections(
        row,
        column,
        Detections.from_crops([c for c, _, _ in found], [s for _, s, _ in found], boxes, crops),
    )


def test_the_most_central_whole_detection_stands_for_its_group():
    grid = TileGrid(30, 100, 60, 20)
    left = detections_of(grid, 0, 0, (4, 0.9, (50, 10, 57, 17)))
    right = detections_of(grid, 0, 1, (4, 0.7, (51, 10, 57, 18)))
    instances, report = merge([left, right], grid, tolerance=1)
    assert instances.detections.boxes.tolist() == [[51, 10, 57, 18]]
    assert instances.detections.scores.tolist() == pytest.approx([0.8])
    assert (instances.whole.tolist(), instances.parts.tolist()) == ([True], [1])
    assert (report.united, report.fragments) == (0, 0)


def test_cut_detections_are_united_with_the_mean_score():
    grid = TileGrid(30, 100, 60, 20)
    left = detections_of(grid, 0, 0, (4, 0.9, (20, 10, 60, 12)))
    right = detections_of(grid, 0, 1, (4, 0.6, (40, 10, 60, 12)))
    instances, report = merge([left, right], grid)
    assert instances.detections.boxes.tolist() == [[20, 10, 60, 12]]
    # 80 pixels at 0.9 and 40 at 0.6.
    assert instances.detections.scores.tolist() == pytest.approx([0.8])
    assert (instances.whole.tolist(), instances.parts.tolist()) == ([False], [2])
    assert (report.united, report.oversized) == (1, 1)


@pytest.mark.parametrize(("end", "expected", "whole"), [(52, 70, False), (50, 50, True)])
def test_a_mask_that_stops_short_is_cut_if_its_partner_runs_on(end, expected, whole):
    """One that ends farther from the side is whole: its partner takes two objects for one."""
    grid = TileGrid(30, 100, 60, 20)
    left = detections_of(grid, 0, 0, (0, 0.9, (20, 10, end, 20)))
    right = detections_of(grid, 0, 1, (0, 0.9, (40, 10, 70, 20)))
    instances, _ = merge([left, right], grid, tolerance=2)
    assert instances.detections.boxes.tolist() == [[20, 10, expected, 20]]
    assert instances.whole.tolist() == [whole]


def test_an_object_linked_by_a_detection_of_two_is_kept():
    """The second tile reports one mask for two objects, which the first and the third see whole."""
    grid = TileGrid(30, 150, 60, 30)
    assert grid.lefts == [0, 30, 60, 90]
    first = detections_of(grid, 0, 0, (0, 0.8, (32, 10, 44, 20)))
    both = detections_of(grid, 0, 1, (0, 0.9, (32, 10, 86, 20)))
    third = detections_of(grid, 0, 2, (0, 0.7, (68, 10, 86, 20)))
    instances, _ = merge([first, both, third], grid, tolerance=0)
    assert sorted(instances.detections.boxes.tolist()) == [[32, 10, 44, 20], [68, 10, 86, 20]]


def test_low_scores_do_not_link_objects():
    grid = TileGrid(30, 100, 60, 20)
    left = detections_of(grid, 0, 0, (0, 0.9, (41, 5, 50, 25)), (0, 0.1, (30, 5, 60, 25)))
    right = detections_of(grid, 0, 1, (0, 0.9, (52, 5, 70, 25)), (0, 0.1, (40, 5, 90, 25)))
    instances, _ = merge([left, right], grid)
    found = dict(zip(map(tuple, instances.detections.boxes.tolist()), instances.detections.scores))
    assert found[41, 5, 50, 25] == found[52, 5, 70, 25] == pytest.approx(0.9)
    assert all(score < 0.2 for box, score in found.items() if box[0] not in (41, 52))


def test_a_repetition_with_a_low_score_is_dropped():
    grid = TileGrid(30, 100, 60, 20)
    left = detections_of(grid, 0, 0, (0, 0.9, (45, 10, 54, 18)))
    right = detections_of(grid, 0, 1, (0, 0.4, (45, 10, 55, 18)))
    instances, report = merge([left, right], grid)
    assert instances.detections.boxes.tolist() == [[45, 10, 54, 18]]
    assert report.leftovers == 1
    # A tile that reports both tells them apart.
    instances, _ = merge(
        [detections_of(grid, 0, 0, (0, 0.9, (45, 10, 54, 18)), (0, 0.4, (45, 10, 55, 18)))], grid
    )
    assert len(instances) == 2


def test_classes_are_merged_separately_unless_repeats_are_dropped():
    grid = TileGrid(30, 100, 60, 20)
    left = detections_of(grid, 0, 0, (0, 0.6, (48, 10, 56, 18)))
    right = detections_of(grid, 0, 1, (1, 0.8, (48, 10, 56, 18)), (2, 0.9, (48, 10, 56, 12)))
    instances, report = merge([left, right], grid, repeat_iou=0.8)
    assert sorted(instances.detections.classes.tolist()) == [1, 2]
    assert report.repeats == 1
    instances, report = merge([left, right], grid)
    assert sorted(instances.detections.classes.tolist()) == [0, 1, 2]
    assert report.repeats == 0


def test_similar_masks_are_linked_before_masks_within_one_another():
    grid = TileGrid(30, 100, 60, 20)
    left = detections_of(grid, 0, 0, (0, 0.9, (41, 5, 53, 25)))
    # The smaller mask lies within that of the left tile, the larger one almost does.
    right = detections_of(grid, 0, 1, (0, 0.9, (42, 10, 46, 14)), (0, 0.9, (41, 6, 54, 26)))
    instances, _ = merge([left, right], grid)
    assert instances.detections.boxes.tolist() == [[41, 5, 53, 25], [42, 10, 46, 14]]


@pytest.mark.parametrize("step", [1, -1])
def test_a_tie_is_broken_by_the_position_of_the_tile(step):
    grid = TileGrid(30, 100, 60, 20)
    assert grid.lefts == [0, 40]
    box, crop = (47, 10, 53, 20), np.ones((10, 6), bool)
    crop[0, 0] = False
    tiles = [
        TileDetections(0, 0, Detections.from_crops([0], [0.9], [box], [crop])),
        TileDetections(0, 1, Detections.from_crops([0], [0.9], [box], [crop[:, ::-1]])),
    ]
    instances, _ = merge(tiles[::step], grid)
    assert np.array_equal(instances.detections.mask(0), crop)


def test_an_instance_waits_for_one_below_that_may_contain_it():
    """A detection lies half within an instance, and less within each of the parts of it."""
    grid = TileGrid(140, 100, 60, 20)
    assert (grid.tops, grid.lefts) == ([0, 40, 80], [0, 40])
    scene = np.zeros((3, 140, 100), bool)
    scene[0, 30:60, 60:] = scene[0, 30:38, 50:60] = scene[0, 5:25, 40:60] = True
    scene[0, 5:30, 60:] = True
    scene[1, 40:100, 60:] = scene[1, 40:48, 50:60] = scene[1, 50:60, 40:50] = True
    scene[2, 80:120, 60:] = True
    box = [[0, 0, 100, 140]]
    tiles = [
        TileDetections(r, 1, Detections.from_crops([0], [0.9], box, [scene[r]])) for r in range(3)
    ]
    tiles.append(detections_of(grid, 0, 0, (0, 0.9, (50, 30, 60, 58))))
    instances, report = merge(tiles, grid)
    assert instances.parts.tolist() == [3]
    assert report.leftovers == 1


def test_a_leftover_inside_another_instance_is_dropped():
    grid = TileGrid(30, 100, 60, 20)
    # The left tile sees two objects at its right side, the right tile one.
    first, second = (0, 0.9, (50, 5, 60, 12)), (0, 0.9, (50, 12, 60, 16))
    beside = (0, 0.8, (54, 20, 60, 25))
    left = detections_of(grid, 0, 0, first, second, beside)
    right = detections_of(grid, 0, 1, (0, 0.7, (50, 5, 70, 15)))
    instances, report = merge([left, right], grid, tolerance=1)
    assert instances.detections.boxes.tolist() == [[50, 5, 70, 15], [54, 20, 60, 25]]
    assert (report.leftovers, report.fragments) == (1, 1)


def test_a_cut_mask_stays_if_the_instance_around_it_has_a_much_lower_score():
    grid = TileGrid(80, 100, 60, 20)
    left = detections_of(grid, 0, 0, (0, 0.95, (40, 5, 60, 25)))
    blob = (40, 1, 99, 60)
    instances, report = merge([left, detections_of(grid, 0, 1, (0, 0.05, blob))], grid)
    assert instances.detections.boxes.tolist() == [list(blob), [40, 5, 60, 25]]
    assert report.leftovers == 0
    instances, report = merge([left, detections_of(grid, 0, 1, (0, 0.5, blob))], grid)
    assert instances.detections.boxes.tolist() == [list(blob)]


def test_an_object_within_another_one_of_its_class_stays_if_the_tiles_report_both():
    grid = TileGrid(30, 100, 60, 20)
    left = detections_of(grid, 0, 0, (0, 0.9, (30, 10, 60, 14)), (0, 0.9, (20, 5, 60, 25)))
    right = detections_of(grid, 0, 1, (0, 0.9, (40, 5, 85, 25)), (0, 0.9, (40, 10, 75, 14)))
    instances, report = merge([left, right], grid)
    assert instances.detections.boxes.tolist() == [[20, 5, 85, 25], [30, 10, 75, 14]]
    assert report.leftovers == 0


def test_slivers_that_a_better_placed_tile_does_not_see_are_dropped():
    grid = TileGrid(30, 100, 60, 20)
    sliver = detections_of(grid, 0, 0, (0, 0.9, (58, 10, 60, 20)))
    deeper = detections_of(grid, 0, 0, (0, 0.9, (55, 10, 60, 20)))
    whole = detections_of(grid, 0, 1, (0, 0.9, (60, 10, 70, 20)))
    instances, report = merge([sliver, whole], grid, tolerance=2)
    assert (len(instances), report.slivers) == (1, 1)
    assert len(merge([deeper, whole], grid, tolerance=2)[0]) == 2
    assert len(merge([sliver, whole], grid, tolerance=0)[0]) == 2
    # Here no tile sees more: the sliver is within the tolerance of either side.
    narrow = TileGrid(30, 116, 60, 4)
    assert len(merge([sliver], narrow, tolerance=2)[0]) == 1


# Order, division and symmetry.


def test_the_result_does_not_depend_on_order_or_division(tmp_path):
    grid = TileGrid(150, 130, 40, 16)
    tiles, grid = noisy_tiles(0, grid=grid)
    settings = MergeSettings(2, repeat_iou=0.8)
    expected = as_bytes(merge_rows(grid, rows_of(tiles, grid), settings)[0])
    rng = np.random.default_rng(0)
    for shards in (1, 2, 5):
        order = rng.permutation(len(tiles))
        for shard in range(shards):
            for i in order[shard::shards]:
                tiles[i].save(tmp_path / f"{i}.npz")
        loaded = [TileDetections.load(tmp_path / f"{i}.npz") for i in order]
        instances, _ = merge_rows(grid, rows_of(loaded, grid), settings)
        assert as_bytes(instances) == expected
    # Tiles without detections may be missing.
    present = [tile for tile in tiles if len(tile.detections)]
    assert as_bytes(merge_rows(grid, rows_of(present, grid), settings)[0]) == expected


FLIPS = {
    "left to right": lambda a: a[:, ::-1],
    "upside down": lambda a: a[::-1],
    "transposed": lambda a: a.T,
}


@pytest.mark.parametrize("flip", FLIPS)
@pytest.mark.parametrize("noise", [False, True])
def test_a_flipped_scene_gives_flipped_instances(flip, noise):
    change = FLIPS[flip]
    # With equal strides, the tiles of the flipped scene are the flipped tiles.
    grid = TileGrid(88, 136, 40, 16)
    assert {s[i + 1] - s[i] for s in (grid.tops, grid.lefts) for i in range(len(s) - 1)} == {24}
    tiles = noisy_tiles(3, grid=grid)[0] if noise else None
    if tiles is None:
        scene = random_scene(np.random.default_rng(3), 88, 136, 90, 60)
        tiles = detect_tiles(colour(scene, 2), grid)
    flipped_grid = TileGrid(*change(np.zeros((88, 136))).shape, 40, 16)
    flipped = []
    for tile in tiles:
        row, column = next(
            (t.row, t.column)
            for t in flipped_grid
            if change(window(grid, tile))[t.top : t.bottom, t.left : t.right].all()
        )
        flipped.append(TileDetections(row, column, transform(tile.detections, grid, change)))
    expected, _ = merge(tiles, grid, 2)
    instances, _ = merge(flipped, flipped_grid, 2)
    assert with_scores(instances.detections) == with_scores(
        transform(expected.detections, grid, change)
    )


def window(grid, tile):
    pixels = np.zeros((grid.height, grid.width), bool)
    t = grid.tile(tile.row, tile.column)
    pixels[t.top : t.bottom, t.left : t.right] = True
    return pixels


def transform(found, grid, change):
    masks = np.zeros((len(found), grid.height, grid.width), bool)
    for i, (x0, y0, x1, y1) in enumerate(found.boxes.tolist()):
        masks[i, y0:y1, x0:x1] = found.mask(i)
    masks = [change(mask) for mask in masks]
    boxes = [[0, 0, mask.shape[1], mask.shape[0]] for mask in masks]
    return Detections.from_crops(found.classes, found.scores, boxes, masks)


@pytest.mark.parametrize("shift", [(0, 1), (13, 0), (7, 29)])
def test_a_shifted_scene_gives_shifted_instances(shift):
    scene = random_scene(np.random.default_rng(5), 100, 120, 100, 40)
    dy, dx = shift
    moved = np.zeros((100 + dy, 120 + dx), np.int32)
    moved[dy:, dx:] = scene
    found = []
    for picture in (scene, moved):
        grid = TileGrid(*picture.shape, 40, 14)
        found.append(merge(detect_tiles(colour(picture, 2), grid), grid)[0].detections)
    assert {
        (class_id, (x0 + dx, y0 + dy, x1 + dx, y1 + dy), mask)
        for class_id, (x0, y0, x1, y1), mask in as_set(found[0])
    } == as_set(found[1])


# Streams.


def test_instances_are_returned_as_soon_as_no_row_can_change_them():
    scene = np.zeros((400, 60), np.int32)
    assert draw_object(scene, 1, np.ones((330, 5), bool), 5, 10)  # through all rows but the last
    for label, y in enumerate(range(15, 380, 15), start=2):
        assert draw_object(scene, label, np.ones((6, 6), bool), 30, y)
    grid = TileGrid(400, 60, 60, 20)
    merger = SeamMerger(grid, MergeSettings(0))
    rows = rows_of(visible_parts(scene, grid, 1), grid)
    batches = []
    for row, tiles in enumerate(rows):
        batch = merger.add_row(tiles)
        batches.append(batch)
        horizon = grid.tops[row + 1] if row + 1 < len(rows) else 400
        bottoms = [bottom for x in batches for bottom in x.detections.boxes[:, 3].tolist()]
        expected = [box[3] for _, box, _ in objects_of(scene, 1) if box[3] <= horizon]
        assert sorted(bottoms) == sorted(expected)
    with pytest.raises(ValueError, match="all 10 rows"):
        merger.add_row([])
    merged = SceneInstances.concatenate(batches)
    assert as_set(merged.detections) == objects_of(scene, 1)
    assert merged.ids.tolist() == list(range(1, len(merged) + 1))


def test_a_wide_scene_is_merged_in_little_time():
    grid = TileGrid(192 * 2 + 256, 100_000, 256, 64)
    merger = SeamMerger(grid, MergeSettings(4))
    count, seconds = 0, 0.0
    for row in range(3):
        tiles = list(car_row(grid, row, (81, 47)))
        start = time.process_time()
        count += len(merger.add_row(tiles))
        seconds += time.process_time() - start
    assert count == lattice_size(grid, (81, 47))
    # About 30 microseconds, and a quadratic algorithm takes milliseconds.
    assert seconds / merger.report.detections < 500e-6


def test_memory_depends_on_the_width_of_a_scene_only():
    held, peaks = [], []
    for rows in (3, 8):
        grid = TileGrid(192 * (rows - 1) + 256, 4000, 256, 64)
        merger = SeamMerger(grid, MergeSettings(4))
        peak = 0
        for row in range(rows):
            tiles = list(car_row(grid, row, (81, 47)))
            tracemalloc.start()
            merger.add_row(tiles)
            peak = max(peak, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        held.append(merger.report.most_open)
        peaks.append(peak)
    assert held[1] < 1.2 * held[0]
    assert peaks[1] < 1.2 * peaks[0]


def test_a_long_object_is_the_only_one_held():
    grid = TileGrid(2000, 60, 60, 20)
    merger = SeamMerger(grid, MergeSettings(0))
    for row in range(grid.shape[0]):
        tile = grid.tile(row, 0)
        boxes = [(5, max(10, tile.top), 9, min(1990, tile.bottom))]
        boxes += [(30, y, 36, y + 4) for y in range(tile.top + 3, tile.bottom - 4, 7)]
        merger.add_row([full_boxes(tile, np.array(boxes))])
        assert len(merger._open) <= row + 1 + 5


# Errors and counts.


def test_rows_and_boxes_are_checked():
    grid = TileGrid(100, 100, 60, 20)
    box = (0, 0.9, (45, 10, 50, 20))
    for row, column, message in ((1, 0, "row 0 of tiles is due"), (0, 1, "with each tile once")):
        merger = SeamMerger(grid, MergeSettings(0))
        tile = detections_of(grid, row, column, box)
        with pytest.raises(ValueError, match=message):
            merger.add_row([tile, tile])
    for outside_box in ((39, 10, 50, 20), (90, 50, 95, 61), (45, 10, 101, 20)):
        with pytest.raises(ValueError, match="reach beyond"):
            SeamMerger(grid, MergeSettings(0)).add_row(
                [detections_of(grid, 0, 1, (0, 0.9, outside_box))]
            )


@pytest.mark.parametrize(
    "settings",
    [{"tolerance": -1}, {"tolerance": 0, "agreement": 1}, {"tolerance": 0, "repeat_iou": -0.1}],
)
def test_settings_are_checked(settings):
    with pytest.raises(UserError, match="must"):
        MergeSettings(**settings)


def test_tiles_at_the_detection_limit_are_listed():
    grid = TileGrid(100, 100, 60, 20)
    tiles = [
        TileDetections(t.row, t.column, Detections.from_crops([], [], [], []), capped=t.row == 1)
        for t in grid
    ]
    _, report = merge(tiles, grid)
    assert report.capped == [(1, 0), (1, 1)]
    assert (report.tiles, report.instances) == (4, 0)
