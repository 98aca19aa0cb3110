"""Suppression of instances by others, while a scene's instances are still arriving."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from shapely import STRtree, box

from .groups import Box, Instance, count_shared


class Rule(Protocol):
    """When an instance is dropped in favour of another one."""

    def rank(self, instance: Instance) -> tuple[float, ...]:
        """Return the instance's rank: it is compared with instances of larger ranks only."""

    def loses(self, instance: Instance, other: Instance) -> bool:
        """Return whether an instance is dropped if the other one, of a larger rank, is kept."""


class DropLeftovers(Rule):
    """Drop duplicates that remain where tiles disagree about an object.

    Of two instances of the same class, the one of lower rank is dropped:

    - if it is cut and more than half of it lies within the other one, unless the other's score is
      much lower; for example, where one tile sees two objects and another tile sees one;
    - if it is whole, their IoU is above a limit and the other's score is higher; for example, where
      the scores of two tiles differ too much to be linked.

    A tile that reports both instances tells them apart, so that its part of the other instance does
    not count.

    Args:
        iou: IoU above which two whole masks are of one object.
        score_ratio: smallest ratio of the other instance's score to that of a cut mask.
    """

    def __init__(self, iou: float, score_ratio: float) -> None:
        self.iou = iou
        self.score_ratio = score_ratio

    def rank(self, instance: Instance) -> tuple[float, ...]:
        score = instance.score if instance.whole else 0.0
        return (instance.whole, score, instance.area, -instance.serial)

    def loses(self, instance: Instance, other: Instance) -> bool:
        if other.class_id != instance.class_id:
            return False
        if instance.whole:
            return not instance.tiles & other.tiles and _iou_exceeds(instance, other, self.iou)
        if other.score < self.score_ratio * instance.score:
            return False
        parts = [part for part in other.parts if part.tile.place not in instance.tiles]
        return 2 * count_shared(instance, parts) > instance.area


class DropRepeats(Rule):
    """Drop the instance with the lower score of two of different classes with similar masks.

    Args:
        iou: IoU above which masks are similar.
    """

    def __init__(self, iou: float) -> None:
        self.iou = iou

    def rank(self, instance: Instance) -> tuple[float, ...]:
        return (instance.score, instance.area, -instance.serial)

    def loses(self, instance: Instance, other: Instance) -> bool:
        return other.class_id != instance.class_id and _iou_exceeds(instance, other, self.iou)


def _iou_exceeds(a: Instance, b: Instance, limit: float) -> bool:
    smaller, larger = sorted((a.area, b.area))
    if smaller <= limit * larger:
        return False
    shared = count_shared(a, [b])
    return shared > limit * (smaller + larger - shared)


def as_boxes(boxes: Sequence[Box] | np.ndarray) -> np.ndarray:
    """Return boxes (left, top, right, bottom) as Shapely polygons."""
    return box(*np.asarray(boxes, np.float64).reshape(-1, 4).T)


@dataclass(eq=False, slots=True)
class _Candidate:
    """An instance, and whether it belongs to the result, which is None while that is open.

    ``rivals`` are those that it loses against if one of them is kept.
    """

    instance: Instance
    kept: bool | None = None
    rivals: list[_Candidate] = field(default_factory=list)


class Suppression:
    """A rule applied to instances in the order of their arrival.

    The result is that of all instances at once: taken by decreasing rank, each is dropped if it
    loses against one that is kept. An instance is decided as soon as no instance to come can
    overlap it; only undecided ones are held.

    Args:
        rule: the rule.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.dropped = 0
        self._held: list[_Candidate] = []

    @property
    def undecided(self) -> list[Box]:
        """Boxes of the undecided instances."""
        return [held.instance.box for held in self._held]

    def add(self, new: Sequence[Instance], open_boxes: Sequence[Box]) -> list[Instance]:
        """Add instances and return those, of these and earlier ones, that are now kept.

        Args:
            new: instances.
            open_boxes: boxes of the detections from which later instances will be made; a later
                instance overlaps an added one only within these boxes.
        """
        rule = self.rule
        candidates = [*self._held, *map(_Candidate, new)]
        for loser, winner in _overlapping(candidates, len(self._held)):
            x, y = loser.instance, winner.instance
            if rule.rank(y) > rule.rank(x) and rule.loses(x, y):
                loser.rivals.append(winner)

        is_open = _intersect([c.instance.box for c in candidates], open_boxes)
        # Rivals come first, so that one pass decides all that can be decided.
        for candidate, waits in sorted(
            zip(candidates, is_open), key=lambda pair: rule.rank(pair[0].instance), reverse=True
        ):
            if any(rival.kept for rival in candidate.rivals):
                candidate.kept = False
                self.dropped += 1
            elif not waits and all(rival.kept is False for rival in candidate.rivals):
                candidate.kept = True
        self._held = [candidate for candidate in candidates if candidate.kept is None]
        return [candidate.instance for candidate in candidates if candidate.kept]


def _overlapping(
    candidates: Sequence[_Candidate], known: int
) -> Iterator[tuple[_Candidate, _Candidate]]:
    """Yield the ordered pairs of candidates whose boxes intersect.

    Pairs of the first ``known`` candidates, which were compared when they were added, are left out.
    """
    boxes = as_boxes([candidate.instance.box for candidate in candidates])
    first, second = STRtree(boxes).query(boxes)
    compare = (first != second) & ((first >= known) | (second >= known))
    for i, j in zip(first[compare].tolist(), second[compare].tolist()):
        yield candidates[i], candidates[j]


def _intersect(boxes: Sequence[Box], others: Sequence[Box]) -> np.ndarray:
    """Return for each box whether it intersects or touches one of the others, bool."""
    result = np.zeros(len(boxes), bool)
    if boxes and others:
        result[STRtree(as_boxes(others)).query(as_boxes(boxes))[0]] = True
    return result
