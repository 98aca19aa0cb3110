"""Number of classes of the model that a config describes."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, RetinaNet

from ..data.datasets.coco import class_names
from ..errors import UserError


def model_node(cfg: CfgNode) -> str:
    """Return the name of the node of ``cfg.MODEL`` with ``NUM_CLASSES`` and the score threshold.

    The meta-architectures of this project define it as ``CONFIG_NODE``, which subclasses inherit.

    Raises:
        UserError: If ``MODEL.META_ARCHITECTURE`` is not registered.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in META_ARCH_REGISTRY:
        known = ", ".join(sorted(n for n, _ in META_ARCH_REGISTRY))
        raise UserError(
            f"MODEL.META_ARCHITECTURE {name!r} is not registered; it must be one of {known}."
        )
    meta_architecture = META_ARCH_REGISTRY.get(name)
    node = getattr(meta_architecture, "CONFIG_NODE", None)
    if node is not None:
        return node
    return "RETINANET" if issubclass(meta_architecture, RetinaNet) else "ROI_HEADS"


def num_classes_key(cfg: CfgNode) -> tuple[str, CfgNode]:
    """Return the config key with the model's number of classes, and the node that contains it."""
    node = model_node(cfg)
    return f"MODEL.{node}.NUM_CLASSES", cfg.MODEL[node]


def score_threshold_key(cfg: CfgNode) -> str:
    """Return the config key with the minimum score of the model's predictions."""
    return f"MODEL.{model_node(cfg)}.SCORE_THRESH_TEST"


def resolve_num_classes(cfg: CfgNode) -> None:
    """Set or check the number of classes, according to the data sets of the config.

    The model's ``NUM_CLASSES`` is set if it is 0 and must otherwise agree with every data set.
    ``DATASETS.CLASS_NAMES`` and PointRend's ``MODEL.POINT_HEAD.NUM_CLASSES`` are set as well.

    Args:
        cfg: config; changed in place.

    Raises:
        UserError: If the data sets, the model and ``DATASETS.CLASS_NAMES`` disagree, or no data
            set is named.
    """
    key, node = num_classes_key(cfg)
    datasets = list(dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]))
    if not datasets:
        raise UserError("DATASETS.TRAIN and DATASETS.TEST are both empty; name a data set.")
    names = class_names(datasets[0])
    trained = list(cfg.DATASETS.CLASS_NAMES)
    if trained and trained != names:
        raise UserError(
            f"the model's DATASETS.CLASS_NAMES are {', '.join(trained)}, but dataset "
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
        cfg.MODEL.POINT_HEAD.NUM_CLASSES = len(names)
    for dataset in datasets[1:]:
        if class_names(dataset) != names:
            raise UserError(
                f"datasets {datasets[0]!r} and {dataset!r} have different classes: "
                f"{', '.join(names)} and {', '.join(class_names(dataset))}."
            )
    cfg.DATASETS.CLASS_NAMES = names
