"""Values of config keys: every key has a rule, and values without sense are refused.

``python tests/test_config_checks.py`` writes the list of allowed values in docs/CONFIGS.md.
"""

from __future__ import annotations

import math

import facenet_d2.compat  # noqa: F401  isort: skip
import pytest
import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from helpers import REPOSITORY, write_tiny_config

from facenet_d2 import UserError, add_facenet_config
from facenet_d2.config import LIMITS
from facenet_d2.config_checks import OPEN_NODES, RULES, check_values
from facenet_d2.engine import read_config

DOCS = REPOSITORY / "docs" / "CONFIGS.md"
BEGIN, END = "<!-- allowed values -->\n", "<!-- end of allowed values -->\n"


def flatten(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    add_facenet_config(cfg)
    return cfg


def with_value(cfg, key, value):
    """Set a value without the type check of yacs, as a list in a YAML file can."""
    *path, name = key.split(".")
    node = cfg
    for part in path:
        node = node[part]
    node[name] = value
    return cfg


def test_every_key_has_a_rule(cfg):
    assert {key for key, _ in flatten(cfg)} <= set(RULES)


def test_every_key_of_point_rend_has_a_rule(cfg):
    point_rend = pytest.importorskip("detectron2.projects.point_rend")
    point_rend.add_pointrend_config(cfg)
    assert {key for key, _ in flatten(cfg)} <= set(RULES)
    check_values(cfg)


# Keys that allow the value in spite of its kind.
ALLOWED = {
    ("SOLVER.BIAS_LR_FACTOR", None),
    ("SOLVER.WEIGHT_DECAY_NORM", None),
    ("SOLVER.CLIP_GRADIENTS.NORM_TYPE", math.inf),
    ("SEED", -(10**15)),
}


def wrong_values(default):
    """Yield values that make no sense whatever a key of the default's type means."""
    yield None
    if isinstance(default, bool):
        yield from (0, 1, "True", [])
    elif isinstance(default, int):
        yield from (10**15, -(10**15), 1.5, True, [default])
    elif isinstance(default, float):
        yield from (math.nan, math.inf, -math.inf, 1e308, -1e308, True, [default])
    elif isinstance(default, str):
        yield from (5, "\0", "\ud800", "x" * 10**5, "a\nb")
    else:
        yield from ("text", 5, [None], [[[[1]]]], [math.nan], [math.inf])
        yield [1e308] * max(len(default), 1)
        yield [default[0]] * 10**6 if default else ["x"] * 10**6


def test_values_without_sense_are_refused_for_every_key(cfg):
    accepted = []
    for key, default in list(flatten(cfg)):
        if key in ("GLOBAL.HACK", "SOLVER.WEIGHT_DECAY_BIAS", "SOLVER.WEIGHT_DECAY_EMBED"):
            continue
        for value in wrong_values(default):
            if any(key == k and (value is v or value == v) for k, v in ALLOWED):
                continue
            if RULES[key].allows(value):
                accepted.append((key, str(value)[:50]))
    assert accepted == []


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("MODEL.SOLOV2.DICE_WEIGHT", -3.0, "a number from 0 to"),
        ("MODEL.SOLOV2.DICE_WEIGHT", math.inf, "a number from 0 to"),
        ("MODEL.SOLOV2.SCORE_THRESH_TEST", math.inf, "a number from 0 to 1"),
        ("MODEL.SOLOV2.MIN_MASK_AREAS", [8 * 10**6] * 5, "from 0 to 10000"),
        ("MODEL.SOLOV2.MIN_MASK_AREAS", [-1, 1, 1, 1, 1], "from 0 to 10000"),
        ("MODEL.SOLOV2.CENTER_SCALE", -0.2, "from 0 to 1"),
        ("MODEL.SOLOV2.FOCAL_LOSS_GAMMA", math.inf, "from 0 to 100"),
        ("MODEL.SOLOV2.NMS_SCORE_THRESH_TEST", math.nan, "from 0 to 1"),
        ("MODEL.SOLOV2.NMS_SIGMA", -1e308, "from 0 to 1000"),
        ("MODEL.SOLOV2.TOPK_CANDIDATES_TEST", -1000, "from 1 to 1000000"),
        ("MODEL.SOLOV2.SCALE_RANGES", [[96, 1]] * 5, "a minimum and a maximum"),
        ("MODEL.ROI_MASK_IOU_HEAD.LOSS_WEIGHT", math.inf, "a number from 0 to"),
        ("MODEL.SOLOV2.SCALE_RANGES", [[0, 0]] * 5, "a minimum and a maximum"),
        ("MODEL.SOLOV2.PRIOR_PROB", 1e-320, "from 0.000001 to 0.999999"),
        ("MODEL.PROPOSAL_GENERATOR.NAME", "RRPN", "rotated boxes"),
        ("SOLVER.STEPS", (30000, 30000), "in increasing order"),
        ("MODEL.SEM.ENABLED", None, "True or False"),
        ("MODEL.SEM.DILATIONS", [math.nan] * 3, "each an integer from 1 to 256"),
        ("MODEL.ANCHOR_GENERATOR.SCALE", math.nan, "from 0.01 to 1000"),
        ("MODEL.BIFPN.REPEATS", 100_000_000, "from 1 to 32"),
        ("MODEL.ROI_MASK_IOU_HEAD.NUM_CONV", 100_000_000, "from 1 to 64"),
        ("MODEL.SOLO.NUM_CONVS", 100_000_000, "from 1 to 64"),
        ("MODEL.SOLOV2.NUM_CONVS", 4000, "from 1 to 64"),
        ("MODEL.SOLOV2.KERNEL_CHANNELS", 256_000, "from 1 to 2048"),
        ("DATALOADER.NUM_WORKERS", 100_000, "from 0 to 256"),
        ("MODEL.RESNETS.DEPTH", 51, "18, 34, 50, 101 or 152"),
        ("INPUT.MASK_FORMAT", "rle", "'polygon', 'bitmask' or 'stride4'"),
    ],
)
def test_a_wrong_value_is_named_with_its_range(cfg, key, value, words):
    with pytest.raises(ValueError, match=rf"^{key} is .*; it must be .*{words}"):
        check_values(with_value(cfg, key, value))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SEED", -1),
        ("SOLVER.MAX_ITER", 0),
        ("SOLVER.REFERENCE_WORLD_SIZE", 0),
        ("SOLVER.CHECKPOINT_PERIOD", 10**9),
        ("SOLVER.STEPS", (10**6,)),  # Beyond MAX_ITER: Detectron2 ignores it.
        ("SOLVER.STEPS", ()),
        ("SOLVER.WEIGHT_DECAY_BIAS", None),
        ("SOLVER.WEIGHT_DECAY_EMBED", None),
        ("SOLVER.CLIP_GRADIENTS.NORM_TYPE", math.inf),
        ("TEST.EVAL_PERIOD", 0),
        ("TEST.EXPECTED_RESULTS", [["bbox", "AP", 38.5, 0.2]]),
        ("INPUT.MIN_SIZE_TEST", 0),
        ("MODEL.BACKBONE.FREEZE_AT", -1),
        ("MODEL.RPN.BOUNDARY_THRESH", -1),
        ("MODEL.RPN.CONV_DIMS", [-1, 256]),
        ("MODEL.RETINANET.FOCAL_LOSS_ALPHA", -1.0),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32], [64], [128], [256]]),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [32, 64]),
        ("MODEL.FPN.IN_FEATURES", []),
        ("MODEL.SOLOV2.SCALE_RANGES", [[1, 96.5]] * 5),
        ("MODEL.WEIGHTS", ""),
        ("OUTPUT_DIR", "Küste\u3000ü"),
    ],
)
def test_what_detectron2_defines_is_allowed(cfg, key, value):
    check_values(with_value(cfg, key, value))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"MODEL.PIXEL_STD": [1.0]}, "MODEL.PIXEL_STD 1"),
        ({"INPUT.FORMAT": "RGBA"}, "RGBA have 4 channels"),
        ({"INPUT.MIN_SIZE_TRAIN_SAMPLING": "range"}, "a minimum and a maximum"),
        ({"INPUT.SCALE_JITTER.MIN_SCALE": 2.5}, "at most INPUT.SCALE_JITTER.MAX_SCALE, 2.0"),
        ({"INPUT.CROP.SIZE": [0.5, 1.5]}, "two shares"),
        ({"MODEL.ROI_MASK_HEAD.POOLER_TYPE": ""}, "POOLER_TYPE is empty"),
        ({"MODEL.ROI_HEADS.NAME": "PANetROIHeads"}, "ROI_BOX_HEAD.NAME is .*PANetBoxHead"),
        ({"MODEL.ROI_HEADS.NAME": "RefineMaskROIHeads"}, "ROI_MASK_HEAD.NAME is .*RefineMaskHead"),
        ({"MODEL.ROI_MASK_HEAD.NAME": "PANetMaskHead"}, "ROI_HEADS.NAME is .*PANetROIHeads"),
        ({"MODEL.ROI_BOX_HEAD.NAME": "PANetBoxHead"}, "ROI_HEADS.NAME is .*PANetROIHeads"),
        ({"MODEL.RESNETS.NUM_GROUPS": 64}, "is 4096; it must be at most 2048"),
        ({"INPUT.CROP.TYPE": "absolute"}, "whole pixels"),
        ({"INPUT.CROP.TYPE": "absolute_range", "INPUT.CROP.SIZE": [9, 5]}, "a minimum"),
    ],
)
def test_related_keys(cfg, values, message):
    for key, value in values.items():
        with_value(cfg, key, value)
    with pytest.raises(ValueError, match=message):
        check_values(cfg)


def test_width_of_point_rends_coarse_head(cfg):
    point_rend = pytest.importorskip("detectron2.projects.point_rend")
    point_rend.add_pointrend_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_fpn_backbone"
    cfg.MODEL.ROI_MASK_HEAD.NAME = "EmptyBatchPointRendMaskHead"
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 256
    check_values(cfg)
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 257
    with pytest.raises(ValueError, match="at most the number of channels of its features, 256"):
        check_values(cfg)


def test_keys_of_other_projects_are_left_alone(cfg):
    cfg.MODEL.OWN = CfgNode({"THRESHOLD": -math.inf, "NAME": None})
    check_values(cfg)


def test_further_arguments_of_timm(cfg):
    cfg.MODEL.TIMM.ARGUMENTS.drop_path_rate = 0.1
    check_values(cfg)
    for value in (math.nan, 1.0, -0.5):
        cfg.MODEL.TIMM.ARGUMENTS.drop_path_rate = value
        with pytest.raises(ValueError, match=r"MODEL\.TIMM\.ARGUMENTS"):
            check_values(cfg)


def test_several_wrong_values_are_all_named(cfg):
    for name in LIMITS:
        with_value(cfg, name, 0)
    # Five are listed.
    rest = len(LIMITS) - 5
    with pytest.raises(ValueError, match=rf"RPN\.PRE_NMS_TOPK_TEST is 0; .*and {rest} more"):
        check_values(cfg)


def test_long_values_are_shortened(cfg):
    with pytest.raises(ValueError, match="TRAIN is") as raised:
        check_values(with_value(cfg, "DATASETS.TRAIN", ["x" * 10**5] * 2000))
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("content", ["MODEL: {DICE: 1}", "SOLVER: {MAX_ITER: null}"])
def test_config_files(content, tmp_path):
    """A mistake in a base config is found as well."""
    (tmp_path / "base.yaml").write_text(content)
    (tmp_path / "config.yaml").write_text('_BASE_: "base.yaml"\nSEED: 1\n')
    with pytest.raises(UserError, match=r"MODEL\.DICE|SOLVER\.MAX_ITER is null"):
        read_config(tmp_path / "config.yaml")


# Each level lists the previous one nine times: 9**9 values.
ALIASES = "a0: &a0 [x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("# nothing\n", "does not consist of keys and values"),
        ("[1, 2]", "does not consist of keys and values"),
        ("_BASE_: config.yaml", "in a circle"),
        ("_BASE_: .", "_BASE_ cannot be read"),
        ("A: " + "[" * 3000, "nested too deeply"),
        ("SEED: 1\n" + "#" * 500_000, "has 500008 bytes"),
        (ALIASES, "more than 100000 values"),
        ("SEED: &a [*a]", "more than 100000 values"),
    ],
)
def test_files_that_are_no_configs(content, message, tmp_path):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        read_config(tmp_path / "config.yaml")


def test_one_key_moves_the_limits_of_all_models(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("MODEL: {RPN: {POST_NMS_TOPK_TEST: 30}}\n")
    usual = dict(flatten(read_config(file)))
    assert usual["MODEL.RPN.POST_NMS_TOPK_TEST"] == 30
    changed = dict(flatten(read_config(file, ["TEST.DETECTIONS_PER_IMAGE", "2000"])))
    assert {k for k in usual if usual[k] != changed[k]} - {"TEST.DETECTIONS_PER_IMAGE"} <= {*LIMITS}
    for key in LIMITS:
        assert changed[key] == max(usual[key], 4000)


# Images large enough that the model has more than 1500 candidates of one class.
SIDES = {"solov2": 64, "solo": 64, "yolact": 160, "condinst": 288, "rdsnet": 96, "mask_rcnn": 96}


@pytest.mark.parametrize("name", SIDES)
@torch.no_grad()
def test_more_than_a_thousand_instances(name, tmp_path, scenes):
    """With thresholds that let all candidates pass, there are as many as the one key says."""
    overrides = {"TEST.DETECTIONS_PER_IMAGE": 1500, "MODEL.RPN.NMS_THRESH": 1.0}
    overrides["MODEL.SOLO.MASK_PRIOR_PROB"] = 0.5
    overrides["MODEL.SOLOV2.NUM_GRIDS"] = [40, 36, 24, 16, 12]
    for node in ("SOLOV2", "YOLACT", "CONDINST", "RDSNET", "ROI_HEADS"):
        overrides[f"MODEL.{node}.NUM_CLASSES"] = 1
        overrides[f"MODEL.{node}.SCORE_THRESH_TEST"] = 0.0
        if node != "ROI_HEADS":
            overrides[f"MODEL.{node}.MASK_THRESH_TEST"] = 0.001
        if node == "SOLOV2":
            overrides["MODEL.SOLOV2.NMS_SCORE_THRESH_TEST"] = 0.0
            overrides["MODEL.SOLOV2.MIN_MASK_AREAS"] = [0] * 5
        else:
            overrides[f"MODEL.{node}.NMS_THRESH_TEST"] = 1.0
    config = write_tiny_config(tmp_path, scenes, base=f"models/{name}.yaml")
    flat = [str(x) for pair in overrides.items() for x in pair]
    torch.manual_seed(0)
    model = build_model(read_config(config, flat)).eval()
    for key, parameter in model.named_parameters():
        if key in ("instance_head.category_pred.weight", "category_head.predict.weight"):
            # Equal scores are not suppressed by their neighbours.
            parameter.zero_()
        elif key == "head.bbox_pred.bias":
            # No box is empty.
            parameter.fill_(1)
    side = SIDES[name]
    image = torch.rand(3, side, side) * 255
    (result,) = model([{"image": image}])
    assert len(result["instances"]) == 1500


def allowed_values() -> str:
    """Return the table of docs/CONFIGS.md."""
    lines = ["| key | value |", "|---|---|"]
    groups: dict[tuple[str, str], list[str]] = {}
    for key, rule in {**RULES, **{f"{k}.*": r for k, r in OPEN_NODES.items()}}.items():
        node, _, name = key.rpartition(".")
        groups.setdefault((node, rule.words), []).append(name)
    for (node, words), names in groups.items():
        joined = names[0] if len(names) == 1 else f"{{{', '.join(names)}}}"
        key, value = f"{node}.{joined}".lstrip("."), words.replace("*", "\\*")
        lines.append(f"| `{key}` | {value} |")
    return "\n".join(lines) + "\n"


def parts_of_docs() -> tuple[str, str, str]:
    before, _, rest = DOCS.read_text().partition(BEGIN)
    table, _, after = rest.partition(END)
    return before, table, after


def test_the_documented_values_are_those_of_the_table():
    assert parts_of_docs()[1] == allowed_values(), "run python tests/test_config_checks.py"


def test_keys_named_in_the_configs_exist(cfg):
    """The documentation's table lists every key that a committed config sets."""
    documented = set()
    for line in parts_of_docs()[1].splitlines()[2:]:
        name = line.split("`")[1]
        node, _, names = name.partition("{")
        documented |= {node + n for n in names.rstrip("}").split(", ")} if names else {name}
    for file in (REPOSITORY / "configs").rglob("*.yaml"):
        keys = {k for k, _ in flatten(yaml.safe_load(file.read_text())) if k != "_BASE_"}
        assert keys <= documented, file


if __name__ == "__main__":
    before, _, after = parts_of_docs()
    DOCS.write_text(before + BEGIN + allowed_values() + END + after)
