"""Evaluation of predicted masks and boxes."""

from .coco import METRICS, InstanceEvaluator
from .results import find_results, read_results

__all__ = ["METRICS", "InstanceEvaluator", "find_results", "read_results"]
