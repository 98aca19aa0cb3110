"""From a dataset dict to what the model is given."""

from __future__ import annotations

from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import annotations_to_instances, filter_empty_instances
from detectron2.structures import BitMasks, PolygonMasks

from ..config import QUARTER_MASK_MODELS
from ..errors import UserError
from ..structures.rasterize import rasterize_instances
from .augmentation import RandomQuarterTurn, build_augmentations
from .images import check_depth

# In place of Detectron2's "bitmask" and "polygon": what this project's own models need.
QUARTER = "quarter"


class _Shared(list):
    """A list that Detectron2's mapper need not copy, since nothing changes it."""

    def __deepcopy__(self, memo: dict) -> _Shared:
        return self


class SceneMapper(DatasetMapper):
    """Detectron2's ``DatasetMapper``, also for images without objects; names bad ones.

    Its augmentations are those of :func:`~facenet_d2.data.augmentation.build_augmentations`. Boxes
    are made anew, tight around what the augmentations leave of the masks in the image; an instance
    of which they leave nothing is dropped.

    For this project's own meta-architectures the masks are given at stride 4, see
    :func:`~facenet_d2.structures.rasterize.rasterize_instances`; for other models they are what
    ``INPUT.MASK_FORMAT`` says.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        without = cfg.clone()
        without.defrost()
        without.INPUT.RANDOM_FLIP = "none"  # Detectron2 refuses "both".
        arguments = super().from_config(without, is_train)
        crops = [a for a in arguments["augmentations"] if isinstance(a, T.RandomCrop)]
        arguments["augmentations"] = crops + build_augmentations(cfg, is_train)
        arguments["recompute_boxes"] = cfg.MODEL.MASK_ON
        if cfg.MODEL.META_ARCHITECTURE in QUARTER_MASK_MODELS:
            arguments["instance_mask_format"] = QUARTER
        return arguments

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """
        Args:
            dataset_dict: one image in Detectron2's format; with ``sideways``, whether a random
                quarter turn shall lay it on its side.

        Returns:
            ``image``, in training ``instances``, and what else the dict had.

        Raises:
            UserError: where the image is missing, broken or of another size than annotated, or its
                annotations have no masks.
        """
        for augmentation in self.augmentations.augs:
            if isinstance(augmentation, RandomQuarterTurn):
                augmentation.sideways = dataset_dict.get("sideways")
        try:
            check_depth(dataset_dict["file_name"])
            if self.instance_mask_format == QUARTER and "annotations" in dataset_dict:
                annotations = _Shared(dataset_dict["annotations"])
                dataset_dict = {**dataset_dict, "annotations": annotations}
            return super().__call__(dataset_dict)
        except Exception as error:
            raise UserError(
                f"image {dataset_dict.get('file_name')} cannot be used "
                f"({type(error).__name__}: {' '.join(str(error).split())}); mend it or take it out "
                "of the annotations."
            ) from error

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: Any, image_shape: tuple[int, int]
    ) -> None:
        annotations = [a for a in dataset_dict["annotations"] if not a.get("iscrowd", 0)]
        if self.use_instance_mask and any(not a.get("segmentation") for a in annotations):
            raise ValueError("it has an annotation without a segmentation")
        if self.instance_mask_format == QUARTER:
            annotated_size = (dataset_dict["height"], dataset_dict["width"])
            del dataset_dict["annotations"]
            dataset_dict["instances"] = rasterize_instances(
                annotations, transforms, annotated_size, image_shape
            )
            return
        if annotations:
            for a in annotations:
                if isinstance(a.get("segmentation"), list):
                    # Detectron2 scales points in place, and so cuts whole ones to whole ones.
                    a["segmentation"] = [np.asarray(p, dtype=float) for p in a["segmentation"]]
            super()._transform_annotations(dataset_dict, transforms, image_shape)
            if isinstance(dataset_dict["instances"].get_fields().get("gt_masks"), PolygonMasks):
                # Polygons keep what lies outside of the image, and so do boxes made of them.
                instances = dataset_dict["instances"]
                instances.gt_boxes.clip(image_shape)
                dataset_dict["instances"] = filter_empty_instances(instances, by_mask=False)
            return
        # Detectron2 leaves the masks out where there is nothing to have one.
        del dataset_dict["annotations"]
        instances = annotations_to_instances([], image_shape)
        if self.use_instance_mask:
            instances.gt_masks = (
                BitMasks(torch.zeros((0, *image_shape), dtype=torch.bool))
                if self.instance_mask_format == "bitmask"
                else PolygonMasks([])
            )
        dataset_dict["instances"] = instances
