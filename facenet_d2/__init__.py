"""FACENet on Detectron2: instance segmentation for aerial, satellite and SAR images.

Importing this package registers the models and the data sets with Detectron2. Without Detectron2,
:mod:`facenet_d2.runtime` and :mod:`facenet_d2.scenes` work, which do not need PyTorch either.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import startup  # isort: skip  (before all imports that take long)
from . import opencv as opencv  # isort: skip  (before Detectron2, which imports it)
from .errors import UserError

try:
    import detectron2  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "detectron2":
        raise
else:
    from . import compat  # isort: skip  (before Detectron2's modules)
    from . import data, modeling, weights, zoo_files
    from .config import add_facenet_config

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
        return getattr(import_module(".engine", __name__), name)
    if name == "model_zoo":
        return import_module(".model_zoo", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
