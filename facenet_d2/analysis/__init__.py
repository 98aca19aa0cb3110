"""Costs of models: parameters, multiply-adds, time and memory."""

from .counter import OperatorCounter
from .dense_scene import dense_predictions
from .meter import Meter
from .parts import Analysis, analyze, count_parameters, count_trainable
from .workloads import Plan, plan_inference

__all__ = [
    "Analysis",
    "Meter",
    "OperatorCounter",
    "Plan",
    "analyze",
    "count_parameters",
    "count_trainable",
    "dense_predictions",
    "plan_inference",
]
