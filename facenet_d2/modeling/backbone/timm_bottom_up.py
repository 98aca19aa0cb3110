"""Bottom-up networks from timm (https://huggingface.co/docs/timm)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from timm.models import FeatureInfo
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..checks import check_range

# Detectron2's feature names by stride.
FEATURES = {4: "res2", 8: "res3", 16: "res4", 32: "res5"}

# Arguments of timm.create_model that read or download weights; old versions execute code in them.
LOADING_ARGUMENTS = {
    "cache_dir",
    "checkpoint_path",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
}


def create_feature_model(name: str, **arguments: Any) -> nn.Module:
    """Create a timm model that returns its features at strides 4, 8, 16 and 32, finest first.

    Args:
        name: name of the architecture in timm, for example ``convnext_tiny``.
        arguments: further arguments of ``timm.create_model``.

    Raises:
        ValueError: for a name that is not in timm, or a model without these features.
    """
    if not timm.is_model(name):
        raise ValueError(f"{name} is not a model of timm {timm.__version__}")
    # A model may have several features of one stride; the last one is used.
    unpretrained = {**arguments, "pretrained": False}
    every = timm.create_model(name, features_only=True, **unpretrained)
    strides = _feature_info(every).reduction()
    wanted = [max((i for i, s in enumerate(strides) if s == w), default=None) for w in FEATURES]
    if None in wanted:
        raise ValueError(
            f"{name} has features at strides {strides}; it must have some at {[*FEATURES]}"
        )
    return timm.create_model(name, features_only=True, out_indices=tuple(wanted), **arguments)


def _feature_info(model: nn.Module) -> FeatureInfo:
    info = model.feature_info
    assert isinstance(info, FeatureInfo)
    return info


class TimmBottomUp(Backbone):
    """Features of a timm model at strides 4, 8, 16 and 32, as ``res2`` .. ``res5``.

    Frozen batch normalisation is timm's own layer in evaluation mode: Detectron2's
    ``FrozenBatchNorm2d`` would lose the activation that timm's ``BatchNormAct2d`` also applies.

    Attributes:
        model: the timm model.
    """

    def __init__(
        self,
        name: str,
        *,
        in_channels: int = 3,
        freeze_at: int = 0,
        freeze_batch_norm: bool = True,
        model_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            name: name of the architecture in timm, for example ``convnext_tiny``.
            in_channels: number of channels of the images.
            freeze_at: number of frozen stages, as in Detectron2's ResNet: 1 for the stem, 2 for the
                stem and ``res2``, and so on. Dropout and stochastic depth stay active in frozen
                stages. Models whose stages are not separate modules allow only 0.
            freeze_batch_norm: whether the statistics and affine parameters of all batch
                normalisation are frozen.
            model_arguments: further arguments of ``timm.create_model``.

        Raises:
            ValueError: for a name that is not in timm, a model without features at these strides,
                a ``freeze_at`` outside 0 to 5 or that the model does not support, or one of
                :data:`LOADING_ARGUMENTS`.
        """
        super().__init__()
        check_range("freeze_at", freeze_at, 0, 5)
        loading = LOADING_ARGUMENTS & {*(model_arguments or {})}
        if loading:
            raise ValueError(
                f"{', '.join(sorted(loading))} would read other weights than those of MODEL.WEIGHTS"
            )
        self.model = create_feature_model(name, in_chans=in_channels, **(model_arguments or {}))
        self._out_features = list(FEATURES.values())
        self._out_feature_strides = {feature: stride for stride, feature in FEATURES.items()}
        self._out_feature_channels = dict(
            zip(self._out_features, _feature_info(self.model).channels(), strict=True)
        )
        self._is_nhwc = str(getattr(self.model, "output_fmt", "")).endswith("NHWC")
        for parameter in self._first_parameters(freeze_at):
            parameter.requires_grad = False
        self._frozen_norms = []
        for module in self.model.modules():
            if not isinstance(module, _BatchNorm):
                continue
            in_frozen_stage = module.affine and not module.weight.requires_grad
            if freeze_batch_norm or in_frozen_stage:
                module.requires_grad_(False)
                self._frozen_norms.append(module)
        self.train()

    def _first_parameters(self, freeze_at: int) -> list[nn.Parameter]:
        """Return the parameters of the stem and the first ``freeze_at - 1`` stages.

        timm's models define their modules in the order of execution: a stage ends with the module
        that returns its feature, and the stem ends where the module of ``res2`` begins.
        """
        if freeze_at == 0:
            return []
        parameters = list(self.model.named_parameters())
        module = _feature_info(self.model).module_name()[max(freeze_at - 2, 0)]
        # In models that timm flattens, "stages.0" becomes "stages_0".
        prefixes = (f"{module}.", f"{module.replace('.', '_')}.")
        within = [i for i, (name, _) in enumerate(parameters) if name.startswith(prefixes)]
        if not within:
            raise ValueError(
                f"freeze_at is {freeze_at}, but the stages of this model are not separate modules; "
                "it must be 0"
            )
        end = within[0] if freeze_at == 1 else within[-1] + 1
        return [parameter for _, parameter in parameters[:end]]

    def train(self, mode: bool = True) -> TimmBottomUp:
        """Set the training mode; frozen batch normalisation stays in evaluation mode."""
        super().train(mode)
        for norm in self._frozen_norms:
            norm.eval()
        return self

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Args:
            x: images, ``(N, in_channels, H, W)``. H and W should be multiples of 32, as the necks
                require; some models, such as ConvNeXt, crop the remainder.

        Returns:
            ``res2`` .. ``res5``, each ``(N, C_i, H/2^i, W/2^i)``.
        """
        outputs = self.model(x)
        if self._is_nhwc:
            outputs = [output.permute(0, 3, 1, 2).contiguous() for output in outputs]
        return dict(zip(self._out_features, outputs, strict=True))


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBottomUp:
    """Build the timm model of ``MODEL.TIMM``, frozen up to ``MODEL.BACKBONE.FREEZE_AT``.

    Raises:
        ValueError: for a model or a number of frozen stages that is not supported.
    """
    name, freeze_at = cfg.MODEL.TIMM.NAME, cfg.MODEL.BACKBONE.FREEZE_AT
    try:
        return TimmBottomUp(
            name,
            in_channels=input_shape.channels,
            freeze_at=freeze_at,
            freeze_batch_norm=cfg.MODEL.TIMM.FREEZE_BATCH_NORM,
            model_arguments=cfg.MODEL.TIMM.ARGUMENTS,
        )
    except (TypeError, ValueError) as error:  # A TypeError is due to MODEL.TIMM.ARGUMENTS.
        raise ValueError(
            f"MODEL.TIMM.NAME {name} with MODEL.BACKBONE.FREEZE_AT {freeze_at}: {error}"
        ) from error
