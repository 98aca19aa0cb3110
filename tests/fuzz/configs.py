"""Mutated configs: each is read, and if it is accepted, its model makes a step and a prediction.

  python tests/fuzz/configs.py --cases 620 --seed 0

A mutation changes one to three values of a committed config, its keys, or the text of its file. A
config must be refused with one sentence, or train with a finite loss and predict.
"""

from __future__ import annotations

import functools
import math
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# The modules of the tests are next to this folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import facenet_d2.compat  # noqa: F401  isort: skip
import torch
import yaml
from detectron2 import modeling
from detectron2.config import CfgNode, get_cfg
from detectron2.data import get_detection_dataset_dicts
from detectron2.utils.events import EventStorage
from helpers import REPOSITORY, write_tiny_config

from facenet_d2 import add_facenet_config
from facenet_d2.data import SceneMapper
from facenet_d2.engine import Trainer, load_config, read_config
from facenet_d2.engine.setup import check_writable
from facenet_d2.synthetic.dataset import write_dataset
from fuzz import harness

CONFIGS = sorted(
    p.relative_to(REPOSITORY / "configs").as_posix()
    for p in (REPOSITORY / "configs").rglob("*.yaml")
)

# Parts of keys that no model of this project uses; they are rarely chosen.
UNUSED = ("KEYPOINT", "PANOPTIC", "SEM_SEG", "RETINANET", "PROPOSAL_FILES", "TEST.AUG", "IMPLICIT")
# Nodes that only one meta-architecture uses.
NODES = {
    "SOLOv2": ("MODEL.SOLOV2.",),
    "SOLO": ("MODEL.SOLO.", "MODEL.SOLOV2."),
    "YOLACT": ("MODEL.YOLACT.",),
    "CondInst": ("MODEL.CONDINST.",),
    "RDSNet": ("MODEL.RDSNET.",),
    "QueryInst": ("MODEL.QUERYINST.",),
    "Mask2Former": ("MODEL.MASK2FORMER.",),
    "MaskRCNN": ("MODEL.RPN.", "MODEL.ROI_", "MODEL.ANCHOR_", "MODEL.PROPOSAL_GENERATOR."),
}

# Allowed values that take more time or memory than the limits on two cores.
SLOW = {
    **{"SOLVER.IMS_PER_BATCH": 8, "DATALOADER.NUM_WORKERS": 8},
    # With random weights, every candidate becomes an instance.
    "TEST.DETECTIONS_PER_IMAGE": 1000,
}

# Values that no key of the type may have, and values that may be right.
INTEGERS = (
    0,
    -1,
    1,
    2,
    3,
    5,
    7,
    32,
    64,
    96,
    1000,
    4000,
    10**6,
    10**8,
    -(10**8),
    2**31,
    2**63,
    10**30,
)
FLOATS = (
    *(math.nan, math.inf, -math.inf, 1e308, -1e308, 1e-308, 1e30, -3.0, -1e-9, 0.0, -0.0),
    *(0.25, 0.5, 1.0, 2.0, 10.0, 1000.0),
)
TEXTS = ("", " ", "x", "None", "nan", "BN", "GN", "RGB", "cpu", "meta", "../x", "~", "a\nb", "\0")
TEXTS += ("é" * 300, "x" * 100_000, "ROIAlign", "giou", "relative", "absolute", "range")

# Keys whose values may be negative.
SIGNED = ("MODEL.PIXEL_MEAN", "MODEL.ANCHOR_GENERATOR.ANGLES", "TEST.EXPECTED_RESULTS")
# Keys for which Detectron2 gives -1 a meaning.
MINUS_ONE = (
    *("MODEL.RPN.BOUNDARY_THRESH", "MODEL.RPN.CONV_DIMS", "MODEL.BACKBONE.FREEZE_AT"),
    *("MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "MODEL.RETINANET.FOCAL_LOSS_ALPHA"),
    *(f"MODEL.{head}.IOU_LABELS" for head in ("RPN", "ROI_HEADS", "RETINANET")),
)


# Registered names are exchanged with one another.
REGISTRIES = {
    "MODEL.META_ARCHITECTURE": modeling.META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": modeling.BACKBONE_REGISTRY,
    "MODEL.BOTTOM_UP.NAME": modeling.BACKBONE_REGISTRY,
    "MODEL.ANCHOR_GENERATOR.NAME": modeling.ANCHOR_GENERATOR_REGISTRY,
    "MODEL.PROPOSAL_GENERATOR.NAME": modeling.PROPOSAL_GENERATOR_REGISTRY,
    "MODEL.RPN.HEAD_NAME": modeling.RPN_HEAD_REGISTRY,
    "MODEL.ROI_HEADS.NAME": modeling.ROI_HEADS_REGISTRY,
    "MODEL.ROI_BOX_HEAD.NAME": modeling.ROI_BOX_HEAD_REGISTRY,
    "MODEL.ROI_MASK_HEAD.NAME": modeling.ROI_MASK_HEAD_REGISTRY,
}


def flatten(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def defaults() -> dict[str, Any]:
    cfg = get_cfg()
    add_facenet_config(cfg)
    return dict(flatten(cfg))


def mutate_value(rng: random.Random, value: Any) -> Any:
    """Return a value like the given one, or one without sense."""
    if rng.random() < 0.08:
        return rng.choice([None, [], {}, "text", 5, 0.5, True, [[[[1]]]], {"A": 1}, [None]])
    if isinstance(value, bool):
        return rng.choice([not value, None, 0, 1, "yes", "False", [], 2.0])
    if isinstance(value, int):
        return rng.choice(
            [*INTEGERS, -value, value * 1000, value * 10**6, value // 2, float(value)]
        )
    if isinstance(value, float):
        return rng.choice([*FLOATS, -value, value * 1000, value * 1e6, value / 2, value * 2])
    if isinstance(value, str):
        return rng.choice([*TEXTS, value * 2, value.lower(), value.upper(), value[:-1]])
    if value is None:
        return rng.choice([*FLOATS, "text", []])
    return mutate_list(rng, list(value))


def mutate_list(rng: random.Random, values: list[Any]) -> list[Any]:
    """Return a list with other values, or another number of them."""
    kind = rng.randrange(6)
    if not values:
        return [rng.choice([1, 0.5, "x", None, math.nan, []])]
    if kind == 0:
        return values[:-1]
    if kind == 1:
        return [*values, values[-1]]
    if kind == 2:
        return values[::-1]
    if kind == 3:
        # All values in the same way.
        seed = rng.random()
        return [mutate_value(random.Random(seed), v) for v in values]
    if kind == 4:
        return values * rng.choice([2, 100, 2000])
    index = rng.randrange(len(values))
    return [mutate_value(rng, v) if i == index else v for i, v in enumerate(values)]


def mutate_key(rng: random.Random, key: str) -> str:
    """Return a misspelt or misplaced key."""
    *path, name = key.split(".")
    kind = rng.randrange(4)
    if kind == 0:
        index = rng.randrange(len(name))
        name = name[:index] + rng.choice("XYZ_0") + name[index + 1 :]
    elif kind == 1:
        name = name.lower()
    elif kind == 2:
        path = path[:-1] or ["MODEL"]
    else:
        path = [*path, "NODE"]
    return ".".join([*path, name])


def set_value(content: dict[str, Any], key: str, value: Any) -> None:
    *path, name = key.split(".")
    node = content
    for part in path:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            child = node[part] = {}
        node = child
    node[name] = value


def mutate_file(rng: random.Random, text: str, folder: Path) -> tuple[str, str | bytes]:
    """Return the name of a fault of the whole file, and the faulty content."""
    (folder / "list.yaml").write_text("[1, 2]")
    (folder / "binary.yaml").write_bytes(bytes(rng.randrange(256) for _ in range(2000)))
    (folder / "a.yaml").write_text('_BASE_: "b.yaml"')
    (folder / "b.yaml").write_text('_BASE_: ["a.yaml", "a.yaml"]')
    body = text.partition("\n")[2]
    bases = (
        *(
            "missing.yaml",
            ".",
            "list.yaml",
            "binary.yaml",
            "a.yaml",
            "config.yaml",
            "/",
            "~/x.yaml",
        ),
        *("", None, 5, [], [5], {"a": 1}, ["list.yaml"], "/dev/null", "\0", "x" * 5000),
    )
    index = rng.randrange(len(text))
    node = rng.choice(["MODEL", "SOLVER", "INPUT", "TEST", "DATASETS", "DATALOADER"])
    faults: list[tuple[str, str | bytes]] = [
        ("cut", text[:index]),
        ("letter", text[:index] + rng.choice("{}[]:&*!%@'\"\t\0-") + text[index + 1 :]),
        (
            "binary",
            text.encode()[:index] + bytes([rng.randrange(128, 256)]) + text.encode()[index:],
        ),
        ("utf-16", text.encode("utf-16")),
        ("node", f"{text}\n{node}: {rng.choice(['null', '5', '[1]', 'text', '[[]]'])}\n"),
        (
            "keys",
            f"{text}\n{rng.choice(['1: 2', 'null: 1', '[1, 2]: 3', '1.5: {A: 1}', 'X.Y: 1'])}\n",
        ),
        ("tag", f"{text}\nSEED: {rng.choice(['!!python/object:os.x', '!!binary YQ==', '!x 1'])}\n"),
        ("nested", "MODEL: " + "{A: " * rng.choice([50, 300, 5000])),
        (
            "scalar",
            rng.choice(["5", "text", "null", "---\n...", "# x", " ", "", "[]", "{}", "- 1"]),
        ),
        ("two documents", f"{text}\n---\n{text}"),
        ("alias", "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 9 if i else '1'}]\n" for i in range(10))),
    ]
    faults += [("base", yaml.safe_dump({"_BASE_": b}) + body) for b in rng.sample(bases, 6)]
    return rng.choice(faults)


def check_sense(cfg: CfgNode, keys: list[str]) -> None:
    """Require that accepted values of the mutated keys have sense, whatever the key means."""
    values = dict(flatten(cfg))
    # GLOBAL.HACK has no meaning.
    for key in set(keys) - {"GLOBAL.HACK"}:
        for number in numbers(values.get(key)):
            assert not math.isnan(number), f"{key} is NaN"
            assert math.isfinite(number) or key.endswith("NORM_TYPE"), f"{key} is infinite"
            assert number >= (-1 if key in MINUS_ONE else 0) or key in SIGNED or key == "SEED", key
            assert abs(number) <= 10**10, f"{key} is {number}"


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, (int, float)):
        yield float(value) if abs(value) < 1e300 or value != value else math.inf


def check_config(file: Path, overrides: list[str], keys: list[str]) -> None:
    """Read a config, train a step and predict an image.

    Raises:
        UserError: if it is refused.
        AssertionError: if a value without sense is accepted, or the loss is not finite.
    """
    # The memory limit is on addresses, of which each thread reserves many.
    torch.set_num_threads(1)
    os.chdir(file.parent)
    torch.manual_seed(0)
    cfg = load_config(file, overrides, train=True)
    check_writable(cfg.OUTPUT_DIR)
    check_sense(cfg, keys)
    trainer = Trainer(cfg)
    with EventStorage(0) as trainer.storage:
        trainer.iter = trainer.start_iter = 0
        trainer.before_train()
        trainer.before_step()
        try:
            trainer.run_step()
        except FloatingPointError as error:
            raise AssertionError(f"the loss is not finite: {error}") from error
        trainer.after_step()
        assert math.isfinite(trainer.storage.latest()["total_loss"][0])
    records = get_detection_dataset_dicts(cfg.DATASETS.TEST or cfg.DATASETS.TRAIN)
    sample = SceneMapper(cfg, is_train=False)(records[0])
    with torch.no_grad():
        (result,) = trainer.model.eval()([sample])
    found = result["instances"]
    assert len(found) <= cfg.TEST.DETECTIONS_PER_IMAGE
    assert found.scores.isfinite().all()


def generate(cases: int, seed: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield named checks of mutated configs."""
    known = defaults()
    with tempfile.TemporaryDirectory(prefix="fuzz_configs_") as root:
        scenes = Path(root, "scenes")
        write_dataset(scenes, num_scenes=3, seed=5, size=96)
        for case in range(cases):
            rng = random.Random(f"{seed} {case}")
            folder = Path(root, f"case{case}")
            folder.mkdir()
            yield make_case(rng, case, folder, scenes, known)


@functools.cache
def rare_keys(base: str) -> tuple[str, ...]:
    """Return parts of the keys that the model of a config does not use."""
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]
    model = read_config(REPOSITORY / "configs" / base, overrides).MODEL.META_ARCHITECTURE
    others = {node for nodes in NODES.values() for node in nodes} - set(NODES[model])
    return (*UNUSED, *others)


def make_case(
    rng: random.Random, case: int, folder: Path, scenes: Path, known: dict[str, Any]
) -> tuple[str, Callable[[], object]]:
    """Write a mutated config to a folder, and return its name and its check."""
    base = rng.choice(CONFIGS)
    file = write_tiny_config(folder, scenes, base=base)
    text = file.read_text()
    overrides: list[str] = []
    keys: list[str] = []
    if rng.random() < 0.2:
        overrides = ["TEST.DETECTIONS_PER_IMAGE", "20"]
        name, content = mutate_file(rng, text, folder)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return f"{case} {base} {name}", lambda: check_config(file, overrides, keys)
    described = []
    content = yaml.safe_load(text)
    content["TEST"] = {"DETECTIONS_PER_IMAGE": 20}
    content["MODEL"]["ROI_BOX_HEAD"]["CONV_DIM"] = 32
    if "point_rend" in base:
        content["MODEL"]["POINT_HEAD"] = {"SUBDIVISION_STEPS": 2, "FC_DIM": 32}
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        # Half of the values that are changed are those of the tiny config.
        own = dict(flatten(content)) if rng.random() < 0.5 else known
        own = {k: v for k, v in own.items() if k in known}
        rare = rare_keys(base)
        key = rng.choice([k for k in own if rng.random() < 0.05 or not any(r in k for r in rare)])
        value = mutate_value(rng, known[key] if key != "DATASETS.COCO" else own[key])
        if key in REGISTRIES and rng.random() < 0.8:
            # PanopticFPN is for data sets with semantic segmentation.
            value = rng.choice([n for n, _ in REGISTRIES[key] if n != "PanopticFPN"])
        if type(value) is int and value > SLOW.get(key, math.inf):
            value = 10**8
        if rng.random() < 0.1:
            key = mutate_key(rng, key)
        described.append(f"{key} {str(value)[:60]!r}")
        keys.append(key)
        if rng.random() < 0.3:
            overrides += [key, str(value)]
        else:
            set_value(content, key, value)
    file.write_text(yaml.safe_dump(content, allow_unicode=True))
    return f"{case} {base} {', '.join(described)}", lambda: check_config(file, overrides, keys)


if __name__ == "__main__":
    sys.exit(harness.main(generate, 620))
