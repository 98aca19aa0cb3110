"""Reading, overriding and checking configs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from detectron2.config import CfgNode, get_cfg

from ..config import add_facenet_config, rename_keys, rename_overrides
from ..data.datasets.coco import check_available, register_coco_from_config
from ..errors import UserError
from ..modeling.backbone import check_sem
from .amp import amp_dtype
from .num_classes import num_classes_key, resolve_num_classes

# Raised by yacs for unknown keys and values of a wrong type.
CONFIG_ERRORS = (
    AssertionError,
    AttributeError,
    KeyError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
)


def read_config(config_file: str | Path, overrides: Sequence[str] = ()) -> CfgNode:
    """Read a config file and override keys, without checking data and weights.

    Args:
        config_file: YAML file, loaded without executing code.
        overrides: KEY VALUE pairs, as on the command line.

    Raises:
        UserError: If the file is missing or invalid, or a key is unknown.
    """
    cfg = get_cfg()
    add_facenet_config(cfg)
    config_file = Path(config_file)
    if not config_file.is_file():
        raise UserError(f"config file {config_file} does not exist or is not a file.")
    if not config_file.read_bytes().strip():
        raise UserError(f"config file {config_file} is empty.")
    try:
        content = CfgNode.load_yaml_with_base(str(config_file), allow_unsafe=False)
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
    except CONFIG_ERRORS as error:
        raise UserError(f"config file {config_file}: {_sentence(error)}") from error
    misplaced = [o for o in overrides if o.startswith("--")]
    if misplaced:
        raise UserError(f"{misplaced[0]} follows the KEY VALUE overrides; put options before them.")
    try:
        cfg.merge_from_list(rename_overrides(overrides))
    except CONFIG_ERRORS as error:
        raise UserError(
            f"overrides {' '.join(overrides)!r}: {_sentence(error)} (use KEY VALUE pairs, for "
            "example SOLVER.BASE_LR 0.01)"
        ) from error
    return cfg


def load_config(
    config_file: str | Path,
    overrides: Sequence[str] = (),
    *,
    train: bool = False,
    need_data: bool = True,
) -> CfgNode:
    """Read, override and check a config, and register the data sets of ``DATASETS.COCO``.

    Without a GPU, ``MODEL.DEVICE cuda`` (Detectron2's default) becomes ``cpu``. Detectron2's
    ``GeneralizedRCNN`` becomes this project's ``MaskRCNN``, which differs in the type of the masks
    only.

    Args:
        config_file: YAML file, loaded without executing code.
        overrides: KEY VALUE pairs, as on the command line.
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
    return " ".join(str(text).split()) or type(error).__name__


def _check(cfg: CfgNode, *, train: bool) -> None:
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
    if cfg.MODEL.LOAD_PROPOSALS:
        raise UserError(
            "MODEL.LOAD_PROPOSALS is True, but proposal files are not supported, since reading "
            "them can execute code; set it to False."
        )
    if cfg.TEST.DETECTIONS_PER_IMAGE < 1:
        raise UserError(
            f"TEST.DETECTIONS_PER_IMAGE is {cfg.TEST.DETECTIONS_PER_IMAGE}; it must be at least 1."
        )
    if cfg.SEED >= 2**32:
        raise UserError(
            f"SEED is {cfg.SEED}; it must be below 2**32, or negative for a random seed."
        )
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise UserError(f"MODEL.DEVICE {cfg.MODEL.DEVICE!r}: {_sentence(error)[:200]}.") from error
    check_weights(cfg.MODEL.WEIGHTS)
    if not cfg.OUTPUT_DIR:
        raise UserError("OUTPUT_DIR is empty; set it to a folder.")
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


def check_weights(weights: str) -> None:
    """Raise a :class:`UserError` if ``MODEL.WEIGHTS`` names a local file that does not exist."""
    if weights and "://" not in weights and not Path(weights).expanduser().is_file():
        raise UserError(
            f"MODEL.WEIGHTS {weights} does not exist; set it to a checkpoint, or to '' for none."
        )


def check_writable(folder: str | Path) -> Path:
    """Create a folder and check that it is writable.

    Raises:
        UserError: If it is not.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write_probe_{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"output folder {folder} is not writable ({error.strerror}); choose another."
        ) from error
    return folder
