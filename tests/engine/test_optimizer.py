"""Parameter groups and steps of the optimizers, compared with Detectron2's and PyTorch's."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer as build_stock
from detectron2.utils.events import EventStorage

from facenet_d2.engine.optimizer import build_optimizer


@pytest.fixture
def model(model_cfg):
    model_cfg.MODEL.SOLOV2.DEFORM_BRANCHES = ["kernel"]
    return build_model(model_cfg)


def rates(optimizer, model):
    names = {id(p): n for n, p in model.named_parameters()}
    return {names[id(p)]: g["lr"] for g in optimizer.param_groups for p in g["params"]}


def set_gradients(model):
    generator = torch.Generator().manual_seed(3)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


@pytest.mark.parametrize("clip_type", ["full_model", "norm", "value"])
def test_sgd_steps_like_detectron2s(model, model_cfg, clip_type):
    """Detectron2 cannot clip the whole norm; its gradients are scaled here for full_model."""
    clip = model_cfg.SOLVER.CLIP_GRADIENTS
    clip.CLIP_TYPE, clip.CLIP_VALUE = clip_type, 0.5
    start = {k: v.clone() for k, v in model.state_dict().items()}
    steps = []
    for build in (build_optimizer, build_stock):
        model.load_state_dict(start)
        set_gradients(model)
        if build is build_stock and clip_type == "full_model":
            clip.ENABLED = False
            norm = sum(p.grad.square().sum() for p in model.parameters()).sqrt()
            for p in model.parameters():
                p.grad *= 0.5 / norm
        with EventStorage():
            build(model_cfg, model).step()
        steps.append({k: v.clone() for k, v in model.state_dict().items()})
    for name, value in steps[0].items():
        torch.testing.assert_close(value, steps[1][name], rtol=1e-5, atol=1e-7)
    assert any(not torch.equal(v, start[k]) for k, v in steps[0].items())


def test_adamw(model, model_cfg):
    model_cfg.SOLVER.OPTIMIZER = "AdamW"
    model_cfg.SOLVER.BASE_LR = 0.001
    model_cfg.SOLVER.WEIGHT_DECAY = 0.05
    optimizer = build_optimizer(model_cfg, model)
    assert type(optimizer) is torch.optim.AdamW
    weight = model.instance_head.kernel_pred.weight
    norm = model.instance_head.category_tower[0].norm.weight
    before, norm_before = weight.detach().clone(), norm.detach().clone()
    set_gradients(model)
    sign = weight.grad.sign()
    with EventStorage():
        optimizer.step()
    # The first step of Adam is proportional to the sign of the gradient.
    torch.testing.assert_close(
        weight, before * (1 - 0.001 * 0.05) - 0.001 * sign, atol=1e-5, rtol=0
    )
    # Detectron2's WEIGHT_DECAY_NORM 0 is kept.
    torch.testing.assert_close(norm, norm_before - 0.001 * norm.grad.sign(), atol=1e-5, rtol=0)


def test_factors(model, model_cfg):
    model_cfg.SOLVER.BACKBONE_MULTIPLIER = 0.5
    model_cfg.SOLVER.OFFSET_MULTIPLIER = 0.1
    found = rates(build_optimizer(model_cfg, model), model)
    assert set(found) == {n for n, p in model.named_parameters() if p.requires_grad}
    base = model_cfg.SOLVER.BASE_LR
    for name, rate in found.items():
        factor = 0.5 if "bottom_up" in name else 0.1 if "conv_offset_mask" in name else 1
        assert rate == pytest.approx(base * factor), name
    assert len(set(found.values())) == 3


def test_weight_decay_of_embeddings(model, model_cfg):
    """Only that of the embeddings changes; None leaves Detectron2's groups as they are."""
    model.queries = torch.nn.Embedding(3, 4)
    model_cfg.SOLVER.OPTIMIZER, model_cfg.SOLVER.WEIGHT_DECAY = "AdamW", 0.05
    names = {id(p): n for n, p in model.named_parameters()}
    stock = build_optimizer(model_cfg, model).param_groups
    model_cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.01
    model_cfg.SOLVER.BACKBONE_MULTIPLIER = 0.5
    groups = build_optimizer(model_cfg, model).param_groups
    before, after = (
        {names[id(p)]: g["weight_decay"] for g in x for p in g["params"]} for x in (stock, groups)
    )
    assert before["queries.weight"] == 0.05
    assert after == before | {"queries.weight": 0.01}
    assert len(stock) == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [("OPTIMIZER", "Adam"), ("BACKBONE_MULTIPLIER", -1.0), ("OFFSET_MULTIPLIER", -0.1)],
)
def test_wrong_values_are_named(model, model_cfg, key, value):
    model_cfg.SOLVER[key] = value
    with pytest.raises(ValueError, match=rf"SOLVER\.{key}"):
        build_optimizer(model_cfg, model)
