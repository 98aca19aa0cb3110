"""The data sets that the prepare commands make: where they lie, and their registration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import UserError
from .coco import datasets_root, load_coco, register_coco


def register_prepared(
    folder: str,
    splits: Sequence[str],
    *,
    tool: str,
    classes: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
) -> None:
    """Register ``FOLDER_SPLIT`` for every split of a prepared data set.

    It lies under :func:`datasets_root`: ``FOLDER/SPLIT.json``, whose file names are relative to
    ``FOLDER``.

    Args:
        folder: the set's folder, and the first part of the registered names.
        splits: the second part of the names.
        tool: the command that makes the folder, for the error where it is not there.
        classes: class names, in the order of their ids from 1.
        colors: one RGB colour a class.
    """
    root = datasets_root() / folder
    for split in splits:
        name, json_file = f"{folder}_{split}", root / f"{split}.json"

        def load(name: str = name, json_file: Path = json_file) -> list[dict[str, Any]]:
            if not json_file.is_file():
                raise UserError(
                    f"dataset {name!r}: {json_file} does not exist. Make it with {tool}, or set "
                    f"DETECTRON2_DATASETS to the folder that has {folder}/."
                )
            return load_coco(name, json_file, root)

        register_coco(name, json_file, root, loader=load, classes=classes, colors=colors)
