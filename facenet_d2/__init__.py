"""FACENet on Detectron2: instance segmentation for aerial, satellite and SAR images.

Importing this package registers the models and the data sets with Detectron2.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import startup  # isort: skip  (before all imports that take long)
from . import compat  # isort: skip  (before any import of Detectron2)
from . import data, modeling, weights, zoo_files
from .config import add_facenet_config
from .errors import UserError

if TYPE_CHECKING:
    from . import model_zoo
    from .engine import Predictor, ScenePredictor

__version__ = "0.2.0"

__all__ = [
    "Predictor",
    "ScenePredictor",
    "UserError",
    "add_facenet_config",
    "compat",
    "data",
    "model_zoo",
    "modeling",
    "startup",
    "weights",
    "zoo_files",
]


def __getattr__(name: str) -> Any:
    # Imported on first use: the engine takes as long as the rest of the package.
    if name in ("Predictor", "ScenePredictor"):
        from . import engine

        return getattr(engine, name)
    if name == "model_zoo":
        return importlib.import_module(".model_zoo", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
