"""An auto-annotation function for CVAT.

  cvat-cli task auto-annotate 12 --function-module facenet_d2.clients.cvat \\
      -p config_file=str:output/harbour/config.yaml -p weights=str:output/harbour/model_best.pth

The labels of the task must have the names of the model's classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np
import PIL.Image

from ..engine import Predictor
from ..errors import UserError
from ..structures.rle_masks import RLEMasks
from .outlines import mask_shapes, outlines
from .packages import missing_package

try:
    import cvat_sdk.auto_annotation as cvataa
    from cvat_sdk.masks import encode_mask
    from cvat_sdk.models import LabeledShapeRequest
except ImportError as error:
    raise missing_package("cvat-cli", error) from error


class AutoAnnotation:
    """A model as CVAT's detection function: each instance becomes a mask, or polygons.

    CVAT's polygons have neither holes nor parts. An instance with holes or parts becomes a group
    of polygons.

    Attributes:
        spec: the labels, whose IDs are class indices.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        min_score: float = 0.3,
        polygons: bool = False,
        simplify: float = 1.0,
    ) -> None:
        """
        Args:
            predictor: the model.
            min_score: minimum score of the instances, if CVAT passes none.
            polygons: whether to return polygons instead of masks. CVAT's own switch is
                ``--conv-mask-to-poly``.
            simplify: maximum distance in pixels between the outline of a mask and its polygon.
        """
        self.predictor = predictor
        self.min_score = min_score
        self.polygons = polygons
        self.simplify = simplify
        self.spec = cvataa.DetectionFunctionSpec(
            labels=[
                cvataa.label_spec(name, index, type="polygon" if polygons else "mask")
                for index, name in enumerate(predictor.metadata.thing_classes)
            ]
        )
        # Groups of different frames must not share a number.
        self._groups = count(1)

    def detect(
        self, context: cvataa.DetectionFunctionContext, image: PIL.Image.Image
    ) -> list[LabeledShapeRequest]:
        """Return the instances of an image as CVAT's shapes.

        Raises:
            UserError: if the image has more than 8 bits per channel.
        """
        if image.mode[0] in "IF":
            raise UserError(
                f"{context.frame_name} has more than 8 bits per channel (mode {image.mode}); "
                "convert it to 8 bits."
            )
        found = self.predictor(np.asarray(image.convert("RGB"))[:, :, ::-1])
        minimum = self.min_score if context.conf_threshold is None else context.conf_threshold
        found = found[found.scores >= minimum]
        as_polygons = self.polygons or context.conv_mask_to_poly
        shapes = self._polygons if as_polygons else self._masks
        classes, scores = found.pred_classes.tolist(), found.scores.tolist()
        return list(shapes(found.pred_masks, classes, scores))

    def _masks(
        self, masks: RLEMasks, classes: list[int], scores: list[float]
    ) -> Iterator[LabeledShapeRequest]:
        for i, area in enumerate(masks.areas()):
            if area:
                crop, x, y = masks.crop(i)
                height, width = crop.shape
                runs = encode_mask(crop, [0, 0, width, height])[:-4]
                # The last column and row are included.
                points = [*runs, x, y, x + width - 1, y + height - 1]
                yield cvataa.mask(classes[i], list(map(float, points)), score=scores[i])

    def _polygons(
        self, masks: RLEMasks, classes: list[int], scores: list[float]
    ) -> Iterator[LabeledShapeRequest]:
        for i, shape in enumerate(mask_shapes(masks, self.simplify)):
            parts = outlines(shape)
            group = next(self._groups) if len(parts) > 1 else 0
            for part in parts:
                points = part.ravel().tolist()
                yield cvataa.polygon(classes[i], points, score=scores[i], group=group)


def create(
    config_file: str,
    weights: str | None = None,
    min_score: float = 0.3,
    polygons: bool = False,
    simplify: float = 1.0,
) -> AutoAnnotation:
    """Create the function from the parameters of ``cvat-cli -p``; see :class:`AutoAnnotation`.

    Args:
        config_file: config of the model.
        weights: checkpoint file; by default ``MODEL.WEIGHTS``.
        min_score: minimum score of the instances.
        polygons: whether to return polygons instead of masks.
        simplify: maximum distance in pixels between the outline of a mask and its polygon.

    Raises:
        UserError: if config or weights are not usable.
    """
    return AutoAnnotation(
        Predictor(config_file, weights), min_score=min_score, polygons=polygons, simplify=simplify
    )
