#!/usr/bin/env python3
"""The command ``facenet``, which runs the programs of this project under short names.

``facenet predict ...`` is the program ``tools/predict_scenes.py``, with its arguments, help and
exit codes. In an installed package, the programs are in ``facenet_d2/commands``, where ``setup.py``
copies those of the list below.

This module imports nothing from the package, so the list is printed at once, and ``setup.py`` can
read it.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

COMMANDS = {
    "train": ("train_net.py", "train a model, or evaluate it"),
    "demo": ("demo/demo.py", "draw predictions on images and videos"),
    "predict": ("tools/predict_scenes.py", "predict the instances of whole scenes"),
    "evaluate": ("tools/evaluate_scenes.py", "evaluate predictions of whole scenes"),
    "merge": ("tools/merge_patches.py", "merge results on patches into whole scenes"),
    "check": ("tools/check_dataset.py", "find and repair the faults of a data set"),
    "statistics": ("tools/compute_statistics.py", "compute stretch, mean and standard deviation"),
    "subset": ("tools/subset_coco.py", "select a few images of a data set"),
    "prepare scenes": ("tools/prepare_scenes.py", "cut rasters with labels into training images"),
    "prepare isaid": ("tools/prepare_isaid.py", "prepare iSAID for training"),
    "prepare hrsid": ("tools/prepare_hrsid.py", "prepare HRSID for training"),
    "prepare nwpu_vhr10": ("tools/prepare_nwpu_vhr10.py", "prepare NWPU VHR-10 for training"),
    "visualize data": ("tools/visualize_data.py", "draw training images as the model sees them"),
    "visualize errors": ("tools/visualize_errors.py", "count and draw errors of predicted masks"),
    "export": ("tools/export_model.py", "export a model as ONNX, TorchScript or PT2"),
    "convert": ("tools/convert_weights.py", "convert a published SOLOv2 checkpoint"),
    "compare": ("tools/compare_results.py", "compare two files of results"),
    "reproduce": ("tools/reproduce.py", "train the rows of a table of the paper"),
    "summarize": ("tools/summarize_runs.py", "make tables and curves of training runs"),
    "analyze": ("tools/analyze_model.py", "count parameters and multiply-adds of a model"),
    "benchmark": ("tools/benchmark.py", "measure time and memory of a model"),
    "install-detectron2": ("tools/install_detectron2.py", "install Detectron2, which is required"),
}
"""Program, by its path in the checkout, and one line of description of each command."""

USAGE = """\
usage: facenet COMMAND [ARGUMENT ...]

FACENet on Detectron2: instance segmentation for aerial, satellite and SAR images.

"""
HINT = """
facenet COMMAND --help describes a command. Its examples use the name of the program, for example
predict_scenes.py for facenet predict.
"""


def root() -> Path:
    """Return the folder of the programs: that of an installed package, or the checkout."""
    here = Path(__file__).resolve().parent
    installed = here / "facenet_d2" / "commands"
    return installed if installed.is_dir() else here.parent


def listed(names: Iterable[str]) -> str:
    """Return a line for each command."""
    width = max(map(len, COMMANDS))
    return "".join(f"  {name:{width}}  {COMMANDS[name][1]}\n" for name in names)


def run(name: str, arguments: list[str]) -> None:
    """Run the program of a command in this process, as Python runs a script; it exits by itself."""
    file = root() / COMMANDS[name][0]
    # Programs show this name in their usage.
    sys.argv = [f"facenet {name}", *arguments]
    sys.path[0] = str(file.parent)
    # The child processes of multiprocessing import their parent's main module from __file__.
    program = types.ModuleType("__main__")
    program.__file__ = str(file)
    sys.modules["__main__"] = program
    try:
        exec(compile(file.read_bytes(), file, "exec"), program.__dict__)
    except ModuleNotFoundError as error:
        if error.name != "detectron2":
            raise
        sys.exit("error: Detectron2 is not installed; run facenet install-detectron2.")


def main() -> int:
    """Run the command that the arguments name; without arguments, list all commands."""
    words = sys.argv[1:]
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in COMMANDS:
            run(name, words[length:])
            return 0
    first = words[0] if words else "--help"
    if first in ("-h", "--help"):
        print(f"{USAGE}{listed(COMMANDS)}{HINT}", end="")
        return 0
    if first == "--version":
        from importlib.metadata import version

        print(version("facenet_d2"))
        return 0
    family = [name for name in COMMANDS if name.startswith(f"{first} ")]
    if family and words[1:] in ([], ["-h"], ["--help"]):
        print(f"usage: facenet {first} COMMAND [ARGUMENT ...]\n\n{listed(family)}", end="")
        return 0 if words[1:] else 2
    typed = " ".join(words[: 2 if family else 1])
    same = [n for n, (file, _) in COMMANDS.items() if Path(file).stem == Path(typed).stem]
    similar = same or family or get_close_matches(typed, COMMANDS)
    hint = f"did you mean {' or '.join(similar)}?" if similar else "facenet --help lists them."
    print(f"facenet: error: {typed!r} is not a command; {hint}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
