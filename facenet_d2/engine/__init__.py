"""Configs, training, checkpoints, prediction, and the shared parts of all commands."""

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
