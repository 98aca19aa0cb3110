"""True and predicted objects of an evaluation, from the attributes of vector files."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..errors import UserError
from .vector_reader import VectorFile


@dataclass(frozen=True)
class Objects:
    """Polygons with their classes.

    Attributes:
        polygons: array of N polygons.
        classes: array ``(N,)`` of class names.
        scores: ``(N,)``; ones for true objects.
        regions: bool ``(N,)``: true objects in which results of their class are ignored.
        cut: bool ``(N,)``: objects that the border of the area of interest cuts.
    """

    polygons: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    regions: np.ndarray
    cut: np.ndarray

    def __len__(self) -> int:
        return len(self.polygons)

    def __getitem__(self, chosen: np.ndarray) -> Objects:
        return Objects(*(getattr(self, f.name)[chosen] for f in fields(self)))

    def of_class(self, name: str) -> Objects:
        """Return the objects of a class."""
        return self[self.classes == name]


def true_objects(file: VectorFile, *, class_field: str | None, ignore_field: str | None) -> Objects:
    """Return the true objects in a file.

    Args:
        file: polygons and attributes.
        class_field: attribute with the class; None puts all objects into the class "object".
        ignore_field: attribute that is true or not 0 for regions in which results are ignored.

    Raises:
        UserError: If an attribute does not exist, or an object has no class.
    """
    regions = np.zeros(len(file), bool)
    if ignore_field is not None:
        column = file.column(ignore_field, "--ignore-field")
        regions = np.array([_is_true(value) for value in column.tolist()], bool)
    names = _class_names(file, class_field, "--class-field")
    return Objects(file.polygons, names, np.ones(len(file)), regions, np.zeros(len(file), bool))


def predicted_objects(file: VectorFile, *, class_field: str | None, score_field: str) -> Objects:
    """Return the predicted objects in a file.

    Args:
        file: polygons and attributes.
        class_field: attribute with the class; None puts all objects into the class "object".
        score_field: attribute with the score.

    Raises:
        UserError: If an attribute does not exist, an object has no class, or a score is not a
            number.
    """
    scores = file.column(score_field, "--score-field")
    try:
        scores = scores.astype(float)
    except (TypeError, ValueError) as error:
        raise UserError(f"{file.path}: {score_field!r} is not a score ({error}).") from error
    if not np.isfinite(scores).all():
        number = int(np.argmin(np.isfinite(scores)))
        raise UserError(f"{file.path}: {score_field!r} of feature {number} is {scores[number]}.")
    names = _class_names(file, class_field, "--results-class-field")
    return Objects(file.polygons, names, scores, *np.zeros((2, len(file)), bool))


def _class_names(file: VectorFile, field: str | None, option: str) -> np.ndarray:
    """Return the class of each object as text; 3, 3.0 and "3" are one class."""
    if field is None:
        return np.full(len(file), "object", dtype=object)
    names = np.empty(len(file), dtype=object)
    for number, value in enumerate(file.column(field, option).tolist()):
        if value is None or value != value or not str(value).strip():
            raise UserError(
                f"{file.path}: {field!r} of feature {number} is empty; every object needs a class."
            )
        whole = isinstance(value, float) and value.is_integer()
        names[number] = str(int(value) if whole else value).strip()
    return names


def _is_true(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() not in ("", "0", "false", "no")
    return value is not None and value == value and bool(value)
