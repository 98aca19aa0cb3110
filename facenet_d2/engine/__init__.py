from .cli import run_command
from .setup import load_config, read_config
from .trainer import Trainer

__all__ = ["Trainer", "load_config", "read_config", "run_command"]
