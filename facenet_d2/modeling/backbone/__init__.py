from .face_fpn import FACEFPN, build_resnet_face_fpn_backbone
from .sem_fpn import build_resnet_sem_fpn_backbone

__all__ = ["FACEFPN", "build_resnet_face_fpn_backbone", "build_resnet_sem_fpn_backbone"]
