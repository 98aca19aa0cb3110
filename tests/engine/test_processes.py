"""Training with several processes, on the CPU with gloo."""

import json

# Spawned processes import this module before anything of Detectron2.
import facenet_d2.compat  # noqa: F401  isort: skip
import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.data.samplers import TrainingSampler
from helpers import interrupt_training, write_tiny_config
from programs import run_program, wait_for_group

from facenet_d2.data import TrainLoader
from facenet_d2.modeling.processes import mean_over_processes

SCRIPT = "tests/gloo_train_net.py"
DATASET = [{"id": i, "width": 10, "height": 20} for i in range(12)]


def arguments_for(config, *args):
    return ["--config-file", config, "--num-gpus", 2, *args]


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
    arguments = (port, function, folder)
    mp.start_processes(run_in_process, arguments, nprocs=2, start_method="forkserver")
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
    arguments = arguments_for(
        config,
        *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
        *("MODEL.RESNETS.OUT_FEATURES", levels, "MODEL.FPN.IN_FEATURES", levels),
        *("MODEL.YOLACT.IN_FEATURES", "['p3','p4','p5','p6']"),
        *("DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False"),
        *("SOLVER.MAX_ITER", "3"),
    )
    run_program(SCRIPT, ["--fork", *arguments], tmp_path / "printed.txt")
    folder = tmp_path / "output"
    (metrics,) = (x for x in map(json.loads, (folder / "metrics.json").open()) if "segm/AP" in x)
    assert metrics["iteration"] == 3
    (session,) = json.loads((folder / "run.json").read_text())["sessions"]
    assert session["processes"] == 2


def test_ctrl_c_saves_one_checkpoint_and_resume_continues(tiny_config, tmp_path):
    overrides = ["DATASETS.TEST", "()", "DATALOADER.NUM_WORKERS", "1", "SOLVER.MAX_ITER"]
    arguments = arguments_for(tiny_config, *overrides, 100_000)
    iteration, _, group = interrupt_training(SCRIPT, arguments, tmp_path)
    # Python's helper processes end a little later.
    wait_for_group(group)
    arguments = arguments_for(tiny_config, "--resume", *overrides, iteration + 2)
    text = run_program(SCRIPT, ["--fork", *arguments], tmp_path / "resumed.txt")
    assert f"Starting training from iteration {iteration + 1}" in text
