"""Description of a trained model for the files it is exported to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from detectron2.config import CfgNode

from ..errors import UserError
from ..modeling.condinst import CondInst
from ..modeling.condinst.fcos_targets import SIZE_OF_INTEREST
from ..modeling.condinst.meta_arch import MASK_FEATURE_STRIDE
from ..modeling.grids.grid_model import GridModel
from ..modeling.instance_model import InstanceModel
from ..modeling.solo import SOLO, DecoupledMaskHead
from ..modeling.solov2 import SOLOv2
from ..modeling.yolact import YOLACT
from ..runtime.description import (
    SETTINGS,
    CondInstSettings,
    GridSettings,
    ModelDescription,
    Settings,
    YOLACTSettings,
)


def describe(
    model: InstanceModel[Any],
    cfg: CfgNode,
    *,
    contract: str,
    class_names: Sequence[str],
    category_ids: Mapping[int, int] | None = None,
    class_colors: Sequence[Sequence[int]] = (),
    pixel_size: float | None = None,
) -> ModelDescription:
    """Describe a model.

    Args:
        model: trained model.
        cfg: config of the model.
        contract: "raw" or "yolo-seg".
        class_names: name of each class index.
        category_ids: category id by class index; None if it is not known.
        class_colors: RGB colour of each class index, 0 to 255; empty if they are not known.
        pixel_size: side of the training images' pixels in metres; by default that of the config.

    Raises:
        UserError: for another meta-architecture than SOLOv2, SOLO, YOLACT and CondInst, or classes
            without names.
    """
    names = [c.__name__ for c in type(model).__mro__ if c.__name__ in SETTINGS]
    if not isinstance(model, InstanceModel) or not names:
        raise UserError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}, which cannot be exported, "
            "because the runtime has no post-processing for it (docs/EXPORT.md); "
            f"{', '.join(SETTINGS)} can."
        )
    if not class_names:
        raise UserError("the config has no DATASETS.CLASS_NAMES, which an exported file contains.")
    ids = category_ids or {}
    known = all(i in ids for i in range(len(class_names)))
    return ModelDescription(
        contract=contract,
        meta_architecture=names[0],
        settings=_settings(model),
        class_names=tuple(class_names),
        category_ids=tuple(ids[i] for i in range(len(class_names))) if known else (),
        class_colors=tuple((int(r), int(g), int(b)) for r, g, b in class_colors),
        channel_order=cfg.INPUT.FORMAT,
        bands=tuple(cfg.INPUT.BANDS),
        stretch=cfg.INPUT.STRETCH,
        pixel_mean=tuple(cfg.MODEL.PIXEL_MEAN),
        pixel_std=tuple(cfg.MODEL.PIXEL_STD),
        size_divisibility=max(1, model.backbone.size_divisibility),
        min_size=cfg.INPUT.MIN_SIZE_TEST,
        max_size=cfg.INPUT.MAX_SIZE_TEST,
        pixel_size=pixel_size or cfg.TEST.SCENE.PIXEL_SIZE or None,
        scene_bands=tuple(cfg.TEST.SCENE.BANDS),
        scene_stretch=cfg.TEST.SCENE.STRETCH,
        scene_overlap=cfg.TEST.SCENE.OVERLAP,
    )


def _settings(model: InstanceModel[Any]) -> Settings:
    if isinstance(model, GridModel):
        # All cells of a grid have the same minimum.
        areas = model.cell_min_areas[model.layout.first_cells[:-1]]
        return GridSettings(
            num_grids=model.layout.num_grids,
            min_mask_areas=tuple(areas.tolist()),
            decoupled=isinstance(model, SOLO) and isinstance(model.mask_head, DecoupledMaskHead),
            mask_stride=model.mask_stride,
            windows=isinstance(model, SOLOv2) and model.instance_head.window_pred is not None,
            **asdict(model.settings),
        )
    if isinstance(model, YOLACT):
        return YOLACTSettings(
            box_weights=tuple(model.box_transform.weights),
            scale_clamp=model.box_transform.scale_clamp,
            **_limits(model),
        )
    assert isinstance(model, CondInst)
    # Sizes (outputs, inputs) of the convolutions. The first also sees two coordinates.
    shapes = model.mask_head.shapes
    return CondInstSettings(
        mask_channels=shapes[0][1] - 2,
        dynamic_channels=shapes[0][0],
        dynamic_convs=len(shapes),
        mask_feature_stride=MASK_FEATURE_STRIDE,
        size_of_interest=SIZE_OF_INTEREST,
        **_limits(model),
    )


def _limits(model: YOLACT | CondInst) -> dict[str, Any]:
    names = ("score_threshold", "nms_threshold", "top_k", "mask_threshold", "max_instances")
    return {name: getattr(model, name) for name in names}
