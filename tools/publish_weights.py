#!/usr/bin/env python3
"""Export the weights of a finished run to the model zoo.

  publish_weights.py output/nwpu_vhr10/facenet_lite0_384_36ep

writes facenet_d2/model_zoo/weights/facenet_lite0_384_36ep.safetensors: the model after the last
iteration, in float16, with config and results in the file's metadata. The config is that of the
run, without paths and device. Predictor("facenet_lite0_384_36ep") loads the model, and
MODEL.WEIGHTS zoo://facenet_lite0_384_36ep its weights.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import facenet_d2.compat  # noqa: F401  isort: skip
from detectron2.config import get_cfg
from safetensors.torch import save

from facenet_d2 import UserError
from facenet_d2.conversion import read_state
from facenet_d2.engine import read_config, run_command
from facenet_d2.experiments.runs import read_run
from facenet_d2.files import write_whole
from facenet_d2.zoo_files import PREFIX, WEIGHTS


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="OUTPUT_DIR of a finished run")
    parser.add_argument(
        "--name",
        help="name in the model zoo, that of the config: NAME or FOLDER/NAME (default: name of the "
        "run's folder)",
    )
    parser.add_argument(
        "--output", type=Path, default=WEIGHTS, help="output folder (default: in the package)"
    )
    return parser.parse_args()


def published_config(file: Path, name: str) -> str:
    """Return a run's config without what holds on the machine of the run only."""
    cfg = read_config(file)
    cfg.OUTPUT_DIR = f"output/{name}"
    cfg.MODEL.DEVICE = get_cfg().MODEL.DEVICE
    # The weights that training started from.
    cfg.MODEL.WEIGHTS = ""
    cfg.DATASETS.COCO = []
    return cfg.dump()


def main() -> None:
    args = parse_args()
    run = read_run(args.run)
    checkpoint = args.run / "model_final.pth"
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint} does not exist; finish the run first.")
    state = {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in read_state(checkpoint).items()
    }
    too_large = [name for name, value in state.items() if not value.isfinite().all()]
    if too_large:
        raise UserError(f"{checkpoint}: {too_large[0]} has values outside the range of float16.")
    name = args.name or args.run.resolve().name
    metadata = {
        "config": published_config(args.run / "config.yaml", name),
        "mask AP": f"{run.metrics()['segm/AP']:.2f}",
        "box AP": f"{run.metrics()['bbox/AP']:.2f}",
    }
    file = args.output / f"{name}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    content = save(state, metadata=metadata)
    write_whole(file, content)
    parameters = sum(v.numel() for v in state.values())
    print(f"{file}: {parameters / 1e6:.2f} M values, {len(content) / 1e6:.1f} MB")
    print(f"load it with MODEL.WEIGHTS {PREFIX}{name}")


if __name__ == "__main__":
    sys.exit(run_command(main))
