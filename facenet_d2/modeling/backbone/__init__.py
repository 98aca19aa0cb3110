from .bifpn import BiFPN, build_resnet_bifpn_backbone
from .face_fpn import FACEFPN, build_resnet_face_fpn_backbone
from .hrfpn import HRFPN, build_resnet_hrfpn_backbone
from .pafpn import PAFPN, build_resnet_pafpn_backbone
from .sem_fpn import build_resnet_sem_fpn_backbone

__all__ = [
    "FACEFPN",
    "HRFPN",
    "PAFPN",
    "BiFPN",
    "build_resnet_bifpn_backbone",
    "build_resnet_face_fpn_backbone",
    "build_resnet_hrfpn_backbone",
    "build_resnet_pafpn_backbone",
    "build_resnet_sem_fpn_backbone",
]
