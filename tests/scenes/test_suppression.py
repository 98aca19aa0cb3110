"""Suppression of arriving instances, against the greedy algorithm on all of them at once."""

import numpy as np
import pytest

from facenet_d2.scenes.groups import Instance, Part
from facenet_d2.scenes.suppression import DropLeftovers, DropRepeats, Suppression
from facenet_d2.scenes.tiles import TileGrid

TILES = list(TileGrid(60, 60, 30, 0))


def random_instances(rng, count):
    """Return crowded rectangles of two classes in any of four tiles."""
    instances = []
    for serial in range(count):
        x, y = rng.integers(0, 50, 2).tolist()
        box = (x, y, x + int(rng.integers(2, 14)), y + int(rng.integers(2, 14)))
        area = (box[2] - x) * (box[3] - y)
        bits = np.packbits(np.ones(area, bool))
        tile = TILES[rng.integers(4)]
        score = float(rng.integers(1, 9)) / 10
        part = Part(
            serial=serial,
            tile=tile,
            class_id=int(rng.integers(2)),
            score=score,
            box=box,
            bits=bits,
            area=area,
            margin=0.0,
            cut=True,
            sliver=False,
        )
        instances.append(
            Instance(
                parts=[part],
                tiles=frozenset([(tile.row, tile.column)]),
                score=score,
                whole=bool(rng.random() < 0.3),
                box=box,
                bits=bits,
                area=area,
            )
        )
    return instances


def shared_area(a, b):
    width = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    height = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    return max(0, width) * max(0, height)


def is_leftover(x, y):
    if x.class_id != y.class_id or x.tiles & y.tiles:
        return False
    shared = shared_area(x, y)
    if x.whole:
        return shared > 0.3 * (x.area + y.area - shared)
    return shared > 0.5 * x.area and y.score >= 0.4 * x.score


def is_repeat(x, y):
    shared = shared_area(x, y)
    return x.class_id != y.class_id and shared > 0.3 * (x.area + y.area - shared)


@pytest.mark.parametrize(
    ("rule", "rank", "loses"),
    [
        (
            DropLeftovers(0.3, 0.4),
            lambda x: (x.whole, x.score if x.whole else 0, x.area, -x.serial),
            is_leftover,
        ),
        (DropRepeats(0.3), lambda x: (x.score, x.area, -x.serial), is_repeat),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_instances_that_arrive_in_turn_give_the_result_of_all_at_once(rule, rank, loses, seed):
    rng = np.random.default_rng(seed)
    instances = random_instances(rng, 120)
    expected = []
    for x in sorted(instances, key=rank, reverse=True):
        if not any(loses(x, y) for y in expected):
            expected.append(x)
    assert 30 < len(expected) < 110

    suppression = Suppression(rule)
    kept, early, most_held = [], 0, 0
    batches = np.array_split(np.argsort([x.box[3] for x in instances]), 12)
    for i, batch in enumerate(batches):
        later = [instances[k].box for rest in batches[i + 1 :] for k in rest]
        returned = suppression.add([instances[k] for k in batch], later)
        kept += returned
        most_held = max(most_held, len(suppression._held))
        early += len(returned) if later else 0
    assert sorted(x.serial for x in kept) == sorted(x.serial for x in expected)
    assert suppression.dropped == len(instances) - len(expected)
    assert suppression.undecided == suppression._held == []
    assert early > len(kept) / 2
    assert most_held < len(instances) / 2
