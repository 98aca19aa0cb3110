from .counter import OperatorCounter
from .inference import Plan, plan_inference
from .parts import Analysis, analyze, count_parameters, count_trainable

__all__ = [
    "Analysis",
    "OperatorCounter",
    "Plan",
    "analyze",
    "count_parameters",
    "count_trainable",
    "plan_inference",
]
