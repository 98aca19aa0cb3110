"""Conversion of dataset dicts to the input of a model."""

from __future__ import annotations

import copy
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data.detection_utils import (
    SizeMismatchError,
    annotations_to_instances,
    check_image_size,
    filter_empty_instances,
)
from detectron2.structures import BitMasks, PolygonMasks

from ..errors import UserError
from ..stride import MASK_STRIDE, mask_stride
from ..structures.rasterize import rasterize_instances
from .augmentation import RandomQuarterTurn, build_augmentations
from .images import ImageError
from .readers import ImageReader, PillowReader, build_reader

# Value of INPUT.MASK_FORMAT in addition to Detectron2's "polygon" and "bitmask".
STRIDE4 = "stride4"


class SceneMapper(DatasetMapper):
    """Detectron2's ``DatasetMapper``, with errors that name the image.

    Differences:

    - Its augmentations are those of :func:`~facenet_d2.data.augmentation.build_augmentations`.
    - ``INPUT.MASK_FORMAT`` may be ``stride4``: masks are rasterised at stride 4, or at
      ``MODEL.SOLOV2.MASK_STRIDE``, see
      :func:`~facenet_d2.structures.rasterize.rasterize_instances`.
    - Boxes are recomputed, tight around the part of the mask that the augmentations leave in the
      image; instances without such a part are dropped.
    - Images without instances have all ground-truth fields, which are empty.
    - Images are read by the reader of the config, see :mod:`~facenet_d2.data.readers`.
    - Crowds become an ``ignore_map``, ``(ceil(H/4), ceil(W/4))`` bool, instead of instances; the
      losses ignore background in it.
    """

    @configurable
    def __init__(
        self,
        *,
        reader: ImageReader | None = None,
        mask_stride: int = MASK_STRIDE,
        **arguments: Any,
    ) -> None:
        """
        Args:
            reader: reader of the images; by default Pillow's, for ``image_format``.
            mask_stride: stride of the masks if the mask format is ``stride4``.
            arguments: arguments of ``DatasetMapper``.
        """
        # Detectron2's constructor is decorated as well, and takes explicit arguments only.
        super().__init__(**arguments)
        self.reader = reader or PillowReader(self.image_format)
        self.mask_stride = mask_stride

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        without_flip = cfg.clone()
        without_flip.defrost()
        without_flip.INPUT.RANDOM_FLIP = "none"  # Detectron2 rejects "both".
        arguments = super().from_config(without_flip, is_train)
        crops = [a for a in arguments["augmentations"] if isinstance(a, T.RandomCrop)]
        arguments["augmentations"] = crops + build_augmentations(cfg, is_train)
        arguments["recompute_boxes"] = cfg.MODEL.MASK_ON
        arguments["reader"] = build_reader(cfg)
        arguments["mask_stride"] = mask_stride(cfg)
        return arguments

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Read and augment one image.

        Args:
            dataset_dict: image in Detectron2's dataset format. An entry ``sideways``, a bool,
                determines whether a random quarter turn swaps height and width.

        Returns:
            The dict's other entries, ``image`` ``(C, H, W)`` and, in training, ``instances`` and,
            if there are crowds, ``ignore_map``.

        Raises:
            UserError: If the image is missing, damaged or of another size than annotated, or an
                annotation has no mask.
        """
        dataset_dict = dict(dataset_dict)
        sideways = dataset_dict.pop("sideways", None)
        image = self._read(dataset_dict)
        sem_seg = None
        if "sem_seg_file_name" in dataset_dict:
            labels = dataset_dict.pop("sem_seg_file_name")
            sem_seg = detection_utils.read_image(labels, "L").squeeze(2)
        inputs = T.AugInput(image, sem_seg=sem_seg)
        augmentations = [
            RandomQuarterTurn(sideways) if isinstance(a, RandomQuarterTurn) else a
            for a in self.augmentations.augs
        ]
        transforms = T.AugmentationList(augmentations)(inputs)
        image = inputs.image
        # ascontiguousarray would keep the negative stride of a mirrored side of one pixel.
        dataset_dict["image"] = torch.as_tensor(np.array(image.transpose(2, 0, 1), order="C"))
        if inputs.sem_seg is not None:
            dataset_dict["sem_seg"] = torch.as_tensor(inputs.sem_seg.astype("long"))
        if not self.is_train:
            dataset_dict.pop("annotations", None)
        elif "annotations" in dataset_dict:
            self._transform_annotations(dataset_dict, transforms, image.shape[:2])
        return dataset_dict

    def _read(self, dataset_dict: dict[str, Any]) -> np.ndarray:
        file = dataset_dict["file_name"]
        try:
            image = self.reader(file)
            check_image_size(dataset_dict, image)
        except ImageError as error:
            raise _unusable(file, error.reason) from error
        except SizeMismatchError as error:
            raise _unusable(file, str(error)) from error
        return image

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: Any, image_shape: tuple[int, int]
    ) -> None:
        annotations = [a for a in dataset_dict["annotations"] if not a.get("iscrowd", 0)]
        crowds = [
            a for a in dataset_dict["annotations"] if a.get("iscrowd", 0) and a.get("segmentation")
        ]
        if self.use_instance_mask:
            _check_segmentations(dataset_dict["file_name"], [*annotations, *crowds])
            if crowds:
                dataset_dict["ignore_map"] = rasterize_instances(
                    crowds, transforms, _annotated_size(dataset_dict), image_shape
                ).gt_stride4_masks.any(dim=0)
        if self.instance_mask_format == STRIDE4:
            annotated_size = _annotated_size(dataset_dict)
            del dataset_dict["annotations"]
            dataset_dict["instances"] = rasterize_instances(
                annotations, transforms, annotated_size, image_shape, self.mask_stride
            )
            return
        if annotations:
            # Detectron2 changes annotations in place.
            annotations = copy.deepcopy(annotations)
            for a in annotations:
                if isinstance(a.get("segmentation"), list):
                    # Its transforms write into the arrays, which truncates integers.
                    a["segmentation"] = [np.asarray(p, dtype=float) for p in a["segmentation"]]
            dataset_dict["annotations"] = annotations
            super()._transform_annotations(dataset_dict, transforms, image_shape)
            if isinstance(dataset_dict["instances"].get_fields().get("gt_masks"), PolygonMasks):
                # Polygons, and the boxes made of them, can reach beyond the image.
                instances = dataset_dict["instances"]
                instances.gt_boxes.clip(image_shape)
                dataset_dict["instances"] = filter_empty_instances(instances, by_mask=False)
            return
        # Detectron2 omits gt_masks if there are no annotations.
        del dataset_dict["annotations"]
        instances = annotations_to_instances([], image_shape)
        if self.use_instance_mask:
            instances.gt_masks = (
                BitMasks(torch.zeros((0, *image_shape), dtype=torch.bool))
                if self.instance_mask_format == "bitmask"
                else PolygonMasks([])
            )
        dataset_dict["instances"] = instances


def _annotated_size(dataset_dict: dict[str, Any]) -> tuple[int, int]:
    return dataset_dict["height"], dataset_dict["width"]


def _check_segmentations(file: str, annotations: list[dict[str, Any]]) -> None:
    for annotation in annotations:
        segmentation = annotation.get("segmentation")
        if not segmentation:
            raise _unusable(file, "it has an annotation without a segmentation")
        if not isinstance(segmentation, (list, dict)):
            kind = type(segmentation).__name__
            raise _unusable(file, f"a segmentation is a {kind}, not polygons or an RLE")


def _unusable(file: str, reason: str) -> UserError:
    return UserError(
        f"image {file} cannot be used ({reason}); fix it or remove it from the annotations."
    )
