"""FACENet on Detectron2: instance segmentation for aerial, satellite and SAR images.

Importing this package registers the models and the data sets with Detectron2.
"""

from . import startup  # isort: skip  (before all imports that take long)
from . import compat  # isort: skip  (before any import of Detectron2)
from . import data, model_zoo, modeling, weights
from .config import add_facenet_config
from .errors import UserError

__version__ = "0.2.0"

__all__ = [
    "UserError",
    "add_facenet_config",
    "compat",
    "data",
    "model_zoo",
    "modeling",
    "startup",
    "weights",
]
