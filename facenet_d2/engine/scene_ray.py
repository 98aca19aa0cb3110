"""Detection in the tiles of scenes by the machines of a Ray cluster (extra ``[ray]``).

Each actor, a process on a GPU or a group of cores, holds the model and takes one task after the
other: some consecutive batches of a scene's tiles. Results are files in a store on a file system
that all machines share, so a task that is lost with its actor or machine is given to another one,
which processes the tiles that are missing.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from ..errors import UserError, user_message
from ..signals import STOP_SIGNALS
from .scene_predictor import ScenePredictor
from .setup import read_config

if TYPE_CHECKING:
    from ..scenes.prediction import Scene
    from ..scenes.tile_store import FolderStore
    from ..scenes.tiles import Tile

# A task has several batches, so that the tiles of one are read while another is in the network.
BATCHES_PER_TASK = 8
# A task is lost for good when as many actors have died with it, for example for want of memory.
MAX_LOSSES = 4
# In seconds: time until machines that have joined the cluster get work.
POLL_PERIOD = 5.0


@dataclass(frozen=True)
class ModelOptions:
    """Arguments of :class:`ScenePredictor`, which builds the model in each actor."""

    config_file: str
    overrides: Sequence[str]
    tile_size: int | None
    overlap: int | None
    batch_size: int

    def build(self, device: str | None = None) -> ScenePredictor:
        """Return the model.

        Args:
            device: device in place of ``MODEL.DEVICE``.
        """
        return ScenePredictor(
            self.config_file,
            overrides=[*self.overrides, *(("MODEL.DEVICE", device) if device else ())],
            tile_size=self.tile_size,
            overlap=self.overlap,
            batch_size=self.batch_size,
        )


@dataclass(eq=False)
class Task:
    """Batches of tiles that an actor processes.

    Attributes:
        scene: the pickled scene.
        store: store of the detections.
        batches: the batches.
        losses: number of actors that have died with this task.
    """

    scene: bytes
    store: FolderStore
    batches: list[Sequence[Tile]]
    losses: int = 0


def scene_tasks(
    scene: Scene,
    store: FolderStore,
    batches: Sequence[Sequence[Tile]],
    num_actors: int,
) -> list[Task]:
    """Return the tasks of a scene.

    Args:
        scene: the scene; its raster can be opened by the same name on all machines.
        store: store of the detections, open, on a file system that all machines share.
        batches: batches of tiles that are missing in the store.
        num_actors: number of actors; with few batches, tasks are smaller to employ them all.
    """
    size = max(1, min(BATCHES_PER_TASK, len(batches) // (4 * max(1, num_actors))))
    pickled = pickle.dumps(scene)
    parts = (list(batches[i : i + size]) for i in range(0, len(batches), size))
    return [Task(pickled, store, part) for part in parts]


class TileActor:
    """A process that holds the model and detects the instances in tiles."""

    def __init__(self, model: ModelOptions, device: str, threads: int, folder: str) -> None:
        """
        Args:
            model: the model.
            device: "cuda" or "cpu".
            threads: number of threads of PyTorch.
            folder: working directory of the command, which relative paths start from.
        """
        self._model, self._device = model, device
        with suppress(OSError):
            os.chdir(folder)
        torch.set_num_threads(threads)
        self._predictor: ScenePredictor | None = None
        self._scene: Scene | None = None
        self._pickled = b""

    def load(self) -> None:
        """Build the model."""
        with _located_errors():
            self._predictor = self._model.build(self._device)

    def detect(self, task: Task) -> None:
        """Detect the instances in the tiles of a task that are not in the store yet.

        Raises:
            UserError: if this machine sees another scene, model or store than the command.
        """
        from ..scenes.prediction import detect_tiles

        assert self._predictor is not None
        with _located_errors():
            if self._pickled != task.scene:
                if self._scene is not None:
                    self._scene.raster.close()
                self._scene, self._pickled = pickle.loads(task.scene), task.scene
                self._check(task)
            assert self._scene is not None
            detect_tiles(self._scene, task.batches, self._predictor.detect, task.store)

    def _check(self, task: Task) -> None:
        assert self._predictor is not None
        assert self._scene is not None
        if not task.store.folder.is_dir():
            raise UserError(
                f"{task.store.folder} does not exist; all machines must share the folder of the "
                "output, or that of --work-dir."
            )
        own = self._predictor.fingerprint(self._scene)
        different = [key for key, value in task.store.fingerprint.items() if own.get(key) != value]
        if different:
            raise UserError(
                f"{', '.join(different)} of {self._scene.raster.name} and the model are not those "
                "of the command; all machines must have the same files."
            )


@contextmanager
def _located_errors() -> Iterator[None]:
    """Add the name of this machine to the messages of errors."""
    try:
        yield
    except (UserError, OSError) as error:
        raise UserError(f"On {socket.gethostname()}: {user_message(error)}") from error


def import_ray() -> Any:
    """Return the package Ray.

    Raises:
        UserError: if it is not installed.
    """
    # Ray reports its use to its makers unless this is set.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UserError(
            f"--ray needs Ray ({error}); install it with: pip install 'facenet_d2[ray]'"
        ) from error


@contextmanager
def cluster(address: str) -> Iterator[None]:
    """Connect to a Ray cluster; at the end, its actors of this command are killed.

    Args:
        address: "local" starts Ray on this machine; "auto", "HOST:PORT" and "ray://HOST:PORT"
            connect to a running cluster.

    Raises:
        UserError: if Ray is not installed or the cluster cannot be reached.
    """
    ray = import_ray()
    local = {"include_dashboard": False} if address == "local" else {}
    # Ray replaces the handler of SIGTERM.
    handlers = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **local)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"--ray {address}: Ray cannot be reached ({reason}).") from error
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
    try:
        yield
    finally:
        ray.shutdown()


class Pool:
    """Actors of the connected cluster.

    Attributes:
        device: device of the actors: "cuda" if the config and the cluster have GPUs, else "cpu".
    """

    def __init__(self, model: ModelOptions, num_actors: int | None = None) -> None:
        """
        Args:
            model: the model.
            num_actors: number of actors; by default, as many as the cluster has GPUs or groups of
                cores. A group has as many cores as PyTorch has threads in this process, which
                ``OMP_NUM_THREADS`` sets.
        """
        self._ray = import_ray()
        self._model = model
        self._requested = num_actors
        wanted = read_config(model.config_file, model.overrides).MODEL.DEVICE
        on_gpu = wanted.startswith("cuda") and any(self._resources("GPU"))
        self.device = "cuda" if on_gpu else "cpu"
        self._threads = torch.get_num_threads()
        if not on_gpu:
            largest = int(max(self._resources("CPU"), default=0))
            self._threads = max(1, min(self._threads, largest))

    def _resources(self, name: str) -> list[float]:
        """Return the numbers of GPUs or CPUs of each machine."""
        return [node["Resources"].get(name, 0.0) for node in self._ray.nodes() if node["Alive"]]

    @property
    def num_actors(self) -> int:
        """Number of actors that the cluster has room for, or the requested one; at least 1."""
        if self._requested is not None:
            return self._requested
        if self.device == "cuda":
            return max(1, sum(map(int, self._resources("GPU"))))
        return max(1, sum(int(cores) // self._threads for cores in self._resources("CPU")))

    def _start_actor(self) -> Any:
        on_gpu = self.device == "cuda"
        actor = self._ray.remote(
            num_cpus=1 if on_gpu else self._threads,
            num_gpus=1 if on_gpu else 0,
            scheduling_strategy="SPREAD",
        )(TileActor)
        return actor.remote(self._model, self.device, self._threads, os.getcwd())

    def run(self, tasks: Iterable[Task], on_tiles: Callable[[int], object]) -> None:
        """Process tasks until all are done.

        Args:
            tasks: the tasks, which are taken when actors are about to be idle.
            on_tiles: called with the number of tiles of each finished task.

        Raises:
            UserError: if an actor raises it, or actors die again and again.
        """
        tasks = iter(tasks)
        waiting: deque[Task] = deque()
        idle: list[Any] = []
        # The task of each actor; None while it builds the model.
        running: dict[Any, tuple[Any, Task | None]] = {}
        failed_starts = 0
        while True:
            limit = self.num_actors
            waiting.extend(islice(tasks, max(0, limit - len(waiting))))
            busy = sum(task is not None for _, task in running.values())
            if not waiting and not busy:
                return
            while len(idle) + len(running) < min(limit, busy + len(waiting)):
                actor = self._start_actor()
                running[actor.load.remote()] = (actor, None)
            while idle and waiting:
                actor, task = idle.pop(), waiting.popleft()
                running[actor.detect.remote(task)] = (actor, task)
            done, _ = self._ray.wait(list(running), timeout=POLL_PERIOD)
            for reference in done:
                actor, finished = running.pop(reference)
                reason = self._loss(reference)
                if reason is None:
                    idle.append(actor)
                    failed_starts = 0
                    if finished is not None:
                        on_tiles(sum(map(len, finished.batches)))
                    continue
                self._ray.kill(actor)
                if finished is None:
                    failed_starts += 1
                else:
                    finished.losses += 1
                    waiting.appendleft(finished)
                if failed_starts == MAX_LOSSES or (finished and finished.losses == MAX_LOSSES):
                    raise UserError(
                        f"{MAX_LOSSES} actors of Ray died one after the other ({reason}). Finished "
                        "tiles are kept; run the same command again to continue."
                    )

    def _loss(self, reference: Any) -> str | None:
        """Return why a call was lost with its actor or machine, or None if it was not.

        Raises:
            UserError: if the call has raised it.
        """
        errors = self._ray.exceptions
        try:
            self._ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise UserError(user_message(error.cause)) from error
            raise
        except errors.RayError as error:
            lines = str(error).strip().splitlines()
            return (lines[-1].strip()[:300] if lines else "") or type(error).__name__
        return None
