from .counter import OperatorCounter
from .parts import Analysis, analyze, count_parameters, count_trainable
from .workloads import Plan, plan_inference

__all__ = [
    "Analysis",
    "OperatorCounter",
    "Plan",
    "analyze",
    "count_parameters",
    "count_trainable",
    "plan_inference",
]
