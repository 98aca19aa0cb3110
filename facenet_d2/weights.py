"""torchvision's ImageNet weights as ``MODEL.WEIGHTS``, for depths Detectron2 has no weights of.

``torchvision://ResNet18_Weights.IMAGENET1K_V1`` is downloaded by torchvision, renamed, and kept in
iopath's cache. These networks see RGB images, scaled to 0-1 and normalised, and have the stride in
the 3x3 convolutions of their bottlenecks; ``configs/NWPU-VHR10/*_R_18_36ep.yaml`` has the settings.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler, get_cache_dir
from torchvision.models import get_weight

from .files import write_whole

PREFIX = "torchvision://"

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


class TorchvisionHandler(PathHandler):
    """Gives a local file, in Detectron2's format, for ``torchvision://NAME``."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        name = path.removeprefix(PREFIX)
        if not name.startswith("ResNet"):
            raise ValueError(f"{path}: ResNet weights are needed, as in ResNet18_Weights.DEFAULT")
        weights = get_weight(name)
        file = Path(get_cache_dir(None)) / "torchvision" / f"{weights}.pkl"
        if force or not file.is_file():
            model = rename_resnet(weights.get_state_dict(progress=True, check_hash=True))
            content = {"model": model, "__author__": "torchvision", "matching_heuristics": True}
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, pickle.dumps(content))
        return str(file)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return True

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return PathManager.open(self._get_local_path(path), mode)


PathManager.register_handler(TorchvisionHandler())
