"""Training with several processes, on the CPU with gloo."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

# Spawned processes import this module before anything of Detectron2.
import facenet_d2.compat  # noqa: F401  isort: skip
import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.data.samplers import TrainingSampler
from helpers import REPOSITORY, interrupt_training, write_tiny_config

from facenet_d2.data import TrainLoader
from facenet_d2.modeling.processes import mean_over_processes

# More threads than cores would slow the processes down.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
TWO = ("--num-gpus", "2")
DATASET = [{"id": i, "width": 10, "height": 20} for i in range(12)]


def command(config, *args):
    return [sys.executable, "tests/gloo_train_net.py", "--config-file", str(config), *TWO, *args]


def run(config, *args):
    return subprocess.run(
        command(config, *args), cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True
    )


def alive(group):
    """Return the processes of a process group that have not ended, from /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, process_group, *_ = stat.read_text().rpartition(")")[2].split()
            if int(process_group) == group and state not in "ZX":
                found.append(stat.parent.name)
    return found


def noisy(record):
    return {**record, "noise": np.random.rand()}


def run_in_process(rank, port, function, folder):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    torch.save(function(rank), folder / f"{function.__name__}{rank}.pth")


def run_twice(function, folder):
    """Return the results of a function of this module in two processes."""
    # A free port, chosen by the system.
    store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True)
    port = store.port
    del store
    mp.spawn(run_in_process, (port, function, folder), nprocs=2)
    return [torch.load(folder / f"{function.__name__}{rank}.pth") for rank in (0, 1)]


def batches(rank):
    loaders = (
        TrainLoader(
            DATASET,
            noisy,
            build_sampler=lambda seed: TrainingSampler(len(DATASET), seed=seed),
            batch_size=3,
            seed=5,
            num_workers=workers,
        )
        for workers in (0, 1)
    )
    return [
        [(x["id"], x["noise"]) for _, batch in zip(range(2), loader) for x in batch]
        for loader in loaders
    ]


def test_processes_share_the_images_but_no_random_numbers(tmp_path):
    (a, a_by_worker), (b, b_by_worker) = run_twice(batches, tmp_path)
    assert a == a_by_worker
    assert b == b_by_worker
    assert sorted(x for x, _ in a + b) == list(range(12))
    assert len({noise for _, noise in a + b}) == 12


def positives(rank):
    return mean_over_processes((9, 2)[rank], torch.device("cpu"))


def test_condinst_divides_by_the_mean_number_of_positives(tmp_path):
    assert run_twice(positives, tmp_path) == [5.5, 5.5]


def test_an_unused_level_and_a_process_without_objects(tmp_path, scenes):
    """DistributedDataParallel fails in the second step if a parameter had no gradient."""
    content = json.loads((scenes / "annotations.json").read_text())
    one = content["images"][0]["id"]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == one]
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(scenes / "images")
    config = write_tiny_config(tmp_path, tmp_path, base="iSAID/yolact_R_101_36ep.yaml")
    levels = "['res2','res3','res4','res5']"
    done = run(
        config,
        *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
        *("MODEL.RESNETS.OUT_FEATURES", levels, "MODEL.FPN.IN_FEATURES", levels),
        *("MODEL.YOLACT.IN_FEATURES", "['p3','p4','p5','p6']"),
        *("DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False"),
        *("SOLVER.MAX_ITER", "3"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "output"
    (metrics,) = (x for x in map(json.loads, (folder / "metrics.json").open()) if "segm/AP" in x)
    assert metrics["iteration"] == 3
    (session,) = json.loads((folder / "run.json").read_text())["sessions"]
    assert session["processes"] == 2


def test_ctrl_c_saves_one_checkpoint_and_resume_continues(tiny_config, tmp_path):
    overrides = ["DATASETS.TEST", "()", "DATALOADER.NUM_WORKERS", "1", "SOLVER.MAX_ITER"]
    trained = command(tiny_config, *overrides, "100000")
    iteration, _, group = interrupt_training(trained, tmp_path, ENVIRONMENT)
    # Python's helper processes end a little later.
    deadline = time.time() + 20
    while alive(group):
        assert time.time() < deadline
        time.sleep(0.2)
    done = run(tiny_config, "--resume", *overrides, str(iteration + 2))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Starting training from iteration {iteration + 1}" in done.stdout + done.stderr
