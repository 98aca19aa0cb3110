"""Configuration keys of this project, with their defaults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode as CN

# Keys renamed in version 0.2, old to new; rename_keys() updates configs of earlier versions.
RENAMED_KEYS = {
    "MODEL.CONDINST.FOCAL_ALPHA": "MODEL.CONDINST.FOCAL_LOSS_ALPHA",
    "MODEL.CONDINST.FOCAL_GAMMA": "MODEL.CONDINST.FOCAL_LOSS_GAMMA",
    "MODEL.CONDINST.MASK_NUM_CONVS": "MODEL.CONDINST.NUM_MASK_CONVS",
    "MODEL.CONDINST.MASK_THRESHOLD": "MODEL.CONDINST.MASK_THRESH_TEST",
    "MODEL.CONDINST.NMS_THRESHOLD": "MODEL.CONDINST.NMS_THRESH_TEST",
    "MODEL.CONDINST.SCORE_THRESHOLD": "MODEL.CONDINST.SCORE_THRESH_TEST",
    "MODEL.CONDINST.TOP_K": "MODEL.CONDINST.TOPK_CANDIDATES_TEST",
    "MODEL.SOLOV2.FOCAL_ALPHA": "MODEL.SOLOV2.FOCAL_LOSS_ALPHA",
    "MODEL.SOLOV2.FOCAL_GAMMA": "MODEL.SOLOV2.FOCAL_LOSS_GAMMA",
    "MODEL.SOLOV2.MASK_THRESHOLD": "MODEL.SOLOV2.MASK_THRESH_TEST",
    "MODEL.SOLOV2.MAX_CANDIDATES": "MODEL.SOLOV2.TOPK_CANDIDATES_TEST",
    "MODEL.SOLOV2.NMS_PRE": "MODEL.SOLOV2.PRE_NMS_TOPK_TEST",
    "MODEL.SOLOV2.SCORE_THRESHOLD": "MODEL.SOLOV2.SCORE_THRESH_TEST",
    "MODEL.SOLOV2.UPDATE_THRESHOLD": "MODEL.SOLOV2.NMS_SCORE_THRESH_TEST",
    "MODEL.YOLACT.MASK_THRESHOLD": "MODEL.YOLACT.MASK_THRESH_TEST",
    "MODEL.YOLACT.NMS_THRESHOLD": "MODEL.YOLACT.NMS_THRESH_TEST",
    "MODEL.YOLACT.SCORE_THRESHOLD": "MODEL.YOLACT.SCORE_THRESH_TEST",
    "MODEL.YOLACT.TOP_K": "MODEL.YOLACT.PRE_NMS_TOPK_TEST",
}


def rename_keys(content: dict[str, Any]) -> None:
    """Rename the keys of a config written before version 0.2 to the present ones.

    Args:
        content: nested dict of a YAML config; changed in place.
    """
    renamed = False
    for old, new in RENAMED_KEYS.items():
        *path, name = old.split(".")
        node: Any = content
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict) and name in node:
            value = node.pop(name)
            node.setdefault(new.rpartition(".")[2], value)
            renamed = True
    # These models had stride-4 masks whatever INPUT.MASK_FORMAT was.
    model = content["MODEL"].get("META_ARCHITECTURE") if renamed else None
    if model in ("SOLO", "SOLOv2", "YOLACT", "CondInst"):
        content.setdefault("INPUT", {})["MASK_FORMAT"] = "stride4"


# Limits of inference that may not be lower than twice TEST.DETECTIONS_PER_IMAGE, because
# non-maximum suppression drops some of the candidates that they let pass.
LIMITS = (
    "MODEL.SOLOV2.TOPK_CANDIDATES_TEST",
    "MODEL.SOLOV2.PRE_NMS_TOPK_TEST",
    "MODEL.YOLACT.PRE_NMS_TOPK_TEST",
    "MODEL.CONDINST.TOPK_CANDIDATES_TEST",
    "MODEL.RDSNET.TOPK_CANDIDATES_TEST",
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST",
    "MODEL.RPN.PRE_NMS_TOPK_TEST",
    "MODEL.RPN.POST_NMS_TOPK_TEST",
)
# Detectron2's default number of detections per image, for which the defaults of LIMITS are made.
USUAL_DETECTIONS = 100


def raise_limits(cfg: CN) -> None:
    """Raise all :data:`LIMITS` to at least twice ``TEST.DETECTIONS_PER_IMAGE`` if it is above 100.

    Otherwise they would silently bound the number of instances that are found.

    Args:
        cfg: config; changed in place.
    """
    detections = cfg.TEST.DETECTIONS_PER_IMAGE
    if detections <= USUAL_DETECTIONS:
        return
    for key in LIMITS:
        _, node, name = key.split(".")
        cfg.MODEL[node][name] = max(cfg.MODEL[node][name], 2 * detections)


def rename_overrides(overrides: Sequence[Any]) -> list[Any]:
    """Apply :func:`rename_keys` to the keys of KEY VALUE pairs."""
    return [RENAMED_KEYS.get(o, o) if i % 2 == 0 else o for i, o in enumerate(overrides)]


def add_facenet_config(cfg: CN) -> None:
    """Add this project's keys to a Detectron2 config.

    Args:
        cfg: config from :func:`detectron2.config.get_cfg`; changed in place.
    """
    _add_solov2(cfg)
    _add_solo(cfg)
    _add_rcnn(cfg)
    _add_yolact(cfg)
    _add_condinst(cfg)
    _add_rdsnet(cfg)
    _add_queryinst(cfg)
    _add_mask2former(cfg)
    _add_bottom_up(cfg)
    _add_face_fpn(cfg)
    _add_sem(cfg)
    _add_bifpn(cfg)
    _add_pafpn(cfg)
    _add_data(cfg)
    _add_solver(cfg)
    _add_speed(cfg)


def _add_solov2(cfg: CN) -> None:
    """Add MODEL.SOLOV2: SOLOv2 and FACENet. The defaults are the published SOLOv2.

    SOLO uses these keys too, except those of the kernel branch and the mask features.
    """
    node = cfg.MODEL.SOLOV2 = CN()
    # 0 takes the number of classes of the first training set; other values are checked against it.
    node.NUM_CLASSES = 0
    # Pyramid levels under the grids, finest first; the coarsest, of stride 64, may be left out. The
    # lists below have one entry per level.
    node.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    node.NUM_GRIDS = [40, 36, 24, 16, 12]
    # Minimum and maximum of sqrt(box area), in pixels of the network's input.
    node.SCALE_RANGES = [[1, 96], [48, 192], [96, 384], [192, 768], [384, 2048]]
    # Predicted masks of at most this many pixels at stride 4 are dropped. The published values, the
    # strides of the levels, suit inputs of about 800 pixels; with them, objects smaller than about
    # 12x12 pixels are never found.
    node.MIN_MASK_AREAS = [8, 8, 16, 32, 32]
    # Side of the centre region whose cells are positive, as a fraction of the box's side.
    node.CENTER_SCALE = 0.2
    # Number, width and normalisation of the convolutions in the category and the kernel branch.
    node.NUM_CONVS = 4
    node.CONV_CHANNELS = 512
    node.KERNEL_CHANNELS = 256
    node.NORM = "GN"
    node.PRIOR_PROB = 0.01
    # Branches with deformable convolutions (DCNv2): "category", "kernel".
    node.DEFORM_BRANCHES = []
    # Number of deformable convolutions at the end of such a branch.
    node.DEFORM_CONVS = 1
    # Pyramid levels fused into the mask features, finest first.
    node.MASK_IN_FEATURES = ["p2", "p3", "p4", "p5"]
    node.MASK_CHANNELS = 128
    # Stride of the mask features and of the masks in training and inference: 4, or 2 with a
    # sub-pixel convolution at the end of the mask head. Not used by SOLO, which has stride 4.
    node.MASK_STRIDE = 4
    # Whether each cell also predicts a Gaussian window, which keeps its mask from covering similar
    # objects nearby. The paper and the published SOLOv2 have none. Not used by SOLO.
    node.MASK_WINDOW = False
    # Weight of the loss that fits the windows to the objects; 0: the mask loss alone trains them.
    node.WINDOW_LOSS_WEIGHT = 1.0
    node.FOCAL_LOSS_ALPHA = 0.25
    node.FOCAL_LOSS_GAMMA = 2.0
    # Weight of the Dice loss, lambda of equation (9).
    node.DICE_WEIGHT = 3.0
    # Maximum number of positive cells per step in the mask loss, subsampled evenly; 0: no limit.
    # Bounds the time of a step; its memory does not grow with them. Not used by SOLO.
    node.MAX_POSITIVE_CELLS = 0
    # Minimum class score of a cell before its mask is computed.
    node.SCORE_THRESH_TEST = 0.1
    # Minimum probability of a mask pixel.
    node.MASK_THRESH_TEST = 0.5
    # Maximum number of candidates whose masks are computed, best scores first. The published code
    # has no such limit.
    node.TOPK_CANDIDATES_TEST = 1000
    # Number of candidates that enter Matrix NMS.
    node.PRE_NMS_TOPK_TEST = 500
    # Whether higher-scored neighbours suppress a cell before its mask is computed, as in the
    # published code. False finds objects in adjacent cells, but computes more masks and leaves
    # duplicates to Matrix NMS. SOLO uses it too.
    node.POINTS_NMS = True
    # "gaussian" or "linear".
    node.NMS_KERNEL = "gaussian"
    node.NMS_SIGMA = 2.0
    # Minimum score after Matrix NMS.
    node.NMS_SCORE_THRESH_TEST = 0.05


def _add_solo(cfg: CN) -> None:
    """Add MODEL.SOLO. The defaults are the published model."""
    node = cfg.MODEL.SOLO = CN()
    # Convolutions in the category and the mask branch.
    node.NUM_CONVS = 7
    node.CONV_CHANNELS = 256
    # Initial probability of a mask pixel, in decoupled SOLO of both factors. When training from
    # scratch, the loss plateaus for about a hundred steps with 0.01 (published), but not with 0.1.
    node.MASK_PRIOR_PROB = 0.01
    # Decoupled SOLO: 2S masks per level, for columns and rows, instead of S^2.
    node.DECOUPLED = False


def _add_rcnn(cfg: CN) -> None:
    """Add keys of the R-CNN baselines."""
    # Anchor size in strides of the level (ANCHOR_GENERATOR.NAME StrideAnchorGenerator).
    cfg.MODEL.ANCHOR_GENERATOR.SCALE = 8.0
    # Mask Scoring R-CNN (ROI_MASK_HEAD.NAME MaskScoringHead).
    node = cfg.MODEL.ROI_MASK_IOU_HEAD = CN()
    node.CONV_DIM = 256
    node.NUM_CONV = 4
    node.FC_DIM = 1024
    node.LOSS_WEIGHT = 0.5
    # PANet (ROI_HEADS.NAME PANetROIHeads): channels before the fully connected layer of its mask
    # head, whose number of parameters is proportional to them.
    cfg.MODEL.ROI_MASK_FUSION = CN()
    cfg.MODEL.ROI_MASK_FUSION.CONV_DIM = 128
    # RefineMask (ROI_HEADS.NAME RefineMaskROIHeads).
    node = cfg.MODEL.ROI_MASK_REFINEMENT = CN()
    # Convolutions of the semantic branch on the finest level.
    node.NUM_SEMANTIC_CONV = 4
    node.SEMANTIC_CONV_DIM = 256
    # One dilation per parallel convolution of a stage.
    node.DILATIONS = [1, 3, 5]
    # Weights of the masks' losses, from the smallest size to the largest.
    node.LOSS_WEIGHTS = [0.25, 0.5, 0.75, 1.0]
    node.SEMANTIC_LOSS_WEIGHT = 1.0
    # Distance from the boundary, in pixels of the next smaller size, within which the two larger
    # sizes have a loss.
    node.BOUNDARY_WIDTH = 2
    # Weight of the box head's classification loss; that of its boxes is
    # ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT.
    node.CLS_LOSS_WEIGHT = 2.0


def _add_yolact(cfg: CN) -> None:
    """Add MODEL.YOLACT. The defaults are the published model."""
    node = cfg.MODEL.YOLACT = CN()
    # 0 takes the number of classes of the first training set.
    node.NUM_CLASSES = 0
    # Levels with anchors. Necks that end at p6 need fewer.
    node.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    # Level of stride 8 from which the prototypes, at stride 4, are computed.
    node.PROTOTYPE_IN_FEATURE = "p3"
    # Anchor size in strides of the level.
    node.ANCHOR_SCALE = 3.0
    node.ANCHOR_RATIOS = [0.5, 1.0, 2.0]
    node.NUM_PROTOTYPES = 32
    node.CONV_CHANNELS = 256
    # Convolutions shared by classes, boxes and coefficients.
    node.NUM_CONVS = 1
    # Convolutions before the prototypes are upsampled.
    node.NUM_PROTOTYPE_CONVS = 3
    # [bg, fg]: anchors with IoU < bg are background, >= fg foreground, in between ignored.
    node.IOU_THRESHOLDS = [0.4, 0.5]
    node.BBOX_REG_WEIGHTS = [10.0, 10.0, 5.0, 5.0]
    # Number of background anchors in the loss per foreground anchor, hardest first.
    node.NEGATIVE_RATIO = 3.0
    node.BOX_WEIGHT = 1.5
    node.MASK_WEIGHT = 6.125
    node.SEMANTIC_WEIGHT = 1.0
    # Maximum number of foreground anchors per image in the mask loss, subsampled evenly (published:
    # at random).
    node.MAX_MASKS = 100
    node.SCORE_THRESH_TEST = 0.05
    node.MASK_THRESH_TEST = 0.5
    node.NMS_THRESH_TEST = 0.5
    # Number of boxes per class that enter Fast NMS.
    node.PRE_NMS_TOPK_TEST = 200


def _add_condinst(cfg: CN) -> None:
    """Add MODEL.CONDINST. The defaults are the published model on Detectron2's FCOS.

    configs/models/condinst.yaml lists where that FCOS differs.
    """
    node = cfg.MODEL.CONDINST = CN()
    # 0 takes the number of classes of the first training set.
    node.NUM_CLASSES = 0
    # Levels of FCOS. Necks that end at p6 need fewer.
    node.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    # Convolutions in each of FCOS's two branches.
    node.NUM_CONVS = 4
    node.CONV_CHANNELS = 256
    node.NORM = "GN"
    node.PRIOR_PROB = 0.01
    # Radius around a mass centre within which positions are positive, in strides of the level.
    node.CENTER_SAMPLING_RADIUS = 1.5
    # Target of the centerness: "box", FCOS's distances to the sides of the box, or "ellipse", a
    # Gaussian with the covariance of the mask's pixels (configs/models/elliptic_centerness.yaml).
    node.CENTERNESS = "box"
    # Elliptic centerness on the border of the ellipse that has the mask's covariance.
    node.ELLIPSE_BORDER = 0.1
    node.FOCAL_LOSS_ALPHA = 0.25
    node.FOCAL_LOSS_GAMMA = 2.0
    # Levels of the mask branch; the finest has stride 8.
    node.MASK_IN_FEATURES = ["p3", "p4", "p5"]
    node.NUM_MASK_CONVS = 4
    node.MASK_CONV_CHANNELS = 128
    node.MASK_CHANNELS = 8
    node.MASK_NORM = "BN"
    # Convolutions of the mask head, whose parameters are predicted per instance.
    node.DYNAMIC_CONVS = 3
    node.DYNAMIC_CHANNELS = 8
    # Approximate maximum of positions per image in the mask loss, the best ones of each object.
    node.MAX_MASKS = 64
    node.SCORE_THRESH_TEST = 0.05
    node.MASK_THRESH_TEST = 0.5
    node.NMS_THRESH_TEST = 0.6
    # Number of candidates per level.
    node.TOPK_CANDIDATES_TEST = 1000


def _add_rdsnet(cfg: CN) -> None:
    """Add MODEL.RDSNET. The defaults are the published model, except for MIN_MASK_AREA."""
    node = cfg.MODEL.RDSNET = CN()
    # 0 takes the number of classes of the first training set.
    node.NUM_CLASSES = 0
    # Levels with anchors. Necks that end at p6 need fewer.
    node.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    # Size of the smallest anchors of a level, in strides of the level, and number of sizes up to
    # twice that.
    node.ANCHOR_SCALE = 4.0
    node.ANCHORS_PER_OCTAVE = 3
    node.ANCHOR_RATIOS = [0.5, 1.0, 2.0]
    # Convolutions in each of the three towers: classes, boxes, representations.
    node.NUM_CONVS = 4
    # Width and normalisation of the towers and of the pixel branch.
    node.CONV_CHANNELS = 256
    node.NORM = "GN"
    node.PRIOR_PROB = 0.01
    # Channels of the pixel map; an anchor has twice as many, for background and object.
    node.REPRESENTATION_CHANNELS = 32
    # Levels of the pixel branch; the finest has stride 8.
    node.MASK_IN_FEATURES = ["p3", "p4", "p5"]
    # [bg, fg]: anchors with IoU < bg are background, >= fg foreground, in between ignored.
    node.IOU_THRESHOLDS = [0.4, 0.5]
    node.BBOX_REG_WEIGHTS = [1.0, 1.0, 1.0, 1.0]
    node.FOCAL_LOSS_ALPHA = 0.25
    node.FOCAL_LOSS_GAMMA = 2.0
    node.SMOOTH_L1_LOSS_BETA = 0.11
    node.MASK_WEIGHT = 1.0
    # Maximum number of foreground anchors per image in the mask loss, subsampled evenly (published:
    # at random).
    node.MAX_MASKS = 100
    # Objects of at most this many pixels of the network's input have no mask loss. The published
    # code has 100, which would leave out most small objects of aerial images.
    node.MIN_MASK_AREA = 0
    # Pixels outside of the object's box, widened by this share of its sides, have no mask loss.
    node.MASK_BOX_MARGIN = 0.25
    # Number of background pixels in a mask's loss per object pixel, hardest first.
    node.NEGATIVE_RATIO = 1.0
    node.SCORE_THRESH_TEST = 0.05
    node.MASK_THRESH_TEST = 0.4
    # Masks are cut off outside of their detected box, widened by this share of its sides.
    node.MASK_BOX_MARGIN_TEST = 0.1
    node.NMS_THRESH_TEST = 0.5
    # Number of candidates per level.
    node.TOPK_CANDIDATES_TEST = 1000


def _add_queryinst(cfg: CN) -> None:
    """Add MODEL.QUERYINST. The defaults are the published model with 100 queries."""
    node = cfg.MODEL.QUERYINST = CN()
    # 0 takes the number of classes of the first training set.
    node.NUM_CLASSES = 0
    # Levels of the pyramid that RoIs are pooled from. Their width is that of the queries.
    node.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    # At most this many objects are found in an image (published: 100, or 300 for long training).
    # objects_without_query in metrics.json counts those that training leaves out.
    node.NUM_QUERIES = 100
    node.NUM_STAGES = 6
    # Heads of the attention of the queries to each other.
    node.NUM_HEADS = 8
    # Channels between the two matrices of a dynamic interaction.
    node.DYNAMIC_CHANNELS = 64
    node.FC_DIM = 2048
    # Sides of the RoI features of the box heads and the mask heads. Masks are twice as large.
    node.POOLER_RESOLUTION = 7
    node.MASK_POOLER_RESOLUTION = 14
    node.NUM_MASK_CONVS = 4
    # Normalisation of the mask heads. BN is over the RoIs of a step.
    node.MASK_NORM = "BN"
    node.PRIOR_PROB = 0.01
    node.FOCAL_LOSS_ALPHA = 0.25
    node.FOCAL_LOSS_GAMMA = 2.0
    # Weights of the losses. The first three are also those of the assignment.
    node.CLASS_WEIGHT = 2.0
    node.L1_WEIGHT = 5.0
    node.GIOU_WEIGHT = 2.0
    node.MASK_WEIGHT = 8.0
    # As published, only TEST.DETECTIONS_PER_IMAGE limits the instances.
    node.SCORE_THRESH_TEST = 0.0
    node.MASK_THRESH_TEST = 0.5


def _add_mask2former(cfg: CN) -> None:
    """Add MODEL.MASK2FORMER. The defaults are the published model."""
    node = cfg.MODEL.MASK2FORMER = CN()
    # 0 takes the number of classes of the first training set.
    node.NUM_CLASSES = 0
    # Levels of the backbone, finest first, at strides 4, 8, ...
    node.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    # At most this many objects are found in an image. objects_without_query in metrics.json counts
    # those that training leaves out.
    node.NUM_QUERIES = 100
    node.CHANNELS = 256
    # Heads of all attention.
    node.NUM_HEADS = 8
    # Normalisation of the convolutions.
    node.NORM = "GN"
    # Layers of the pixel decoder, points of each head on each level, width inside the layers.
    node.NUM_ENCODER_LAYERS = 6
    node.NUM_SAMPLING_POINTS = 4
    node.ENCODER_FC_DIM = 1024
    node.NUM_DECODER_LAYERS = 9
    node.DECODER_FC_DIM = 2048
    # Weights of the losses, also those of the assignment.
    node.CLASS_WEIGHT = 2.0
    node.MASK_WEIGHT = 5.0
    node.DICE_WEIGHT = 5.0
    # Weight of queries without an object in the loss of the classes.
    node.NO_OBJECT_WEIGHT = 0.1
    # Number of points at which masks are compared.
    node.TRAIN_NUM_POINTS = 12544
    # Share of the points that are drawn around the objects, within boxes of twice their sides.
    # Uniform points, as published, often miss small objects: of 12544 points in an image of 800x800
    # pixels, about one falls on an object of 8x8.
    node.OBJECT_SAMPLE_RATIO = 0.0
    # The losses draw OVERSAMPLE_RATIO candidates per point, and take IMPORTANCE_SAMPLE_RATIO of the
    # points from those candidates where the mask is least certain.
    node.OVERSAMPLE_RATIO = 3.0
    node.IMPORTANCE_SAMPLE_RATIO = 0.75
    # As published, only TEST.DETECTIONS_PER_IMAGE limits the instances.
    node.SCORE_THRESH_TEST = 0.0
    node.MASK_THRESH_TEST = 0.5


def _add_bottom_up(cfg: CN) -> None:
    """Add the choice of the bottom-up network.

    MODEL.BACKBONE.NAME chooses the neck: build_{fpn,sem_fpn,face_fpn,pafpn,bifpn,hrfpn,
    retinanet_fpn}_backbone, or build_plain_backbone for none. MODEL.BOTTOM_UP.NAME chooses the
    network under it. The builders with "resnet" in their names always use a ResNet.
    """
    cfg.MODEL.BOTTOM_UP = CN()
    # build_resnet_backbone (MODEL.RESNETS), build_timm_backbone (MODEL.TIMM), or any other backbone
    # builder whose features are called res2 to res5.
    cfg.MODEL.BOTTOM_UP.NAME = "build_resnet_backbone"
    node = cfg.MODEL.TIMM = CN()
    # Any timm model with features at strides 4, 8, 16 and 32.
    node.NAME = "tf_efficientnet_lite0"
    # Freeze the statistics and affine parameters of all batch normalisation.
    node.FREEZE_BATCH_NORM = True
    # Further arguments of timm.create_model, for example {drop_path_rate: 0.1}.
    node.ARGUMENTS = CN(new_allowed=True)


def _add_face_fpn(cfg: CN) -> None:
    """Add MODEL.FACE_FPN. Width, input levels and the norm of plain projections are MODEL.FPN's."""
    node = cfg.MODEL.FACE_FPN = CN()
    node.ASPP_CHANNELS = 32
    node.ASPP_DILATIONS = [6, 12, 18]
    node.ASPP_NORM = "GN"
    # Add ASPP's input to its output.
    node.ASPP_SHORTCUT = True
    # Build R2 and R3 on the level above, as in the paper's section 3.2; False: on I, as in equation
    # (2).
    node.TOP_DOWN = True
    # Apply a 3x3 convolution to each R, as FPN does to each of its merged maps.
    node.OUTPUT_CONVS = True
    # Put the 1x1 convolution of the sub-pixel convolutions S before the pixel shuffle.
    node.SUBPIXEL_CONV_FIRST = False


def _add_sem(cfg: CN) -> None:
    """Add MODEL.SEM, the semantic enhancement module of SEM-FPN and FACE-FPN."""
    node = cfg.MODEL.SEM = CN()
    node.ENABLED = False
    node.CHANNELS = 128
    # One dilation per branch.
    node.DILATIONS = [1, 2, 3]
    # Add the module's input (equation 7).
    node.RESIDUAL = True
    node.NORM = "GN"


def _add_bifpn(cfg: CN) -> None:
    """Add MODEL.BIFPN. The number of layers is EfficientDet-D0's."""
    node = cfg.MODEL.BIFPN = CN()
    node.REPEATS = 3
    # Used instead of MODEL.FPN.NORM: without normalisation the outputs would start about a hundred
    # times too small. EfficientDet uses BN with batches of 128 images.
    node.NORM = "GN"


def _add_pafpn(cfg: CN) -> None:
    """Add MODEL.PAFPN."""
    cfg.MODEL.PAFPN = CN()
    # "panet": PANet's own bottom-up path. "mmdetection": MMDetection's, without ReLUs, and with the
    # 3x3 convolution of each level after the path instead of in it.
    cfg.MODEL.PAFPN.PATH = "panet"


def _add_data(cfg: CN) -> None:
    """Add keys of data sets and augmentation.

    Two of Detectron2's keys accept a further value: INPUT.RANDOM_FLIP may be "both", and
    INPUT.MASK_FORMAT may be "stride4", as in the configs of SOLO, SOLOv2, FACENet, YOLACT,
    CondInst and RDSNet. Ground-truth masks are then rasterised once, at the stride where losses
    compare masks: 4, or MODEL.SOLOV2.MASK_STRIDE.
    """
    # Bands of the images, numbered from 1: first the colours in the order of INPUT.FORMAT, which
    # pretrained weights expect, then any others. If BANDS or STRETCH is set, GDAL reads the images
    # as float32, and MODEL.PIXEL_MEAN needs a value for each band. []: Pillow reads 8-bit images
    # or, if STRETCH is set, GDAL reads all bands.
    cfg.INPUT.BANDS = []
    # Stretch of the values to 0 to 255, the same for all images; tools/compute_statistics.py
    # computes it. "range LOW HIGH"; for SAR, "db amplitude LOW HIGH" or "db intensity LOW HIGH".
    # Each number may be a list with one value per band, such as 0,0,0. "none" leaves the values as
    # they are. 8-bit images need no stretch.
    cfg.INPUT.STRETCH = ""
    # Rotate by 0, 90, 180 or 270 degrees.
    cfg.INPUT.RANDOM_QUARTER_TURN = False
    # Large-scale jitter, in training instead of INPUT.MIN_SIZE_TRAIN and MAX_SIZE_TRAIN: an image
    # is resized to fit a square, times a random scale, and put at a random place of the square.
    # What does not fit is cut.
    node = cfg.INPUT.SCALE_JITTER = CN()
    node.ENABLED = False
    node.MIN_SCALE = 0.5
    node.MAX_SCALE = 2.0
    # Height and width of the square in pixels.
    node.SIZE = 800
    node = cfg.INPUT.RAND_AUGMENT = CN()
    node.ENABLED = False
    # Number of operations per image.
    node.NUM_OPS = 2
    # Magnitude of the operations, from 0 to 30.
    node.MAGNITUDE = 9
    # Operations to sample from (facenet_d2.data.augmentation.OPERATIONS); empty for all.
    node.OPERATIONS = []
    # COCO-format data sets of your own, [name, JSON file, image folder] each. The names can be used
    # in DATASETS.TRAIN and DATASETS.TEST.
    cfg.DATASETS.COCO = []
    # Class names in order, set from the data. The config.yaml of a run contains them, so that a
    # trained model can be used without its data.
    cfg.DATASETS.CLASS_NAMES = []
    # Category ids of the classes in the data set of DATASETS.TRAIN, set from the data as well.
    # Predictions are saved with them.
    cfg.DATASETS.CATEGORY_IDS = []
    # Minimum and maximum area, in pixels, of the objects in APs, APm and APl.
    cfg.TEST.AREA_RANGES = [[0, 32**2], [32**2, 96**2], [96**2, 1e10]]
    # Whole scenes (tools/predict_scenes.py, ScenePredictor).
    node = cfg.TEST.SCENE = CN()
    # Numbers of the bands, from 1, if the training images have only these; empty for INPUT.BANDS.
    node.BANDS = []
    # Size of the training images' pixels on the ground, in metres, to which scenes are resampled; 0
    # if it is unknown.
    node.PIXEL_SIZE = 0.0
    # Stretch of scenes, if the training images were stretched before they were saved; empty for
    # INPUT.STRETCH.
    node.STRETCH = ""
    # Overlap of tiles in pixels, the size of large objects; 0 for a quarter of a tile.
    node.OVERLAP = 0


def _add_solver(cfg: CN) -> None:
    """Add keys of the optimizer and of the precision of training."""
    # "SGD" or "AdamW".
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Learning rate multiplier of the bottom-up network.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    # Weight decay of embeddings, such as learned queries; null for that of all other parameters.
    cfg.SOLVER.WEIGHT_DECAY_EMBED = None
    # Learning rate multiplier of the offsets and modulation of deformable convolutions.
    cfg.SOLVER.OFFSET_MULTIPLIER = 1.0
    # "fp16" or "bf16"; empty for fp16 on a GPU and bf16 on a CPU. Used if SOLVER.AMP.ENABLED.
    cfg.SOLVER.AMP.DTYPE = ""
    # Train in channels-last memory format; on a CPU also with faster backward passes.
    cfg.SOLVER.CHANNELS_LAST = False


def _add_speed(cfg: CN) -> None:
    """Add switches for faster inference in train_net.py --eval-only and demo.py (docs/SPEED.md)."""
    # "bf16" or "fp16": precision of the network; post-processing stays in float32.
    cfg.TEST.AUTOCAST = ""
    # Run convolutions in channels-last memory format.
    cfg.TEST.CHANNELS_LAST = False
    # Compile the network, which takes minutes at the first image.
    cfg.TEST.COMPILE = False
    # Fold batch normalisation into the convolutions.
    cfg.TEST.FOLD_BATCH_NORM = False
    # Use TF32 for float32 matrix products and convolutions on GPUs that have it, also in training.
    cfg.MODEL.TF32 = True
