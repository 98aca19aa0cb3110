"""Meta-architectures, necks, heads and layers."""

from . import (
    anchors,
    backbone,
    condinst,
    layers,
    mask2former,
    queryinst,
    rdsnet,
    roi_heads,
    solo,
    solov2,
    yolact,
)
from .acceleration import accelerate
from .backbone import FACEFPN
from .condinst import CondInst
from .instance_model import InstanceModel
from .mask2former import Mask2Former
from .precision import set_tf32
from .queryinst import QueryInst
from .rdsnet import RDSNet
from .roi_heads import MaskRCNN
from .solo import SOLO
from .solov2 import SOLOv2
from .yolact import YOLACT

__all__ = [
    "FACEFPN",
    "SOLO",
    "YOLACT",
    "CondInst",
    "InstanceModel",
    "Mask2Former",
    "MaskRCNN",
    "QueryInst",
    "RDSNet",
    "SOLOv2",
    "accelerate",
    "anchors",
    "backbone",
    "condinst",
    "layers",
    "mask2former",
    "queryinst",
    "rdsnet",
    "roi_heads",
    "set_tf32",
    "solo",
    "solov2",
    "yolact",
]
