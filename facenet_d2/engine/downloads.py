"""Which files that a config names are downloaded.

A config may come from somebody else. Weights are downloaded from fixed publishers: Detectron2's
model zoo, torchvision and timm. Any other address in ``MODEL.WEIGHTS`` must be given on the command
line or allowed by ``FACENET_D2_ALLOW_DOWNLOADS=1``; an address in ``_BASE_`` needs the latter.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode

from ..errors import UserError
from ..weights import PRETRAINED
from ..zoo_files import PREFIX, config_file

ALLOW = "FACENET_D2_ALLOW_DOWNLOADS"
"""Environment variable: if set to 1, any address in a config may be downloaded."""

PUBLISHERS = ("detectron2://", "catalog://", PREFIX, *PRETRAINED)


def _is_allowed() -> bool:
    return os.environ.get(ALLOW, "") not in ("", "0")


def check_weights_address(cfg: CfgNode, overrides: Sequence[str]) -> None:
    """Refuse an address in ``MODEL.WEIGHTS`` that the user did not ask for.

    Args:
        cfg: config with the overrides.
        overrides: KEY VALUE pairs, as on the command line.

    Raises:
        UserError: If the address is refused.
    """
    weights = cfg.MODEL.WEIGHTS
    if "://" not in weights:
        return
    if ".." in weights.split("/"):
        # The download would be stored outside of the cache.
        raise UserError(f"MODEL.WEIGHTS {weights} contains '..'; write the address without it.")
    is_requested = "MODEL.WEIGHTS" in overrides[::2] or _is_allowed()
    if not is_requested and not weights.startswith(PUBLISHERS):
        raise UserError(
            f"MODEL.WEIGHTS {weights} in the config is not downloaded unless you ask for it: add "
            f"MODEL.WEIGHTS {weights} to the command line, or set {ALLOW}=1."
        )


class LocalConfig(CfgNode):
    """Detectron2's ``CfgNode``, whose files are local; ``_BASE_`` can be ``zoo://NAME``."""

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> CfgNode:
        # Detectron2 joins a _BASE_ with the folder of the config.
        _, prefix, name = filename.partition(PREFIX)
        return super().load_yaml_with_base(
            str(config_file(name)) if prefix else filename, allow_unsafe
        )

    @classmethod
    def _open_cfg(cls, filename: str) -> Any:
        if "://" in filename and not _is_allowed():
            raise UserError(
                f"_BASE_ {filename} is not downloaded unless {ALLOW}=1 is set; save a copy, and "
                "name it in _BASE_."
            )
        return super()._open_cfg(filename)
