from . import datasets
from .images import read_image
from .loader import TrainLoader, build_train_loader
from .mapper import SceneMapper

__all__ = ["SceneMapper", "TrainLoader", "build_train_loader", "datasets", "read_image"]
