"""Large files of COCO results, of which the entries of one image at a time are in memory."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, BinaryIO

from ...errors import UserError
from ..results import is_result

# Bytes that are read at once, and the most that an entry can have.
_CHUNK, _MAX_ENTRY = 1 << 22, 1 << 28
_BLANKS = " \t\r\n"


class ResultIndex:
    """Results of an evaluation, by image; a context manager that closes the file.

    The file is read once to find the entries of each image, whose positions are held, and then
    image by image.

    Attributes:
        count: number of results.
    """

    def __init__(self, path: Path, images: Mapping[int, str], categories: Collection[int]) -> None:
        """
        Args:
            path: JSON list of results, see :func:`~facenet_d2.evaluation.results.read_results`.
            images: file name of each image, by its id.
            categories: ids of the categories.

        Raises:
            UserError: if the file is missing or has another format, or a result is of an unknown
                image or category.
        """
        self._path = path
        self._places: dict[int, array[int]] = {}
        self.count = 0
        ids = _ids_by_name(images)
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise UserError(
                f"{path} does not contain COCO results: it cannot be read ({error.strerror})."
            ) from error
        try:
            for start, end, entry in _results(self._file, path):
                image_id = _image_of(entry, images, ids, f"{path}: result {self.count}")
                if entry["category_id"] not in categories:
                    raise UserError(
                        f"{path}: result {self.count}: category_id {entry['category_id']} is not "
                        f"one of the annotations' {sorted(categories)}; give the annotations that "
                        "were evaluated."
                    )
                place = self._places.setdefault(image_id, array("q"))
                place.extend((start, end, self.count))
                self.count += 1
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> ResultIndex:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def of_image(self, image_id: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the results of an image, each with its description for messages."""
        places = self._places.get(image_id, array("q"))
        for start, end, number in zip(places[::3], places[1::3], places[2::3]):
            self._file.seek(start)
            yield f"{self._path}: result {number}", json.loads(self._file.read(end - start))


def _ids_by_name(images: Mapping[int, str]) -> dict[str, int]:
    """Return the ids of images by the names of their files, with and without folders."""
    ids = {name: image_id for image_id, name in images.items()}
    # demo.py writes paths as the user gave them.
    base_names = Counter(PurePosixPath(name).name for name in ids)
    short = {PurePosixPath(name).name: image_id for name, image_id in ids.items()}
    return {name: i for name, i in short.items() if base_names[name] == 1} | ids


def _image_of(
    entry: dict[str, Any], images: Mapping[int, str], ids: Mapping[str, int], where: str
) -> int:
    if "file_name" not in entry:
        image_id = entry["image_id"]
        if image_id not in images:
            raise UserError(
                f"{where}: the annotations have no image {image_id}; give the annotations that "
                "were evaluated."
            )
        return int(image_id)
    name = str(entry["file_name"])
    found = ids.get(name, ids.get(PurePosixPath(name).name))
    if found is None:
        raise UserError(
            f"{where}: the annotations have no image {name}; give the annotations that were "
            "evaluated."
        )
    return found


def _results(file: BinaryIO, path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield the start and the end of each result in its file, and the result.

    Raises:
        UserError: if the file is not a list of results.
    """
    try:
        for number, (start, end, entry) in enumerate(_elements(file)):
            if not is_result(entry):
                raise UserError(
                    f"{path} does not contain COCO results of masks: entry {number} is not an "
                    "object with an integer category_id, a segmentation as RLE, a number as score, "
                    "and an image_id or file_name."
                )
            yield start, end, entry
    except ValueError as error:
        raise UserError(f"{path} does not contain COCO results: {error}.") from error
    except RecursionError as error:
        raise UserError(
            f"{path} does not contain COCO results: its lists or objects are nested too deeply."
        ) from error


def _elements(file: BinaryIO) -> Iterator[tuple[int, int, Any]]:
    """Yield the start, the end and the value of each element of a JSON list, read in chunks.

    Bytes are decoded as Latin-1, so that positions in the text are those in the file. JSON's own
    characters are ASCII, which no byte of another character in UTF-8 is.

    Raises:
        ValueError: if the file is not a list in JSON.
    """
    decoder = json.JSONDecoder()
    text = file.read(_CHUNK).decode("latin-1")
    offset = position = 0

    def more() -> bool:
        nonlocal text, offset, position
        # A longer chunk for a longer entry keeps the time proportional to the file.
        chunk = file.read(max(_CHUNK, len(text) - position))
        text, offset, position = text[position:] + chunk.decode("latin-1"), offset + position, 0
        return bool(chunk)

    def character() -> str:
        """Return the next character that is not blank, or nothing at the end of the file."""
        nonlocal position
        while True:
            while position < len(text) and text[position] in _BLANKS:
                position += 1
            if position < len(text):
                return text[position]
            if not more():
                return ""

    if character() != "[":
        raise ValueError("it is not a list")
    position += 1
    if character() == "]":
        position += 1
    else:
        while True:
            character()
            while True:
                try:
                    value, end = decoder.raw_decode(text, position)
                    break
                except json.JSONDecodeError as error:
                    place = offset + error.pos
                    if len(text) - position > _MAX_ENTRY or not more():
                        problem = f"it is not JSON ({error.msg} at byte {place})"
                        raise ValueError(problem) from error
            if not text[position:end].isascii():
                value = json.loads(text[position:end].encode("latin-1"))
            yield offset + position, offset + end, value
            position = end
            following = character()
            position += 1
            if following == "]":
                break
            if following != ",":
                raise ValueError(f"it is not JSON (expected , or ] at byte {offset + position})")
    if character():
        raise ValueError(f"it is not JSON (data after the list at byte {offset + position})")
