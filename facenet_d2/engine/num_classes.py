"""The number of classes of a config's model, taken from its data."""

from __future__ import annotations

from detectron2.config import CfgNode

from ..config import CLASSES_NODES
from ..data.datasets.coco import class_names
from ..errors import UserError


def resolve_num_classes(cfg: CfgNode) -> None:
    """Take the number of classes from the first data set, or check it against every one.

    ``MODEL.SOLOV2.NUM_CLASSES`` 0 takes it. For Detectron2's own meta-architectures
    ``MODEL.ROI_HEADS.NUM_CLASSES`` is checked. ``DATASETS.CLASS_NAMES`` is set to the names.

    Args:
        cfg: changed in place.

    Raises:
        UserError: where the numbers or the names differ, or there is no data set to ask.
    """
    key, node = num_classes_key(cfg)
    datasets = list(dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]))
    if not datasets:
        raise UserError("DATASETS.TRAIN and DATASETS.TEST are both empty; name a data set.")
    names = class_names(datasets[0])
    trained = list(cfg.DATASETS.CLASS_NAMES)
    if trained and trained != names:
        raise UserError(
            f"DATASETS.CLASS_NAMES, of the model, are {', '.join(trained)}, but dataset "
            f"{datasets[0]!r} has {', '.join(names)}. To train a new model on it, add "
            "DATASETS.CLASS_NAMES []."
        )
    if node.NUM_CLASSES == 0:
        node.NUM_CLASSES = len(names)
    if len(names) != node.NUM_CLASSES:
        raise UserError(
            f"{key} is {node.NUM_CLASSES}, but dataset {datasets[0]!r} has {len(names)} classes: "
            f"{', '.join(names)}. Set {key} {len(names)} (or 0, to take it from the data)."
        )
    if "POINT_HEAD" in cfg.MODEL:
        # PointRend's, which must be the same.
        cfg.MODEL.POINT_HEAD.NUM_CLASSES = len(names)
    for dataset in datasets[1:]:
        if class_names(dataset) != names:
            raise UserError(
                f"datasets {datasets[0]!r} and {dataset!r} have other classes: {', '.join(names)} "
                f"and {', '.join(class_names(dataset))}."
            )
    cfg.DATASETS.CLASS_NAMES = names


def num_classes_key(cfg: CfgNode) -> tuple[str, CfgNode]:
    """The key with the number of classes of the config's model, and the node it is in."""
    node = CLASSES_NODES.get(cfg.MODEL.META_ARCHITECTURE, "ROI_HEADS")
    return f"MODEL.{node}.NUM_CLASSES", cfg.MODEL[node]
