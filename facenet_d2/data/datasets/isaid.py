"""iSAID: fifteen classes in large aerial scenes, cut to 800x800 patches (paper, section 4.2)."""

from .prepared import register_prepared

# Names, spelling and order are the publisher's; the ids count from 1.
CLASSES = (
    "ship",
    "storage_tank",
    "baseball_diamond",
    "tennis_court",
    "basketball_court",
    "Ground_Track_Field",
    "Bridge",
    "Large_Vehicle",
    "Small_Vehicle",
    "Helicopter",
    "Swimming_pool",
    "Roundabout",
    "Soccer_ball_field",
    "plane",
    "Harbor",
)
# Colours for drawing; the publisher's (ANNOTATION_COLORS) are too dark and too similar.
COLORS = (
    (0, 150, 255),
    (255, 183, 3),
    (155, 93, 229),
    (0, 200, 120),
    (255, 112, 31),
    (241, 91, 181),
    (190, 160, 110),
    (255, 235, 60),
    (210, 235, 30),
    (128, 222, 255),
    (0, 245, 212),
    (180, 180, 190),
    (120, 160, 30),
    (230, 57, 70),
    (0, 180, 180),
)
# RGB colour of each class in *_instance_color_RGB.png; black is background.
ANNOTATION_COLORS = (
    (0, 0, 63),
    (0, 63, 63),
    (0, 63, 0),
    (0, 63, 127),
    (0, 63, 191),
    (0, 63, 255),
    (0, 127, 63),
    (0, 127, 127),
    (0, 0, 127),
    (0, 0, 191),
    (0, 0, 255),
    (0, 191, 127),
    (0, 127, 191),
    (0, 127, 255),
    (0, 100, 155),
)
SPLITS = ("train", "val", "test")


def register_isaid() -> None:
    """Register ``isaid_train``, ``isaid_val`` and ``isaid_test`` (whose masks are withheld)."""
    register_prepared(
        "isaid", SPLITS, tool="tools/prepare_isaid.py", classes=CLASSES, colors=COLORS
    )
