"""Registration of the data sets that the ``tools/prepare_*`` commands create."""

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

    Its annotations are ``FOLDER/SPLIT.json`` under :func:`datasets_root`, with file names relative
    to ``FOLDER``.

    Args:
        folder: folder of the data set, and first part of the registered names.
        splits: names of the splits, and second part of the registered names.
        tool: command that creates the folder, for the error message if it does not exist.
        classes: class names, in the order of their ids from 1.
        colors: one RGB colour per class.
    """
    root = datasets_root() / folder
    for split in splits:
        name, json_file = f"{folder}_{split}", root / f"{split}.json"

        def load(name: str = name, json_file: Path = json_file) -> list[dict[str, Any]]:
            if not json_file.is_file():
                raise UserError(
                    f"dataset {name!r}: {json_file} does not exist. Create it with {tool}, or set "
                    f"DETECTRON2_DATASETS to the folder that contains {folder}/."
                )
            return load_coco(name, json_file, root)

        register_coco(name, json_file, root, loader=load, classes=classes, colors=colors)
