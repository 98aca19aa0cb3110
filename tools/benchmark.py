#!/usr/bin/env python3
"""Measure time and peak memory of SOLOv2 and FACENet.

  benchmark.py infer --config-file configs/NWPU-VHR10/facenet_R_50_36ep.yaml
  benchmark.py switches --config-file ... --batch-size 4
  benchmark.py train --config-file ... SOLVER.AMP.ENABLED True
  benchmark.py runtimes --config-file configs/NWPU-VHR10/facenet_lite0_narrow_640_36ep.yaml

infer     the network on a noise image, then post-processing of the predictions of a dense scene
switches  the network without any and with each of the switches in TEST, in turn
train     training steps on the images with the most instances
loader    images per second of the training mapper on one core
runtimes  whole calls, image to masks, in PyTorch, ONNX Runtime and OpenVINO on a CPU, in turn. The
          network sees noise; its predictions are then replaced by those of a dense scene

KEY VALUE pairs at the end override the config. train and loader need the training data. Times are
medians with quartiles; memory is the peak of a phase beyond what was in use before it. For single
operators, see torch.profiler.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import facenet_d2.compat  # noqa: F401  isort: skip
import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from facenet_d2 import UserError
from facenet_d2.analysis import Meter, dense_predictions
from facenet_d2.data import SceneMapper
from facenet_d2.data.loader import augmentation_seed
from facenet_d2.engine import Trainer, load_config, run_command
from facenet_d2.engine.amp import training_dtype
from facenet_d2.engine.devices import device_name
from facenet_d2.experiments.tables import MISSING_VALUE, markdown_table
from facenet_d2.export.runtimes import every_runtime
from facenet_d2.modeling import accelerate, set_tf32


def noise_batch(args: argparse.Namespace) -> list[dict[str, torch.Tensor]]:
    return [{"image": torch.randint(0, 256, (3, *args.input_size)).float()}] * args.batch_size


@torch.no_grad()
def infer(cfg: CfgNode, args: argparse.Namespace, meter: Meter) -> dict[str, Any]:
    model = build_model(cfg).eval()
    set_tf32(cfg.MODEL.TF32)
    accelerate(model, cfg)
    model.settings = dataclasses.replace(model.settings, max_instances=args.kept)
    batch = noise_batch(args)
    images = model.preprocess_image(batch)
    dense = dense_predictions(
        model, images.tensor.shape[-2:], args.candidates, args.kept, args.batch_size
    )
    sizes = [tuple(args.input_size)] * args.batch_size
    results = []

    def step() -> None:
        nonlocal results
        with meter.phase("preprocessing"):
            images = model.preprocess_image(batch)
        with meter.phase("network"):
            model.predict(images.tensor)
        with meter.phase("post-processing"):
            results = model.inference(dense, images.image_sizes, sizes)

    meter.repeat(step, warmup=args.warmup, iterations=args.iterations)
    share = meter.median("network") / sum(map(meter.median, meter.seconds))
    return {"instances": len(results[0]), "network_share": share}


@torch.no_grad()
def switches(cfg: CfgNode, args: argparse.Namespace, meter: Meter) -> dict[str, Any]:
    plain = build_model(cfg).eval()
    images = plain.preprocess_image(noise_batch(args)).tensor
    bf16, compiled = ["TEST.AUTOCAST", "bf16"], ["TEST.COMPILE", True]
    variants: dict[str, list[Any]] = {
        "plain": [],
        "FOLD_BATCH_NORM": ["TEST.FOLD_BATCH_NORM", True],
        "CHANNELS_LAST": ["TEST.CHANNELS_LAST", True],
        "AUTOCAST bf16": bf16,
        "CHANNELS_LAST, AUTOCAST bf16": ["TEST.CHANNELS_LAST", True, *bf16],
    }
    if meter.device.type == "cuda":
        variants["AUTOCAST fp16"] = ["TEST.AUTOCAST", "fp16"]
    if args.compile:
        variants |= {"COMPILE": compiled, "COMPILE, AUTOCAST bf16": [*compiled, *bf16]}
    models = {}
    for name, overrides in variants.items():
        variant = cfg.clone()
        variant.defrost()
        variant.merge_from_list(overrides)
        models[name] = copy.deepcopy(plain)
        accelerate(models[name], variant)

    def step() -> None:
        # The variants alternate, which makes their ratios more reliable.
        for name, model in models.items():
            with meter.phase(name):
                model.predict(images)

    meter.repeat(step, warmup=args.warmup, iterations=args.iterations)
    return {"speedup": {name: meter.median("plain") / meter.median(name) for name in models}}


def train(cfg: CfgNode, args: argparse.Namespace, meter: Meter) -> dict[str, Any]:
    records = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=False)
    records.sort(key=lambda d: -len(d["annotations"]))
    mapper = SceneMapper(cfg, is_train=True)
    with augmentation_seed(0):
        batch = [mapper(r) for r in records[: args.batch_size]]
    model = Trainer.build_model(cfg).train()
    optimizer = Trainer.build_optimizer(cfg, model)
    dtype = training_dtype(cfg)
    scaler = torch.amp.GradScaler(meter.device.type, enabled=dtype == torch.float16)

    def autocast() -> torch.autocast:
        return torch.autocast(meter.device.type, dtype=dtype, enabled=dtype is not None)

    def step() -> None:
        with meter.phase("preprocessing"):
            images = model.preprocess_image(batch)
        with meter.phase("network forward"), autocast():
            outputs = model.predict(images.tensor)
        # Detached outputs separate the backward pass of the losses from that of the network.
        leaves = outputs._make(o if o is None else o.detach().requires_grad_() for o in outputs)
        with meter.phase("targets and losses"):
            with autocast():
                instances = [x["instances"].to(meter.device) for x in batch]
                losses = model.losses(leaves, instances)
            scaler.scale(sum(losses.values())).backward()
        with meter.phase("network backward"):
            torch.autograd.backward(
                [o for o in outputs if o is not None],
                [leaf.grad for leaf in leaves if leaf is not None],
            )
        with meter.phase("optimizer"):
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()

    with EventStorage():
        meter.repeat(step, warmup=args.warmup, iterations=args.iterations)
    return {"instances": sum(len(x["instances"]) for x in batch)}


def loader(cfg: CfgNode, args: argparse.Namespace, meter: Meter) -> dict[str, Any]:
    # A worker process of the data loader has a single thread.
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    mapper = SceneMapper(cfg, is_train=True)
    records = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=False)
    records = random.Random(0).sample(records, min(args.images, len(records)))
    rounds = iter(range(args.warmup + args.iterations))

    def step() -> None:
        number = next(rounds)
        with meter.phase("mapper"):
            for i, record in enumerate(records):
                with augmentation_seed(number, i):
                    mapper(record)

    meter.repeat(step, warmup=args.warmup, iterations=args.iterations)
    return {"images": len(records), "images_per_s": len(records) / meter.median("mapper")}


@torch.no_grad()
def runtimes(cfg: CfgNode, args: argparse.Namespace, meter: Meter) -> dict[str, Any]:
    height, width = args.input_size
    cfg = cfg.clone()
    cfg.defrost()
    # The image is not resized.
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = min(height, width), max(height, width)
    model = build_model(cfg).eval()
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    padded = model.preprocess_image([{"image": torch.zeros(3, height, width)}]).tensor.shape[-2:]
    scenes = {
        n: dense_predictions(model, padded, n * args.candidates_per_instance, n, 1)
        for n in args.instances
    }
    with tempfile.TemporaryDirectory() as folder:
        models = every_runtime(model, cfg, Path(folder), torch.get_num_threads())
    counts: dict[tuple[str, int], int] = {}

    def step() -> None:
        for instances, scene in scenes.items():
            for name, runtime in models.items():
                runtime.show(scene, instances)
                # The first call after those of another runtime finds cold caches.
                for _ in range(args.calls):
                    runtime.predict(image)
                start = time.perf_counter()
                counts[name, instances] = len(runtime.predict(image))
                end = time.perf_counter()
                network = runtime.network
                seconds = (end - start, network.end - network.start, end - network.end)
                for phase, value in zip(CALL, seconds, strict=True):
                    meter.seconds[f"{name}, {instances} instances, {phase}"].append(value)

    meter.repeat(step, warmup=args.warmup, iterations=args.iterations)
    calls = []
    for (name, instances), found in counts.items():
        whole, network, rest = (
            meter.median(f"{name}, {instances} instances, {phase}") for phase in CALL
        )
        calls.append(
            {
                **{"runtime": name, "instances": found, "whole_s": whole, "network_s": network},
                **{"post_processing_s": rest, "post_processing_share": rest / whole},
            }
        )
    return {"threads": torch.get_num_threads(), "calls": calls}


# What is measured of a call in `runtimes`.
CALL = ("whole", "network", "post-processing")
BENCHMARKS = {
    "infer": infer,
    "switches": switches,
    "train": train,
    "loader": loader,
    "runtimes": runtimes,
}
ON_CPU = ("loader", "runtimes")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    for name in BENCHMARKS:
        command = commands.add_parser(name)
        command.add_argument(
            "--config-file", required=True, metavar="FILE", help="config of the model"
        )
        command.add_argument(
            "--iterations", type=int, default=5, help="measured iterations (default: 5)"
        )
        command.add_argument(
            "--warmup", type=int, default=1, help="unmeasured iterations (default: 1)"
        )
        command.add_argument("--json", action="store_true", help="print one line of JSON")
        if name not in ("loader", "runtimes"):
            number = 2 if name == "train" else 1
            text = f"images per batch (default: {number})"
            command.add_argument("--batch-size", type=int, default=number, help=text)
        if name in ("infer", "switches", "runtimes"):
            side = 640 if name == "runtimes" else 800
            size = {"nargs": 2, "default": (side, side), "metavar": ("HEIGHT", "WIDTH")}
            text = f"size of the image (default: {side} {side})"
            command.add_argument("--input-size", type=int, help=text, **size)
    command = commands.choices["infer"]
    command.add_argument(
        "--candidates", type=int, default=500, help="candidate masks (default: 500)"
    )
    text = "final instances (default: 100, or as many as candidates if these are fewer)"
    command.add_argument("--kept", type=int, help=text)
    command = commands.choices["switches"]
    command.add_argument("--compile", action="store_true", help="also compile, which takes minutes")
    command = commands.choices["loader"]
    command.add_argument("--images", type=int, default=50, help="images (default: 50)")
    command = commands.choices["runtimes"]
    numbers = {"type": int, "nargs": "+", "default": [5, 100]}
    command.add_argument("--instances", help="per image (default: 5 100)", **numbers)
    command.add_argument(
        "--candidates-per-instance", type=int, default=2, help="cells that find each (default: 2)"
    )
    text = "calls before each measured one (default: 2)"
    command.add_argument("--calls", type=int, default=2, help=text)
    for command in commands.choices.values():
        command.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    args = parser.parse_args()
    if args.benchmark == "infer" and args.kept is None:
        args.kept = min(100, max(1, args.candidates))
    minima = {"iterations": 1, "warmup": 0, "batch_size": 1, "images": 1, "calls": 0}
    for name, minimum in minima.items():
        if getattr(args, name, minimum) < minimum:
            raise UserError(f"--{name.replace('_', '-')} must be at least {minimum}.")
    return args


def run_benchmark(args: argparse.Namespace) -> dict[str, Any]:
    overrides = ["MODEL.WEIGHTS", "", *args.opts]
    if args.benchmark in ON_CPU:
        overrides += ["MODEL.DEVICE", "cpu"]
    cfg = load_config(args.config_file, overrides, need_data=args.benchmark in ("train", "loader"))
    if cfg.MODEL.META_ARCHITECTURE != "SOLOv2":
        raise UserError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}; it must be SOLOv2."
        )
    torch.manual_seed(0)
    device = "cpu" if args.benchmark in ON_CPU else cfg.MODEL.DEVICE
    meter = Meter(device)
    found = BENCHMARKS[args.benchmark](cfg, args, meter)
    return {
        **{"benchmark": args.benchmark, "config_file": args.config_file, "overrides": args.opts},
        **{"device": device_name(device), "torch": torch.__version__},
        **found,
        **meter.results(),
    }


def print_calls(results: dict[str, Any]) -> None:
    """Print the results of `runtimes`."""
    rows = []
    for call in results["calls"]:
        name = f"{call['runtime']}, {call['instances']} instances"
        low, high = results["phases"][f"{name}, whole"]["quartiles_s"]
        times = (call["network_s"], call["post_processing_s"], call["whole_s"])
        row = [name, *(f"{1000 * t:.1f}" for t in times), f"{1000 * low:.1f}-{1000 * high:.1f}"]
        rows.append([*row, f"{call['post_processing_share']:.1%}"])
    header = ["", "network, ms", "post-processing, ms", "call, ms", "quartiles of the call, ms"]
    header.append("post-processing share")
    print(markdown_table(header, rows, padded=True) + "\n")
    print(f"threads: {results['threads']}")


def print_results(results: dict[str, Any]) -> None:
    print(f"{results['config_file']}, {results['device']}, PyTorch {results['torch']}\n")
    if "calls" in results:
        print_calls(results)
        return
    speedup = results.get("speedup", {})
    rows = []
    for name, phase in results["phases"].items():
        low, high = phase["quartiles_s"]
        peak = MISSING_VALUE if phase["peak_mb"] is None else f"{phase['peak_mb']:.0f}"
        row = [name, f"{phase['median_s']:.4f}", f"{low:.4f}-{high:.4f}", peak]
        rows.append([*row, f"{speedup[name]:.2f}"] if speedup else row)
    header = ["phase", "median, s", "quartiles, s", "peak, MB", *(["speed-up"] if speedup else [])]
    print(markdown_table(header, rows, padded=True) + "\n")
    if not speedup:
        print(f"total: {results['total_s']:.4f} s")
    for key in ("network_share", "instances", "images", "images_per_s"):
        if key in results:
            print(f"{key.replace('_', ' ')}: {results[key]:.4g}")


def main() -> None:
    args = parse_args()
    results = run_benchmark(args)
    print(json.dumps(results)) if args.json else print_results(results)


if __name__ == "__main__":
    sys.exit(run_command(main))
