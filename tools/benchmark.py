#!/usr/bin/env python3
"""Measure where time and memory go, in the network or around it.

  benchmark.py infer --config-file configs/NWPU-VHR10/facenet_R_50_36ep.yaml
  benchmark.py train --config-file ... --json
  benchmark.py targets --config-file ... --instances 1000
  benchmark.py infer --config-file ... --against ../facenet-before

infer        whole inference: the network on an image of noise, then post-processing of a dense
             scene's outputs, put in place of the network's own
postprocess  only the latter, from logits to instances
switches     the network plain and with each of the switches of TEST, in turn
targets      the training mapper and the assignment of instances to cells
train        training steps on the images with the most instances
loader       the mapper's images a second on one core; with --instances, loading annotations of as
             many instances

KEY VALUE pairs at the end override the config. Times are medians of the phases of one process,
with the quartiles; memory is the peak above what was held when the phase began.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import facenet_d2.compat  # noqa: F401  isort: skip
import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetFromList
from detectron2.modeling import build_model
from detectron2.structures import BoxMode
from detectron2.utils.events import EventStorage
from peak_memory import peak, reset_peak

from facenet_d2 import UserError
from facenet_d2.data import SceneMapper
from facenet_d2.data.datasets.coco import load_coco
from facenet_d2.data.loader import augmentation_seed
from facenet_d2.engine import Trainer, load_config, run_command
from facenet_d2.modeling.grids.layout import GridLayout
from facenet_d2.modeling.grids.targets import assign_targets
from facenet_d2.modeling.solov2 import SOLOv2Predictions

# With --against this file measures other checkouts' packages too, so it uses what they all have.

ROOT = Path(__file__).resolve().parents[1]
NETWORK = ("network", "network forward", "network backward")


class Meter:
    """Seconds and peak memory of named phases."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.peaks: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        before = reset_peak(self.device)
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds[name].append(time.perf_counter() - start)
        if before is not None:
            self.peaks[name] = max(self.peaks[name], peak(self.device) - before)

    def repeat(self, function: Callable[[], None], *, warmup: int, iterations: int) -> None:
        """Call it; only the later calls count."""
        for i in range(warmup + iterations):
            if i == warmup:
                self.seconds.clear()
                self.peaks.clear()
            function()

    def results(self) -> dict[str, Any]:
        rows = {}
        for name, values in self.seconds.items():
            low, middle, high = (
                statistics.quantiles(values, n=4, method="inclusive")
                if len(values) > 1
                else values * 3
            )
            rows[name] = {
                "median_s": middle,
                "quartiles_s": [low, high],
                "runs": len(values),
                "peak_mb": self.peaks.get(name),
            }
        total = sum(row["median_s"] for row in rows.values())
        network = sum(row["median_s"] for name, row in rows.items() if name in NETWORK)
        return {
            "phases": rows,
            "total_s": total,
            "network_share": network / total if network else None,
        }


def dense_outputs(
    model: torch.nn.Module, size: tuple[int, int], args: argparse.Namespace
) -> SOLOv2Predictions:
    """Predictions as of a scene of equal discs, evenly spread.

    Each candidate's mask is one disc: the kernels and four channels of the mask features make
    logits s (r^2 - |p - c|^2). Candidates beyond the number of discs find one again.

    Args:
        model: gives the grids and the numbers of channels.
        size: (height, width) of the padded input.
        args: ``candidates``, ``kept``, ``radius``, ``batch_size``.
    """
    h, w = size[0] // 4, size[1] // 4
    cells, first = [], 0
    for grid in model.layout.num_grids:
        # Of neighbouring cells points NMS would leave one.
        cells += [first + y * grid + x for y in range(0, grid, 2) for x in range(0, grid, 2)]
        first += grid * grid
    if args.candidates > len(cells):
        raise UserError(f"--candidates {args.candidates}: the grids hold at most {len(cells)}.")
    if not 1 <= args.kept <= max(1, args.candidates):
        raise UserError(f"--kept {args.kept}: it must be between 1 and --candidates.")
    depth = model.mask_head.predict.out_channels
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(h).double(), torch.arange(w).double(), indexing="ij")
    features = torch.zeros(depth, h, w, dtype=torch.float64)
    # Products of coordinates up to 1: float32 is exact enough.
    unit = max(h, w)
    features[:4] = torch.stack([x, y, torch.ones_like(x) * unit, (x * x + y * y) / unit]) / unit
    side = math.ceil(math.sqrt(args.kept))
    logits = torch.full((first, model.num_classes), -10.0)
    kernels = torch.zeros(first, depth, dtype=torch.float64)
    for i in range(args.candidates):
        disc = i % args.kept
        cell = cells[i * len(cells) // args.candidates]
        radius = args.radius / 4 * (0.9 + 0.2 * torch.rand(1, generator=generator).item())
        cy, cx = ((v + 0.5) / side * extent for v, extent in zip(divmod(disc, side), (h, w)))
        scale = 8 / radius**2
        kernels[cell, :4] = scale * torch.tensor(
            [2 * cx * unit, 2 * cy * unit, radius**2 - cx**2 - cy**2, -(unit**2)],
            dtype=torch.float64,
        )
        logits[cell, disc % model.num_classes] = 3.0 if i < args.kept else 1.0
    batch = args.batch_size
    device = model.device
    return SOLOv2Predictions(
        logits.to(device).expand(batch, -1, -1).contiguous(),
        kernels.float().to(device).expand(batch, -1, -1).contiguous(),
        features.float().to(device).expand(batch, -1, -1, -1).contiguous(),
    )


def inference(cfg: CfgNode, args: argparse.Namespace, meter: Meter, *, network: bool) -> dict:
    """The infer and postprocess benchmarks."""
    model = build_model(cfg).eval()
    try:
        from facenet_d2.modeling import accelerate, set_tf32
    except ImportError:
        pass
    else:
        set_tf32(cfg.MODEL.TF32)
        accelerate(model, cfg)
    model.settings = dataclasses.replace(model.settings, max_instances=args.kept)
    height, width = args.input_size
    image = {"image": torch.randint(0, 256, (3, height, width)).float()}
    images = model.preprocess_image([image] * args.batch_size)
    predictions = dense_outputs(model, images.tensor.shape[-2:], args)
    sizes = [(height, width)] * args.batch_size
    found = []

    @torch.no_grad()
    def once() -> None:
        if network:
            with meter.phase("preprocessing"):
                batch = model.preprocess_image([image] * args.batch_size)
            with meter.phase("network"):
                own = model.predict(batch.tensor)
            del own
        with meter.phase("post-processing"):
            results = model.inference(predictions, images.image_sizes, sizes)
        found.append(len(results[0]))

    with torch.no_grad():
        meter.repeat(once, warmup=args.warmup, iterations=args.iterations)
        extra = {"instances": found[-1], "batch_size": args.batch_size}
        if args.profile:
            extra["profile"] = profile(once, meter.device)
    return extra


def switches(cfg: CfgNode, args: argparse.Namespace, meter: Meter) -> dict[str, Any]:
    """The network with and without the switches; the rounds alternate, so that ratios hold."""
    from facenet_d2.modeling import accelerate

    height, width = args.input_size
    plain = build_model(cfg).eval()
    images = plain.preprocess_image(
        [{"image": torch.randint(0, 256, (3, height, width)).float()}] * args.batch_size
    ).tensor
    half = "bf16"
    variants: dict[str, list[Any]] = {
        "plain": [],
        "FOLD_BATCH_NORM": ["TEST.FOLD_BATCH_NORM", True],
        "CHANNELS_LAST": ["TEST.CHANNELS_LAST", True],
        f"AUTOCAST {half}": ["TEST.AUTOCAST", half],
        f"CHANNELS_LAST, AUTOCAST {half}": ["TEST.CHANNELS_LAST", True, "TEST.AUTOCAST", half],
    }
    if meter.device.type == "cuda":
        variants["AUTOCAST fp16"] = ["TEST.AUTOCAST", "fp16"]
    if args.compile:
        variants["COMPILE"] = ["TEST.COMPILE", True]
        variants[f"COMPILE, AUTOCAST {half}"] = ["TEST.COMPILE", True, "TEST.AUTOCAST", half]
    models = {}
    for name, keys in variants.items():
        own = cfg.clone()
        own.defrost()
        own.merge_from_list(keys)
        models[name] = copy.deepcopy(plain)
        accelerate(models[name], own)

    @torch.no_grad()
    def once() -> None:
        for name, model in models.items():
            with meter.phase(name):
                model.predict(images)

    meter.repeat(once, warmup=args.warmup, iterations=args.iterations)
    medians = {name: statistics.median(values) for name, values in meter.seconds.items()}
    return {
        "batch_size": args.batch_size,
        "speedup": {name: medians["plain"] / value for name, value in medians.items()},
    }


def profile(function: Callable[[], None], device: torch.device) -> list[dict[str, Any]]:
    """The ten operators of the most time of their own."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, acc_events=True) as record:
        function()
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    events = sorted(record.key_averages(), key=lambda e: -getattr(e, key))
    total = sum(getattr(e, key) for e in events)
    return [
        {"operator": e.key, "s": getattr(e, key) / 1e6, "share": getattr(e, key) / total}
        for e in events[:10]
    ]


def blob(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A polygon of 16 points, 4 to 40 pixels large, as flat coordinates."""
    radius = rng.uniform(2, 20)
    center = rng.uniform(radius, (width - radius, height - radius))
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    lengths = radius * rng.uniform(0.8, 1.0, 16)
    return (center + lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)).ravel()


def drawn_record(folder: Path, instances: int, size: tuple[int, int]) -> dict[str, Any]:
    """A dataset dict of an image of noise with so many blobs."""
    rng = np.random.default_rng(0)
    height, width = size
    file = folder / "image.png"
    cv2.imwrite(str(file), rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    annotations = []
    for i in range(instances):
        polygon = blob(rng, height, width)
        low, high = polygon.reshape(-1, 2).min(axis=0), polygon.reshape(-1, 2).max(axis=0)
        annotations.append(
            {
                "bbox": [*low.tolist(), *high.tolist()],
                "bbox_mode": BoxMode.XYXY_ABS,
                "segmentation": [polygon.tolist()],
                "category_id": i % 10,
                "iscrowd": 0,
            }
        )
    return {
        "file_name": str(file),
        "height": height,
        "width": width,
        "image_id": 0,
        "annotations": annotations,
    }


def training_records(cfg: CfgNode) -> list[dict[str, Any]]:
    return [d for name in cfg.DATASETS.TRAIN for d in DatasetCatalog.get(name)]


def densest(cfg: CfgNode, number: int) -> list[dict[str, Any]]:
    """The images of the training sets with the most instances."""
    return sorted(training_records(cfg), key=lambda d: -len(d["annotations"]))[:number]


def targets(cfg: CfgNode, args: argparse.Namespace, meter: Meter) -> dict[str, Any]:
    mapper = SceneMapper(cfg, is_train=True)
    layout = GridLayout.from_config(cfg)
    num_classes = cfg.MODEL.SOLOV2.NUM_CLASSES
    with tempfile.TemporaryDirectory() as folder:
        if args.instances is None:
            records = densest(cfg, args.images)
        else:
            records = [drawn_record(Path(folder), args.instances, args.input_size)]

        def once() -> None:
            with meter.phase("mapper"), augmentation_seed(0):
                samples = [mapper(r) for r in records]
            with meter.phase("assignment"):
                for sample in samples:
                    height, width = sample["instances"].image_size
                    size = (-(-height // 32) * 8, -(-width // 32) * 8)
                    assign_targets(sample["instances"], layout, num_classes, size)

        meter.repeat(once, warmup=args.warmup, iterations=args.iterations)
    return {"images": len(records), "instances": sum(len(r["annotations"]) for r in records)}


def train(cfg: CfgNode, args: argparse.Namespace, meter: Meter) -> dict[str, Any]:
    mapper = SceneMapper(cfg, is_train=True)
    records = densest(cfg, args.batch_size)
    with augmentation_seed(0):
        batch = [mapper(r) for r in records]
    model = Trainer.build_model(cfg).train()
    optimizer = Trainer.build_optimizer(cfg, model)
    try:
        from facenet_d2.engine.amp import training_dtype
    except ImportError:
        # A checkout from before bfloat16, compared by --against.
        dtype = torch.float16 if cfg.SOLVER.AMP.ENABLED else None
    else:
        dtype = training_dtype(cfg)
    scaler = torch.amp.GradScaler(meter.device.type, enabled=dtype == torch.float16)

    def autocast() -> torch.autocast:
        return torch.autocast(meter.device.type, dtype=dtype, enabled=dtype is not None)

    def once() -> None:
        with meter.phase("preprocessing"):
            images = model.preprocess_image(batch)
        with meter.phase("network forward"), autocast():
            outputs = model.predict(images.tensor)
        # The losses' gradients stop at the network's outputs, and go on from there afterwards.
        leaves = outputs._make(o.detach().requires_grad_() for o in outputs)
        with meter.phase("targets and losses"):
            with autocast():
                instances = [x["instances"].to(meter.device) for x in batch]
                losses = model.losses(leaves, instances)
            scaler.scale(sum(losses.values())).backward()
        with meter.phase("network backward"):
            torch.autograd.backward(outputs, [leaf.grad for leaf in leaves])
        with meter.phase("optimizer"):
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()

    with EventStorage():
        meter.repeat(once, warmup=args.warmup, iterations=args.iterations)
    return {
        "batch_size": len(batch),
        "instances": sum(len(x["instances"]) for x in batch),
    }


def write_annotations(folder: Path, instances: int) -> Path:
    """A COCO file of iSAID's kind: 800x800 patches of 23 instances, polygons of 16 points."""
    rng = np.random.default_rng(0)
    blobs = [[round(v, 2) for v in blob(rng, 800, 800).tolist()] for _ in range(1000)]
    images = [
        {"id": i, "file_name": "image.png", "height": 800, "width": 800}
        for i in range(-(-instances // 23))
    ]
    file = folder / "annotations.json"
    with file.open("w") as f:
        categories = [{"id": i + 1, "name": f"class {i + 1}"} for i in range(15)]
        f.write(f'{{"categories": {json.dumps(categories)}, "images": {json.dumps(images)}, ')
        f.write('"annotations": [')
        for i in range(instances):
            polygon = blobs[i % 1000]
            xs, ys = polygon[::2], polygon[1::2]
            entry = {
                "id": i + 1,
                "image_id": i // 23,
                "category_id": i % 15 + 1,
                "bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)],
                "area": 300.0,
                "iscrowd": 0,
                "segmentation": [polygon],
            }
            f.write((", " if i else "") + json.dumps(entry))
        f.write("]}")
    drawn_record(folder, 0, (800, 800))
    return file


def loader(cfg: CfgNode, args: argparse.Namespace, meter: Meter) -> dict[str, Any]:
    if args.instances is not None:
        with tempfile.TemporaryDirectory() as folder:
            file = write_annotations(Path(folder), args.instances)
            held = reset_peak(meter.device)
            with meter.phase("loading annotations"):
                dicts = load_coco("benchmark", file, folder)
            with meter.phase("serialising"):
                dataset = DatasetFromList(dicts, copy=False)
            del dicts
            result = {"instances": args.instances, "images": len(dataset)}
            if held is not None:
                result["held_afterwards_mb"] = reset_peak(meter.device) - held
            result["file_mb"] = file.stat().st_size / 1e6
        return result
    # What one worker process has.
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    mapper = SceneMapper(cfg, is_train=True)
    dicts = training_records(cfg)
    records = random.Random(0).sample(dicts, min(args.images, len(dicts)))
    rounds = iter(range(args.warmup + args.iterations))

    def once() -> None:
        number = next(rounds)
        with meter.phase("mapper"):
            for i, record in enumerate(records):
                with augmentation_seed(number, i):
                    mapper(record)

    meter.repeat(once, warmup=args.warmup, iterations=args.iterations)
    return {
        "images": len(records),
        "instances": sum(len(r["annotations"]) for r in records),
        "images_per_s": len(records) / statistics.median(meter.seconds["mapper"]),
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    need_data = args.benchmark in ("train", "loader", "targets") and args.instances is None
    weights = ["MODEL.WEIGHTS", ""]
    cfg = load_config(args.config_file, [*weights, *args.opts], need_data=need_data)
    if cfg.MODEL.META_ARCHITECTURE != "SOLOv2":
        raise UserError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} cannot be measured; SOLOv2 can."
        )
    torch.manual_seed(0)
    uses_network = args.benchmark in ("infer", "postprocess", "switches", "train")
    meter = Meter(cfg.MODEL.DEVICE if uses_network else "cpu")
    if args.benchmark in ("infer", "postprocess"):
        extra = inference(cfg, args, meter, network=args.benchmark == "infer")
    else:
        functions = {"switches": switches, "targets": targets, "train": train, "loader": loader}
        extra = functions[args.benchmark](cfg, args, meter)
    device = cfg.MODEL.DEVICE
    return {
        "benchmark": args.benchmark,
        "config_file": args.config_file,
        "overrides": args.opts,
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **extra,
        **meter.results(),
    }


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    parents = argparse.ArgumentParser(add_help=False)
    parents.add_argument("--config-file", required=True, metavar="FILE")
    parents.add_argument("--iterations", type=int, default=5, help="that count (default 5)")
    parents.add_argument("--warmup", type=int, default=1, help="that do not (default 1)")
    parents.add_argument("--json", action="store_true", help="print one line of JSON")
    parents.add_argument(
        "--against", metavar="PATH", help="measure another checkout of this project too"
    )
    options: dict[str, dict[str, Any]] = {
        "--input-size": {"type": int, "nargs": 2, "default": (800, 800), "metavar": ("H", "W")},
        "--batch-size": {"type": int, "default": 1, "help": "images (default 1)"},
        "--candidates": {"type": int, "default": 500, "help": "cells over the score threshold"},
        "--kept": {"type": int, "default": 100, "help": "instances in the result"},
        "--radius": {"type": float, "default": 32, "help": "of an instance, in pixels"},
        "--profile": {"action": "store_true", "help": "the ten operators of the most time"},
        "--compile": {"action": "store_true", "help": "torch.compile too, which takes minutes"},
        "--instances": {"type": int, "help": "drawn ones, in place of the data set's"},
        "--images": {"type": int, "default": 4, "help": "of the data set"},
    }
    scene = ("--input-size", "--batch-size", "--candidates", "--kept", "--radius", "--profile")
    takes = {
        "infer": (scene, "network and post-processing"),
        "postprocess": (scene, "post-processing alone"),
        "switches": (("--input-size", "--batch-size", "--compile"), "the network's variants"),
        "targets": (("--instances", "--images", "--input-size"), "mapper and assignment"),
        "train": (("--batch-size",), "training steps"),
        "loader": (("--instances", "--images"), "the data loader"),
    }
    for name, (names, text) in takes.items():
        command = commands.add_parser(name, help=text, parents=[parents])
        for option in names:
            command.add_argument(option, **options[option])
        command.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
        command.set_defaults(instances=None)
    commands.choices["train"].set_defaults(batch_size=2)
    commands.choices["loader"].set_defaults(images=50)
    args = parser.parse_args()
    for name in ("iterations", "batch_size", "images", "radius"):
        if getattr(args, name, 1) <= 0:
            raise UserError(f"--{name.replace('_', '-')} must be positive.")
    for name in ("warmup", "candidates", "instances"):
        if (getattr(args, name, 0) or 0) < 0:
            raise UserError(f"--{name} must not be negative.")
    return args


def measure_checkout(root: Path, config_file: Path) -> dict[str, Any]:
    """This file's measurement with the package of a checkout."""
    arguments = iter(sys.argv[1:])
    own = []
    for argument in arguments:
        if argument in ("--against", "--config-file"):
            next(arguments)
        elif not argument.startswith(("--against=", "--config-file=")) and argument != "--json":
            own.append(argument)
    own[1:1] = ["--config-file", str(config_file), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, __file__, *own]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"the benchmark of {root} ended with exit code {done.returncode}.")
    return json.loads(done.stdout.splitlines()[-1])


def compare(args: argparse.Namespace) -> dict[str, Any]:
    other = Path(args.against).resolve()
    if not (other / "facenet_d2").is_dir():
        raise UserError(f"--against {args.against}: there is no facenet_d2 in it.")
    config_file = Path(args.config_file).resolve()
    theirs = config_file
    if config_file.is_relative_to(ROOT):
        # A config may use keys that the other checkout does not know; it has its own.
        theirs = other / config_file.relative_to(ROOT)
    result = {
        "this": measure_checkout(ROOT, config_file),
        "against": measure_checkout(other, theirs),
    }
    result["ratio"] = result["against"]["total_s"] / result["this"]["total_s"]
    return result


def print_table(result: dict[str, Any]) -> None:
    print(
        f"{result['benchmark']}, {result['config_file']}, {result['device']}, "
        f"{result['threads']} threads, PyTorch {result['torch']}"
    )
    print(f"{'phase':32}{'median, s':>12}{'quartiles, s':>22}{'peak, MB':>12}")
    for name, row in result["phases"].items():
        low, high = row["quartiles_s"]
        peak = "" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
        print(f"{name:32}{row['median_s']:12.4f}{f'{low:.4f} - {high:.4f}':>22}{peak:>12}")
    if "speedup" not in result:
        print(f"{'all':32}{result['total_s']:12.4f}")
    if result["network_share"] is not None:
        print(f"the network's share: {result['network_share']:.1%}")
    for key in (
        "images",
        "batch_size",
        "instances",
        "images_per_s",
        "held_afterwards_mb",
        "file_mb",
    ):
        if key in result:
            value = result[key]
            print(f"{key}: {value:.2f}" if isinstance(value, float) else f"{key}: {value}")
    for name, value in result.get("speedup", {}).items():
        print(f"{name:32}{value:11.2f}x")
    for row in result.get("profile", ()):
        print(f"{row['operator']:50}{row['s']:10.4f} s{row['share']:8.1%}")


def main() -> None:
    args = parse_args()
    result = compare(args) if args.against else measure(args)
    if args.json:
        print(json.dumps(result))
    elif args.against:
        for which in ("this", "against"):
            print(f"--- {which}")
            print_table(result[which])
        print(f"against / this: {result['ratio']:.2f}")
    else:
        print_table(result)


if __name__ == "__main__":
    sys.exit(run_command(main))
