from .coco import check_available, load_coco, register_coco, register_coco_from_config
from .hrsid import register_hrsid
from .isaid import register_isaid
from .nwpu_vhr10 import register_nwpu_vhr10
from .synthetic_aerial import register_synthetic_aerial

__all__ = [
    "check_available",
    "load_coco",
    "register_coco",
    "register_coco_from_config",
]

register_hrsid()
register_isaid()
register_nwpu_vhr10()
register_synthetic_aerial()
