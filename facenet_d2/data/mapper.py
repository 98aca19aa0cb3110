"""From a dataset dict to what the model is given."""

from __future__ import annotations

from typing import Any

import detectron2.data.transforms as T
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import annotations_to_instances, filter_empty_instances
from detectron2.structures import BitMasks, PolygonMasks
from PIL import Image

from ..errors import UserError
from .augmentation import build_augmentations


def check_depth(file: str) -> None:
    """Raise a ValueError for an image of more than 8 bits a channel that would lose its contents.

    Pillow cuts such values off at 255 when it makes an RGB image of them.
    """
    with Image.open(file) as image:
        mode = image.mode
    if mode == "F" or mode.startswith("I"):
        raise ValueError(f"its pixels (mode {mode}) are not 8 bits a channel; scale them to 0-255")


class SceneMapper(DatasetMapper):
    """Detectron2's ``DatasetMapper``, also for images without objects; names bad ones.

    Its augmentations are those of :func:`~facenet_d2.data.augmentation.build_augmentations`. Boxes
    are made anew, tight around what the augmentations leave of the masks in the image; an instance
    of which they leave nothing is dropped.
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
        return arguments

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """
        Args:
            dataset_dict: one image in Detectron2's format.

        Returns:
            ``image``, in training ``instances``, and what else the dict had.

        Raises:
            UserError: where the image is missing, broken or of another size than annotated, or its
                annotations have no masks.
        """
        try:
            check_depth(dataset_dict["file_name"])
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
        if annotations:
            if self.use_instance_mask and any(not a.get("segmentation") for a in annotations):
                raise ValueError("it has an annotation without a segmentation")
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
