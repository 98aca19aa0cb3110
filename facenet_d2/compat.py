"""Makes Detectron2 0.6 work with today's libraries. Imported before anything of Detectron2.

Every piece acts only where it is needed, so that the project also runs on upstream's newest main
and on a Detectron2 with its compiled operators.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COMPILED_MODULE = "detectron2._C"


class _MissingOperators(types.ModuleType):
    """Stands in for ``detectron2._C``: importable, and says what is missing when it is used."""

    def __init__(self) -> None:
        super().__init__(COMPILED_MODULE, "Stand-in for Detectron2's compiled operators.")
        self.__spec__ = importlib.machinery.ModuleSpec(COMPILED_MODULE, loader=None)

    # The three below are what `detectron2.utils.collect_env` asks of every `_C`.
    @staticmethod
    def get_compiler_version() -> str:
        return "not built (facenet_d2 stand-in)"

    @staticmethod
    def get_cuda_version() -> str:
        return "not built (facenet_d2 stand-in)"

    @staticmethod
    def has_cuda() -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError(
                f"{COMPILED_MODULE}.{name} was called, but this Detectron2 was installed without "
                "its compiled operators. FACENet does not need them; for rotated boxes or "
                "Detectron2's own deformable convolutions install Detectron2 by its own "
                "instructions: "
                "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"
            )

        return missing


def _provide_removed_names() -> None:
    # Pillow 10 removed Image.LINEAR, the default argument of a transform in Detectron2 0.6.
    # Can go when 0.6 is no longer supported.
    if not hasattr(Image, "LINEAR"):
        Image.LINEAR = Image.BILINEAR  # type: ignore[attr-defined]
    # NumPy 1.24 removed these aliases; Detectron2 0.6 uses them in data loading, masks and
    # visualisation (NumPy 2 has `np.bool` again). Can go when 0.6 is no longer supported.
    for name, builtin in (("bool", bool), ("int", int), ("float", float)):
        if name not in np.__dict__:
            setattr(np, name, builtin)


def _provide_pkg_resources() -> None:
    # setuptools 81 removed pkg_resources, which Detectron2 0.6 (its model_zoo)
    # uses for one function. Can go when 0.6 is no longer supported.
    if importlib.util.find_spec("pkg_resources") is not None:
        return

    def resource_filename(package: str, resource: str) -> str:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"No module named {package!r}")
        return str(Path(spec.origin).parent / resource)

    module = types.ModuleType("pkg_resources", "Stand-in with the one function Detectron2 uses.")
    module.__spec__ = importlib.machinery.ModuleSpec("pkg_resources", loader=None)
    module.resource_filename = resource_filename  # type: ignore[attr-defined]
    sys.modules["pkg_resources"] = module


def _provide_compiled_module() -> None:
    # Detectron2 0.6 imports `detectron2._C` unconditionally; newer ones guard most, not all, of
    # its uses. Can go when a pure-Python Detectron2 is published.
    if importlib.util.find_spec(COMPILED_MODULE) is not None:
        return
    import detectron2

    stand_in = _MissingOperators()
    sys.modules[COMPILED_MODULE] = stand_in
    detectron2._C = stand_in

    # The evaluator's fast path is written in C++: give it pycocotools' implementation, which
    # computes the same figures.
    import detectron2.evaluation.coco_evaluation as coco_evaluation
    from pycocotools.cocoeval import COCOeval

    coco_evaluation.COCOeval_opt = COCOeval


def compiled_operators_available() -> bool:
    """Whether Detectron2 was installed with its compiled operators."""
    return not isinstance(sys.modules.get(COMPILED_MODULE), _MissingOperators)


# Vertical flips go through PyTorch, which warns of images that Pillow has made read-only; fvcore
# does not write to them.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
# Detectron2 0.6's anchors call it without its argument `indexing`. Can go with 0.6.
warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming release")

_provide_removed_names()
_provide_pkg_resources()
_provide_compiled_module()
