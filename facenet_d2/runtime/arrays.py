"""Functions of arrays that PyTorch has and NumPy lacks, in float32."""

from __future__ import annotations

import math

import numpy as np


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)) as a new float32 array."""
    result = np.negative(x, dtype=np.float32)
    # Beyond this bound, exp() overflows and the result is the same.
    np.minimum(result, np.float32(88), out=result)
    np.exp(result, out=result)
    result += np.float32(1)
    return np.reciprocal(result, out=result)


def softmax(x: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis."""
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    result: np.ndarray = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return result


def logit(probabilities: np.ndarray, margin: float = 1e-6) -> np.ndarray:
    """Return log(p / (1 - p)) with p clipped to [margin, 1 - margin]."""
    p = probabilities.clip(np.float32(margin), np.float32(1 - margin))
    result: np.ndarray = np.log(p / (1 - p))
    return result


def logit_of(threshold: float) -> np.float32:
    """Return the logit of a threshold between 0 and 1."""
    return np.float32(math.log(threshold / (1 - threshold)))


def descending(values: np.ndarray) -> np.ndarray:
    """Return the order that sorts values from high to low, equal ones in their order."""
    return np.argsort(-values, kind="stable")
