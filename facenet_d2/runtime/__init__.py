"""Inference with exported models, without PyTorch and Detectron2 (docs/RUNTIME.md)."""

from .description import ModelDescription
from .prediction import Crop, Prediction
from .predictor import OnnxPredictor

__all__ = ["Crop", "ModelDescription", "OnnxPredictor", "Prediction"]
