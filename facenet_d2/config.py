"""The project's configuration keys and their defaults."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

# Meta-architectures that find instances by the cells of grids: their keys are under MODEL.SOLOV2.
GRID_MODELS = ("SOLO", "SOLOv2")
# Meta-architectures whose losses compare masks at a quarter of the input's size.
QUARTER_MASK_MODELS = (*GRID_MODELS, "YOLACT", "CondInst")
# The node of MODEL that has NUM_CLASSES; of other meta-architectures it is ROI_HEADS.
CLASSES_NODES = {
    "SOLO": "SOLOV2",
    "SOLOv2": "SOLOV2",
    "YOLACT": "YOLACT",
    "CondInst": "CONDINST",
    "RetinaNet": "RETINANET",
}


def score_threshold_key(cfg: CN) -> str:
    """The key below whose score a config's model finds nothing."""
    node = CLASSES_NODES.get(cfg.MODEL.META_ARCHITECTURE, "ROI_HEADS")
    name = "SCORE_THRESHOLD" if "SCORE_THRESHOLD" in cfg.MODEL[node] else "SCORE_THRESH_TEST"
    return f"MODEL.{node}.{name}"


def add_facenet_config(cfg: CN) -> None:
    """Add this project's keys to a Detectron2 config.

    Args:
        cfg: as :func:`detectron2.config.get_cfg` gives it; changed in place.
    """
    # ---- SOLOv2: the defaults are the published model -------------------------------------------
    # What is not said to be of the branches or the mask features holds for SOLO too.
    cfg.MODEL.SOLOV2 = CN()
    # 0: as many as the first training set has. Any other number is checked against it.
    cfg.MODEL.SOLOV2.NUM_CLASSES = 0
    # One entry a level, finest first. SCALE_RANGES: least and greatest square root of a box's area,
    # in pixels of the network's input.
    cfg.MODEL.SOLOV2.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    # MIN_MASK_AREAS: predicted masks of no more pixels, at a quarter of the network's input, are
    # dropped. The published figures (the strides of the levels) are for inputs of about 800 pixels:
    # under them, objects of less than about 12x12 are never found.
    cfg.MODEL.SOLOV2.MIN_MASK_AREAS = [8, 8, 16, 32, 32]
    cfg.MODEL.SOLOV2.NUM_GRIDS = [40, 36, 24, 16, 12]
    cfg.MODEL.SOLOV2.SCALE_RANGES = [[1, 96], [48, 192], [96, 384], [192, 768], [384, 2048]]
    # Side of the centre region whose cells are positive, as a share of the box's.
    cfg.MODEL.SOLOV2.CENTER_SCALE = 0.2
    # Category and kernel branches.
    cfg.MODEL.SOLOV2.NUM_CONVS = 4
    cfg.MODEL.SOLOV2.CONV_CHANNELS = 512
    cfg.MODEL.SOLOV2.KERNEL_CHANNELS = 256
    cfg.MODEL.SOLOV2.NORM = "GN"
    cfg.MODEL.SOLOV2.PRIOR_PROB = 0.01
    # The deformable head: which branches ("category", "kernel") have DCNv2, and in how many of
    # their convolutions, counted from the end.
    cfg.MODEL.SOLOV2.DEFORM_BRANCHES = []
    cfg.MODEL.SOLOV2.DEFORM_CONVS = 1
    # Mask features.
    cfg.MODEL.SOLOV2.MASK_IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.SOLOV2.MASK_CHANNELS = 128
    # Loss, equation (9).
    cfg.MODEL.SOLOV2.FOCAL_ALPHA = 0.25
    cfg.MODEL.SOLOV2.FOCAL_GAMMA = 2.0
    cfg.MODEL.SOLOV2.DICE_WEIGHT = 3.0
    # At most so many positive cells of a step have a mask loss, taken evenly from all; 0: no limit.
    # Bounds time, not memory, which does not grow with them. SOLOv2 alone.
    cfg.MODEL.SOLOV2.MAX_POSITIVE_CELLS = 0
    # Inference. The most instances an image: TEST.DETECTIONS_PER_IMAGE.
    cfg.MODEL.SOLOV2.SCORE_THRESHOLD = 0.1
    cfg.MODEL.SOLOV2.MASK_THRESHOLD = 0.5
    # At most so many candidates, those of the best scores, have their masks made; then the best
    # NMS_PRE of these go into Matrix NMS. The published code has no such limit.
    cfg.MODEL.SOLOV2.MAX_CANDIDATES = 1000
    cfg.MODEL.SOLOV2.NMS_PRE = 500
    cfg.MODEL.SOLOV2.NMS_KERNEL = "gaussian"
    cfg.MODEL.SOLOV2.NMS_SIGMA = 2.0
    cfg.MODEL.SOLOV2.UPDATE_THRESHOLD = 0.05

    # ---- SOLO (MODEL.META_ARCHITECTURE SOLO): the defaults are the published model --------------
    cfg.MODEL.SOLO = CN()
    # Category and mask branches.
    cfg.MODEL.SOLO.NUM_CONVS = 7
    cfg.MODEL.SOLO.CONV_CHANNELS = 256
    # The probability that every pixel of a mask (decoupled: of both factors) starts with.
    # Published; from scratch 0.1 learns at once where 0.01 stands still for a hundred steps.
    cfg.MODEL.SOLO.MASK_PRIOR_PROB = 0.01
    # Decoupled SOLO: 2S masks a level, of the cells' columns and rows, in place of S^2.
    cfg.MODEL.SOLO.DECOUPLED = False

    # ---- R-CNN (configs/models): StrideAnchorGenerator ------------------------------------------
    # Size of a level's anchors, in its strides.
    cfg.MODEL.ANCHOR_GENERATOR.SCALE = 8.0

    # ---- Mask Scoring R-CNN (MODEL.ROI_MASK_HEAD.NAME MaskScoringHead) --------------------------
    cfg.MODEL.ROI_MASK_IOU_HEAD = CN()
    cfg.MODEL.ROI_MASK_IOU_HEAD.CONV_DIM = 256
    cfg.MODEL.ROI_MASK_IOU_HEAD.NUM_CONV = 4
    cfg.MODEL.ROI_MASK_IOU_HEAD.FC_DIM = 1024
    cfg.MODEL.ROI_MASK_IOU_HEAD.LOSS_WEIGHT = 0.5

    # ---- YOLACT (MODEL.META_ARCHITECTURE YOLACT): the defaults are the published model -----------
    cfg.MODEL.YOLACT = CN()
    # 0: as many as the first training set has.
    cfg.MODEL.YOLACT.NUM_CLASSES = 0
    # With a neck that gives p2 to p6: these, or fewer of them.
    cfg.MODEL.YOLACT.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    # Of stride 8; the prototypes are twice as fine.
    cfg.MODEL.YOLACT.PROTOTYPE_IN_FEATURE = "p3"
    # Size of a level's anchors, in its strides.
    cfg.MODEL.YOLACT.ANCHOR_SCALE = 3.0
    cfg.MODEL.YOLACT.ANCHOR_RATIOS = [0.5, 1.0, 2.0]
    cfg.MODEL.YOLACT.NUM_PROTOTYPES = 32
    cfg.MODEL.YOLACT.CONV_CHANNELS = 256
    # Shared by classes, boxes and coefficients; before the prototypes are enlarged.
    cfg.MODEL.YOLACT.NUM_CONVS = 1
    cfg.MODEL.YOLACT.NUM_PROTOTYPE_CONVS = 3
    # Anchors of a lower overlap are background, those between do not count.
    cfg.MODEL.YOLACT.IOU_THRESHOLDS = [0.4, 0.5]
    cfg.MODEL.YOLACT.BBOX_REG_WEIGHTS = [10.0, 10.0, 5.0, 5.0]
    # Background anchors that count for each positive one, the hardest.
    cfg.MODEL.YOLACT.NEGATIVE_RATIO = 3.0
    cfg.MODEL.YOLACT.BOX_WEIGHT = 1.5
    cfg.MODEL.YOLACT.MASK_WEIGHT = 6.125
    cfg.MODEL.YOLACT.SEMANTIC_WEIGHT = 1.0
    # At most so many positive anchors of an image have a mask loss, taken evenly from all
    # (published: at random).
    cfg.MODEL.YOLACT.MAX_MASKS = 100
    cfg.MODEL.YOLACT.SCORE_THRESHOLD = 0.05
    cfg.MODEL.YOLACT.MASK_THRESHOLD = 0.5
    # Fast NMS.
    cfg.MODEL.YOLACT.NMS_THRESHOLD = 0.5
    cfg.MODEL.YOLACT.TOP_K = 200

    # ---- CondInst (MODEL.META_ARCHITECTURE CondInst) --------------------------------------------
    # The defaults are the published model on Detectron2's FCOS (configs/models/condinst.yaml says
    # what that does otherwise).
    cfg.MODEL.CONDINST = CN()
    # 0: as many as the first training set has.
    cfg.MODEL.CONDINST.NUM_CLASSES = 0
    # With a neck that gives p2 to p6: these, or fewer of them.
    cfg.MODEL.CONDINST.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    # FCOS.
    cfg.MODEL.CONDINST.NUM_CONVS = 4
    cfg.MODEL.CONDINST.CONV_CHANNELS = 256
    cfg.MODEL.CONDINST.NORM = "GN"
    cfg.MODEL.CONDINST.PRIOR_PROB = 0.01
    cfg.MODEL.CONDINST.CENTER_SAMPLING_RADIUS = 1.5
    cfg.MODEL.CONDINST.FOCAL_ALPHA = 0.25
    cfg.MODEL.CONDINST.FOCAL_GAMMA = 2.0
    # The mask branch; the finest of its levels is of stride 8.
    cfg.MODEL.CONDINST.MASK_IN_FEATURES = ["p3", "p4", "p5"]
    cfg.MODEL.CONDINST.MASK_CONV_CHANNELS = 128
    cfg.MODEL.CONDINST.MASK_NUM_CONVS = 4
    cfg.MODEL.CONDINST.MASK_CHANNELS = 8
    cfg.MODEL.CONDINST.MASK_NORM = "BN"
    # The mask head, whose parameters each instance brings.
    cfg.MODEL.CONDINST.DYNAMIC_CONVS = 3
    cfg.MODEL.CONDINST.DYNAMIC_CHANNELS = 8
    # At most about so many positions of an image have a mask loss: of each object the best.
    cfg.MODEL.CONDINST.MAX_MASKS = 64
    cfg.MODEL.CONDINST.SCORE_THRESHOLD = 0.05
    cfg.MODEL.CONDINST.MASK_THRESHOLD = 0.5
    cfg.MODEL.CONDINST.NMS_THRESHOLD = 0.6
    # Candidates of a level.
    cfg.MODEL.CONDINST.TOP_K = 1000

    # ---- Optimizer and precision of training ----------------------------------------------------
    # "SGD" or "AdamW".
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Learning rate multipliers of the bottom-up network, and of the offsets and modulation of
    # deformable convolutions.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    cfg.SOLVER.OFFSET_MULTIPLIER = 1.0
    # The type of SOLVER.AMP: "fp16" or "bf16"; empty for fp16 on a GPU and bf16 on a CPU.
    cfg.SOLVER.AMP.DTYPE = ""
    # Train in channels-last memory format; on a CPU also with faster backward passes.
    cfg.SOLVER.CHANNELS_LAST = False

    # ---- Speed ----------------------------------------------------------------------------------
    # Of inference by train_net.py --eval-only and demo.py (docs/SPEED.md has what each gains).
    # AUTOCAST: "bf16" or "fp16", the network in that precision; post-processing stays in float32.
    cfg.TEST.AUTOCAST = ""
    # Convolutions on images in memory order NHWC.
    cfg.TEST.CHANNELS_LAST = False
    # Compile the network; takes minutes at the first image.
    cfg.TEST.COMPILE = False
    # Fold batch normalisation into the convolutions.
    cfg.TEST.FOLD_BATCH_NORM = False
    # In training and inference, on GPUs that have it: float32 products and convolutions in TF32.
    cfg.MODEL.TF32 = True

    # ---- Backbones ------------------------------------------------------------------------------
    # MODEL.BACKBONE.NAME chooses the neck: build_{fpn,sem_fpn,face_fpn,pafpn,bifpn,hrfpn,
    # retinanet_fpn}_backbone. BOTTOM_UP.NAME chooses the network under it: build_resnet_backbone
    # (MODEL.RESNETS), build_timm_backbone (MODEL.TIMM), or another backbone builder whose features
    # are called res2 to res5. The builders with "resnet" in their names always use a ResNet.
    cfg.MODEL.BOTTOM_UP = CN()
    cfg.MODEL.BOTTOM_UP.NAME = "build_resnet_backbone"
    # Any timm model with features at strides 4, 8, 16 and 32.
    cfg.MODEL.TIMM = CN()
    cfg.MODEL.TIMM.NAME = "tf_efficientnet_lite0"
    # Freeze statistics and affine parameters of all batch normalisation.
    cfg.MODEL.TIMM.FREEZE_BATCH_NORM = True
    # Further arguments of timm.create_model, in YAML: {drop_path_rate: 0.1}.
    cfg.MODEL.TIMM.ARGUMENTS = CN(new_allowed=True)

    # ---- FACE-FPN (MODEL.BACKBONE.NAME build_face_fpn_backbone) ---------------------------------
    # Its levels, width and the norm of its plain projections are MODEL.FPN's.
    cfg.MODEL.FACE_FPN = CN()
    cfg.MODEL.FACE_FPN.ASPP_CHANNELS = 32
    cfg.MODEL.FACE_FPN.ASPP_DILATIONS = [6, 12, 18]
    cfg.MODEL.FACE_FPN.ASPP_NORM = "GN"
    # ASPP adds its input to its output.
    cfg.MODEL.FACE_FPN.ASPP_SHORTCUT = True
    # R2 and R3 are built on the level above, as section 3.2 has it; False: on I, as equation (2).
    cfg.MODEL.FACE_FPN.TOP_DOWN = True
    # A 3x3 convolution on each R, as FPN has on each merged map.
    cfg.MODEL.FACE_FPN.OUTPUT_CONVS = True
    # In the sub-pixel convolutions S, the 1x1 convolution comes before the pixel shuffle.
    cfg.MODEL.FACE_FPN.SUBPIXEL_CONV_FIRST = False

    # ---- BiFPN (MODEL.BACKBONE.NAME build_bifpn_backbone) ---------------------------------------
    cfg.MODEL.BIFPN = CN()
    # EfficientDet-D0's.
    cfg.MODEL.BIFPN.REPEATS = 3
    # In place of MODEL.FPN.NORM: without one its outputs would start a hundred times too small.
    # EfficientDet's is BN, in batches of 128 images.
    cfg.MODEL.BIFPN.NORM = "GN"

    # ---- SEM ------------------------------------------------------------------------------------
    cfg.MODEL.SEM = CN()
    cfg.MODEL.SEM.ENABLED = False
    cfg.MODEL.SEM.CHANNELS = 128
    # One dilation a branch; a single one is a single branch.
    cfg.MODEL.SEM.DILATIONS = [1, 2, 3]
    # Add the module's input (equation 7).
    cfg.MODEL.SEM.RESIDUAL = True
    cfg.MODEL.SEM.NORM = "GN"

    # ---- Data -----------------------------------------------------------------------------------
    # INPUT.RANDOM_FLIP may also be "both": horizontally and vertically, each at random.
    # Turn by 0, 90, 180 or 270 degrees.
    cfg.INPUT.RANDOM_QUARTER_TURN = False
    # NUM_OPS operations of MAGNITUDE (0 to 30), drawn from OPERATIONS (all where empty; see
    # facenet_d2/data/augmentation.py).
    cfg.INPUT.RAND_AUGMENT = CN()
    cfg.INPUT.RAND_AUGMENT.ENABLED = False
    cfg.INPUT.RAND_AUGMENT.NUM_OPS = 2
    cfg.INPUT.RAND_AUGMENT.MAGNITUDE = 9
    cfg.INPUT.RAND_AUGMENT.OPERATIONS = []
    # COCO-format sets of your own: [name, JSON file, image folder] each; the names can then stand
    # in DATASETS.TRAIN and DATASETS.TEST.
    cfg.DATASETS.COCO = []
    # Class names in order. Filled from the data, and so in a run's config.yaml: a trained model can
    # be used where its data is not at hand.
    cfg.DATASETS.CLASS_NAMES = []
