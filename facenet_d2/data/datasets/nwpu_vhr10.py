"""NWPU VHR-10: ten classes in very-high-resolution aerial images (paper, section 4.2)."""

from .prepared import register_prepared

CLASSES = (
    "airplane",
    "ship",
    "storage_tank",
    "baseball_diamond",
    "tennis_court",
    "basketball_court",
    "ground_track_field",
    "harbor",
    "bridge",
    "vehicle",
)
COLORS = (
    (230, 57, 70),
    (0, 150, 255),
    (255, 183, 3),
    (155, 93, 229),
    (0, 200, 120),
    (255, 112, 31),
    (241, 91, 181),
    (0, 210, 211),
    (190, 160, 110),
    (210, 235, 30),
)


def register_nwpu_vhr10() -> None:
    """Register ``nwpu_vhr10_train`` and ``nwpu_vhr10_test``."""
    register_prepared(
        "nwpu_vhr10",
        ("train", "test"),
        tool="tools/prepare_nwpu_vhr10.py",
        classes=CLASSES,
        colors=COLORS,
    )
