"""Costs of models: parameters, multiply-adds, time and memory."""

from .counter import OperatorCounter
from .dense_scene import dense_predictions
from .meter import Meter
from .paper_counts import PAPER_RULES, PaperRule, count_as_paper
from .parts import Analysis, analyze, count_parameters, count_trainable
from .workloads import Plan, plan_inference

__all__ = [
    "PAPER_RULES",
    "Analysis",
    "Meter",
    "OperatorCounter",
    "PaperRule",
    "Plan",
    "analyze",
    "count_as_paper",
    "count_parameters",
    "count_trainable",
    "dense_predictions",
    "plan_inference",
]
