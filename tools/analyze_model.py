#!/usr/bin/env python3
"""Count a model's parameters and multiply-adds, part by part.

  analyze_model.py --config-file configs/NWPU-VHR10/facenet_R_101_36ep.yaml --num-classes 15 \\
      --input-size 800 1280

Counted are the multiply-adds of all convolutions and matrix products of the network, from the image
to the logits, kernels and mask features that post-processing starts from: deformable convolutions
with the convolutions that predict their offsets included. Normalisation, activations, pooling and
interpolation are not.
"""

from __future__ import annotations

import argparse
import json
import sys

import facenet_d2.compat  # noqa: F401  isort: skip
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from fvcore.nn import FlopCountAnalysis
from torch import nn

from facenet_d2 import UserError
from facenet_d2.engine import load_config, run_command
from facenet_d2.engine.cli import explained
from facenet_d2.modeling import SOLOv2

# Names of fvcore's operators that multiply and add along a kernel or a matrix.
COUNTED = ("conv", "matmul", "linear", "addmm", "bmm")


class _Network(nn.Module):
    """The model from images to what post-processing starts from."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.model.predict(images)


def count_parameters(module: nn.Module) -> int:
    """Weights and biases, those of frozen batch normalisation included.

    Detectron2 keeps the latter as buffers; MMDetection, which the paper used, as parameters.
    """
    frozen = (
        b.numel()
        for name, b in module.named_buffers()
        if name.rpartition(".")[2] in ("weight", "bias")
    )
    return sum(p.numel() for p in module.parameters()) + sum(frozen)


def analyze(cfg: CfgNode, height: int, width: int) -> dict[str, dict[str, float]]:
    """Parameters and multiply-adds of each part and in all.

    Args:
        cfg: of a SOLOv2 model.
        height: of the input in pixels, padded as inference pads it.
        width: likewise.

    Returns:
        for each part ``parameters`` and ``multiply_adds``.

    Raises:
        UserError: for another meta-architecture.
    """
    model = build_model(cfg).eval()
    if not isinstance(model, SOLOv2):
        raise UserError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} cannot be analysed; SOLOv2 can."
        )
    divisor = model.backbone.size_divisibility
    height, width = (-(-s // divisor) * divisor for s in (height, width))
    image = torch.zeros(1, 3, height, width, device=cfg.MODEL.DEVICE)
    with torch.no_grad():
        counter = FlopCountAnalysis(_Network(model), image)
        counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        by_module = {
            name: sum(n for op, n in counts.items() if op in COUNTED)
            for name, counts in counter.by_module_and_operator().items()
        }
    parts = {
        "backbone": "backbone.bottom_up",
        "category branch": "instance_head.category_",
        "kernel branch": "instance_head.kernel_",
        "mask features": "mask_head",
    }
    rows = {}
    for part, prefix in parts.items():
        modules = [
            (name, m)
            for name, m in model.named_modules()
            if name.startswith(prefix) and name.count(".") == prefix.count(".")
        ]
        rows[part] = {
            "parameters": sum(count_parameters(m) for _, m in modules),
            "multiply_adds": sum(by_module[f"model.{name}"] for name, _ in modules),
        }
    total = {"parameters": count_parameters(model), "multiply_adds": by_module[""]}
    neck = {key: total[key] - sum(row[key] for row in rows.values()) for key in total}
    return {"backbone": rows.pop("backbone"), "neck": neck, **rows, "all": total}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument(
        "--input-size", type=int, nargs=2, default=(800, 1280), metavar=("HEIGHT", "WIDTH")
    )
    parser.add_argument("--num-classes", type=int, help="instead of the data set's")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    args = parser.parse_args()
    if min(args.input_size) < 1:
        raise UserError(f"--input-size {args.input_size}: both must be positive.")
    cfg = load_config(args.config_file, ["MODEL.WEIGHTS", ""], need_data=False).clone()
    cfg.defrost()
    # On a GPU the deformable convolution is torchvision's operator, which fvcore cannot count.
    cfg.MODEL.DEVICE = "cpu"
    if args.num_classes is not None:
        cfg.MODEL.SOLOV2.NUM_CLASSES = args.num_classes
    with explained("this model cannot be analysed"):
        rows = analyze(cfg, *args.input_size)
    if args.json:
        print(json.dumps(rows))
        return
    print(f"{'part':18}{'parameters, M':>15}{'multiply-adds, G':>19}")
    for part, row in rows.items():
        print(f"{part:18}{row['parameters'] / 1e6:15.2f}{row['multiply_adds'] / 1e9:19.2f}")


if __name__ == "__main__":
    sys.exit(run_command(main))
