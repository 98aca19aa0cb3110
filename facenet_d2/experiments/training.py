"""One training after another, each a process of its own that is not left behind."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from tqdm import tqdm

from ..errors import UserError
from ..paths import train_net
from .plan import Job
from .runs import read_run

# In seconds: between looks at a training; for one to end when it is told a second time.
PERIOD, GRACE = 0.5, 10.0
# In seconds, for a training that was left behind to save its checkpoint.
PATIENCE = 60.0


@contextmanager
def lock(output: Path) -> Iterator[int]:
    """Keep other processes from training into the same folder.

    The trainings hold it too (the file's descriptor is handed on to them), so that a tool that is
    killed and started again waits for the training that it has left behind.

    Args:
        output: the folder.

    Yields:
        the descriptor of the lock's file.

    Raises:
        UserError: where another process has it.
    """
    file = output / ".lock"
    with file.open("a+") as handle:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                handle.seek(0)
                owner = handle.read().strip()
                if _is_alive(owner) or time.monotonic() > deadline:
                    raise UserError(
                        f"{output} is in use by another reproduce.py (process {owner or '?'}) or a "
                        "training of it; wait for its end, or choose another --output."
                    ) from error
            # Its owner was killed; the training that it has left behind is about to stop.
            time.sleep(PERIOD)
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        yield handle.fileno()


def _is_alive(process: str) -> bool:
    # Not os.kill(process, 0), which knows processes that have ended and not been waited for.
    stat = Path("/proc", process, "stat")
    if not process.isdigit():
        return False
    return stat.is_file() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"


def command_of(job: Job, num_gpus: int, overrides: Sequence[str]) -> list[str]:
    """The command that trains a run, or goes on with it."""
    return [
        sys.executable,
        str(train_net()),
        *("--config-file", str(job.config_file)),
        "--resume",
        *("--num-gpus", str(num_gpus)),
        *("SEED", str(job.seed)),
        *("OUTPUT_DIR", str(job.folder)),
        *overrides,
    ]


def shell_line(command: Sequence[str]) -> str:
    """A command to be pasted into a shell; it finds the data where this process does."""
    root = os.environ.get("DETECTRON2_DATASETS")
    setting = f"DETECTRON2_DATASETS={shlex.quote(root)} " if root is not None else ""
    return setting + shlex.join(command)


def train(
    job: Job,
    *,
    num_gpus: int,
    overrides: Sequence[str],
    iterations: int,
    hold: int,
    progress: TextIO,
) -> str | None:
    """Train and evaluate a run to its end, or go on with it.

    Args:
        job: the run; its row's config is there.
        num_gpus: as of train_net.py; 1 on the CPU too.
        overrides: KEY VALUE pairs.
        iterations: as many as it will have at its end, for the progress bar.
        hold: the lock's descriptor, see :func:`lock`.
        progress: where to show it: a bar on a terminal, else a line for each tenth.

    Returns:
        what went wrong, in words; None where nothing did.

    Raises:
        KeyboardInterrupt: on Ctrl-C or SIGTERM, when the training has saved its checkpoint and
            ended; on a second one without its checkpoint.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    metrics, log = job.folder / "metrics.json", job.folder / "train.log"
    cut_broken_line(metrics)
    command = command_of(job, num_gpus, overrides)
    written = log.stat().st_size if log.is_file() else 0
    with log.open("ab") as output, _Progress(metrics, iterations, progress) as shown:
        output.write(f"$ {shell_line(command)}\n".encode())
        output.flush()
        # Alone, a training that gets SIGINT saves a checkpoint. One with several processes leaves
        # that to them; when SIGTERM ends it, PyTorch sends them SIGINT.
        farewell = signal.SIGINT if num_gpus <= 1 else signal.SIGTERM
        code = _run(command, output, hold, farewell, shown.update)
    if code == 0:
        try:
            read_run(job.folder)
        except UserError as error:
            return str(error)
        return None
    with log.open("rb") as output:
        output.seek(written)
        lines = output.read().decode(errors="replace").splitlines()
    lines = [line for line in lines if line.strip()]
    end = f"it was killed by signal {-code}" if code < 0 else f"it ended with code {code}"
    errors = [line for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1].removeprefix("error: ")
    return f"{end}; the last line of its log: {lines[-1].strip()[:300]}"


def cut_broken_line(metrics: Path) -> None:
    """Take off what a process that was killed while it wrote has left of its last line."""
    if not metrics.is_file():
        return
    content = metrics.read_bytes()
    if content and not content.endswith(b"\n"):
        os.truncate(metrics, content.rfind(b"\n") + 1)


def _run(
    command: Sequence[str],
    output: Any,
    hold: int,
    farewell: signal.Signals,
    look: Callable[[], None],
) -> int:
    """The exit code of a process; see :func:`train`."""
    requests = 0

    def count(signum: int, frame: FrameType | None) -> None:
        nonlocal requests
        requests += 1

    previous = {s: signal.signal(s, count) for s in (signal.SIGINT, signal.SIGTERM)}
    heeded, deadline = 0, float("inf")
    process = None
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # A group of its own: Ctrl-C reaches it through this process alone, once each time.
            process_group=0,
            pass_fds=(hold,),
            preexec_fn=_ends_with_its_parent(farewell),
        )
        while process.poll() is None:
            if requests > heeded:
                heeded = requests
                os.killpg(process.pid, signal.SIGINT)
                if heeded == 1:
                    print(
                        "\nStopping after a checkpoint is saved (Ctrl-C again to stop at once) ...",
                        file=sys.stderr,
                        flush=True,
                    )
                else:
                    deadline = min(deadline, time.monotonic() + GRACE)
            if heeded > 2 or time.monotonic() > deadline:
                os.killpg(process.pid, signal.SIGKILL)
            look()
            try:
                process.wait(PERIOD)
            except subprocess.TimeoutExpired:
                continue
    finally:
        if process is not None and process.poll() is None:
            # An error of this process's own, as a full disk.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    if requests:
        raise KeyboardInterrupt
    return process.returncode


def _ends_with_its_parent(farewell: signal.Signals) -> Callable[[], None] | None:
    """To be called in a new process: it gets a signal when its parent has ended, even if killed."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    pr_set_pdeathsig = 1
    return lambda: libc.prctl(pr_set_pdeathsig, int(farewell))


class _Progress:
    """How far a training is, by its metrics.json."""

    def __init__(self, metrics: Path, total: int, stream: TextIO) -> None:
        self.metrics, self.total, self.stream = metrics, total, stream
        self.done = self._read()[0]
        self.tenth = 10 * self.done // total
        # Its thread would be there when processes are made.
        tqdm.monitor_interval = 0
        self.bar = None
        if stream.isatty():
            self.bar = tqdm(total=total, initial=self.done, file=stream, unit="it", leave=False)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def update(self) -> None:
        done, loss = self._read()
        if done == self.done:
            return
        self.done = done
        shown = "" if loss is None else f"loss {loss:.3g}"
        if self.bar is not None:
            self.bar.n = done
            self.bar.set_postfix_str(shown)
        elif 10 * done // self.total != self.tenth:
            self.tenth = 10 * done // self.total
            print(f"    {done} of {self.total} iterations, {shown}", file=self.stream, flush=True)

    def _read(self) -> tuple[int, float | None]:
        """Iterations done, and the loss of the last that was recorded."""
        if not self.metrics.is_file():
            return 0, None
        with self.metrics.open("rb") as handle:
            handle.seek(max(0, self.metrics.stat().st_size - 2**16))
            lines = handle.read().splitlines()
        for line in reversed(lines):
            try:
                event = json.loads(line)
                return min(event["iteration"] + 1, self.total), event["total_loss"]
            except (ValueError, KeyError, TypeError):
                continue
        return 0, None
