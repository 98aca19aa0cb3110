"""Allowed values of every config key, of this project and of Detectron2.

The upper limits are far above any useful value: they reject what is certainly a mistake, such as a
layer repeated a million times, before memory and time are spent on it. A value that Detectron2
defines, such as a negative SEED, is allowed.
"""

from __future__ import annotations

from typing import Any

from .rules import (
    BOOLEAN,
    FINITE,
    NAME,
    PROBABILITY,
    SHARE,
    TEXT,
    Rule,
    choice,
    either,
    integer,
    items,
    name_other_than,
    number,
    or_null,
)

# Names that `detectron2.layers.get_norm` accepts; "" for no normalisation.
NORMS = ("", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "LN")

CHANNELS = integer(1, 2048)
LAYERS = integer(1, 64)
NO_OR_MORE_LAYERS = integer(0, 64)
FULLY_CONNECTED = integer(1, 8192)
# 0 takes the number of classes from the data.
CLASSES = integer(0, 10_000)
CANDIDATES = integer(1, 1_000_000)
QUERIES = integer(1, 10_000)
ITERATIONS = integer(0, 10**9)
# Weights of losses, learning rates and their factors.
WEIGHT = number(0, 1e6)
# Sizes of images. The coarsest levels have strides of 32 to 128: smaller images would vanish there.
SIDE = integer(64, 32_768)
LONGEST_SIDE = integer(64, 1_000_000)
LEVELS = items(NAME, (1, 16))
NAMES = items(NAME, (0, 1000))
NORM = choice(*NORMS)
DILATIONS = items(integer(1, 256), (1, 16))
# Anchor sizes in strides.
SCALE = number(0.01, 1000)
RATIOS = items(number(0.01, 100), (1, 16))
THRESHOLDS = items(SHARE, (1, 2), order="sorted")
BOX_WEIGHTS = items(number(0.001, 1000), 4)
BOX_LOSS = choice("smooth_l1", "giou", "diou", "ciou")
MATCH_LABELS = items(choice(-1, 0, 1), (1, 3))
POOLERS = ("ROIAlignV2", "ROIAlign", "ROIPool")
POOLER = choice(*POOLERS)
POOLED_SIDE = integer(1, 128)
REGIONS = integer(1, 65_536)
BETA = number(0, 1e6)
GAMMA = number(0, 100)


def _per_level_or_shared(rule: Rule) -> Rule:
    """Allow one list for all levels, or a list of lists."""
    values = items(rule, (1, 64))
    return either(values, items(values, (1, 16)))


_NODES: dict[str, dict[str, Rule]] = {
    "": {
        "VERSION": choice(2),
        "OUTPUT_DIR": NAME,
        "SEED": Rule(
            "an integer below 2**32, negative for a random seed",
            lambda v: type(v) is int and v < 2**32,
        ),
        "CUDNN_BENCHMARK": BOOLEAN,
        "VIS_PERIOD": ITERATIONS,
        "GLOBAL.HACK": FINITE,
    },
    "MODEL": {
        "LOAD_PROPOSALS": BOOLEAN,
        "MASK_ON": BOOLEAN,
        "KEYPOINT_ON": BOOLEAN,
        "TF32": BOOLEAN,
        "DEVICE": NAME,
        "META_ARCHITECTURE": name_other_than(
            "ProposalNetwork", "SemanticSegmentor", reason="which predict no instances"
        ),
        "WEIGHTS": TEXT,
        "PIXEL_MEAN": items(number(-1e6, 1e6), (1, 64)),
        "PIXEL_STD": items(number(1e-6, 1e6), (1, 64)),
        "BACKBONE.NAME": NAME,
        # ResNets have a stem and four stages. Detectron2 freezes nothing for 0 and below.
        "BACKBONE.FREEZE_AT": integer(-1, 5),
        "BOTTOM_UP.NAME": NAME,
        "TIMM.NAME": NAME,
        "TIMM.FREEZE_BATCH_NORM": BOOLEAN,
        "FPN.IN_FEATURES": items(NAME, (0, 16)),
        "FPN.OUT_CHANNELS": integer(1, 1024),
        "FPN.NORM": NORM,
        "FPN.FUSE_TYPE": NAME,
        "BIFPN.REPEATS": integer(1, 32),
        "BIFPN.NORM": NORM,
        "PAFPN.PATH": choice("panet", "mmdetection"),
        "PROPOSAL_GENERATOR.NAME": name_other_than(
            "RRPN",
            "PrecomputedProposals",
            reason="because rotated boxes and proposal files are not supported",
        ),
        "PROPOSAL_GENERATOR.MIN_SIZE": integer(0, 1_000_000),
    },
    "MODEL.SOLOV2": {
        "NUM_CLASSES": CLASSES,
        "IN_FEATURES": LEVELS,
        "NUM_GRIDS": items(integer(2, 256), (1, 16)),
        "SCALE_RANGES": items(
            items(number(0, 1e6), 2, order="increasing"),
            (1, 16),
            words="pairs of a minimum and a maximum size from 0 to 1000000, 1 to 16 of them",
        ),
        "MIN_MASK_AREAS": items(number(0, 10_000), (1, 16)),
        "CENTER_SCALE": SHARE,
        "NUM_CONVS": LAYERS,
        "CONV_CHANNELS": CHANNELS,
        "KERNEL_CHANNELS": CHANNELS,
        "NORM": NORM,
        "PRIOR_PROB": PROBABILITY,
        "DEFORM_BRANCHES": items(choice("category", "kernel"), (0, 2)),
        "DEFORM_CONVS": NO_OR_MORE_LAYERS,
        "MASK_IN_FEATURES": LEVELS,
        "MASK_CHANNELS": CHANNELS,
        "MASK_STRIDE": choice(2, 4),
        "MASK_WINDOW": BOOLEAN,
        "WINDOW_LOSS_WEIGHT": WEIGHT,
        "FOCAL_LOSS_ALPHA": SHARE,
        "FOCAL_LOSS_GAMMA": GAMMA,
        "DICE_WEIGHT": WEIGHT,
        "MAX_POSITIVE_CELLS": integer(0, 10**9),
        "SCORE_THRESH_TEST": SHARE,
        "MASK_THRESH_TEST": PROBABILITY,
        "TOPK_CANDIDATES_TEST": CANDIDATES,
        "PRE_NMS_TOPK_TEST": CANDIDATES,
        "POINTS_NMS": BOOLEAN,
        "NMS_KERNEL": choice("gaussian", "linear"),
        "NMS_SIGMA": number(0, 1000),
        "NMS_SCORE_THRESH_TEST": SHARE,
    },
    "MODEL.SOLO": {
        "NUM_CONVS": LAYERS,
        "CONV_CHANNELS": CHANNELS,
        "MASK_PRIOR_PROB": PROBABILITY,
        "DECOUPLED": BOOLEAN,
    },
    "MODEL.YOLACT": {
        "NUM_CLASSES": CLASSES,
        "IN_FEATURES": LEVELS,
        "PROTOTYPE_IN_FEATURE": NAME,
        "ANCHOR_SCALE": SCALE,
        "ANCHOR_RATIOS": RATIOS,
        "NUM_PROTOTYPES": integer(1, 1024),
        "CONV_CHANNELS": CHANNELS,
        "NUM_CONVS": NO_OR_MORE_LAYERS,
        "NUM_PROTOTYPE_CONVS": NO_OR_MORE_LAYERS,
        "IOU_THRESHOLDS": items(number(0, 1, above=True), 2, order="sorted"),
        "BBOX_REG_WEIGHTS": BOX_WEIGHTS,
        "NEGATIVE_RATIO": WEIGHT,
        "BOX_WEIGHT": WEIGHT,
        "MASK_WEIGHT": WEIGHT,
        "SEMANTIC_WEIGHT": WEIGHT,
        "MAX_MASKS": CANDIDATES,
        "SCORE_THRESH_TEST": SHARE,
        "MASK_THRESH_TEST": PROBABILITY,
        "NMS_THRESH_TEST": SHARE,
        "PRE_NMS_TOPK_TEST": CANDIDATES,
    },
    "MODEL.CONDINST": {
        "NUM_CLASSES": CLASSES,
        "IN_FEATURES": LEVELS,
        "NUM_CONVS": LAYERS,
        "CONV_CHANNELS": CHANNELS,
        "NORM": NORM,
        "PRIOR_PROB": PROBABILITY,
        "CENTER_SAMPLING_RADIUS": number(0.5, 1000),
        "CENTERNESS": choice("box", "ellipse"),
        "ELLIPSE_BORDER": PROBABILITY,
        "FOCAL_LOSS_ALPHA": SHARE,
        "FOCAL_LOSS_GAMMA": GAMMA,
        "MASK_IN_FEATURES": LEVELS,
        "NUM_MASK_CONVS": NO_OR_MORE_LAYERS,
        "MASK_CONV_CHANNELS": CHANNELS,
        "MASK_CHANNELS": integer(1, 256),
        "MASK_NORM": NORM,
        # The parameters of the dynamic convolutions are channels of a layer.
        "DYNAMIC_CONVS": integer(1, 8),
        "DYNAMIC_CHANNELS": integer(1, 64),
        "MAX_MASKS": CANDIDATES,
        "SCORE_THRESH_TEST": SHARE,
        "MASK_THRESH_TEST": PROBABILITY,
        "NMS_THRESH_TEST": SHARE,
        "TOPK_CANDIDATES_TEST": CANDIDATES,
    },
    "MODEL.RDSNET": {
        "NUM_CLASSES": CLASSES,
        "IN_FEATURES": LEVELS,
        "ANCHOR_SCALE": SCALE,
        "ANCHORS_PER_OCTAVE": integer(1, 16),
        "ANCHOR_RATIOS": RATIOS,
        "NUM_CONVS": NO_OR_MORE_LAYERS,
        "CONV_CHANNELS": CHANNELS,
        "NORM": NORM,
        "PRIOR_PROB": PROBABILITY,
        "REPRESENTATION_CHANNELS": integer(1, 1024),
        "MASK_IN_FEATURES": LEVELS,
        "IOU_THRESHOLDS": items(number(0, 1, above=True), 2, order="sorted"),
        "BBOX_REG_WEIGHTS": BOX_WEIGHTS,
        "FOCAL_LOSS_ALPHA": SHARE,
        "FOCAL_LOSS_GAMMA": GAMMA,
        "SMOOTH_L1_LOSS_BETA": BETA,
        "MASK_WEIGHT": WEIGHT,
        "MAX_MASKS": CANDIDATES,
        "MIN_MASK_AREA": integer(0, 10**9),
        "MASK_BOX_MARGIN": number(0, 100),
        "NEGATIVE_RATIO": WEIGHT,
        "SCORE_THRESH_TEST": SHARE,
        "MASK_THRESH_TEST": PROBABILITY,
        "MASK_BOX_MARGIN_TEST": number(0, 100),
        "NMS_THRESH_TEST": SHARE,
        "TOPK_CANDIDATES_TEST": CANDIDATES,
    },
    "MODEL.QUERYINST": {
        "NUM_CLASSES": CLASSES,
        "IN_FEATURES": LEVELS,
        "NUM_QUERIES": QUERIES,
        "NUM_STAGES": integer(1, 16),
        "NUM_HEADS": integer(1, 64),
        "DYNAMIC_CHANNELS": integer(1, 256),
        "FC_DIM": FULLY_CONNECTED,
        "POOLER_RESOLUTION": integer(1, 32),
        "MASK_POOLER_RESOLUTION": integer(2, 64),
        "NUM_MASK_CONVS": NO_OR_MORE_LAYERS,
        "MASK_NORM": NORM,
        "PRIOR_PROB": PROBABILITY,
        "FOCAL_LOSS_ALPHA": SHARE,
        "FOCAL_LOSS_GAMMA": GAMMA,
        "CLASS_WEIGHT": WEIGHT,
        "L1_WEIGHT": WEIGHT,
        "GIOU_WEIGHT": WEIGHT,
        "MASK_WEIGHT": WEIGHT,
        "SCORE_THRESH_TEST": SHARE,
        "MASK_THRESH_TEST": PROBABILITY,
    },
    "MODEL.MASK2FORMER": {
        "NUM_CLASSES": CLASSES,
        "IN_FEATURES": items(NAME, (2, 16)),
        "NUM_QUERIES": QUERIES,
        "CHANNELS": CHANNELS,
        "NUM_HEADS": integer(1, 64),
        "NORM": NORM,
        "NUM_ENCODER_LAYERS": LAYERS,
        "NUM_SAMPLING_POINTS": integer(1, 64),
        "ENCODER_FC_DIM": FULLY_CONNECTED,
        "NUM_DECODER_LAYERS": LAYERS,
        "DECODER_FC_DIM": FULLY_CONNECTED,
        "CLASS_WEIGHT": WEIGHT,
        "MASK_WEIGHT": WEIGHT,
        "DICE_WEIGHT": WEIGHT,
        "NO_OBJECT_WEIGHT": WEIGHT,
        "TRAIN_NUM_POINTS": REGIONS,
        "OBJECT_SAMPLE_RATIO": SHARE,
        "OVERSAMPLE_RATIO": number(1, 100),
        "IMPORTANCE_SAMPLE_RATIO": SHARE,
        "SCORE_THRESH_TEST": SHARE,
        "MASK_THRESH_TEST": PROBABILITY,
    },
    "MODEL.FACE_FPN": {
        "ASPP_CHANNELS": CHANNELS,
        "ASPP_DILATIONS": DILATIONS,
        "ASPP_NORM": NORM,
        "ASPP_SHORTCUT": BOOLEAN,
        "TOP_DOWN": BOOLEAN,
        "OUTPUT_CONVS": BOOLEAN,
        "SUBPIXEL_CONV_FIRST": BOOLEAN,
    },
    "MODEL.SEM": {
        "ENABLED": BOOLEAN,
        "CHANNELS": CHANNELS,
        "DILATIONS": DILATIONS,
        "RESIDUAL": BOOLEAN,
        "NORM": NORM,
    },
    "MODEL.ANCHOR_GENERATOR": {
        "NAME": name_other_than(
            "RotatedAnchorGenerator", reason="because rotated boxes are not supported"
        ),
        "SCALE": SCALE,
        "SIZES": _per_level_or_shared(number(0.01, 1e6)),
        "ASPECT_RATIOS": _per_level_or_shared(number(0.01, 100)),
        "ANGLES": _per_level_or_shared(number(-360, 360)),
        "OFFSET": number(0, 1, below=True),
    },
    "MODEL.RPN": {
        "HEAD_NAME": NAME,
        "IN_FEATURES": LEVELS,
        # -1 keeps the anchors that reach beyond the image.
        "BOUNDARY_THRESH": integer(-1, 10**9),
        "IOU_THRESHOLDS": THRESHOLDS,
        "IOU_LABELS": MATCH_LABELS,
        "BATCH_SIZE_PER_IMAGE": REGIONS,
        "POSITIVE_FRACTION": SHARE,
        "BBOX_REG_LOSS_TYPE": BOX_LOSS,
        "BBOX_REG_LOSS_WEIGHT": WEIGHT,
        "BBOX_REG_WEIGHTS": BOX_WEIGHTS,
        "SMOOTH_L1_BETA": BETA,
        "LOSS_WEIGHT": WEIGHT,
        "PRE_NMS_TOPK_TRAIN": CANDIDATES,
        "PRE_NMS_TOPK_TEST": CANDIDATES,
        "POST_NMS_TOPK_TRAIN": CANDIDATES,
        "POST_NMS_TOPK_TEST": CANDIDATES,
        "NMS_THRESH": SHARE,
        # -1 takes the number of input channels.
        "CONV_DIMS": items(either(CHANNELS, choice(-1)), (1, 64)),
    },
    "MODEL.ROI_HEADS": {
        "NAME": name_other_than("RROIHeads", reason="because rotated boxes are not supported"),
        "NUM_CLASSES": CLASSES,
        "IN_FEATURES": LEVELS,
        "IOU_THRESHOLDS": THRESHOLDS,
        "IOU_LABELS": MATCH_LABELS,
        "BATCH_SIZE_PER_IMAGE": REGIONS,
        "POSITIVE_FRACTION": SHARE,
        "SCORE_THRESH_TEST": SHARE,
        "NMS_THRESH_TEST": SHARE,
        "PROPOSAL_APPEND_GT": BOOLEAN,
    },
    "MODEL.ROI_BOX_HEAD": {
        "NAME": TEXT,
        "BBOX_REG_LOSS_TYPE": BOX_LOSS,
        "BBOX_REG_LOSS_WEIGHT": WEIGHT,
        "BBOX_REG_WEIGHTS": BOX_WEIGHTS,
        "SMOOTH_L1_BETA": BETA,
        "POOLER_RESOLUTION": POOLED_SIDE,
        # 0 adapts the number of samples to the size of the region.
        "POOLER_SAMPLING_RATIO": integer(0, 16),
        "POOLER_TYPE": POOLER,
        "NUM_FC": NO_OR_MORE_LAYERS,
        "FC_DIM": FULLY_CONNECTED,
        "NUM_CONV": NO_OR_MORE_LAYERS,
        "CONV_DIM": CHANNELS,
        "NORM": NORM,
        "CLS_AGNOSTIC_BBOX_REG": BOOLEAN,
        "TRAIN_ON_PRED_BOXES": BOOLEAN,
    },
    "MODEL.ROI_BOX_CASCADE_HEAD": {
        "BBOX_REG_WEIGHTS": items(BOX_WEIGHTS, (1, 16)),
        "IOUS": items(SHARE, (1, 16)),
    },
    "MODEL.ROI_MASK_HEAD": {
        "NAME": TEXT,
        "POOLER_RESOLUTION": POOLED_SIDE,
        "POOLER_SAMPLING_RATIO": integer(0, 16),
        # Empty for PointRend, which samples the features itself.
        "POOLER_TYPE": choice(*POOLERS, ""),
        "NUM_CONV": NO_OR_MORE_LAYERS,
        "CONV_DIM": CHANNELS,
        "NORM": NORM,
        "CLS_AGNOSTIC_MASK": BOOLEAN,
        "IN_FEATURES": LEVELS,
        "FC_DIM": FULLY_CONNECTED,
        "NUM_FC": NO_OR_MORE_LAYERS,
        "OUTPUT_SIDE_RESOLUTION": POOLED_SIDE,
        "POINT_HEAD_ON": BOOLEAN,
    },
    "MODEL.ROI_MASK_IOU_HEAD": {
        "CONV_DIM": CHANNELS,
        "NUM_CONV": LAYERS,
        "FC_DIM": FULLY_CONNECTED,
        "LOSS_WEIGHT": WEIGHT,
    },
    "MODEL.ROI_MASK_FUSION": {
        # The fully connected layer after it has up to 2.5 million weights for each channel.
        "CONV_DIM": integer(1, 512),
    },
    "MODEL.ROI_MASK_REFINEMENT": {
        "NUM_SEMANTIC_CONV": LAYERS,
        "SEMANTIC_CONV_DIM": CHANNELS,
        "DILATIONS": DILATIONS,
        "LOSS_WEIGHTS": items(WEIGHT, 4),
        "SEMANTIC_LOSS_WEIGHT": WEIGHT,
        "BOUNDARY_WIDTH": integer(1, 64),
        "CLS_LOSS_WEIGHT": WEIGHT,
    },
    "MODEL.ROI_KEYPOINT_HEAD": {
        "NAME": TEXT,
        "POOLER_RESOLUTION": POOLED_SIDE,
        "POOLER_SAMPLING_RATIO": integer(0, 16),
        "CONV_DIMS": items(CHANNELS, (0, 64)),
        "NUM_KEYPOINTS": integer(0, 10_000),
        "MIN_KEYPOINTS_PER_IMAGE": integer(0, 10_000),
        "NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS": BOOLEAN,
        "LOSS_WEIGHT": WEIGHT,
        "POOLER_TYPE": POOLER,
    },
    "MODEL.POINT_HEAD": {
        "NAME": TEXT,
        "NUM_CLASSES": CLASSES,
        "IN_FEATURES": LEVELS,
        "TRAIN_NUM_POINTS": REGIONS,
        "OVERSAMPLE_RATIO": number(1, 100),
        "IMPORTANCE_SAMPLE_RATIO": SHARE,
        # Each step doubles the side of the masks.
        "SUBDIVISION_STEPS": integer(0, 8),
        "SUBDIVISION_NUM_POINTS": REGIONS,
        "FC_DIM": FULLY_CONNECTED,
        "NUM_FC": NO_OR_MORE_LAYERS,
        "CLS_AGNOSTIC_MASK": BOOLEAN,
        "COARSE_PRED_EACH_LAYER": BOOLEAN,
        "COARSE_SEM_SEG_HEAD_NAME": TEXT,
    },
    "MODEL.IMPLICIT_POINTREND": {
        "IMAGE_FEATURE_ENABLED": BOOLEAN,
        "POS_ENC_ENABLED": BOOLEAN,
        "PARAMS_L2_REGULARIZER": WEIGHT,
    },
    "MODEL.SEM_SEG_HEAD": {
        "NAME": TEXT,
        "IN_FEATURES": LEVELS,
        "IGNORE_VALUE": integer(-1, 10**9),
        "NUM_CLASSES": CLASSES,
        "CONVS_DIM": CHANNELS,
        "COMMON_STRIDE": integer(1, 128),
        "NORM": NORM,
        "LOSS_WEIGHT": WEIGHT,
    },
    "MODEL.PANOPTIC_FPN": {
        "INSTANCE_LOSS_WEIGHT": WEIGHT,
        "COMBINE.ENABLED": BOOLEAN,
        "COMBINE.OVERLAP_THRESH": SHARE,
        "COMBINE.STUFF_AREA_LIMIT": integer(0, 10**9),
        "COMBINE.INSTANCES_CONFIDENCE_THRESH": SHARE,
    },
    "MODEL.RETINANET": {
        "NUM_CLASSES": CLASSES,
        "IN_FEATURES": LEVELS,
        "NUM_CONVS": NO_OR_MORE_LAYERS,
        "IOU_THRESHOLDS": THRESHOLDS,
        "IOU_LABELS": MATCH_LABELS,
        "PRIOR_PROB": PROBABILITY,
        "SCORE_THRESH_TEST": SHARE,
        "TOPK_CANDIDATES_TEST": CANDIDATES,
        "NMS_THRESH_TEST": SHARE,
        "BBOX_REG_WEIGHTS": BOX_WEIGHTS,
        "FOCAL_LOSS_GAMMA": GAMMA,
        # -1 weights both classes equally.
        "FOCAL_LOSS_ALPHA": either(SHARE, choice(-1, -1.0)),
        "SMOOTH_L1_LOSS_BETA": BETA,
        "BBOX_REG_LOSS_TYPE": BOX_LOSS,
        "NORM": NORM,
    },
    "MODEL.RESNETS": {
        "DEPTH": choice(18, 34, 50, 101, 152),
        "OUT_FEATURES": LEVELS,
        "NUM_GROUPS": integer(1, 64),
        "NORM": NORM,
        "WIDTH_PER_GROUP": integer(1, 512),
        "STRIDE_IN_1X1": BOOLEAN,
        "RES5_DILATION": choice(1, 2),
        "RES2_OUT_CHANNELS": integer(1, 2048),
        "STEM_OUT_CHANNELS": integer(1, 2048),
        "DEFORM_ON_PER_STAGE": items(BOOLEAN, 4),
        "DEFORM_MODULATED": BOOLEAN,
        "DEFORM_NUM_GROUPS": integer(1, 64),
    },
    "INPUT": {
        "MIN_SIZE_TRAIN": items(SIDE, (1, 1000)),
        "MIN_SIZE_TRAIN_SAMPLING": choice("choice", "range"),
        "MAX_SIZE_TRAIN": LONGEST_SIDE,
        # 0 keeps the size of the images.
        "MIN_SIZE_TEST": either(SIDE, choice(0)),
        "MAX_SIZE_TEST": LONGEST_SIDE,
        "BANDS": items(integer(1, 65_535), (0, 64)),
        "STRETCH": TEXT,
        "RANDOM_FLIP": choice("none", "horizontal", "vertical", "both"),
        "RANDOM_QUARTER_TURN": BOOLEAN,
        "COLOR_AUG_SSD": BOOLEAN,
        "FORMAT": choice("BGR", "RGB", "L", "YUV-BT.601", "HSV", "YCbCr", "LAB", "RGBA", "CMYK"),
        "MASK_FORMAT": choice("polygon", "bitmask", "stride4"),
        "CROP.ENABLED": BOOLEAN,
        "CROP.TYPE": choice("relative_range", "relative", "absolute", "absolute_range"),
        "CROP.SIZE": items(number(0.05, 32_768), 2),
        "CROP.SINGLE_CATEGORY_MAX_AREA": SHARE,
        "SCALE_JITTER.ENABLED": BOOLEAN,
        "SCALE_JITTER.MIN_SCALE": number(0.01, 100),
        "SCALE_JITTER.MAX_SCALE": number(0.01, 100),
        "SCALE_JITTER.SIZE": SIDE,
        "RAND_AUGMENT.ENABLED": BOOLEAN,
        "RAND_AUGMENT.NUM_OPS": integer(0, 100),
        "RAND_AUGMENT.MAGNITUDE": integer(0, 30),
        "RAND_AUGMENT.OPERATIONS": NAMES,
    },
    "DATASETS": {
        "TRAIN": NAMES,
        "TEST": NAMES,
        "PROPOSAL_FILES_TRAIN": NAMES,
        "PROPOSAL_FILES_TEST": NAMES,
        "PRECOMPUTED_PROPOSAL_TOPK_TRAIN": CANDIDATES,
        "PRECOMPUTED_PROPOSAL_TOPK_TEST": CANDIDATES,
        "COCO": items(
            items(NAME, 3), (0, 1000), words="a list of [name, JSON file, image folder] lists"
        ),
        "CLASS_NAMES": items(Rule("text", lambda v: isinstance(v, str)), (0, 10_000)),
        "CATEGORY_IDS": items(integer(-(2**63), 2**63 - 1), (0, 10_000)),
    },
    "DATALOADER": {
        "NUM_WORKERS": integer(0, 256),
        "ASPECT_RATIO_GROUPING": BOOLEAN,
        "SAMPLER_TRAIN": NAME,
        "REPEAT_THRESHOLD": SHARE,
        "FILTER_EMPTY_ANNOTATIONS": BOOLEAN,
    },
    "SOLVER": {
        "LR_SCHEDULER_NAME": NAME,
        "OPTIMIZER": choice("SGD", "AdamW"),
        "MAX_ITER": ITERATIONS,
        "BASE_LR": WEIGHT,
        "BASE_LR_END": WEIGHT,
        "BACKBONE_MULTIPLIER": WEIGHT,
        "OFFSET_MULTIPLIER": WEIGHT,
        "BIAS_LR_FACTOR": or_null(WEIGHT),
        "MOMENTUM": number(0, 1, below=True),
        "NESTEROV": BOOLEAN,
        "WEIGHT_DECAY": WEIGHT,
        "WEIGHT_DECAY_NORM": or_null(WEIGHT),
        "WEIGHT_DECAY_BIAS": or_null(WEIGHT),
        "WEIGHT_DECAY_EMBED": or_null(WEIGHT),
        "GAMMA": SHARE,
        # Steps beyond MAX_ITER are ignored.
        "STEPS": items(integer(1, 10**9), (0, 1000), order="increasing"),
        "NUM_DECAYS": integer(0, 1000),
        "RESCALE_INTERVAL": BOOLEAN,
        "WARMUP_FACTOR": SHARE,
        "WARMUP_ITERS": ITERATIONS,
        "WARMUP_METHOD": choice("linear", "constant"),
        "CHECKPOINT_PERIOD": ITERATIONS,
        "IMS_PER_BATCH": integer(1, 1024),
        # 0 switches scaling to the number of GPUs off.
        "REFERENCE_WORLD_SIZE": integer(0, 10_000),
        "CHANNELS_LAST": BOOLEAN,
        "AMP.ENABLED": BOOLEAN,
        "AMP.DTYPE": choice("fp16", "bf16", ""),
        "CLIP_GRADIENTS.ENABLED": BOOLEAN,
        "CLIP_GRADIENTS.CLIP_TYPE": choice("value", "norm", "full_model"),
        "CLIP_GRADIENTS.CLIP_VALUE": number(1e-6, 1e6),
        "CLIP_GRADIENTS.NORM_TYPE": either(number(1, 1000), choice(float("inf"))),
    },
    "TEST": {
        "EXPECTED_RESULTS": items(
            Rule(
                "[task, metric, value, tolerance]",
                lambda v: (
                    isinstance(v, (list, tuple))
                    and len(v) == 4
                    and all(map(NAME.allows, v[:2]))
                    and all(map(number(-1e6, 1e6).allows, v[2:]))
                ),
            ),
            (0, 1000),
        ),
        "EVAL_PERIOD": ITERATIONS,
        "KEYPOINT_OKS_SIGMAS": items(number(0, 1000), (0, 10_000)),
        "DETECTIONS_PER_IMAGE": integer(1, 100_000),
        "AREA_RANGES": items(items(number(0, 1e12), 2, order="increasing"), 3),
        "SCENE.BANDS": items(integer(1, 10_000), (0, 1000)),
        "SCENE.PIXEL_SIZE": number(0, 1e6),
        "SCENE.STRETCH": TEXT,
        "SCENE.OVERLAP": integer(0, 100_000),
        "AUTOCAST": choice("bf16", "fp16", ""),
        "CHANNELS_LAST": BOOLEAN,
        "COMPILE": BOOLEAN,
        "FOLD_BATCH_NORM": BOOLEAN,
        "AUG.ENABLED": BOOLEAN,
        "AUG.MIN_SIZES": items(SIDE, (1, 1000)),
        "AUG.MAX_SIZE": LONGEST_SIDE,
        "AUG.FLIP": BOOLEAN,
        "PRECISE_BN.ENABLED": BOOLEAN,
        "PRECISE_BN.NUM_ITER": integer(1, 1_000_000),
    },
}

RULES: dict[str, Rule] = {
    f"{node}.{key}".lstrip("."): rule
    for node, rules in _NODES.items()
    for key, rule in rules.items()
}
"""Rule of each key."""


def _allows_timm_arguments(arguments: dict[str, Any]) -> bool:
    return FINITE.allows(arguments) and all(
        DROP_RATE.allows(value) for key, value in arguments.items() if key.endswith("_rate")
    )


DROP_RATE = number(0, 1, below=True)
OPEN_NODES: dict[str, Rule] = {
    "MODEL.TIMM.ARGUMENTS": Rule(
        f"values without infinite or NaN numbers, and those of *_rate {DROP_RATE.words}",
        _allows_timm_arguments,
    )
}
"""Rules of nodes that accept any further keys."""
