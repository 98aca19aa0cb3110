"""Inference with exported models, without PyTorch and Detectron2 (docs/RUNTIME.md)."""

from ..structures.crops import Crop
from .description import ModelDescription
from .prediction import Prediction
from .predictor import OnnxPredictor

__all__ = ["Crop", "ModelDescription", "OnnxPredictor", "Prediction"]
