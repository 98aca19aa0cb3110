"""Necks and bottom-up networks; importing the package registers their backbone builders."""

from . import fpn, plain, sem_fpn
from .bifpn import BiFPN
from .face_fpn import FACEFPN
from .hrfpn import HRFPN
from .pafpn import PAFPN
from .pyramid import Pyramid, check_sem, neck_arguments, register_neck
from .timm_bottom_up import TimmBottomUp, build_timm_backbone

__all__ = [
    "FACEFPN",
    "HRFPN",
    "PAFPN",
    "BiFPN",
    "Pyramid",
    "TimmBottomUp",
    "build_timm_backbone",
    "check_sem",
    "fpn",
    "neck_arguments",
    "plain",
    "register_neck",
    "sem_fpn",
]
