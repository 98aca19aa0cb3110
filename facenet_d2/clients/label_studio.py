"""Tasks with predictions for Label Studio.

  python -m facenet_d2.clients.label_studio --config-file output/harbour/config.yaml \\
      --input photos/ --output tasks.json --labels labels.xml \\
      --url '/data/local-files/?d=photos/' --opts MODEL.WEIGHTS output/harbour/model_best.pth
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
import shapely
from detectron2.structures import Instances
from tqdm import tqdm

from ..data import read_image
from ..engine import Predictor, run_command
from ..engine.cli import user_errors
from ..engine.inputs import find_inputs
from ..errors import UserError
from ..files import write_whole
from ..wording import counted
from .outlines import mask_shapes

# Lengths of runs are stored with one of these numbers of bits.
_LENGTH_BITS = (3, 4, 8, 16)


def labeling_config(class_names: Sequence[str]) -> str:
    """Return the labelling interface of a project, with polygons and brush masks."""
    labels = "\n".join(f"    <Label value={quoteattr(name)}/>" for name in class_names)
    tags = "\n".join(
        f'  <{tag} name="{name}" toName="image">\n{labels}\n  </{tag}>'
        for tag, name in (("PolygonLabels", "polygon"), ("BrushLabels", "brush"))
    )
    return f'<View>\n  <Image name="image" value="$image"/>\n{tags}\n</View>\n'


def predicted_task(
    url: str,
    instances: Instances,
    class_names: Sequence[str],
    *,
    model_version: str = "facenet_d2",
    simplify: float = 1.0,
) -> dict[str, Any]:
    """Convert the predictions of an image to a task.

    An instance becomes a polygon. One with holes or several parts, which polygons cannot have,
    becomes a brush mask.

    Args:
        url: URL of the image, as Label Studio reads it.
        instances: predictions on the CPU, with
            :class:`~facenet_d2.structures.rle_masks.RLEMasks`.
        class_names: names of the classes.
        model_version: name of the model that Label Studio shows.
        simplify: maximum distance in pixels between the outline of a mask and its polygon.

    Returns:
        a task, of which a list can be imported as JSON.

    Raises:
        UserError: if the packages of the extra ``geo`` are not installed.
    """
    height, width = instances.image_size
    masks, scores = instances.pred_masks, instances.scores.tolist()
    results = []
    for i, shape in enumerate(mask_shapes(masks, simplify)):
        if shape.is_empty:
            continue
        label = [class_names[int(instances.pred_classes[i])]]
        if len(shape.geoms) == 1 and not shape.geoms[0].interiors:
            points = shapely.get_coordinates(shape)[:-1] * (100 / width, 100 / height)
            kind = "polygon"
            value = {"points": points.tolist(), "closed": True, "polygonlabels": label}
        else:
            kind = "brush"
            value = {
                "format": "rle",
                "rle": brush_rle(masks[i].numpy()),
                "brushlabels": label,
            }
        results.append(
            {
                "id": f"instance{i}",
                "type": f"{kind}labels",
                "from_name": kind,
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "score": scores[i],
                "value": value,
            }
        )
    prediction = {
        "model_version": model_version,
        "score": float(np.mean(scores)) if scores else 0.0,
        "result": results,
    }
    return {"data": {"image": url}, "predictions": [prediction]}


def brush_rle(mask: np.ndarray) -> list[int]:
    """Encode a mask as Label Studio's brush, the RLE of the package ``@thi.ng/rle-pack``.

    The encoded values are the bytes of an RGBA picture that is white in the mask. Bits: number of
    values (32), bits of a value - 1 (5), four choices of the bits of a length - 1 (4 each); then
    for each run a 1, the choice (2), its length - 1, and its value.

    Args:
        mask: ``(H, W)`` bool.

    Returns:
        bytes, the last one filled with zeros.
    """
    pixels = mask.ravel()
    starts = np.concatenate([[0], np.flatnonzero(pixels[1:] != pixels[:-1]) + 1])
    lengths = 4 * np.diff(starts, append=len(pixels))
    bits = [f"{4 * len(pixels):032b}{8 - 1:05b}", *(f"{b - 1:04b}" for b in _LENGTH_BITS)]
    for start, length in zip(starts.tolist(), lengths.tolist()):
        value = f"{255 * int(pixels[start]):08b}"
        while length:
            part = min(length, 2**16)
            choice = next(i for i, b in enumerate(_LENGTH_BITS) if part <= 2**b)
            bits.append(f"1{choice:02b}{part - 1:0{_LENGTH_BITS[choice]}b}{value}")
            length -= part
    text = "".join(bits)
    packed: list[int] = np.packbits(np.frombuffer(text.encode(), np.uint8) - ord("0")).tolist()
    return packed


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config of the model")
    parser.add_argument(
        "--input",
        required=True,
        nargs="+",
        metavar="PATH",
        help="images, folders of images, quoted glob patterns",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="JSON file for the tasks")
    parser.add_argument(
        "--labels", metavar="FILE", help="also write the labelling interface, as XML"
    )
    parser.add_argument(
        "--url",
        default="",
        metavar="PREFIX",
        help="text before the name of each image in its URL, for example "
        "'/data/local-files/?d=photos/' for local storage",
    )
    parser.add_argument(
        "--confidence-threshold",
        type=float,
        default=0.3,
        metavar="SCORE",
        help="minimum score of the instances (default: %(default)s)",
    )
    parser.add_argument(
        "--simplify",
        type=float,
        default=1.0,
        metavar="PIXELS",
        help="maximum distance between the outline of a mask and its polygon "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config overrides, for example MODEL.WEIGHTS model.pth; must be last",
    )
    return parser.parse_args()


def check_names(files: Sequence[Path]) -> None:
    """Check that images differ in their names, which their URLs are made of.

    Raises:
        UserError: if two have the same name.
    """
    known: dict[str, Path] = {}
    for file in files:
        if known.setdefault(file.name, file) != file:
            raise UserError(
                f"--input: {known[file.name]} and {file} would get the same URL; process their "
                "folders one by one, each with its own --url and --output."
            )


def main() -> None:
    """Write the tasks of images."""
    args = parse_args()
    files = find_inputs(args.input)
    check_names(files)
    predictor = Predictor(args.config_file, overrides=args.opts)
    names = predictor.metadata.thing_classes
    tasks = []
    for file in tqdm(files, unit="image"):
        image = read_image(file)
        with user_errors(f"image {file} cannot be processed"):
            found = predictor(image)
        tasks.append(
            predicted_task(
                args.url + quote(file.name),
                found[found.scores >= args.confidence_threshold],
                names,
                model_version=Path(predictor.cfg.MODEL.WEIGHTS).stem,
                simplify=args.simplify,
            )
        )
    write_whole(args.output, json.dumps(tasks))
    count = sum(len(task["predictions"][0]["result"]) for task in tasks)
    print(f"{counted(len(tasks), 'task')} with {counted(count, 'instance')} saved to {args.output}")
    if args.labels:
        write_whole(args.labels, labeling_config(names))


if __name__ == "__main__":
    sys.exit(run_command(main))
