"""Sends each stop signal to each command, and resumes what it interrupted.

A command must end with 128 plus the signal's number, leave no process, no temporary and no
half-written file, and print no traceback. A training must save a checkpoint; resumed, it must end
with the weights of an uninterrupted one to the last bit. Other commands, repeated, must write the
same files as uninterrupted ones.

  python tests/faults/signals.py
  python tests/faults/signals.py --only prepare
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import facenet_d2.compat  # noqa: F401  isort: skip
import torch
from helpers import REPOSITORY, write_tiny_config
from isaid_scene import draw as draw_scene
from isaid_scene import write as write_scene
from PIL import Image
from preparing.test_hrsid import make_source as hrsid_source
from preparing.test_nwpu_vhr10 import make_source as nwpu_source

from facenet_d2.engine import Trainer, load_config
from facenet_d2.files import TEMPORARY
from facenet_d2.signals import STOP_SIGNALS
from facenet_d2.synthetic.dataset import write_dataset

ITERATIONS = 12
# What a training prints after two steps.
SAVED = "model_0000001.pth"
TIMEOUT = 600


@dataclass(frozen=True)
class Command:
    """Command that is interrupted.

    Attributes:
        line: its command line.
        output: folder that it writes to.
        is_busy: whether it has begun its work, by what it has printed so far.
        is_training: whether it saves checkpoints.
    """

    line: Sequence[str]
    output: Path
    is_busy: Callable[[str], bool]
    is_training: bool = False


def processes_of(group: int) -> list[str]:
    """Return the processes of a process group that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, process_group, *_ = stat.read_text().rpartition(")")[2].split()
            if int(process_group) == group and state not in "ZX":
                found.append(stat.parent.name)
    return found


def start(command: Command, printed: Path) -> subprocess.Popen[bytes]:
    def as_in_a_terminal() -> None:
        # A parent such as nohup may ignore signals, which its children inherit.
        for signum in STOP_SIGNALS:
            signal.signal(signum, signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, *command.line],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=printed.open("ab"),
        stderr=subprocess.STDOUT,
        process_group=0,
        preexec_fn=as_in_a_terminal,
    )


def finish(command: Command, printed: Path) -> str:
    """Run a command to its end; return what is wrong, or ""."""
    process = start(command, printed)
    try:
        code = process.wait(TIMEOUT)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    # check_dataset ends with 1 if it finds a fault.
    return "" if code in (0, 1) else f"ended with {code}: {printed.read_text()[-1000:]}"


def interrupt(command: Command, signum: int, to_group: bool, printed: Path) -> list[str]:
    """Interrupt a command when it is busy; return what is wrong."""
    process = start(command, printed)
    try:
        deadline = time.monotonic() + TIMEOUT
        while not command.is_busy(printed.read_text(errors="replace")):
            if process.poll() is not None:
                return [f"ended before the signal: {printed.read_text()[-1000:]}"]
            if time.monotonic() > deadline:
                return ["never begins"]
            time.sleep(0.02)
        (os.killpg if to_group else os.kill)(process.pid, signum)
        sent = time.monotonic()
        code = process.wait(TIMEOUT)
        seconds = time.monotonic() - sent
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    problems = []
    if code != 128 + signum:
        problems.append(f"code {code} instead of {128 + signum}")
    deadline = time.monotonic() + 20
    while processes_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    orphans = processes_of(process.pid)
    if orphans:
        problems.append(f"processes {orphans} are left")
        os.killpg(process.pid, signal.SIGKILL)
    text = printed.read_text(errors="replace")
    if "Traceback" in text:
        problems.append(f"a traceback: {text[text.index('Traceback') :][:1500]}")
    if seconds > 30:
        problems.append(f"{seconds:.0f} s")
    return problems + faults_of_files(command.output)


def faults_of_files(output: Path) -> list[str]:
    """Return the temporary and half-written files in a folder."""
    found = []
    for file in output.rglob("*"):
        if TEMPORARY.fullmatch(file.name):
            found.append(f"{file.name} is left")
        elif file.suffix == ".json" and file.name != "metrics.json":
            json.loads(file.read_text())
        elif file.suffix in (".png", ".jpg"):
            with Image.open(file) as image:
                image.load()
        elif file.suffix == ".pth":
            torch.load(file)
    return found


def result(command: Command) -> dict[str, object]:
    """Return what a finished command has written, without what depends on the time."""
    found: dict[str, object] = {}
    for file in sorted(command.output.rglob("*")):
        name = str(file.relative_to(command.output))
        if command.is_training:
            if file.name == "model_final.pth":
                found[name] = torch.load(file)["model"]
        elif file.is_file() and file.name not in ("run.json", ".lock"):
            found[name] = file.read_bytes()
    return found


def is_same(first: object, second: object) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        same_keys = first.keys() == second.keys()
        return same_keys and all(is_same(value, second[key]) for key, value in first.items())
    return first == second


def commands_in(root: Path) -> dict[str, Callable[[str], Command]]:
    """Make the inputs; return functions that make the commands for the name of an output folder."""
    scenes = root / "scenes"
    write_dataset(scenes, num_scenes=6, seed=11, size=128)
    many = root / "many"
    write_dataset(many, num_scenes=40, seed=5, size=256)
    for i in range(6):
        folder = root / "isaid" / "train" / "images"
        write_scene(folder, f"P{i:04d}", *draw_scene(1600, 1600, 60, i))
    nwpu_source(root / "nwpu")
    hrsid_source(root / "hrsid")
    for name, folder in (("nwpu", "images"), ("hrsid", "JPEGImages")):
        _repeat(root / name, folder, 100)

    def training(script: str, *options: str, workers: int = 0) -> Callable[[str], Command]:
        def make(output: str) -> Command:
            (root / f"{output}_config").mkdir(exist_ok=True)
            config = write_tiny_config(root / f"{output}_config", scenes)
            folder = root / output
            settings = {
                "OUTPUT_DIR": folder,
                "SOLVER.MAX_ITER": ITERATIONS,
                "SOLVER.CHECKPOINT_PERIOD": 2,
                "DATASETS.TEST": "()",
                "DATALOADER.NUM_WORKERS": workers,
            }
            pairs = [str(x) for pair in settings.items() for x in pair]
            line = [script, "--config-file", str(config), "--resume", *options, *pairs]
            return Command(line, folder, lambda text: SAVED in text, True)

        return make

    def other(line: Sequence[object], begun: str) -> Callable[[str], Command]:
        def make(output: str) -> Command:
            folder = root / output
            folder.mkdir(exist_ok=True)
            words = [str(x).replace("OUTPUT", str(folder)) for x in line]
            return Command(words, folder, lambda text: begun in text)

        return make

    def reproduce(output: str) -> Command:
        (root / f"{output}_config").mkdir(exist_ok=True)
        config = write_tiny_config(root / f"{output}_config", scenes, base="Base-SOLOv2.yaml")
        folder = root / output
        log = folder / "solov2" / "seed1" / "train.log"
        line = ["tools/reproduce.py", "--table", "8", "--dataset", str(config), "--rows", "pafpn"]
        line += ["--output", str(folder), "SOLVER.MAX_ITER", str(ITERATIONS)]
        line += ["SOLVER.CHECKPOINT_PERIOD", "2"]

        def is_busy(text: str) -> bool:
            return log.is_file() and SAVED in log.read_text(errors="replace")

        return Command(line, folder, is_busy, True)

    def demo(output: str) -> Command:
        weights = root / "weights.pth"
        config = write_tiny_config(root, scenes)
        if not weights.is_file():
            torch.manual_seed(0)
            torch.save({"model": Trainer.build_model(load_config(config)).state_dict()}, weights)
        folder = root / output
        line = ["demo/demo.py", "--config-file", config, "--input", many / "images", "--output"]
        line += [folder, "--save-json", folder / "found.json", "--opts", "MODEL.WEIGHTS", weights]
        return Command([*map(str, line)], folder, lambda text: (folder / "00000.png").is_file())

    trial = REPOSITORY / "docs" / "model_zoo" / "trials"
    data = ("--annotations", many / "annotations.json", "--images", many / "images")
    hrsid = ("--images", root / "hrsid/JPEGImages", "--annotations", root / "hrsid/annotations")
    nwpu = ("--images", root / "nwpu/images", "--annotations", root / "nwpu/annotations.json")
    isaid = ("--source", root / "isaid", "--splits", "train", "--workers", 2)
    return {
        "train": training("train_net.py"),
        "train, 2 workers": training("train_net.py", workers=2),
        "train, 2 processes": training("tests/gloo_train_net.py", "--num-gpus", "2", workers=1),
        "reproduce": reproduce,
        "demo": demo,
        "prepare_isaid": other(["tools/prepare_isaid.py", *isaid, "--output", "OUTPUT"], "Cutting"),
        "prepare_nwpu_vhr10": other(
            ["tools/prepare_nwpu_vhr10.py", *nwpu, "--output", "OUTPUT", "--copy"], "Checking"
        ),
        "prepare_hrsid": other(
            ["tools/prepare_hrsid.py", *hrsid, "--output", "OUTPUT", "--copy"], "Checking"
        ),
        "check_dataset": other(
            ["tools/check_dataset.py", *data, "--workers", 2]
            + ["--html", "OUTPUT/report.html", "--fix", "OUTPUT/fixed.json"],
            "image",
        ),
        "summarize_runs": other(
            ["-c", SLOW_SUMMARY, *sorted(trial.iterdir()), "--plot", "OUTPUT/curves.png"], "begin"
        ),
    }


# The command itself takes less than a second, so it is held in its middle.
SLOW_SUMMARY = f"""
import sys, time
sys.path.insert(0, {str(REPOSITORY / "tools")!r})
sys.argv[0] = {str(REPOSITORY / "tools" / "summarize_runs.py")!r}
import summarize_runs
draw = summarize_runs.draw_curves
def slowly(rows, panels, file):
    draw(rows, panels, file)
    print("begin", flush=True)
    time.sleep(1)
summarize_runs.draw_curves = slowly
sys.exit(summarize_runs.run_command(summarize_runs.main))
"""


def _repeat(folder: Path, images: str, times: int) -> None:
    """Repeat the images of a small data set, so that a command needs some time for it."""
    for file in folder.rglob("*.json"):
        content = json.loads(file.read_text())
        known, annotations = content["images"], content["annotations"]
        count, most = len(known), len(annotations)
        for i in range(1, times):
            for image in known[:count]:
                name = f"{i}_{image['file_name']}"
                shutil.copy(folder / images / image["file_name"], folder / images / name)
                known.append({**image, "id": image["id"] + i * count, "file_name": name})
            for a in annotations[:most]:
                ids = {"id": a["id"] + i * most, "image_id": a["image_id"] + i * count}
                annotations.append({**a, **ids})
        file.write_text(json.dumps(content))


def try_command(
    make: Callable[[str], Command], name: str, signals: Sequence[int]
) -> Iterator[tuple[str, str]]:
    """Interrupt a command by each signal and repeat it; yield the signals and what is wrong."""
    folder = name.replace(" ", "_").replace(",", "")
    whole = make(f"{folder}_whole")
    problem = finish(whole, whole.output.with_suffix(".txt"))
    expected = result(whole)
    for number, signum in enumerate(signals):
        command = make(f"{folder}_{signal.Signals(signum).name}")
        printed = command.output.with_suffix(".txt")
        # A terminal signals the whole group, `kill` and most schedulers one process.
        problems = [problem, *interrupt(command, signum, number % 2 == 0, printed)]
        if command.is_training and not _saved_on_request(command, printed):
            problems.append("no checkpoint is saved")
        problems.append(finish(command, printed))
        if not is_same(result(command), _renamed(expected, whole, command)):
            problems.append("the repeated command has another result")
        shutil.rmtree(command.output)
        yield signal.Signals(signum).name, "; ".join(filter(None, problems))


def _saved_on_request(command: Command, printed: Path) -> bool:
    logs = [printed, *command.output.rglob("train.log")]
    return any("continue with --resume" in log.read_text(errors="replace") for log in logs)


def _renamed(expected: dict[str, object], whole: Command, command: Command) -> dict[str, object]:
    """Replace the output folder where a file contains it."""
    old, new = (str(c.output).encode() for c in (whole, command))
    return {k: v.replace(old, new) if isinstance(v, bytes) else v for k, v in expected.items()}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="part of the names of the commands to try")
    args = parser.parse_args()
    failed = tried = 0
    with tempfile.TemporaryDirectory() as root:
        for name, make in commands_in(Path(root)).items():
            if args.only not in name:
                continue
            for signum, problem in try_command(make, name, STOP_SIGNALS):
                tried += 1
                failed += bool(problem)
                print(f"{name:22} {signum:8} {problem or 'as it should be'}", flush=True)
    print(f"{tried - failed} of {tried} pairs of command and signal are as they should be")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
