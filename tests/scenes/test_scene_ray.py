"""Scenes on the machines of a Ray cluster. The tests of a cluster are skipped without Ray."""

import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import predict_scenes as tool
import pytest
import rasterio
import torch
from affine import Affine
from helpers import REPOSITORY, save_untrained_model, write_tiny_config

from facenet_d2.engine import run_command, scene_ray
from facenet_d2.engine.setup import load_config

OPTIONS = ("--tile-size", "96", "--overlap", "32", "--batch-size", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, scenes):
    """A model whose weights are random, and a scene of noise with 16 x 12 tiles."""
    folder = tmp_path_factory.mktemp("ray")
    cfg = load_config(write_tiny_config(folder, scenes), ["TEST.DETECTIONS_PER_IMAGE", "10"])
    save_untrained_model(cfg, folder / "model.pth")
    (folder / "own.yaml").write_text(cfg.dump())
    pixels = np.random.default_rng(0).integers(0, 255, (3, 800, 1056), np.uint8)
    transform = Affine(0.5, 0, 500000, 0, -0.5, 4649776)
    with rasterio.open(
        *(folder / "scene.tif", "w", "GTiff", 1056, 800, 3, "EPSG:32633", transform, "uint8")
    ) as dataset:
        dataset.write(pixels)
    return folder


def command(folder, output, *args):
    words = ["tools/predict_scenes.py", "--config-file", folder / "own.yaml", *OPTIONS]
    words += ["--input", folder / "scene.tif", "--confidence-threshold", "0"]
    words += ["--output", output, *args, "--opts", "MODEL.WEIGHTS", folder / "model.pth"]
    return list(map(str, words))


@pytest.fixture(scope="module")
def expected(folder):
    """The result of one process, which only the tests with Ray need."""
    pytest.importorskip("ray")
    subprocess.run(
        [sys.executable, *command(folder, folder / "plain.json")], cwd=REPOSITORY, check=True
    )
    return (folder / "plain.json").read_bytes()


@pytest.fixture
def cluster():
    """A Ray cluster of three machines, of which the first has no core for actors."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    options = {"object_store_memory": 80_000_000, "include_dashboard": False}
    cluster.add_node(num_cpus=0, **options)
    cluster.workers = [cluster.add_node(num_cpus=1, **options) for _ in range(2)]
    try:
        yield cluster
    finally:
        cluster.shutdown()


def detecting(node):
    """Return the processes of a machine's actors that are detecting at this moment."""
    raylets = [p.process.pid for processes in node.all_processes.values() for p in processes]
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            title = stat.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if parent in raylets and title.startswith(b"ray::TileActor.detect"):
            found.append(int(stat.parent.name))
    return found


def wait(condition, process):
    deadline = time.monotonic() + 180
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def tiles(folder):
    return len(list(folder.glob(".*tiles/[0-9]*.npz")))


def test_a_killed_machine_and_ctrl_c_change_nothing(folder, cluster, expected, tmp_path):
    """The same bytes as from one process, although a machine is lost while it works."""
    output = tmp_path / "out.json"
    words = [sys.executable, *command(folder, output, "--ray", cluster.address)]
    options = {"cwd": REPOSITORY, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(words, **options)
    first, second = cluster.workers
    wait(lambda: tiles(tmp_path) and detecting(first) and detecting(second), process)
    cluster.remove_node(first, allow_graceful=False)
    done = tiles(tmp_path)
    # The other machine works on. Ctrl-C stops the command, and Ray's actors with it.
    wait(lambda: tiles(tmp_path) > done + 8, process)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in printed
    assert "Traceback" not in printed
    done = tiles(tmp_path)
    assert not output.exists()
    result = subprocess.run(words, **options)
    assert result.returncode == 0, result.stderr
    assert f"| {done}/" in result.stderr
    assert output.read_bytes() == expected
    assert not tiles(tmp_path)


def test_ray_on_this_machine(folder, expected, tmp_path):
    output = tmp_path / "out.json"
    words = [sys.executable, *command(folder, output, "--ray", "--workers", "1")]
    subprocess.run(words, cwd=REPOSITORY, check=True)
    assert output.read_bytes() == expected


def test_ray_is_missing(folder, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(sys, "argv", command(folder, tmp_path / "out.json", "--ray"))
    assert run_command(tool.main) == 2
    assert "pip install 'facenet_d2[ray]'" in capsys.readouterr().err


def test_outputs_are_checked_before_the_work(folder, monkeypatch, capsys, tmp_path):
    class Pool:
        num_actors = 1

        def __init__(self, *args):
            pass

        def run(self, tasks, on_tiles):
            for _ in tasks:
                raise scene_ray.UserError("The work starts.")

    monkeypatch.setattr(scene_ray, "Pool", Pool)
    monkeypatch.setattr(scene_ray, "cluster", nullcontext)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    for name, message in (("out.json", "The work starts."), ("out.parquet", "needs pyarrow")):
        monkeypatch.setattr(sys, "argv", command(folder, tmp_path / name, "--ray"))
        assert run_command(tool.main) == 2
        assert message in capsys.readouterr().err


class FakeRay:
    """Ray in this process, whose machines are lost according to a plan.

    Args:
        plan: for each call of an actor, whether the actor dies with it.
    """

    class exceptions:
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            pass

    def __init__(self, plan):
        self.plan = iter(plan)
        self.started = self.killed = self.lost = 0

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False, "Resources": {}}]

    def remote(self, **options):
        def actor_class(cls):
            class Method:
                def __init__(self, function):
                    self.function = function

                def remote(self, *args):
                    return (self.function, args)

            class Handle:
                def __init__(self):
                    self.load, self.detect = Method(lambda: None), Method(lambda task: None)

            class Factory:
                @staticmethod
                def remote(*args):
                    self.started += 1
                    return Handle()

            return Factory

        return actor_class

    def wait(self, references, timeout):
        return references[:1], references[1:]

    def get(self, reference):
        if next(self.plan, False):
            self.lost += 1
            raise self.exceptions.RayError("The actor died.")

    def kill(self, actor):
        self.killed += 1


@pytest.fixture
def pool(folder, monkeypatch):
    """Return a pool on a fake Ray with a plan of losses."""

    def build(plan):
        monkeypatch.setattr(scene_ray, "import_ray", lambda: FakeRay(plan))
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        model = scene_ray.ModelOptions(str(folder / "own.yaml"), (), None, None, 2)
        return scene_ray.Pool(model)

    return build


def tasks(number):
    return [scene_ray.Task(b"", None, [[i]]) for i in range(number)]


def test_lost_tasks_are_repeated(pool):
    """Every other call is lost: starts of actors and tasks."""
    done = []
    pool = pool([False, True] * 40)
    assert pool.num_actors == 2
    pool.run(iter(tasks(10)), done.append)
    assert done == [1] * 10
    assert pool._ray.killed == pool._ray.lost >= 5


@pytest.mark.parametrize("plan", [[True] * 9, [False, True] * 9])
def test_actors_that_always_die_are_an_error(pool, plan):
    """Either while they start, or with the one task there is."""
    with pytest.raises(scene_ray.UserError, match=r"4 actors of Ray died .* \(The actor died\.\)"):
        pool(plan).run(iter(tasks(1)), print)


def test_few_actors_for_few_tasks(pool):
    pool = pool([])
    pool.run(iter(tasks(1)), print)
    assert pool._ray.started == 1
    pool.run(iter([]), print)
    assert pool._ray.started == 1
