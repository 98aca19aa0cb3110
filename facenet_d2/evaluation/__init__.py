from .coco import InstanceEvaluator
from .results import read_results

__all__ = ["InstanceEvaluator", "read_results"]
