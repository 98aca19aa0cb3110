"""Description of an exported model: all that inference needs besides the network.

``tools/export_model.py`` stores it in the exported file as JSON. Nothing here needs PyTorch.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Union, get_args, get_origin, get_type_hints

from ..errors import UserError
from ..stride import MASK_STRIDE

METADATA_KEY = "facenet_d2"
"""Key of the JSON text in the metadata of an ONNX file."""

FORMAT_VERSION = 1
"""Version of the JSON; files of another version are refused."""

CONTRACTS = ("raw", "yolo-seg")
"""What a file's graph ends with: the network's predictions, or instances as in YOLO's models."""

NMS_KERNELS = ("gaussian", "linear")


@dataclass(frozen=True)
class GridSettings:
    """Inference of SOLOv2, FACENet and SOLO.

    Attributes:
        num_grids: number of cells S along each side of each grid, finest level first.
        min_mask_areas: one area per grid, in pixels of the masks; masks that are not larger are
            dropped.
        score_threshold: class scores of candidates are above it.
        mask_threshold: probabilities of a mask's pixels are above it.
        max_candidates: maximum number of candidates, those with the highest class scores.
        nms_pre: maximum number of candidates in Matrix NMS.
        nms_kernel: "gaussian" or "linear".
        nms_sigma: parameter of the gaussian kernel.
        update_threshold: minimum score after Matrix NMS.
        max_instances: maximum number of instances per image.
        decoupled: whether the masks are those of decoupled SOLO.
        mask_stride: stride of the masks.
        windows: whether each cell has a window (``MODEL.SOLOV2.MASK_WINDOW``).
        points_nms: whether Points NMS precedes the selection of candidates.
    """

    num_grids: tuple[int, ...]
    min_mask_areas: tuple[float, ...]
    score_threshold: float
    mask_threshold: float
    max_candidates: int
    nms_pre: int
    nms_kernel: str
    nms_sigma: float
    update_threshold: float
    max_instances: int
    decoupled: bool = False
    mask_stride: int = MASK_STRIDE
    windows: bool = False
    points_nms: bool = True

    def __post_init__(self) -> None:
        if not self.num_grids or min(self.num_grids) < 1:
            raise ValueError(f"num_grids is {self.num_grids}, not positive integers")
        if len(self.min_mask_areas) != len(self.num_grids):
            raise ValueError(
                f"min_mask_areas has {len(self.min_mask_areas)} values for "
                f"{len(self.num_grids)} grids"
            )
        if self.nms_kernel not in NMS_KERNELS:
            raise ValueError(f"nms_kernel is {self.nms_kernel!r}, not one of {NMS_KERNELS}")
        _check_thresholds(self, "score_threshold", "update_threshold")
        _check_limits(self, "max_candidates", "nms_pre", "max_instances", "mask_stride")


@dataclass(frozen=True)
class YOLACTSettings:
    """Inference of YOLACT.

    Attributes:
        score_threshold: class scores of boxes are above it.
        nms_threshold: IoU above which Fast NMS drops a box.
        top_k: maximum number of boxes per class in Fast NMS.
        mask_threshold: probabilities of a mask's pixels are above it.
        max_instances: maximum number of instances per image.
        box_weights: weights of the box deltas, as in Detectron2's ``Box2BoxTransform``.
        scale_clamp: maximum of the deltas of width and height.
    """

    score_threshold: float
    nms_threshold: float
    top_k: int
    mask_threshold: float
    max_instances: int
    box_weights: tuple[float, ...]
    scale_clamp: float

    def __post_init__(self) -> None:
        if len(self.box_weights) != 4 or min(self.box_weights) <= 0:
            raise ValueError(f"box_weights is {self.box_weights}, not four positive numbers")
        _check_thresholds(self, "score_threshold", "nms_threshold")
        _check_limits(self, "top_k", "max_instances")


@dataclass(frozen=True)
class CondInstSettings:
    """Inference of CondInst.

    Attributes:
        score_threshold: scores of candidates are above it.
        nms_threshold: IoU above which NMS drops a box.
        top_k: maximum number of candidates per level.
        mask_threshold: probabilities of a mask's pixels are above it.
        max_instances: maximum number of instances per image.
        mask_channels: number of channels of the mask features.
        dynamic_channels: number of channels between the convolutions of the mask heads.
        dynamic_convs: number of convolutions of the mask heads.
        mask_feature_stride: stride of the mask features.
        size_of_interest: divisor of the relative coordinates, in strides of the level.
    """

    score_threshold: float
    nms_threshold: float
    top_k: int
    mask_threshold: float
    max_instances: int
    mask_channels: int
    dynamic_channels: int
    dynamic_convs: int
    mask_feature_stride: int
    size_of_interest: float

    def __post_init__(self) -> None:
        _check_thresholds(self, "score_threshold", "nms_threshold")
        limits = ("mask_channels", "dynamic_channels", "dynamic_convs", "mask_feature_stride")
        _check_limits(self, "top_k", "max_instances", *limits)
        if self.size_of_interest <= 0:
            raise ValueError(f"size_of_interest is {self.size_of_interest}, not positive")


Settings = GridSettings | YOLACTSettings | CondInstSettings

SETTINGS: dict[str, type[Settings]] = {
    "SOLOv2": GridSettings,
    "SOLO": GridSettings,
    "YOLACT": YOLACTSettings,
    "CondInst": CondInstSettings,
}
"""Class of the settings by the name of the meta-architecture. FACENet is a SOLOv2."""


@dataclass(frozen=True)
class ModelDescription:
    """An exported model.

    The input of the network is called "images": ``(N, bands, H, W)`` float32, with the values that
    :attr:`pixel_mean` refers to, and sides that :attr:`size_divisibility` divides. Normalisation is
    part of the network. Smaller images are padded at the right and the bottom with
    :attr:`pixel_mean`, which the network sees as 0.

    Attributes:
        contract: one of :data:`CONTRACTS`.
        meta_architecture: name of the meta-architecture, a key of :data:`SETTINGS`.
        settings: thresholds and limits of inference, an instance of that entry.
        class_names: name of each class index.
        category_ids: category id of each class index in the data set of the training; empty if it
            is not known.
        class_colors: RGB colour of each class index, 0 to 255; empty for a default palette.
        channel_order: "BGR" or "RGB", the order of the first three channels (``INPUT.FORMAT``).
        bands: numbers of the bands of a raster, from 1 (``INPUT.BANDS``); empty for all but alpha.
        stretch: stretch of the values (``INPUT.STRETCH``); empty for none. If ``bands`` or
            ``stretch`` is set, images are rasters whose bands have the order of the network's
            channels; otherwise they are pictures with 8-bit colours.
        pixel_mean: mean of each channel.
        pixel_std: standard deviation of each channel.
        size_divisibility: divisor of the sides of the network's input.
        min_size: length to which the shorter side of an image is resized (``INPUT.MIN_SIZE_TEST``);
            0 to keep the size.
        max_size: maximum length of the longer side (``INPUT.MAX_SIZE_TEST``).
        pixel_size: side of the training images' pixels in metres (``TEST.SCENE.PIXEL_SIZE``), if it
            is known.
        scene_bands: numbers of the bands of whole scenes (``TEST.SCENE.BANDS``); empty for
            ``bands``.
        scene_stretch: stretch of whole scenes (``TEST.SCENE.STRETCH``); empty for ``stretch``.
        scene_overlap: overlap of the tiles of whole scenes in pixels (``TEST.SCENE.OVERLAP``); 0
            for a quarter of a tile.

    Raises:
        ValueError: if values do not fit together; the message starts with the name of one.
    """

    contract: str
    meta_architecture: str
    settings: Settings
    class_names: tuple[str, ...]
    channel_order: str
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    size_divisibility: int
    min_size: int
    max_size: int
    category_ids: tuple[int, ...] = ()
    class_colors: tuple[tuple[int, int, int], ...] = ()
    bands: tuple[int, ...] = ()
    stretch: str = ""
    pixel_size: float | None = None
    scene_bands: tuple[int, ...] = ()
    scene_stretch: str = ""
    scene_overlap: int = 0

    def __post_init__(self) -> None:
        choices = {
            "contract": CONTRACTS,
            "meta_architecture": tuple(SETTINGS),
            "channel_order": ("BGR", "RGB"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, not one of {', '.join(allowed)}"
                )
        if not isinstance(self.settings, SETTINGS[self.meta_architecture]):
            kind = type(self.settings).__name__
            raise ValueError(
                f"settings are {kind}, which are not those of {self.meta_architecture}"
            )
        if not self.class_names:
            raise ValueError("class_names is empty")
        for name in ("category_ids", "class_colors"):
            count = len(getattr(self, name))
            if count not in (0, len(self.class_names)):
                raise ValueError(f"{name} has {count} values for {len(self.class_names)} classes")
        channels = len(self.pixel_mean)
        if channels == 0:
            raise ValueError("pixel_mean is empty")
        lists = [name for name in ("bands", "scene_bands") if getattr(self, name)]
        for name in ("pixel_std", *lists):
            count = len(getattr(self, name))
            if count != channels:
                raise ValueError(f"{name} has {count} values, but pixel_mean has {channels}")
        if min(self.pixel_std) <= 0:
            raise ValueError(f"pixel_std is {self.pixel_std}, not positive")
        _check_limits(self, "size_divisibility", "max_size")
        if self.min_size < 0:
            raise ValueError(f"min_size is {self.min_size}, which is negative")
        if self.scene_overlap < 0:
            raise ValueError(f"scene_overlap is {self.scene_overlap}, which is negative")
        if self.pixel_size is not None and self.pixel_size <= 0:
            raise ValueError(f"pixel_size is {self.pixel_size}, not positive")

    @property
    def reads_rasters(self) -> bool:
        """Whether images are rasters of any bands, not pictures with 8-bit colours."""
        return bool(self.bands or self.stretch)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the network's outputs, all float32.

        N is the number of images, C of classes, H and W the size of the padded input. Of the
        contract "raw":

        - SOLOv2, FACENet: "logits" ``(N, cells, C)``; "kernels" ``(N, cells, D)``; "mask_features"
          ``(N, D, H/stride, W/stride)``, with :attr:`GridSettings.mask_stride`; and "windows"
          ``(N, cells, 5)`` if :attr:`GridSettings.windows`. Cells are those of all grids in turn,
          each row by row.
        - SOLO: "logits"; "kernels" ``(cells, D + 1)``, weights and then the bias of each cell's 1x1
          convolution; for each grid "mask_maps_0" ... ``(N, D, h, w)``.
        - Decoupled SOLO: "logits"; for each grid the logits of X, then of Y, "mask_maps_0" ...
          ``(N, 2S, h, w)``.
        - YOLACT, with R anchors of all levels in turn: "logits" ``(N, R, C + 1)``, background last;
          "deltas" ``(N, R, 4)``; "coefficients" ``(N, R, k)``; "anchors" ``(R, 4)`` in pixels of
          the input; "prototypes" ``(N, k, H/4, W/4)``.
        - CondInst, with R positions of all levels in turn: "logits" ``(N, R, C)``; "distances"
          ``(N, R, 4)``; "centerness" ``(N, R, 1)``; "parameters" ``(N, R, number)``; "anchors"
          ``(R, 4)``, whose width is the stride of the level; "mask_features"
          ``(N, channels, H/8, W/8)``.

        Logits are those before sigmoid or softmax.
        """
        if self.contract == "yolo-seg":
            return ("output0", "output1")
        if isinstance(self.settings, GridSettings) and self.meta_architecture == "SOLO":
            maps = tuple(f"mask_maps_{i}" for i in range(len(self.settings.num_grids)))
            return ("logits", *maps) if self.settings.decoupled else ("logits", "kernels", *maps)
        if isinstance(self.settings, GridSettings):
            windows = ("windows",) if self.settings.windows else ()
            return ("logits", "kernels", "mask_features", *windows)
        if self.meta_architecture == "YOLACT":
            return ("logits", "deltas", "coefficients", "anchors", "prototypes")
        return ("logits", "distances", "centerness", "parameters", "anchors", "mask_features")

    def to_json(self) -> str:
        """Return the description as JSON text for :meth:`from_json`."""
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, text: str, source: str) -> ModelDescription:
        """Read the text of :meth:`to_json`.

        Args:
            text: the JSON text.
            source: name of the file that it is from, for errors.

        Raises:
            UserError: if the text is not a description of this version.
        """
        try:
            return cls(**_parse(text))
        except (ValueError, OverflowError, RecursionError) as error:
            raise UserError(
                f"{source} has no usable description of its model ({error}); export it again."
            ) from error


def _parse(text: str) -> dict[str, Any]:
    """Return the fields of a description.

    Raises:
        ValueError: if the text is not JSON, or a value is missing, unknown or of the wrong type.
    """
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    version = content.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise ValueError(
            f"its format version is {version!r}, and this version of facenet_d2 reads "
            f"{FORMAT_VERSION}"
        )
    name = content.get("meta_architecture")
    if name not in SETTINGS:
        raise ValueError(f"meta_architecture is {name!r}, not one of {', '.join(SETTINGS)}")
    settings = content.get("settings")
    if not isinstance(settings, dict):
        raise ValueError("settings is not a JSON object")
    values = _typed(ModelDescription, {**content, "settings": None})
    return {**values, "settings": SETTINGS[name](**_typed(SETTINGS[name], settings))}


def _typed(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert JSON values to the types of a dataclass's fields, other than ``settings``."""
    hints = get_type_hints(kind)
    known = {field.name: field.default is MISSING for field in fields(kind)}
    for name in values:
        if name not in known:
            raise ValueError(f"{name} is not a known value")
    for name, required in known.items():
        if required and name not in values:
            raise ValueError(f"{name} is missing")
    return {
        name: value if name == "settings" else _convert(name, value, hints[name])
        for name, value in values.items()
    }


def _convert(name: str, value: Any, hint: Any) -> Any:
    """Convert a JSON value to a type, lists to tuples.

    Raises:
        ValueError: if it is not of that type; the message starts with ``name``.
    """
    if get_origin(hint) in (Union, types.UnionType):
        inner = next(a for a in get_args(hint) if a is not type(None))
        return None if value is None else _convert(name, value, inner)
    if get_origin(hint) is tuple:
        items = get_args(hint)
        if not isinstance(value, list):
            raise ValueError(f"{name} is {value!r}, not a list")
        if items[-1] is Ellipsis:
            return tuple(_convert(name, item, items[0]) for item in value)
        if len(value) != len(items):
            raise ValueError(f"{name} has {value!r} where {len(items)} values belong")
        return tuple(_convert(name, item, kind) for item, kind in zip(value, items))
    # JSON has one kind of number; bool is a subclass of int.
    accepted = (int, float) if hint is float else hint
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{name} is {value!r}, not of type {hint.__name__}")
    if hint is float:
        value = float(value)
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError(f"{name} is {value}, not a finite number")
    return value


def _check_thresholds(settings: Any, *names: str) -> None:
    """Check thresholds from 0 to 1, and that of masks, whose logit must be finite."""
    for name in names:
        value = getattr(settings, name)
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}, not a number from 0 to 1")
    if not 0 < settings.mask_threshold < 1:
        raise ValueError(f"mask_threshold is {settings.mask_threshold}, not between 0 and 1")


def _check_limits(values: Any, *names: str) -> None:
    for name in names:
        if getattr(values, name) < 1:
            raise ValueError(f"{name} is {getattr(values, name)}, not a positive integer")
