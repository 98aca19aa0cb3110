"""Detections for Roboflow's supervision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.structures import Instances

from ..engine import Predictor
from ..structures.rle_masks import RLEMasks
from .packages import missing_package

try:
    import supervision as sv
    from supervision.detection.compact_mask import CompactMask
except ImportError as error:
    raise missing_package("supervision>=0.31", error) from error


def to_detections(
    instances: Instances, class_names: Sequence[str] = (), *, compact: bool = False
) -> sv.Detections:
    """Convert predictions.

    Args:
        instances: N predictions on the CPU, with
            :class:`~facenet_d2.structures.rle_masks.RLEMasks`.
        class_names: names for ``data["class_name"]``, which annotators use as labels.
        compact: whether masks are kept as run lengths (``CompactMask``) instead of an
            ``(N, H, W)`` array.
    """
    boxes = instances.pred_boxes.tensor.numpy()
    masks = instances.pred_masks
    classes = instances.pred_classes.numpy().astype(int)
    return sv.Detections(
        xyxy=boxes,
        confidence=instances.scores.numpy(),
        class_id=classes,
        mask=_compact(masks) if compact else np.asarray(masks),
        data={"class_name": np.array(class_names)[classes]} if class_names else {},
    )


def _compact(masks: RLEMasks) -> CompactMask:
    # supervision's boxes include their last column and row.
    boxes = masks.boxes().numpy() - np.array([0, 0, 1, 1])
    return CompactMask.from_coco_rle(masks.rles(), boxes.clip(0), masks.image_size)


class SliceCallback:
    """The callback of ``InferenceSlicer``, for one slice or a batch of them::

    slicer = sv.InferenceSlicer(SliceCallback(predictor), slice_wh=512, batch_size=4)
    detections = slicer(cv2.imread("harbour.jpg"))
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        min_score: float = 0.3,
        compact: bool = False,
        rgb: bool = False,
    ) -> None:
        """
        Args:
            predictor: the model.
            min_score: minimum score of the detections.
            compact: see :func:`to_detections`.
            rgb: whether slices are RGB, as those of a rasterio data set, instead of BGR.
        """
        self.predictor = predictor
        self.min_score = min_score
        self.compact = compact
        self.rgb = rgb

    def __call__(
        self, image: np.ndarray | Sequence[np.ndarray]
    ) -> sv.Detections | list[sv.Detections]:
        """Detect the instances of one image ``(H, W, 3)`` uint8, or of a list of them."""
        images = [image] if isinstance(image, np.ndarray) else list(image)
        found = self.predictor.predict_batch([i[:, :, ::-1] if self.rgb else i for i in images])
        names = self.predictor.metadata.thing_classes
        detections = [
            to_detections(f[f.scores >= self.min_score], names, compact=self.compact) for f in found
        ]
        return detections[0] if isinstance(image, np.ndarray) else detections
