"""Mask R-CNN and its variants as a Detectron2 meta-architecture (paper, Tables 2-4)."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import ImageList, Instances

from ..postprocessing import with_pasted_masks


@META_ARCH_REGISTRY.register()
class MaskRCNN(GeneralizedRCNN):
    """Detectron2's ``GeneralizedRCNN``, whose results have masks as run lengths."""

    def preprocess_image(self, batched_inputs: list[dict[str, torch.Tensor]]) -> ImageList:
        """Normalise, pad and batch the images; keep their ignored regions for the RoI heads."""
        images = super().preprocess_image(batched_inputs)
        ignore_maps = [x.get("ignore_map") for x in batched_inputs]
        images.ignore_maps = [None if m is None else m.to(self.device) for m in ignore_maps]
        return images

    def inference(
        self,
        batched_inputs: list[dict[str, torch.Tensor]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[Any]:
        results = super().inference(batched_inputs, detected_instances, do_postprocess=False)
        if not do_postprocess:
            return results
        return [
            {"instances": with_pasted_masks(r, (x.get("height", h), x.get("width", w)))}
            for r, x in zip(results, batched_inputs, strict=True)
            for h, w in [r.image_size]
        ]
