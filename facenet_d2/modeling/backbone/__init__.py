from .bifpn import BiFPN, build_bifpn_backbone, build_resnet_bifpn_backbone
from .face_fpn import FACEFPN, build_face_fpn_backbone, build_resnet_face_fpn_backbone
from .fpn import build_fpn_backbone, build_retinanet_fpn_backbone
from .hrfpn import HRFPN, build_hrfpn_backbone, build_resnet_hrfpn_backbone
from .pafpn import PAFPN, build_pafpn_backbone, build_resnet_pafpn_backbone
from .sem_fpn import build_resnet_sem_fpn_backbone, build_sem_fpn_backbone
from .timm_bottom_up import TimmBottomUp, build_timm_backbone

__all__ = [
    "FACEFPN",
    "HRFPN",
    "PAFPN",
    "BiFPN",
    "TimmBottomUp",
    "build_bifpn_backbone",
    "build_face_fpn_backbone",
    "build_fpn_backbone",
    "build_hrfpn_backbone",
    "build_pafpn_backbone",
    "build_resnet_bifpn_backbone",
    "build_resnet_face_fpn_backbone",
    "build_resnet_hrfpn_backbone",
    "build_resnet_pafpn_backbone",
    "build_resnet_sem_fpn_backbone",
    "build_retinanet_fpn_backbone",
    "build_sem_fpn_backbone",
    "build_timm_backbone",
]
