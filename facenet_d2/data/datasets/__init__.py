from .coco import (
    check_available,
    load_coco,
    num_classes_key,
    register_coco,
    register_coco_from_config,
    resolve_num_classes,
)
from .hrsid import register_hrsid
from .isaid import register_isaid
from .nwpu_vhr10 import register_nwpu_vhr10
from .source import add_source_options, locate_source
from .synthetic_aerial import register_synthetic_aerial

__all__ = [
    "add_source_options",
    "check_available",
    "load_coco",
    "locate_source",
    "num_classes_key",
    "register_coco",
    "register_coco_from_config",
    "resolve_num_classes",
]

register_hrsid()
register_isaid()
register_nwpu_vhr10()
register_synthetic_aerial()
