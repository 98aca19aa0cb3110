"""Reading, overriding and checking configs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg

from ..compat import compiled_operators_available
from ..config import add_facenet_config, raise_limits, rename_keys, rename_overrides
from ..config_checks import check_values
from ..data.datasets.coco import check_available, register_coco_from_config
from ..data.readers import build_reader
from ..errors import UserError
from ..modeling.backbone import check_sem
from ..paths import check_writable as check_writable
from .amp import amp_dtype
from .downloads import LocalConfig, check_weights_address
from .model_files import WEIGHTS_SUFFIX, find_config, stored_config
from .num_classes import num_classes_key, resolve_num_classes

# Raised by yacs for unknown keys and values of a wrong type.
CONFIG_ERRORS = (
    AssertionError,
    AttributeError,
    KeyError,
    SyntaxError,
    TypeError,
    ValueError,
)


# Limits of a config file: PyYAML reads about 100 kB in a second, and aliases multiply values.
MAX_BYTES, MAX_VALUES = 500_000, 100_000


def read_config(config_file: str | Path, overrides: Sequence[Any] = ()) -> CfgNode:
    """Read a config file, override keys and check all values, but not data and weights.

    If ``TEST.DETECTIONS_PER_IMAGE`` is above 100, other limits of inference are raised with it; see
    :func:`~facenet_d2.config.raise_limits`.

    Args:
        config_file: YAML file, loaded without executing code, or another source of a config that
            :func:`~facenet_d2.engine.model_files.find_config` knows.
        overrides: KEY VALUE pairs, as on the command line or as in ``CfgNode.merge_from_list``.

    Raises:
        UserError: If the file is missing or invalid, a key is unknown, or a value is not allowed.
    """
    cfg = get_cfg()
    add_facenet_config(cfg)
    config_file = find_config(config_file)
    in_weights = config_file.suffix == WEIGHTS_SUFFIX
    stored = stored_config(config_file).encode() if in_weights else b""
    size = len(stored) if in_weights else config_file.stat().st_size
    if size > MAX_BYTES:
        raise UserError(
            f"config file {config_file} has {size} bytes; at most {MAX_BYTES} are read."
        )
    text = stored if in_weights else config_file.read_bytes()
    if not text.strip():
        raise UserError(f"config file {config_file} is empty.")
    try:
        # The first event is the start of the stream, the second that of the document.
        if not any(isinstance(e, yaml.MappingStartEvent) for e in islice(yaml.parse(text), 3)):
            raise UserError(f"config file {config_file} does not consist of keys and values.")
        content = (
            yaml.safe_load(text)
            if in_weights
            else LocalConfig.load_yaml_with_base(str(config_file), allow_unsafe=False)
        )
        _check_size(config_file, content)
        if "POINT_HEAD" in (content.get("MODEL") or {}):
            add_point_rend_config(cfg)
        if content.get("VERSION", cfg.VERSION) != cfg.VERSION:
            raise UserError(
                f"config file {config_file}: VERSION is {content['VERSION']}, but must be "
                f"{cfg.VERSION}."
            )
        rename_keys(content)
        cfg.merge_from_other_cfg(CfgNode(content))
    except UserError:
        raise
    except yaml.YAMLError as error:
        raise UserError(
            f"config file {config_file} is not plain YAML: {' '.join(str(error).split())}"
        ) from error
    except FileNotFoundError as error:
        raise UserError(
            f"config file {config_file}: its _BASE_ {error.filename} does not exist."
        ) from error
    except OSError as error:
        raise UserError(
            f"config file {config_file}: its _BASE_ cannot be read ({_sentence(error)})."
        ) from error
    except RecursionError as error:
        raise UserError(
            f"config file {config_file} is nested too deeply, or its _BASE_ files refer to one "
            "another in a circle."
        ) from error
    except CONFIG_ERRORS as error:
        raise UserError(f"config file {config_file}: {_sentence(error)}") from error
    misplaced = [o for o in overrides if str(o).startswith("--")]
    if misplaced:
        raise UserError(f"{misplaced[0]} follows the KEY VALUE overrides; put options before them.")
    try:
        cfg.merge_from_list(rename_overrides(overrides))
    except CONFIG_ERRORS as error:
        pairs = " ".join(map(str, overrides))[:500]
        raise UserError(
            f"overrides {pairs!r}: {_sentence(error)} (use KEY VALUE pairs, for example "
            "SOLVER.BASE_LR 0.01)"
        ) from error
    try:
        check_values(cfg)
    except ValueError as error:
        raise UserError(f"{error}.") from error
    raise_limits(cfg)
    return cfg


def _check_size(config_file: Path, content: Any) -> None:
    """Refuse a config that aliases of YAML expand to more values than memory can hold."""
    count, pending = 0, [content]
    while pending:
        value = pending.pop()
        pending += value.values() if isinstance(value, dict) else ()
        pending += value if isinstance(value, list) else ()
        count += 1
        if count > MAX_VALUES:
            raise UserError(f"config file {config_file} has more than {MAX_VALUES} values.")


def load_config(
    config_file: str | Path,
    overrides: Sequence[Any] = (),
    *,
    train: bool = False,
    need_data: bool = True,
) -> CfgNode:
    """Read, override and check a config, and register the data sets of ``DATASETS.COCO``.

    Without a GPU, ``MODEL.DEVICE cuda`` (Detectron2's default) becomes ``cpu``. Detectron2's
    ``GeneralizedRCNN`` becomes this project's ``MaskRCNN``, which differs in the type of the masks
    only.

    Args:
        config_file: YAML file, or another source of a config; see :func:`read_config`.
        overrides: KEY VALUE pairs, as on the command line or as in ``CfgNode.merge_from_list``.
        train: whether to check keys that only training uses.
        need_data: whether the data sets must exist. If not, they are read only if the config lacks
            the class names, which the ``config.yaml`` of a training run contains.

    Returns:
        The frozen config.

    Raises:
        UserError: If the file is missing or invalid, a key is unknown, a value is not allowed, or
            weights or data are missing.
    """
    cfg = read_config(config_file, overrides)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    if cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN":
        # Detectron2's class makes masks of full size, which large images have no memory for.
        cfg.MODEL.META_ARCHITECTURE = "MaskRCNN"
    check_weights_address(cfg, overrides)
    _check(cfg, train=train)
    register_coco_from_config(cfg)
    names = cfg.DATASETS.CLASS_NAMES
    if need_data or not names or len(names) != num_classes_key(cfg)[1].NUM_CLASSES:
        resolve_num_classes(cfg)
    if need_data:
        check_available((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    cfg.freeze()
    return cfg


def add_point_rend_config(cfg: CfgNode) -> None:
    """Add the keys of Detectron2's PointRend project and register its heads."""
    try:
        from detectron2.projects.point_rend import add_pointrend_config
    except ImportError as error:
        raise UserError(
            "this config uses PointRend (MODEL.POINT_HEAD), but detectron2.projects.point_rend "
            f"cannot be imported ({error}); install a Detectron2 with its projects, as "
            "tools/install_detectron2.py does, or choose another config."
        ) from error
    # Registers the mask head.
    from ..modeling.roi_heads import point_rend  # noqa: F401

    add_pointrend_config(cfg)


def _sentence(error: Exception) -> str:
    # str() of a KeyError quotes its message.
    text = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(str(text).split())[:500] or type(error).__name__


def _check(cfg: CfgNode, *, train: bool) -> None:
    build_reader(cfg)  # Checks INPUT.STRETCH.
    try:
        check_sem(cfg)
    except ValueError as error:
        raise UserError(f"{error}.") from error
    if (
        "_resnet_" in cfg.MODEL.BACKBONE.NAME
        and cfg.MODEL.BOTTOM_UP.NAME != "build_resnet_backbone"
    ):
        raise UserError(
            f"MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME} always builds a ResNet, but "
            f"MODEL.BOTTOM_UP.NAME is {cfg.MODEL.BOTTOM_UP.NAME}; use "
            f"{cfg.MODEL.BACKBONE.NAME.replace('_resnet_', '_')}."
        )
    if not cfg.MODEL.MASK_ON:
        raise UserError(
            "MODEL.MASK_ON is False, but this project trains and evaluates masks; set it to True."
        )
    if cfg.MODEL.KEYPOINT_ON:
        raise UserError(
            "MODEL.KEYPOINT_ON is True, but this project trains masks without keypoints; set it to "
            "False."
        )
    if cfg.MODEL.LOAD_PROPOSALS:
        raise UserError(
            "MODEL.LOAD_PROPOSALS is True, but proposal files are not supported, since reading "
            "them can execute code; set it to False."
        )
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise UserError(f"MODEL.DEVICE {cfg.MODEL.DEVICE!r}: {_sentence(error)[:200]}.") from error
    if cfg.MODEL.DEVICE.startswith("meta"):
        raise UserError("MODEL.DEVICE is meta, on which nothing is computed; choose another.")
    _check_deformable(cfg)
    check_weights(cfg.MODEL.WEIGHTS)
    if not train:
        return
    if cfg.SOLVER.AMP.ENABLED:
        try:
            amp_dtype(cfg)
        except ValueError as error:
            raise UserError(f"{error}.") from error
    for key in ("MAX_ITER", "CHECKPOINT_PERIOD"):
        if cfg.SOLVER[key] < 1:
            raise UserError(f"SOLVER.{key} is {cfg.SOLVER[key]}; it must be at least 1.")


def _check_deformable(cfg: CfgNode) -> None:
    """Refuse deformable convolutions in ResNet that Detectron2 cannot compute here."""
    node = cfg.MODEL.RESNETS
    on_cpu = torch.device(cfg.MODEL.DEVICE).type == "cpu"
    if not any(node.DEFORM_ON_PER_STAGE) or (on_cpu and not node.DEFORM_MODULATED):
        return
    if on_cpu or not compiled_operators_available():
        raise UserError(
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE needs a GPU and Detectron2's compiled operators, or "
            "a CPU and MODEL.RESNETS.DEFORM_MODULATED False; set it to "
            "[False, False, False, False]."
        )


def check_weights(weights: str) -> None:
    """Raise a :class:`UserError` if ``MODEL.WEIGHTS`` names a local file that does not exist."""
    if weights and "://" not in weights and not os.path.isfile(os.path.expanduser(weights)):
        raise UserError(
            f"MODEL.WEIGHTS {weights[:300]} does not exist; set it to a checkpoint, or to '' for "
            "none."
        )
