"""Configs, training, checkpoints, prediction, and the shared parts of all commands."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cli import run_command
    from .predictor import Predictor
    from .scene_predictor import ScenePredictor
    from .setup import add_point_rend_config, load_config, read_config
    from .trainer import Trainer

__all__ = [
    "Predictor",
    "ScenePredictor",
    "Trainer",
    "add_point_rend_config",
    "load_config",
    "read_config",
    "run_command",
]

# Imported on first use: commands that run exported models need neither PyTorch nor Detectron2.
_MODULES = {
    "Predictor": "predictor",
    "ScenePredictor": "scene_predictor",
    "Trainer": "trainer",
    "add_point_rend_config": "setup",
    "load_config": "setup",
    "read_config": "setup",
    "run_command": "cli",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
