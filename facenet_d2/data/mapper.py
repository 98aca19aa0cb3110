"""From a dataset dict to what the model is given."""

from __future__ import annotations

from typing import Any

from detectron2.data import DatasetMapper

from ..errors import UserError


class SceneMapper(DatasetMapper):
    """Detectron2's ``DatasetMapper``, which names the image that cannot be used."""

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """
        Args:
            dataset_dict: one image in Detectron2's format.

        Returns:
            ``image``, in training ``instances``, and what else the dict had.

        Raises:
            UserError: where the image is missing, broken or of another size than annotated.
        """
        try:
            return super().__call__(dataset_dict)
        except Exception as error:
            raise UserError(
                f"image {dataset_dict.get('file_name')} cannot be used "
                f"({type(error).__name__}: {' '.join(str(error).split())}); mend it or take it out "
                "of the annotations."
            ) from error
