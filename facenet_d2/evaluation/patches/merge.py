"""Merging of results and ground truth, scene by scene, and the files of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rasterio.crs import CRS

from ...data.coco_entries import is_number
from ...errors import UserError
from ...scenes.description import SceneDescription
from ...scenes.merge import MergeSettings
from ...scenes.patch_grid import PatchGrid
from ...scenes.prediction import InstanceStream
from ...scenes.writers import check_outputs, write_scene
from .files import ScenePlace, place_from_file, stated_place, write_area, write_truth
from .places import Patch, find_scenes
from .result_index import ResultIndex
from .sources import ResultSource
from .truth import MIN_VISIBLE, SceneTruth, WholeScene, truth_of_patches, truth_of_scene

FOLDERS = ("results", "truth", "area")
"""Folders of the output; each has one file per scene, or one per scene and format."""


@dataclass(frozen=True)
class PatchSet:
    """Patches of scenes, with their annotations.

    Attributes:
        scenes: patches of each scene.
        class_names: name of each class index.
        class_ids: category id of each class index.
        annotations: annotations of each image by its id; None if they are withheld.
        min_visible: visible share of an object from which it is not ignored.
        places: size and place of the scenes for which the annotations state them.
    """

    scenes: dict[str, list[Patch]]
    class_names: tuple[str, ...]
    class_ids: tuple[int, ...]
    annotations: dict[int, list[dict[str, Any]]] | None
    min_visible: float
    places: dict[str, ScenePlace]

    @classmethod
    def from_coco(cls, content: Mapping[str, Any]) -> PatchSet:
        """Return the patches in COCO annotations.

        Args:
            content: annotations from :func:`~facenet_d2.data.coco_json.read_coco`.

        Raises:
            UserError: if the place of a patch or a scene is unusable; see
                :func:`.places.find_scenes`.
        """
        annotations: dict[int, list[dict[str, Any]]] = {}
        for annotation in content.get("annotations", ()):
            annotations.setdefault(annotation["image_id"], []).append(annotation)
        categories = sorted(content["categories"], key=lambda category: category["id"])
        info = content.get("info")
        info = info if isinstance(info, dict) else {}
        visible, places = info.get("min_visible"), info.get("scenes")
        places = places if isinstance(places, dict) else {}
        scenes = find_scenes(content["images"])
        return cls(
            scenes=scenes,
            class_names=tuple(category["name"] for category in categories),
            class_ids=tuple(category["id"] for category in categories),
            annotations=annotations if "annotations" in content else None,
            min_visible=visible if is_number(visible) else MIN_VISIBLE,
            places={name: stated_place(name, places[name]) for name in scenes if name in places},
        )

    @property
    def class_of(self) -> dict[int, int]:
        """Class index of each category id."""
        return {number: index for index, number in enumerate(self.class_ids)}


@dataclass(frozen=True)
class MergeOptions:
    """Options of the merge.

    Attributes:
        results: COCO results of the patches.
        output: folder of the output.
        images: folder that the patches' file names are relative to.
        formats: suffixes of the files of results, without a dot.
        min_score: minimum score of instances, after the merge.
        tolerance: see :class:`~facenet_d2.scenes.merge.MergeSettings`.
    """

    results: Path
    output: Path
    images: Path
    formats: tuple[str, ...] = ("gpkg",)
    min_score: float = 0.0
    tolerance: int = 0


@dataclass(frozen=True)
class MergedScene:
    """What was written for a scene.

    Attributes:
        name: name of the scene.
        patches: number of patches.
        overlap: whether patches overlap, so that objects can be put together.
        results: number of results of the patches.
        instances: number of instances.
        truth: true objects, if they are known.
        crs: coordinate reference system of the files, or None for pixels.
    """

    name: str
    patches: int
    overlap: bool
    results: int
    instances: int
    truth: SceneTruth | None
    crs: CRS | None


def merge_scenes(
    patches: PatchSet, options: MergeOptions, whole: Mapping[str, WholeScene] | None = None
) -> Iterator[MergedScene]:
    """Write the results, the ground truth and the area of each scene, one scene at a time.

    The output folders must exist.

    Args:
        patches: patches of all scenes.
        options: options of the merge.
        whole: sizes and annotations of the scenes, instead of those of the patches.

    Raises:
        UserError: if the results or masks are not usable, or a file cannot be written.
    """
    names = {patch.image_id: patch.file_name for own in patches.scenes.values() for patch in own}
    with ResultIndex(options.results, names, patches.class_ids) as index:
        for number, name in enumerate(patches.scenes, start=1):
            known = None if whole is None else whole[name]
            yield _merge_scene(number, name, patches, index, options, known)


def _merge_scene(
    number: int,
    name: str,
    patches: PatchSet,
    index: ResultIndex,
    options: MergeOptions,
    whole: WholeScene | None,
) -> MergedScene:
    own = patches.scenes[name]
    place = patches.places.get(name) or place_from_file(own, options.images)
    size = place.size if whole is None else whole.size
    grid = PatchGrid((patch.window for patch in own), size=size)
    scene = SceneDescription(
        name=name,
        height=grid.height,
        width=grid.width,
        transform=place.transform,
        crs=place.crs,
        class_names=patches.class_names,
        class_ids=patches.class_ids,
        scene_id=number,
    )
    results, truth_folder, area = (options.output / folder for folder in FOLDERS)
    files = [results / f"{name}.{suffix}" for suffix in options.formats]
    check_outputs(files, scene)
    truth = None
    if whole is not None:
        if (grid.height, grid.width) != whole.size:
            raise UserError(
                f"scene {name} is {whole.size[1]}x{whole.size[0]} pixels in its own annotations, "
                f"but its patches reach to {grid.width}x{grid.height}."
            )
        truth = truth_of_scene(whole, name)
    elif patches.annotations is not None:
        truth = truth_of_patches(
            grid, own, patches.annotations, patches.class_of, min_visible=patches.min_visible
        )
    stream = InstanceStream(
        grid,
        ResultSource(index, own, patches.class_of),
        MergeSettings(tolerance=options.tolerance),
        min_score=options.min_score,
    )
    written = write_scene(files, scene, stream)
    write_area(area / f"{name}.gpkg", scene, own)
    if truth is not None:
        write_truth(truth_folder / f"{name}.gpkg", scene, truth)
    return MergedScene(
        name,
        len(own),
        grid.is_overlapping,
        stream.report.detections,
        written.instances,
        truth,
        place.crs,
    )
