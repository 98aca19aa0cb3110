"""FACENet on Detectron2: instance segmentation for aerial, satellite and SAR images.

Importing this package registers the models and the data sets with Detectron2, as soon as Detectron2
is imported (see :mod:`facenet_d2.registration`). :mod:`facenet_d2.runtime` needs neither Detectron2
nor PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import startup  # isort: skip  (before all imports that take long)
from .errors import UserError
from .registration import register_on_import

if TYPE_CHECKING:
    from . import compat, data, model_zoo, modeling, runtime, weights, zoo_files
    from .config import add_facenet_config
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
    "runtime",
    "startup",
    "weights",
    "zoo_files",
]

# Imported on first use; the value is the module that defines the name, or None for the module of
# the name itself.
_LAZY = {
    "Predictor": "engine",
    "ScenePredictor": "engine",
    "add_facenet_config": "config",
    **dict.fromkeys(("compat", "data", "model_zoo", "modeling", "runtime", "weights", "zoo_files")),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_LAZY[name] or name}")
    return getattr(module, name) if _LAZY[name] else module


register_on_import()
