"""Kills processes while they save checkpoints, and resumes them.

Many processes that only save a small model are killed at random moments, and trainings at named
points of saving and evaluation. Every one must be resumed from its last complete checkpoint, and a
killed training must end as an uninterrupted one: with the same weights to the last bit, the same
evaluations, and no temporary files.

  python tests/faults/kills.py --kills 300
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import facenet_d2.compat  # noqa: F401  isort: skip
import torch
from detectron2.config import get_cfg
from detectron2.utils.events import JSONWriter, get_event_storage
from faults import commands
from fuzz import harness
from helpers import write_tiny_config

from facenet_d2 import files
from facenet_d2.engine.checkpointer import ModelCheckpointer, load_checkpoint
from facenet_d2.evaluation import InstanceEvaluator
from facenet_d2.synthetic.dataset import write_dataset

# 25,600 parameters of four bytes.
SIZE = 160
KEPT_FILES = 4


def checkpointer_in(folder: Path) -> ModelCheckpointer:
    return ModelCheckpointer(torch.nn.Linear(SIZE, SIZE, bias=False), str(folder))


def resume(folder: Path) -> int:
    """Load the last checkpoint and return its number, with which its parameters are filled."""
    checkpointer = checkpointer_in(folder)
    load_checkpoint(checkpointer, get_cfg(), resume=True)
    (number,) = checkpointer.model.weight.unique().tolist()
    return int(number)


def save_on_and_on(folder: Path, number: int, sender: int) -> None:
    """Save checkpoints, and report each of them through a pipe."""
    files.remove_temporary_files(folder)
    checkpointer = checkpointer_in(folder)
    while True:
        number += 1
        torch.nn.init.constant_(checkpointer.model.weight, number)
        checkpointer.save(f"model_{number:07d}")
        os.write(sender, b"%d\n" % number)
        (folder / f"model_{number - KEPT_FILES:07d}.pth").unlink(missing_ok=True)


@dataclass
class Figures:
    """Counts of :func:`kill_saves`.

    Attributes:
        kills: number of killed processes.
        resumed: number of those that were resumed from the last complete checkpoint or a newer one.
        while_writing: number of those that left a temporary file.
        left: temporary files that are in the folder at the end.
    """

    kills: int = 0
    resumed: int = 0
    while_writing: int = 0
    left: int = 0


def kill_saves(kills: int, seed: int) -> Figures:
    """Kill processes that save at random moments; see :class:`Figures`."""
    random_numbers = random.Random(seed)
    figures = Figures(kills)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpointer = checkpointer_in(folder)
        torch.nn.init.constant_(checkpointer.model.weight, 0)
        start = time.monotonic()
        checkpointer.save("model_0000000")
        duration = max(0.002, time.monotonic() - start)
        complete = 0
        for _ in range(kills):
            complete = _kill_one(folder, complete, random_numbers.uniform(0, 3 * duration))
            figures.while_writing += bool([*folder.glob(".*.tmp*")])
            try:
                figures.resumed += resume(folder) >= complete
            except Exception as error:
                print(f"not resumed: {error!r}", flush=True)
        files.remove_temporary_files(folder)
        figures.left = len([*folder.glob(".*.tmp*")])
    return figures


def _kill_one(folder: Path, complete: int, seconds: float) -> int:
    """Kill a process some time after its first report; return the last complete checkpoint."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            save_on_and_on(folder, complete, sender)
        finally:
            os._exit(1)
    os.close(sender)
    with os.fdopen(receiver, "rb") as stream:
        select.select([stream], [], [], 60)
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        reports = stream.read().split()
    return max([complete, *map(int, reports)])


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(
    owner: Any, name: str, matches: Callable[..., bool], *, after: bool = False
) -> Callable[[], None]:
    """Return a function that patches another one, so that it kills this process.

    Args:
        owner: module or class.
        name: function to be patched.
        matches: whether to kill at a call, by its arguments.
        after: whether to kill after the call.
    """

    def patch() -> None:
        original = getattr(owner, name)

        def patched(*args: Any, **kwargs: Any) -> Any:
            hit = matches(*args)
            if hit and not after:
                die()
            result = original(*args, **kwargs)
            if hit:
                die()
            return result

        setattr(owner, name, patched)

    return patch


def saves(name: str) -> Callable[..., bool]:
    """Match a call of torch.save to the temporary file of a checkpoint."""
    return lambda content, stream: f".{name}." in str(getattr(stream, "name", ""))


def writes(name: str) -> Callable[..., bool]:
    """Match the flush of a temporary file to the disk."""
    return lambda path: path.name.startswith(f".{name}.")


def replaces(name: str) -> Callable[..., bool]:
    return lambda source, target: Path(target).name == name


def tags(name: str) -> Callable[..., bool]:
    return lambda source, target: (
        Path(target).name == "last_checkpoint" and source.read_text() == name
    )


def records(iterations: int) -> Callable[..., bool]:
    return lambda source, target: (
        Path(target).name == "run.json" and f'"iterations": {iterations}' in source.read_text()
    )


SECOND, FINAL = "model_0000003", "model_final"

# Each with the first iteration of the resumed session.
POINTS: dict[str, tuple[Callable[[], None], int]] = {
    "before a checkpoint is written": (at_call(torch, "save", saves(SECOND)), 2),
    "after its temporary file is written": (at_call(torch, "save", saves(SECOND), after=True), 2),
    "after it is flushed": (at_call(files, "_flush_to_disk", writes(SECOND), after=True), 2),
    "after it is renamed": (at_call(Path, "replace", replaces(f"{SECOND}.pth"), after=True), 2),
    "before last_checkpoint is renamed": (at_call(Path, "replace", tags(f"{SECOND}.pth")), 2),
    "after last_checkpoint is renamed": (
        at_call(Path, "replace", tags(f"{SECOND}.pth"), after=True),
        4,
    ),
    "during the evaluation": (at_call(InstanceEvaluator, "process", lambda *_: True), 4),
    "while the predictions are written": (
        at_call(Path, "replace", replaces("coco_instances_results.json")),
        4,
    ),
    "before model_best is renamed": (at_call(Path, "replace", replaces("model_best.pth")), 4),
    "before model_best.json is renamed": (at_call(Path, "replace", replaces("model_best.json")), 4),
    "before the evaluation is recorded": (
        at_call(JSONWriter, "write", lambda writer: _iteration() == 3),
        4,
    ),
    "before run.json is renamed": (
        at_call(Path, "replace", records(4)),
        4,
    ),
    "before model_final is renamed": (at_call(Path, "replace", replaces(f"{FINAL}.pth")), 6),
    "after model_final is renamed": (
        at_call(Path, "replace", replaces(f"{FINAL}.pth"), after=True),
        6,
    ),
    "after the evaluation is recorded": (
        at_call(JSONWriter, "write", lambda writer: _iteration() == 3, after=True),
        4,
    ),
    "during the last evaluation": (
        at_call(InstanceEvaluator, "process", lambda *_: _iteration() == 6),
        6,
    ),
}


def _iteration() -> int:
    return get_event_storage().iter


@dataclass(frozen=True)
class State:
    """What a training leaves.

    Attributes:
        weights: parameters in model_final.pth.
        evaluated: iterations that were evaluated.
        best: content of model_best.json.
        iterations: iterations in run.json.
        starts: first iteration of each session.
        temporary: temporary files.
    """

    weights: dict[str, torch.Tensor]
    evaluated: list[int]
    best: str
    iterations: int
    starts: list[int]
    temporary: list[str]

    @classmethod
    def of(cls, output: Path) -> State:
        events = [json.loads(line) for line in (output / "metrics.json").open()]
        sessions = json.loads((output / "run.json").read_text())["sessions"]
        assert (output / "model_best.pth").is_file()
        return cls(
            torch.load(output / "model_final.pth")["model"],
            sorted({e["iteration"] for e in events if "segm/AP" in e}),
            (output / "model_best.json").read_text(),
            sum(s["iterations"] for s in sessions),
            [s["first_iteration"] for s in sessions],
            [str(f) for f in output.rglob(".*.tmp*")],
        )

    def difference(self, other: State) -> str:
        """Say in what this state differs from that of an uninterrupted training."""
        wrong = [n for n, w in self.weights.items() if not torch.equal(w, other.weights[n])]
        found = [f"{len(wrong)} parameters differ"] if wrong else []
        for name in ("evaluated", "best", "iterations", "temporary"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                found.append(f"{name}: {mine} instead of {theirs}")
        return "; ".join(found)


class Trainings:
    """Trainings of a tiny model for six iterations, in processes of their own."""

    def __init__(self, folder: Path) -> None:
        write_dataset(folder / "scenes", num_scenes=4, seed=11, size=128)
        self.folder = folder
        self.reference = self.train("reference")
        self.state = State.of(self.reference)

    def train(self, name: str, patch: Callable[[], None] | None = None) -> Path:
        """Start or resume a training; return its output folder.

        Args:
            name: name of the output folder.
            patch: function that makes the training kill itself; it must do so.
        """
        config = write_tiny_config(self.folder, self.folder / "scenes", output=name)

        def run() -> None:
            if patch is not None:
                patch()
            settings = ("SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 2, "TEST.EVAL_PERIOD", 4)
            commands.run("train_net", "--config-file", config, "--resume", *settings)

        outcome = harness.run_case(run, seconds=600, memory=8 * 2**30)
        expected = "accepted" if patch is None else "crash"
        assert outcome.kind == expected, outcome
        return self.folder / name

    def kill_at(self, point: str) -> str:
        """Kill a training at a point and resume it; return what differs, or ""."""
        patch, start = POINTS[point]
        output = self.train(point.replace(" ", "_"), patch)
        self.train(point.replace(" ", "_"))
        state = State.of(output)
        difference = state.difference(self.state)
        if state.starts != [0, start]:
            difference += f"; sessions start at {state.starts} instead of {[0, start]}"
        shutil.rmtree(output)
        return difference


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=300, help="number of random kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--points", default="", help="part of the names of the points to try")
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures = kill_saves(args.kills, args.seed)
    print(
        f"{figures.resumed} of {figures.kills} random kills resumed from the last complete "
        f"checkpoint, {figures.while_writing} of them killed while writing; {figures.left} "
        "temporary files left"
    )
    points = [p for p in POINTS if args.points in p]
    whole = 0
    with tempfile.TemporaryDirectory() as folder:
        trainings = Trainings(Path(folder))
        for point in points:
            difference = trainings.kill_at(point)
            whole += not difference
            print(f"{point:40} {difference or 'as uninterrupted'}", flush=True)
    print(f"{whole} of {len(points)} trainings killed at a point end as an uninterrupted one")
    return int(whole < len(points) or figures.resumed < figures.kills or figures.left > 0)


if __name__ == "__main__":
    sys.exit(main())
