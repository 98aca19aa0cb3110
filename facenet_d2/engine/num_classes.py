"""Number of classes of the model that a config describes."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, RetinaNet

from ..data.datasets.coco import class_names, use_classes
from ..errors import UserError
from ..wording import counted


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


def keys_of_other_models(cfg: CfgNode) -> tuple[str, ...]:
    """Return the prefixes of the keys that only other meta-architectures than the config's use."""
    own = model_node(cfg)
    nodes = {getattr(model, "CONFIG_NODE", own) for _, model in META_ARCH_REGISTRY}
    return tuple(f"MODEL.{node}." for node in sorted(nodes - {own}))


def num_classes_key(cfg: CfgNode) -> tuple[str, CfgNode]:
    """Return the config key with the model's number of classes, and the node that contains it."""
    node = model_node(cfg)
    return f"MODEL.{node}.NUM_CLASSES", cfg.MODEL[node]


def score_threshold_key(cfg: CfgNode) -> str:
    """Return the config key with the minimum score of the model's predictions."""
    return f"MODEL.{model_node(cfg)}.SCORE_THRESH_TEST"


def resolve_num_classes(cfg: CfgNode) -> None:
    """Set or check the number of classes, according to the data sets of the config.

    The classes are ``DATASETS.CLASS_NAMES``, if set, otherwise those of the first data set. The
    other data sets may list them in another order, or lack some. The model's ``NUM_CLASSES`` is set
    if it is 0 and must otherwise agree. ``DATASETS.CLASS_NAMES``, ``DATASETS.CATEGORY_IDS`` and
    PointRend's ``MODEL.POINT_HEAD.NUM_CLASSES`` are set as well.

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
    trained = list(cfg.DATASETS.CLASS_NAMES)
    names = trained or class_names(datasets[0])
    for dataset in datasets:
        try:
            use_classes(dataset, names)
        except UserError as error:
            if not trained:
                raise
            raise UserError(
                f"{error} The model's classes are in DATASETS.CLASS_NAMES. To train a new model, "
                "add DATASETS.CLASS_NAMES []."
            ) from error
    if node.NUM_CLASSES == 0:
        node.NUM_CLASSES = len(names)
    if len(names) != node.NUM_CLASSES:
        raise UserError(
            f"{key} is {node.NUM_CLASSES}, but dataset {datasets[0]!r} has "
            f"{counted(len(names), 'class')}: {', '.join(names)}. Set {key} {len(names)} (or 0, to "
            "take it from the data)."
        )
    if "POINT_HEAD" in cfg.MODEL:
        cfg.MODEL.POINT_HEAD.NUM_CLASSES = len(names)
    if not trained or not cfg.DATASETS.CATEGORY_IDS:
        class_names(datasets[0])
        mapping = MetadataCatalog.get(datasets[0]).get("thing_dataset_id_to_contiguous_id", {})
        id_of = {index: given for given, index in mapping.items()}
        complete = len(id_of) == len(names)
        cfg.DATASETS.CATEGORY_IDS = [id_of[i] for i in range(len(names))] if complete else []
    cfg.DATASETS.CLASS_NAMES = names
