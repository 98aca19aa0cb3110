#!/usr/bin/env python3
"""Train or evaluate FACENet, SOLOv2 or any other Detectron2 model that a config describes.

train_net.py --config-file configs/NWPU-VHR10/facenet_R_50_36ep.yaml --num-gpus 1
train_net.py --config-file ... --resume
train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/model_best.pth
torchrun --nproc-per-node 4 train_net.py --config-file ...
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import facenet_d2.compat  # noqa: F401  isort: skip
import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch.multiprocessing import ProcessRaisedException

from facenet_d2 import UserError
from facenet_d2.engine import Trainer, load_config, run_command, torchrun
from facenet_d2.engine.checkpointer import (
    ModelCheckpointer,
    load_checkpoint,
    resumable_checkpoints,
)
from facenet_d2.engine.cli import forward_signals_to_workers, user_errors
from facenet_d2.engine.devices import check_num_gpus
from facenet_d2.engine.lock import locked
from facenet_d2.engine.model_files import find_config
from facenet_d2.engine.run_record import set_aside_metrics
from facenet_d2.engine.setup import check_writable
from facenet_d2.errors import user_message
from facenet_d2.files import kept_on_error, remove_partial_line, remove_temporary_files
from facenet_d2.modeling import accelerate


def parse_args() -> argparse.Namespace:
    parser = default_argument_parser(epilog=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the metrics of the evaluation as one line of JSON at the end",
    )
    args = parser.parse_args()
    if args.num_machines == 1 and args.dist_url == parser.get_default("dist_url"):
        # Use any free port, since the default is the same for all trainings of a user.
        args.dist_url = "auto"
    return args


def setup(args: argparse.Namespace) -> CfgNode:
    if not args.config_file:
        raise UserError("--config-file is required: a file, or the name of a config in configs/.")
    if torchrun.is_worker():
        if args.num_gpus > 1 or args.num_machines > 1:
            raise UserError(
                "--num-gpus and --num-machines start processes, which torchrun has done; leave "
                "them out."
            )
        torchrun.check_local_processes()
    check_num_gpus(args.num_gpus)
    if args.num_machines > 1 and torch.cuda.device_count() == 0:
        raise UserError(f"--num-machines is {args.num_machines}, but no GPU is available.")
    # Detectron2 opens it as a file.
    args.config_file = str(find_config(args.config_file))
    cfg = load_config(args.config_file, args.opts, train=not args.eval_only)
    if args.eval_only and not cfg.DATASETS.TEST:
        raise UserError("DATASETS.TEST is empty; name a data set to evaluate on.")
    if args.eval_only and not cfg.MODEL.WEIGHTS and not resumes(args, cfg):
        raise UserError(
            "--eval-only requires a trained model; add MODEL.WEIGHTS path/to/model.pth, or "
            f"--resume to use the last checkpoint in {cfg.OUTPUT_DIR}."
        )
    check_writable(cfg.OUTPUT_DIR)
    return cfg


def resumes(args: argparse.Namespace, cfg: CfgNode) -> bool:
    """Return whether this command resumes a run in OUTPUT_DIR."""
    return args.resume and bool(resumable_checkpoints(cfg.OUTPUT_DIR))


def without_nan(value: Any) -> Any:
    """Replace NaN, which JSON cannot represent, by None."""
    if isinstance(value, Mapping):
        return {k: without_nan(v) for k, v in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def main(args: argparse.Namespace) -> Mapping[str, Any] | None:
    return work(args, setup(args))


def torchrun_main(args: argparse.Namespace) -> None:
    """Do the work of one of torchrun's processes."""
    try:
        cfg = setup(args)
    except UserError:
        # The processes of a machine have the same arguments and files; one of them reports.
        if torchrun.local_rank() > 0:
            sys.exit(2)
        raise
    with torchrun.process_group(cfg.MODEL.DEVICE) as restarted:
        args.resume = args.resume or restarted
        work(args, cfg)


def work(args: argparse.Namespace, cfg: CfgNode) -> Mapping[str, Any] | None:
    if args.eval_only:
        results = evaluate(args, cfg)
    else:
        with locked(cfg.OUTPUT_DIR) if comm.is_main_process() else nullcontext():
            results = train(args, cfg)
    if comm.is_main_process():
        print(f"Results, logs and checkpoints are in {os.path.abspath(cfg.OUTPUT_DIR)}")
        if args.json:
            print(json.dumps(without_nan(results)))
    return results


def write_settings(args: argparse.Namespace, cfg: CfgNode) -> None:
    """Start the log, write config.yaml and set the seed, as Detectron2 does."""
    file = Path(cfg.OUTPUT_DIR, "config.yaml")
    # Detectron2 prints the config file. Published weights contain a config, but are no text.
    shown = argparse.Namespace(**vars(args))
    if Path(args.config_file).suffix == ".safetensors":
        shown.config_file = ""
    with kept_on_error(file) if comm.is_main_process() else nullcontext():
        default_setup(cfg, shown)


def evaluate(args: argparse.Namespace, cfg: CfgNode) -> Mapping[str, Any]:
    # Do not overwrite the log and the config of the training in OUTPUT_DIR.
    record = cfg.clone()
    record.defrost()
    record.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, "inference")
    write_settings(args, record)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="facenet_d2")
    model = Trainer.build_model(cfg)
    checkpointer = ModelCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
    load_checkpoint(checkpointer, cfg, resume=args.resume, complete=True)
    with user_errors("the model cannot be prepared for inference"):
        accelerate(model.eval(), cfg)
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def train(args: argparse.Namespace, cfg: CfgNode) -> Mapping[str, Any] | None:
    if comm.is_main_process():
        remove_temporary_files(cfg.OUTPUT_DIR)
    write_settings(args, cfg)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="facenet_d2")
    if comm.is_main_process():
        if resumes(args, cfg):
            remove_partial_line(Path(cfg.OUTPUT_DIR, "metrics.json"))
        else:
            set_aside_metrics(cfg.OUTPUT_DIR)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()
    return getattr(trainer, "_last_eval_results", None)


def run() -> None:
    args = parse_args()
    if torchrun.is_worker():
        torchrun_main(args)
        return
    several = args.num_gpus > 1 or args.num_machines > 1
    if several:
        # Check the arguments before child processes start, each of which would report an error.
        setup(args)
    try:
        with forward_signals_to_workers() if several else nullcontext():
            launch(
                main,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(args,),
            )
    except ProcessRaisedException as error:
        # Exceptions in child processes arrive as text.
        if f"{UserError.__name__}: " in str(error):
            raise UserError(user_message(error)) from error
        raise


if __name__ == "__main__":
    sys.exit(run_command(run))
