"""Evaluation of predicted masks and boxes."""

from .coco import METRICS, InstanceEvaluator
from .results import read_results

__all__ = ["METRICS", "InstanceEvaluator", "read_results"]
