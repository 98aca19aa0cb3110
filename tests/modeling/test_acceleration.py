"""The switches of TEST: results are the same, within the precision of each."""

import copy

import pytest
import torch
from detectron2.layers import BatchNorm2d, Conv2d, FrozenBatchNorm2d
from detectron2.modeling import build_model
from helpers import REPOSITORY

from facenet_d2.modeling import accelerate, set_tf32
from facenet_d2.modeling.acceleration import fold_batch_norm
from facenet_d2.modeling.layers import ModulatedDeformConv2d
from facenet_d2.modeling.precision import full_precision

FACENET = [
    "MODEL.BACKBONE.NAME",
    "build_resnet_face_fpn_backbone",
    "MODEL.SEM.ENABLED",
    "True",
    "MODEL.SOLOV2.DEFORM_BRANCHES",
    "['kernel']",
    "MODEL.SOLOV2.DEFORM_CONVS",
    "1",
]


@pytest.fixture(params=[[], FACENET], ids=["solov2", "facenet"])
def model_and_cfg(request, model_cfg):
    windows = ["MODEL.SOLOV2.MASK_WINDOW", "True"]
    model_cfg.merge_from_list([*request.param, *windows, "MODEL.RESNETS.NORM", "BN"])
    model = build_model(model_cfg).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
    return model, model_cfg


@pytest.mark.parametrize("norm", [BatchNorm2d, FrozenBatchNorm2d])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("conv_type", [Conv2d, ModulatedDeformConv2d])
def test_folded_convolutions_are_the_same(norm, bias, conv_type):
    norm = norm(6)
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(norm, name).data.uniform_(0.5, 2)
    conv = conv_type(4, 6, kernel_size=3, padding=1, bias=bias, norm=norm).eval()
    x = torch.randn(2, 4, 9, 7)
    expected = conv(x)
    assert fold_batch_norm(conv) == 1
    assert conv.norm is None
    torch.testing.assert_close(conv(x), expected, rtol=1e-4, atol=1e-5)


def test_only_convolutions_are_folded():
    """Modules with batch normalisation as `norm` that have no weight, or no bias."""

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = BatchNorm2d(3)

    class Scale(Block):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))

    model = torch.nn.Sequential(Block(), Scale(), Conv2d(3, 3, 1, norm=BatchNorm2d(3))).eval()
    assert fold_batch_norm(model) == 1
    assert isinstance(model[0].norm, BatchNorm2d)
    assert isinstance(model[1].norm, BatchNorm2d)
    assert model[2].norm is None


def test_full_precision_switches_tf32_and_autocast_off():
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    x = torch.randn(3, 3)
    try:
        for enabled in (True, False):
            set_tf32(enabled)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                with full_precision("cpu"):
                    assert not matmul.allow_tf32
                    assert (x @ x).dtype == torch.float32
                assert (x @ x).dtype == torch.bfloat16
            assert matmul.allow_tf32 == enabled
        set_tf32(True)
        with pytest.raises(RuntimeError, match="inside"), full_precision("cpu"):
            raise RuntimeError("inside")
        assert matmul.allow_tf32
    finally:
        set_tf32(before)


@pytest.mark.parametrize(
    "name", ["solov2", "solo", "solo_decoupled", "yolact", "condinst", "rdsnet"]
)
def test_masks_are_computed_without_tf32(name, model_cfg, monkeypatch):
    """In evaluation mode all matrix products outside of the network."""
    model_cfg.merge_from_file(str(REPOSITORY / "configs" / "models" / f"{name}.yaml"))
    for node in ("YOLACT", "CONDINST", "RDSNET"):
        model_cfg.MODEL[node].NUM_CLASSES = 3
        model_cfg.MODEL[node].CONV_CHANNELS = 64
        model_cfg.MODEL[node].SCORE_THRESH_TEST = 0.0
    model_cfg.MODEL.SOLO.NUM_CONVS = 1
    model_cfg.MODEL.SOLOV2.SCORE_THRESH_TEST = 0.0
    model = build_model(model_cfg).eval()
    products = {"aten::mm", "aten::bmm", "aten::baddbmm", "aten::addmm", "aten::matmul"}
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            # Matrix NMS counts pixels: products of 0 and 1 are exact in TF32.
            if func._schema.name in products and args[0].unique().numel() > 2:
                seen.append(torch.backends.cuda.matmul.allow_tf32)
            return func(*args, **(kwargs or {}))

    before = torch.backends.cuda.matmul.allow_tf32
    set_tf32(True)
    try:
        with torch.no_grad():
            predictions = model.predict(torch.randn(1, 3, 64, 96))
            with Watch():
                model.inference(predictions, [(64, 96)], [(64, 96)])
    finally:
        set_tf32(before)
    # The decoupled head multiplies elementwise.
    assert bool(seen) == (name != "solo_decoupled")
    assert not any(seen)


@pytest.mark.parametrize(
    "switches", [["FOLD_BATCH_NORM"], ["CHANNELS_LAST"], ["FOLD_BATCH_NORM", "CHANNELS_LAST"]]
)
def test_same_outputs(model_and_cfg, switches):
    model, cfg = model_and_cfg
    for s in switches:
        cfg.TEST[s] = True
    fast = copy.deepcopy(model)
    accelerate(fast, cfg)
    images = torch.randn(2, 3, 96, 128)
    with torch.no_grad():
        for a, b in zip(fast.predict(images), model.predict(images), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    batch_norms = [m for m in fast.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert bool(batch_norms) != ("FOLD_BATCH_NORM" in switches)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_autocast_is_near_and_results_are_whole(model_and_cfg, precision):
    model, cfg = model_and_cfg
    cfg.TEST.AUTOCAST = precision
    fast = copy.deepcopy(model)
    accelerate(fast, cfg)
    images = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        for a, b in zip(fast.predict(images), model.predict(images), strict=True):
            assert a.dtype in (torch.bfloat16, torch.float16)
            assert (a.float() - b).norm() < 0.05 * b.norm()
        (out,) = fast([{"image": torch.rand(3, 64, 96) * 255}])
    assert out["instances"].scores.dtype == torch.float32


def test_compiled_for_all_sizes(model_and_cfg, monkeypatch):
    """All sizes share one graph; compiling it to machine code would take minutes."""
    model, cfg = model_and_cfg
    graphs = []

    def count_graphs(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    compile_function = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, **kwargs: compile_function(f, backend=count_graphs, **kwargs)
    )
    torch._dynamo.reset()
    cfg.TEST.COMPILE = True
    fast = copy.deepcopy(model)
    accelerate(fast, cfg)
    # Convolutions of small maps, and odd sizes at stride 32 in FACENet, are specialised.
    sizes = [(512, 512), (448, 640), (640, 384)]
    if cfg.MODEL.BACKBONE.NAME != "build_resnet_face_fpn_backbone":
        sizes += [(480, 544)]
    with torch.no_grad():
        for size in sizes:
            images = torch.randn(1, 3, *size)
            for a, b in zip(fast.predict(images), model.predict(images), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert len(graphs) == 1


@pytest.mark.parametrize(
    "name", ["solo", "yolact", "condinst", "rdsnet", "queryinst", "mask2former"]
)
def test_other_models_too(name, model_cfg, monkeypatch):
    model_cfg.merge_from_file(str(REPOSITORY / "configs" / "models" / f"{name}.yaml"))
    for node in ("YOLACT", "CONDINST", "RDSNET"):
        model_cfg.MODEL[node].NUM_CLASSES = 3
        model_cfg.MODEL[node].CONV_CHANNELS = 64
    model_cfg.MODEL.SOLO.NUM_CONVS = 1
    for node in ("QUERYINST", "MASK2FORMER"):
        model_cfg.MODEL[node].NUM_CLASSES = 3
        model_cfg.MODEL[node].NUM_QUERIES = 10
    model_cfg.MODEL.QUERYINST.NUM_STAGES = 2
    model_cfg.MODEL.QUERYINST.DYNAMIC_CHANNELS = 8
    model_cfg.MODEL.MASK2FORMER.CHANNELS = 32
    model_cfg.MODEL.MASK2FORMER.NUM_ENCODER_LAYERS = 1
    model_cfg.MODEL.MASK2FORMER.NUM_DECODER_LAYERS = 2
    model = build_model(model_cfg).eval()
    model_cfg.TEST.AUTOCAST = "bf16"
    fast = copy.deepcopy(model)
    accelerate(fast, model_cfg)
    with torch.no_grad():
        (out,) = fast([{"image": torch.rand(3, 64, 96) * 255}])
    assert out["instances"].scores.dtype == torch.float32
    assert out["instances"].pred_masks.shape[1:] == (64, 96)

    compile_function = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **_: compile_function(f, backend="eager"))
    torch._dynamo.reset()
    model_cfg.TEST.AUTOCAST, model_cfg.TEST.COMPILE = "", True
    fast = copy.deepcopy(model)
    accelerate(fast, model_cfg)
    images = torch.randn(1, 3, 96, 160)
    with torch.no_grad():
        torch.testing.assert_close(fast.predict(images), model.predict(images))


def test_wrong_switches(model_and_cfg):
    model, cfg = model_and_cfg
    with pytest.raises(ValueError, match="evaluation mode"):
        accelerate(model.train(), cfg)
    cfg.TEST.AUTOCAST = "int8"
    with pytest.raises(ValueError, match=r"TEST\.AUTOCAST is 'int8'"):
        accelerate(model.eval(), cfg)
    cfg.TEST.AUTOCAST = "bf16"
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    with pytest.raises(ValueError, match="GeneralizedRCNN"):
        accelerate(torch.nn.Conv2d(1, 1, 1).eval(), cfg)
