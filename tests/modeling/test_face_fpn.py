"""FACE-FPN against equations (1), (2) and (5), and its options."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_backbone, build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from facenet_d2.modeling.backbone import FACEFPN, check_sem, neck_arguments, register_neck
from facenet_d2.modeling.layers import SemanticEnhancementModule

CHANNELS = {"res2": 8, "res3": 16, "res4": 32, "res5": 64}


class Features(Backbone):
    """A bottom-up network that returns given features."""

    def __init__(self, features):
        super().__init__()
        self.features = features
        self._out_features = list(CHANNELS)
        self._out_feature_channels = CHANNELS
        self._out_feature_strides = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}

    def forward(self, x):
        return self.features


def features_for(h, w):
    features = {}
    for i, (name, c) in enumerate(CHANNELS.items()):
        size = (-(-h // 2 ** (i + 2)), -(-w // 2 ** (i + 2)))
        features[name] = torch.randn(2, c, *size)
    return features


def make(features, **kwargs):
    fpn = FACEFPN(Features(features), list(CHANNELS), 32, aspp_channels=32, **kwargs)
    for p in fpn.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return fpn.eval()


# The second is odd at every level.
@pytest.mark.parametrize("size", [(128, 96), (203, 139), (33, 65)])
@pytest.mark.parametrize("top_down", [True, False])
@pytest.mark.parametrize("output_convs", [True, False])
@pytest.mark.parametrize("subpixel_conv_first", [True, False])
def test_face_fpn_is_equations_1_to_5(size, top_down, output_convs, subpixel_conv_first):
    features = features_for(*size)
    fpn = make(
        features,
        top_down=top_down,
        output_convs=output_convs,
        subpixel_conv_first=subpixel_conv_first,
    )
    b2, b3, b4, b5 = features.values()

    def phi(layer, x):
        return F.conv2d(x, layer.weight, layer.bias)

    def s(layer, x, like):
        size = (..., slice(like.shape[2]), slice(like.shape[3]))
        if subpixel_conv_first:
            return F.pixel_shuffle(phi(layer.project, x), 2)[size]
        return phi(layer.project, F.pixel_shuffle(x, 2)[size])

    with torch.no_grad():
        f4 = fpn.aspp["f4"](phi(fpn.lateral4, b4) + s(fpn.subpixel4, b5, b4))
        f3 = fpn.aspp["f3"](phi(fpn.lateral3, b3) + s(fpn.subpixel3, b4, b3))
        f2 = fpn.aspp["f2"](phi(fpn.lateral2, b2))
        p4 = f4
        p3 = f3 + F.interpolate(p4, f3.shape[2:])
        p2 = f2 + F.interpolate(p3, f2.shape[2:])
        stride16 = b4.shape[2:]
        maps = [F.adaptive_max_pool2d(p, stride16) for p in (p2, p3, p4)] + [fpn.sce(b5, stride16)]
        integrated = torch.stack(maps).mean(0)

        def up(x, like):
            return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)

        r = {
            "p5": F.adaptive_max_pool2d(integrated, b5.shape[2:]),
            "p4": F.adaptive_max_pool2d(integrated, f4.shape[2:]) + f4,
        }
        r["p3"] = up(r["p4"] if top_down else integrated, f3) + f3
        r["p2"] = up(r["p3"] if top_down else integrated, f2) + f2
        if output_convs:
            r = {
                name: F.conv2d(value, conv.weight, conv.bias, padding=1)
                for (name, value), conv in zip(sorted(r.items()), fpn.outputs, strict=True)
            }
        weights = fpn.cag(integrated)
        out = fpn(torch.zeros(2, 3, *size))
    for name, value in r.items():
        torch.testing.assert_close(out[name], weights * value, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out["p6"], out["p5"][:, :, ::2, ::2])


def test_sem_takes_the_place_of_the_finest_projection_only():
    features = features_for(64, 64)
    torch.manual_seed(1)
    plain = make(features)
    with_sem = make(features, sem=SemanticEnhancementModule(8, 32, branch_channels=32))
    ours, theirs = with_sem.state_dict(), plain.state_dict()
    changed = {k.split(".")[0] for k in ours.keys() ^ theirs.keys()}
    assert changed == {"lateral2"}
    shared = {k: v for k, v in theirs.items() if not k.startswith("lateral2")}
    with_sem.load_state_dict(shared, strict=False)
    b2, b3, b4, b5 = features.values()
    with torch.no_grad():
        before, after = plain.enhance(b2, b3, b4, b5), with_sem.enhance(b2, b3, b4, b5)
    assert not torch.allclose(before[0], after[0])
    torch.testing.assert_close(before[1:], after[1:], rtol=0, atol=0)


def test_wrong_levels_are_named():
    features = Features(features_for(64, 64))
    wrong = r"in_features is \['res3', 'res4', 'res5'\].*strides \[4, 8, 16, 32\]"
    with pytest.raises(ValueError, match=wrong):
        FACEFPN(features, ["res3", "res4", "res5"], 32, aspp_channels=32)


@pytest.mark.parametrize(
    "name", ["build_resnet_face_fpn_backbone", "build_resnet_sem_fpn_backbone"]
)
def test_builders_give_what_the_stock_fpn_gives(model_cfg, name):
    shapes = {}
    outputs = {}
    for builder in (name, "build_resnet_fpn_backbone"):
        model_cfg.MODEL.BACKBONE.NAME = builder
        model_cfg.MODEL.SEM.ENABLED = True
        backbone = build_backbone(model_cfg)
        shapes[builder] = backbone.output_shape()
        assert backbone.size_divisibility == 32
        with torch.no_grad():
            out = backbone(torch.zeros(1, 3, 64, 96))
        outputs[builder] = {k: v.shape for k, v in out.items()}
    assert shapes[name] == shapes["build_resnet_fpn_backbone"]
    assert outputs[name] == outputs["build_resnet_fpn_backbone"]


def test_sem_fpn_is_the_stock_fpn_with_sem_on_its_finest_level(model_cfg):
    model_cfg.MODEL.BACKBONE.NAME = "build_resnet_sem_fpn_backbone"
    fpn = build_backbone(model_cfg).eval()
    model_cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    stock = build_backbone(model_cfg).eval()
    stock.load_state_dict(fpn.state_dict(), strict=False)
    # With SEM's dilated part silenced, phi(B2) alone remains: the stock lateral convolution.
    sem = fpn.fpn_lateral2
    stock.fpn_lateral2.load_state_dict(sem.reduce.state_dict())
    torch.nn.init.zeros_(sem.expand.weight)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(fpn(x), stock(x))
        torch.nn.init.ones_(sem.expand.weight)
        assert not torch.allclose(fpn(x)["p2"], stock(x)["p2"])


NECKS_WITHOUT_SEM = ["fpn", "retinanet_fpn", "pafpn", "bifpn", "hrfpn", "resnet_hrfpn"]


@pytest.mark.parametrize("name", NECKS_WITHOUT_SEM)
def test_necks_without_sem_refuse_it(model_cfg, name):
    model_cfg.MODEL.BACKBONE.NAME = f"build_{name}_backbone"
    model_cfg.MODEL.SEM.ENABLED = True
    with pytest.raises(ValueError, match=f"MODEL.SEM.ENABLED is True.*build_{name}_backbone"):
        build_backbone(model_cfg)


def test_sem_with_other_builders(model_cfg):
    """Detectron2's own builders would ignore SEM; a user's builder may have it."""
    model_cfg.MODEL.SEM.ENABLED = True
    model_cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    with pytest.raises(ValueError, match=r"MODEL\.SEM\.ENABLED"):
        check_sem(model_cfg)

    @register_neck("own")
    def own(cfg, bottom_up):
        return FACEFPN(**neck_arguments(cfg, bottom_up, has_sem=True), aspp_channels=32)

    try:
        for name in ("build_own_backbone", "build_resnet_own_backbone"):
            model_cfg.MODEL.BACKBONE.NAME = name
            check_sem(model_cfg)
            assert isinstance(build_backbone(model_cfg), FACEFPN)
    finally:
        for name in ("build_own_backbone", "build_resnet_own_backbone"):
            del BACKBONE_REGISTRY._obj_map[name]


def test_mask_rcnn_trains_on_face_fpn_by_config_alone(model_cfg):
    model_cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "GeneralizedRCNN"),
            *("MODEL.BACKBONE.NAME", "build_resnet_face_fpn_backbone"),
            *("MODEL.ANCHOR_GENERATOR.SIZES", "[[32], [64], [128], [256], [512]]"),
            *("MODEL.RPN.IN_FEATURES", "['p2', 'p3', 'p4', 'p5', 'p6']"),
            *("MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
            *("MODEL.ROI_HEADS.IN_FEATURES", "['p2', 'p3', 'p4', 'p5']"),
            *("MODEL.ROI_HEADS.NUM_CLASSES", 3),
            *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"),
            *("MODEL.ROI_BOX_HEAD.NUM_FC", 1),
            *("MODEL.ROI_BOX_HEAD.FC_DIM", 32),
            *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7),
            *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
            *("MODEL.ROI_MASK_HEAD.NUM_CONV", 1),
        ]
    )
    model = build_model(model_cfg).train()
    assert isinstance(model.backbone, FACEFPN)
    instances = Instances((64, 96))
    instances.gt_boxes = Boxes([[10.0, 10.0, 50.0, 40.0]])
    instances.gt_classes = torch.tensor([1])
    mask = torch.zeros(1, 64, 96, dtype=torch.bool)
    mask[:, 10:40, 10:50] = True
    instances.gt_masks = BitMasks(mask)
    batch = [{"image": torch.rand(3, 64, 96) * 255, "instances": instances}]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = model.backbone.sce.local.weight.detach().clone()
    with EventStorage():
        losses = model(batch)
        assert "loss_mask" in losses
        sum(losses.values()).backward()
    optimizer.step()
    assert not torch.equal(before, model.backbone.sce.local.weight)


def test_the_neck_is_all_that_the_backbone_switch_changes(model_cfg):
    shapes = []
    for builder in ("build_resnet_fpn_backbone", "build_resnet_face_fpn_backbone"):
        model_cfg.MODEL.BACKBONE.NAME = builder
        shapes.append({k: v.shape for k, v in build_model(model_cfg).state_dict().items()})
    changed = set(shapes[0].keys() ^ shapes[1].keys())
    changed |= {k for k in shapes[0].keys() & shapes[1].keys() if shapes[0][k] != shapes[1][k]}
    assert changed
    assert all(k.startswith("backbone.") and "bottom_up" not in k for k in changed)
