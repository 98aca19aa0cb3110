"""Reading of pickled arrays and tensors without executing code in the file."""

from __future__ import annotations

import pickle
import re
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch


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
    ("torch", "Size"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch.storage", "UntypedStorage"),
    *(
        ("torch", f"{kind}Storage")
        for kind in ("BFloat16", "Bool", "Byte", "Double", "Float", "Half", "Int", "Long", "Short")
    ),
}


class DataUnpickler(pickle.Unpickler):
    """Reads containers, numbers, strings, NumPy arrays and tensors.

    Nothing else that the file names is imported or called.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return an allowed function or class; see :meth:`refuse` for others."""
        # Names are compared as a whole, since pickle would resolve dotted ones to attributes.
        if (module, name) in _REPLACED:
            return _REPLACED[module, name]
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        return self.refuse(module, name)

    def refuse(self, module: str, name: str) -> Any:
        """Raise an error for anything that is not data."""
        raise pickle.UnpicklingError(f"it contains {module}.{name}, but only arrays are allowed")


class Placeholder(SimpleNamespace):
    """Stands for an object that is not data, such as a log buffer of MMEngine."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        """Ignore the pickled state."""


class LenientUnpickler(DataUnpickler):
    """Reads other objects as a :class:`Placeholder`."""

    def refuse(self, module: str, name: str) -> Any:
        """Return the placeholder."""
        return Placeholder


# What torch.load uses of the module pickle.
_lenient_pickle = SimpleNamespace(
    Unpickler=LenientUnpickler,
    load=lambda file, **kwargs: LenientUnpickler(file, **kwargs).load(),
    __name__="pickle",
)


def load_arrays(file: str | Path) -> Any:
    """Read a pickle, such as Detectron2's weights in ``.pkl`` files.

    Raises:
        pickle.UnpicklingError: If the file contains anything but data.
    """
    with Path(file).open("rb") as stream:
        return DataUnpickler(stream, encoding="latin1").load()


def load_tensors(file: str | Path, *, lenient: bool = False) -> Any:
    """Read a file of ``torch.save`` on the CPU.

    Args:
        file: path of the file.
        lenient: whether objects that are not data become a :class:`Placeholder`, instead of an
            error.

    Raises:
        ValueError: If a checksum is wrong, or the file has another of PyTorch's formats.
        pickle.UnpicklingError: If the file contains anything but data, unless it is read leniently.
        Exception: Of many other types, if the file is damaged.
    """
    with Path(file).open("rb") as stream:
        is_zip = stream.read(4) == b"PK\x03\x04"
    if is_zip:
        # PyTorch does not compare the checksums.
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"checksum of {damaged} is wrong")
        # PyTorch would read it as a program, which can run code when it is loaded.
        if "constants.pkl" in torch._C.PyTorchFileReader(str(file)).get_all_records():
            raise ValueError("it is a TorchScript program, but only tensors are allowed")
    elif tarfile.is_tarfile(file):
        # `weights_only` of PyTorch 2.5 does not protect from code in this format.
        raise ValueError("it has the tar format of PyTorch 0.1, which is not supported")
    if lenient:
        return torch.load(
            file, map_location="cpu", pickle_module=_lenient_pickle, weights_only=False
        )
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's message explains how to execute the file.
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"it contains {found[1]}" if found else "it is damaged or contains other objects"
        raise pickle.UnpicklingError(f"{what}, but only tensors are allowed") from error
