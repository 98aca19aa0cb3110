"""Registration of the models and data sets with Detectron2, when it is needed.

``import facenet_d2`` imports neither Detectron2 nor PyTorch, because :mod:`facenet_d2.runtime` and
:mod:`facenet_d2.scenes` work where they are not installed. It only makes Python call
:func:`register` when Detectron2 is imported, or one of the :data:`PARTS`, whichever is first.
Therefore the order of the imports does not matter.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

DETECTRON2 = "detectron2"
PARTS = (
    "compat",
    "config",
    "config_checks",
    "data",
    "modeling",
    "structures",
    "weights",
    "zoo_files",
)
"""Parts of this package that :func:`register` imports and that need Detectron2."""

_PACKAGE = __package__
_has_started = False


def register() -> None:
    """Patch Detectron2, and register the models, the data sets and the model zoo with it."""
    global _has_started
    if _has_started:
        return
    _has_started = True
    try:
        from . import compat  # noqa: F401  isort: skip  (before any other import of Detectron2)
        from . import config, data, modeling, weights, zoo_files  # noqa: F401
    except BaseException:
        # The next import fails for the same reason.
        _has_started = False
        raise


def register_on_import() -> None:
    """Call :func:`register` now if Detectron2 is imported already, otherwise when it is needed."""
    if DETECTRON2 in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Calls :func:`register`; what is found, and how it is loaded, is up to the other finders."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if _has_started:
            return None
        if fullname == DETECTRON2:
            return self._registering(fullname, path, target)
        package, _, part = fullname.partition(".")
        if package == _PACKAGE and part in PARTS:
            register()
            # It has imported this part too, which must not be loaded again.
            return ModuleSpec(fullname, _Imported(sys.modules[fullname]))
        return None

    def _registering(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Registering(spec.loader)
                return spec
        return None


class _Registering(Loader):
    """Loads Detectron2's package as its own loader does, and calls :func:`register`."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        # Others ask the loader for the package's files.
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        register()


class _Imported(Loader):
    """Returns a module that has been imported."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec
