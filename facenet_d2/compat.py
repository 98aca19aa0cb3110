"""Patches that let Detectron2 0.6 run with current libraries, applied before it is used.

Each patch is applied only if it is needed: newer versions of Detectron2 and versions with compiled
operators are left alone.
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
    """Importable substitute for ``detectron2._C`` whose operators raise an error when called."""

    def __init__(self) -> None:
        super().__init__(COMPILED_MODULE, "Substitute for Detectron2's compiled operators.")
        self.__spec__ = importlib.machinery.ModuleSpec(COMPILED_MODULE, loader=None)

    # `detectron2.utils.collect_env` calls the following three functions.
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
                f"{COMPILED_MODULE}.{name} was called, but Detectron2 was installed without its "
                "compiled operators. FACENet does not need them. For rotated boxes or Detectron2's "
                "own deformable convolutions, install Detectron2 by its own instructions: "
                "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"
            )

        return missing


def _provide_removed_names() -> None:
    # Pillow 10 removed Image.LINEAR, a default argument in Detectron2 0.6.
    # Remove this when 0.6 is no longer supported.
    if not hasattr(Image, "LINEAR"):
        Image.LINEAR = Image.BILINEAR  # type: ignore[attr-defined]
    # NumPy 1.24 removed these aliases (NumPy 2 has `np.bool` again); Detectron2 0.6 uses them in
    # data loading, masks and visualisation. Remove this when 0.6 is no longer supported.
    for name, builtin in (("bool", bool), ("int", int), ("float", float)):
        if name not in np.__dict__:
            setattr(np, name, builtin)


def _provide_pkg_resources() -> None:
    # setuptools 81 removed pkg_resources; Detectron2 0.6 uses one of its functions, in model_zoo.
    # Remove this when 0.6 is no longer supported.
    if importlib.util.find_spec("pkg_resources") is not None:
        return

    def resource_filename(package: str, resource: str) -> str:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"No module named {package!r}")
        return str(Path(spec.origin).parent / resource)

    module = types.ModuleType(
        "pkg_resources", "Substitute with the one function that Detectron2 uses."
    )
    module.__spec__ = importlib.machinery.ModuleSpec("pkg_resources", loader=None)
    module.resource_filename = resource_filename  # type: ignore[attr-defined]
    sys.modules["pkg_resources"] = module


def _provide_compiled_module() -> None:
    # Detectron2 0.6 imports `detectron2._C` unconditionally; newer versions guard most of its uses,
    # but not all. Remove this when a pure-Python Detectron2 is published.
    if importlib.util.find_spec(COMPILED_MODULE) is not None:
        return
    import detectron2

    substitute = _MissingOperators()
    sys.modules[COMPILED_MODULE] = substitute
    detectron2._C = substitute

    # The evaluator's fast implementation is compiled; pycocotools computes the same metrics.
    import detectron2.evaluation.coco_evaluation as coco_evaluation
    from pycocotools.cocoeval import COCOeval

    coco_evaluation.COCOeval_opt = COCOeval


def compiled_operators_available() -> bool:
    """Return whether Detectron2 was installed with its compiled operators."""
    return not isinstance(sys.modules.get(COMPILED_MODULE), _MissingOperators)


# fvcore flips vertically with PyTorch, which warns about Pillow's read-only arrays, although fvcore
# does not write to them.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
# Detectron2 0.6 calls meshgrid without `indexing`. Remove this when 0.6 is no longer supported.
warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming release")

_provide_removed_names()
_provide_pkg_resources()
_provide_compiled_module()
