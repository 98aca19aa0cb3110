"""Registration of the models and data sets, when Detectron2 is imported.

``import facenet_d2`` imports neither Detectron2 nor PyTorch, because :mod:`facenet_d2.runtime` and
:mod:`facenet_d2.scenes` work where they are not installed. It lets Python call :func:`register`
right after ``import detectron2``, before any module of Detectron2, so that the order of the imports
does not matter.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

DETECTRON2 = "detectron2"


def register() -> None:
    """Patch Detectron2, and register the models, the data sets and the zoo with it."""
    from . import compat

    # If compat is being imported, it is what imports Detectron2.
    compat.apply()
    from . import data, model_zoo, modeling, weights  # noqa: F401


def register_on_import() -> None:
    """Call :func:`register` now if Detectron2 is imported already, otherwise when it is."""
    if DETECTRON2 in sys.modules:
        register()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds Detectron2 by the other finders, and wraps its loader."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != DETECTRON2:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self)
                return spec
        return None


class _Loader(Loader):
    """Loads Detectron2's package as its own loader does, and calls :func:`register`."""

    def __init__(self, loader: Loader, finder: _Finder) -> None:
        self._loader = loader
        self._finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        # Others ask the loader for the package's files.
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        register()
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
