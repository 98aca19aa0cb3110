"""Trainings in child processes that end with their parent."""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from tqdm import tqdm

from ..errors import UserError
from ..files import remove_partial_line
from ..paths import train_net
from ..signals import StopRequested, restore_handlers, set_handlers
from .plan import Job
from .runs import read_run

# All in seconds.
POLL_PERIOD = 0.5
# Time for a training to end after a second interrupt.
SECOND_INTERRUPT_TIMEOUT = 10.0


def training_command(job: Job, num_gpus: int, overrides: Sequence[str]) -> list[str]:
    """Return the command that starts or resumes a run."""
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
    """Format a command for a shell, with DETECTRON2_DATASETS as in this process."""
    root = os.environ.get("DETECTRON2_DATASETS")
    setting = f"DETECTRON2_DATASETS={shlex.quote(root)} " if root is not None else ""
    return setting + shlex.join(command)


def run_training(
    job: Job,
    *,
    num_gpus: int,
    overrides: Sequence[str],
    iterations: int,
    lock_descriptor: int,
    progress: TextIO,
) -> str | None:
    """Start or resume a run, and train and evaluate it completely.

    Args:
        job: run to train; the config of its row has been written.
        num_gpus: ``--num-gpus`` of train_net.py; 1 for the CPU.
        overrides: KEY VALUE pairs.
        iterations: number of iterations of the complete run, for the progress bar.
        lock_descriptor: descriptor from :func:`~facenet_d2.engine.lock.locked`.
        progress: stream for the progress: a bar on a terminal, otherwise a line per tenth.

    Returns:
        Error message, or None on success.

    Raises:
        StopRequested: on one of the signals in :data:`~facenet_d2.signals.STOP_SIGNALS`, after the
            training has saved a checkpoint; on a second signal without the checkpoint.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    metrics, log = job.folder / "metrics.json", job.folder / "train.log"
    remove_partial_line(metrics)
    command = training_command(job, num_gpus, overrides)
    written = log.stat().st_size if log.is_file() else 0
    with log.open("ab") as output, _Progress(metrics, iterations, progress) as shown:
        output.write(f"$ {shell_line(command)}\n".encode())
        output.flush()
        # A training in a single process saves a checkpoint on SIGINT. With several processes the
        # children save it on SIGINT, which PyTorch sends them when SIGTERM ends their parent.
        death_signal = signal.SIGINT if num_gpus <= 1 else signal.SIGTERM
        code = _run(command, output, lock_descriptor, death_signal, shown.update)
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


def _run(
    command: Sequence[str],
    output: Any,
    lock_descriptor: int,
    death_signal: signal.Signals,
    show_progress: Callable[[], None],
) -> int:
    """Run a command in a child process and return its exit code; see :func:`run_training`."""
    requests: list[int] = []

    def keep(signum: int, frame: FrameType | None) -> None:
        requests.append(signum)

    previous = set_handlers(keep, always_ctrl_c=True)
    forwarded, deadline = 0, float("inf")
    process = None
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # In a group of its own, the child does not get Ctrl-C twice.
            process_group=0,
            pass_fds=(lock_descriptor,),
            preexec_fn=_request_death_signal(death_signal),
        )
        while process.poll() is None:
            if len(requests) > forwarded:
                forwarded = len(requests)
                os.killpg(process.pid, signal.SIGINT)
                if forwarded == 1:
                    print(
                        "\nStopping after a checkpoint is saved (Ctrl-C again to stop at once) ...",
                        file=sys.stderr,
                        flush=True,
                    )
                else:
                    deadline = min(deadline, time.monotonic() + SECOND_INTERRUPT_TIMEOUT)
            if forwarded > 2 or time.monotonic() > deadline:
                os.killpg(process.pid, signal.SIGKILL)
            show_progress()
            try:
                process.wait(POLL_PERIOD)
            except subprocess.TimeoutExpired:
                continue
    finally:
        if process is not None and process.poll() is None:
            # This process itself failed, for example because the disk is full.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        restore_handlers(previous)
    if requests:
        raise StopRequested(requests[0])
    return process.returncode


def _request_death_signal(death_signal: signal.Signals) -> Callable[[], None] | None:
    """Return a function that makes a new process get a signal when its parent ends or is killed."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    pr_set_pdeathsig = 1
    return lambda: libc.prctl(pr_set_pdeathsig, int(death_signal))


class _Progress:
    """Progress of a training according to its metrics.json."""

    def __init__(self, metrics: Path, total: int, stream: TextIO) -> None:
        self.metrics, self.total, self.stream = metrics, total, stream
        self.done = self._read()[0]
        self.tenth = 10 * self.done // total
        # tqdm's monitor thread would be running while processes are forked.
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
        """Return the number of iterations and the last recorded loss."""
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
