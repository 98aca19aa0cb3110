"""Classes of labels: from the values of an attribute to a fixed list of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UserError
from ..scenes.vector_reader import VectorFile

IGNORED, LEFT_OUT = -1, -2
"""Class indices of labels whose pixels are ignored, and of labels that are left out."""


@dataclass(frozen=True)
class ClassRules:
    """How the values of an attribute become classes.

    Attributes:
        names: class names; the category id is the position in the list, from 1.
        field: attribute with the class; None puts all labels into the only class.
        indices: for each value as text, the index of its class, :data:`IGNORED` or
            :data:`LEFT_OUT`.
    """

    names: tuple[str, ...]
    field: str | None
    indices: dict[str, int]

    @classmethod
    def parse(
        cls,
        classes: Sequence[str],
        *,
        field: str | None,
        ignored: Sequence[str] = (),
        left_out: Sequence[str] = (),
    ) -> ClassRules:
        """Return the rules that texts describe.

        Args:
            classes: names in the order of the category ids, each alone or as ``NAME=VALUE,VALUE``
                with the values of the attribute that mean it.
            field: attribute with the class, or None.
            ignored: values of labels whose pixels are neither object nor background.
            left_out: values of labels that become background.

        Raises:
            UserError: if a name or a value occurs twice, is empty, or several classes have no
                attribute.
        """
        names: list[str] = []
        indices: dict[str, int] = {}

        def add(value: str, index: int) -> None:
            text = class_text(value)
            if text is None:
                raise UserError(
                    "a value of --classes, --ignore-classes or --drop-classes is empty; give each "
                    "class as NAME or NAME=VALUE."
                )
            if text in indices:
                raise UserError(
                    f"the value {text!r} is given twice in --classes, --ignore-classes and "
                    "--drop-classes; give it once."
                )
            indices[text] = index

        for text in classes:
            name, _, values = text.partition("=")
            name = name.strip()
            if not name or name in names:
                raise UserError(f"--classes {text!r}: the name is empty, or given twice.")
            for value in values.split(",") if values else [name]:
                add(value, len(names))
            names.append(name)
        for values_of, index in ((ignored, IGNORED), (left_out, LEFT_OUT)):
            for value in values_of:
                add(value, index)
        if field is None and len(names) != 1:
            raise UserError(
                f"without an attribute for the class, the labels need one class, not {len(names)}; "
                "name the attribute with --class-field, or give one name with --one-class."
            )
        return cls(tuple(names), field, indices)

    def apply(self, file: VectorFile) -> np.ndarray:
        """Return the class index of each label, ``(N,)`` int.

        3, 3.0 and "3" are one value; blanks around a text are ignored.

        Raises:
            UserError: with the numbers of labels, if the attribute does not exist, or labels have
                no value or one that is not in the rules.
        """
        if self.field is None:
            return np.zeros(len(file), int)
        texts = [class_text(v) for v in file.column(self.field, "--class-field").tolist()]
        missing = texts.count(None)
        if missing:
            raise UserError(
                f"{file.path}: {missing} of {len(file)} labels have no value of {self.field!r}; "
                "give each label a class."
            )
        unknown = Counter(text for text in texts if text not in self.indices)
        if unknown:
            found = ", ".join(f"{text} ({number})" for text, number in unknown.most_common(20))
            raise UserError(
                f"{file.path}: {unknown.total()} of {len(file)} labels have values of "
                f"{self.field!r} that are not listed: {found}. Add them to --classes, as NAME or "
                "NAME=VALUE,VALUE, or to --ignore-classes or --drop-classes."
            )
        return np.array([self.indices[str(text)] for text in texts], int).reshape(-1)


def class_text(value: Any) -> str | None:
    """Return the value of a class attribute as text, or None if it is missing.

    Whole numbers are written without decimals, also those that are stored as text.
    """
    if value is None or value != value:
        return None
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        return text or None
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else text
