"""Reading of pickled NumPy arrays without executing code in the file."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any


def _encode_latin1(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"encoding {encoding} is not allowed")
    return text.encode("latin1")


# Pickles of Python 3 in protocol 2 call codecs.encode for bytes.
_REPLACED = {("_codecs", "encode"): _encode_latin1}
_ALLOWED = {
    ("collections", "OrderedDict"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *(
        (f"numpy.{core}.multiarray", name)
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # Names are compared as a whole, since pickle would resolve dotted ones to attributes.
        if (module, name) in _REPLACED:
            return _REPLACED[module, name]
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it contains {module}.{name}, but only arrays are allowed")


def load_arrays(file: str | Path) -> Any:
    """Read nested containers of NumPy arrays, numbers and strings, such as Detectron2's weights.

    Raises:
        pickle.UnpicklingError: If the file contains anything else.
    """
    with Path(file).open("rb") as stream:
        return _ArrayUnpickler(stream, encoding="latin1").load()
