from .coco import InstanceEvaluator

__all__ = ["InstanceEvaluator"]
