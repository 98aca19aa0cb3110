"""Models by the name of their config, like ``detectron2.model_zoo``::

    from facenet_d2 import model_zoo

    file = model_zoo.get_config_file("NWPU-VHR10/facenet_R_50_36ep.yaml")
    cfg = model_zoo.get_config("NWPU-VHR10/facenet_R_50_36ep.yaml")
    model = model_zoo.get("facenet_lite0_384_36ep", trained=True)

``.yaml`` can be omitted, and so can the folder if no other folder has a config of this name. The
functions raise a :class:`~facenet_d2.zoo_files.UnknownModelError` for unknown names, which is a
RuntimeError, as in Detectron2.
"""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from ..engine.checkpointer import ModelCheckpointer, load_checkpoint
from ..engine.setup import load_config
from ..zoo_files import (
    PREFIX,
    config_file,
    config_names,
    trained_name,
    trained_names,
    weights_file,
)

__all__ = [
    "config_names",
    "get",
    "get_checkpoint_url",
    "get_config",
    "get_config_file",
    "trained_names",
]


def get_config_file(config_path: str) -> str:
    """Return the path of a config file.

    Args:
        config_path: name of a config, for example "NWPU-VHR10/facenet_R_50_36ep.yaml".
    """
    return str(config_file(config_path))


def get_checkpoint_url(config_path: str) -> str:
    """Return the value of ``MODEL.WEIGHTS`` for a trained model.

    Args:
        config_path: name of the config that the model was trained with.
    """
    return PREFIX + trained_name(config_path)


def get_config(config_path: str, trained: bool = False) -> CfgNode:
    """Return the config of a model.

    The classes are those of the config's data set, whose files are not needed.

    Args:
        config_path: name of a config.
        trained: whether to return the config that the trained model was trained with, which its
            weights contain, with these weights as ``MODEL.WEIGHTS``. Otherwise ``MODEL.WEIGHTS``
            are those of the config, for example a ResNet pretrained on ImageNet.
    """
    if trained:
        overrides = ["MODEL.WEIGHTS", get_checkpoint_url(config_path)]
        cfg = load_config(weights_file(config_path), overrides, need_data=False)
    else:
        cfg = load_config(config_file(config_path), need_data=False)
    cfg.defrost()
    return cfg


def get(config_path: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """Return a model, in training mode.

    Args:
        config_path: name of a config.
        trained: whether to load the weights of the trained model; see :func:`get_config`.
        device: device of the model; by default that of the config, or the CPU without a GPU.

    Raises:
        UserError: If the weights cannot be downloaded or read.
    """
    cfg = get_config(config_path, trained)
    if device is None and not torch.cuda.is_available():
        device = "cpu"
    if device is not None:
        cfg.MODEL.DEVICE = device
    model = build_model(cfg)
    load_checkpoint(ModelCheckpointer(model), cfg, complete=trained)
    return model
