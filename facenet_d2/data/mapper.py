"""From a dataset dict to what the model is given."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.data import DatasetMapper
from detectron2.structures import BitMasks, Instances, PolygonMasks

from ..errors import UserError


class SceneMapper(DatasetMapper):
    """Detectron2's ``DatasetMapper``, also for images without objects; names bad ones."""

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
            mapped = super().__call__(dataset_dict)
            if "instances" in mapped and self.use_instance_mask:
                self._complete(mapped["instances"])
            return mapped
        except Exception as error:
            raise UserError(
                f"image {dataset_dict.get('file_name')} cannot be used "
                f"({type(error).__name__}: {' '.join(str(error).split())}); mend it or take it out "
                "of the annotations."
            ) from error

    def _complete(self, instances: Instances) -> None:
        # Detectron2 leaves the masks out where there is nothing to have one.
        if instances.has("gt_masks"):
            return
        if len(instances):
            raise ValueError("its annotations have no segmentation")
        instances.gt_masks = (
            BitMasks(torch.zeros((0, *instances.image_size), dtype=torch.bool))
            if self.instance_mask_format == "bitmask"
            else PolygonMasks([])
        )
