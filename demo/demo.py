#!/usr/bin/env python3
"""Draw predicted instances on images and videos.

  demo.py --config-file configs/NWPU-VHR10/facenet_R_50_36ep.yaml \\
      --input harbour.jpg photos/ 'scenes/*.png' flight.mp4 --output overlays \\
      --opts MODEL.WEIGHTS output/model_best.pth
  demo.py --config-file output/harbour --input harbour.jpg
  demo.py --weights facenet.onnx --input harbour.jpg
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import facenet_d2.compat  # noqa: F401  isort: skip
import cv2
import numpy as np
from detectron2.structures import Instances
from tqdm import tqdm

from facenet_d2 import UserError
from facenet_d2.data.readers import RasterReader
from facenet_d2.engine import Predictor, run_command
from facenet_d2.engine.cli import user_errors
from facenet_d2.engine.exported_predictor import ExportedPredictor
from facenet_d2.engine.inputs import VIDEO_SUFFIXES, find_inputs, output_names
from facenet_d2.engine.num_classes import score_threshold_key
from facenet_d2.engine.setup import check_writable
from facenet_d2.evaluation.results import instances_to_results
from facenet_d2.exported_options import add_exported_options, check_exported_options
from facenet_d2.files import replaced, write_whole
from facenet_d2.signals import StopAfter, StopRequested
from facenet_d2.visualization.overlay import draw_instances
from facenet_d2.wording import counted


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="config file, OUTPUT_DIR of a training run, or name of a model in the model zoo",
    )
    add_exported_options(parser)
    parser.add_argument(
        "--input",
        required=True,
        nargs="+",
        metavar="PATH",
        help="images, folders of images, quoted glob patterns, videos",
    )
    parser.add_argument(
        "--output",
        default="output/demo",
        metavar="DIR",
        help="output folder (default: %(default)s)",
    )
    parser.add_argument(
        "--confidence-threshold",
        type=float,
        default=0.3,
        metavar="SCORE",
        help="minimum score of drawn and saved instances (default: %(default)s)",
    )
    parser.add_argument(
        "--save-json",
        metavar="FILE",
        help="also save the instances as COCO results with file names",
    )
    parser.add_argument(
        "--no-labels",
        action="store_true",
        help="do not draw class names and scores, which hide small objects",
    )
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config overrides, for example MODEL.WEIGHTS model.pth; must be last",
    )
    args = parser.parse_args()
    check_exported_options(parser, args)
    return args


# Scale of the network's input below which a report says so.
REPORTED_SCALE = 0.4


class Demo:
    """Applies a model to images, and collects the results."""

    def __init__(self, args: argparse.Namespace, stop: StopAfter) -> None:
        self.stop = stop
        self.with_labels = not args.no_labels
        self.threshold = args.confidence_threshold
        self._load(args)
        self.results: list[dict] = []
        self.images_seen = 0

    def _load(self, args: argparse.Namespace) -> None:
        """Load the model, and keep what the reports say of it."""
        self.predictor: Predictor | ExportedPredictor
        if args.weights is not None:
            self.predictor = ExportedPredictor(args.weights, provider=args.runtime)
            model = self.predictor.predictor.description
            self.threshold_key = f"the file's score_threshold ({model.settings.score_threshold})"
            self.sizes = model.min_size, model.max_size
            return
        self.predictor = Predictor(args.config_file, overrides=args.opts)
        cfg = self.predictor.cfg
        self.threshold_key = score_threshold_key(cfg)
        self.sizes = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST

    def run_image(self, image: np.ndarray, name: str) -> tuple[np.ndarray, str]:
        """Process an image that ``Predictor`` takes; return the overlay, in BGR, and a report.

        Raises:
            UserError: If the model cannot process it.
        """
        start = time.perf_counter()
        with user_errors(f"image {name} cannot be processed"):
            everything = self.predictor(image)
        seconds = time.perf_counter() - start
        shown = everything[everything.scores >= self.threshold]
        self._keep(shown, name)
        reader = self.predictor.reader
        picture = reader.picture(image) if isinstance(reader, RasterReader) else image[:, :, ::-1]
        overlay = draw_instances(
            picture, shown, self.predictor.metadata, with_labels=self.with_labels
        )
        line = f"{name}: {counted(len(shown), 'instance')}, {seconds:.2f} s"
        if len(shown) == 0:
            line += (
                f" (highest score {everything.scores.max():.2f}, below --confidence-threshold "
                f"{self.threshold})"
                if len(everything)
                else f" (no score above {self.threshold_key})"
            )
        shrunk = self._input_scale(image)
        if shrunk < REPORTED_SCALE:
            line += (
                f"; the network saw it at {shrunk:.2f} of its size, at which small objects vanish: "
                "use tools/predict_scenes.py"
            )
        return overlay[:, :, ::-1], line

    def _input_scale(self, image: np.ndarray) -> float:
        """Return the size of the network's input relative to an image."""
        short, long = sorted(image.shape[:2])
        min_size, max_size = self.sizes
        return min(min_size / short, max_size / long) if min_size else 1.0

    def _keep(self, instances: Instances, name: str) -> None:
        self.images_seen += 1
        for result in instances_to_results(instances, self.images_seen):
            # Category IDs are those of the data set if it is known, otherwise class indices + 1.
            category = result["category_id"]
            result["category_id"] = self.predictor.category_ids.get(category, category + 1)
            self.results.append({"file_name": name, **result})


def read_video(path: Path) -> tuple[Iterator[np.ndarray], float, int]:
    """Open a video; return its BGR frames, frame rate, and the number of frames that it states.

    Raises:
        UserError: If the file cannot be decoded.
    """
    video = cv2.VideoCapture(str(path))
    ok, first = video.read()
    if not ok:
        raise UserError(f"video {path} cannot be decoded.")

    def frames() -> Iterator[np.ndarray]:
        ok, frame = True, first
        while ok:
            yield frame
            ok, frame = video.read()
        video.release()

    fps = video.get(cv2.CAP_PROP_FPS) or 25.0
    return frames(), fps, int(video.get(cv2.CAP_PROP_FRAME_COUNT))


def count_frames(path: Path) -> int:
    """Return the number of frames of a video that can be decoded."""
    video = cv2.VideoCapture(str(path))
    count = 0
    while video.grab():
        count += 1
    video.release()
    return count


def run_video(demo: Demo, path: Path, out: Path) -> str:
    """Process one video and return the line that reports the result.

    Raises:
        UserError: If it cannot be decoded or its overlay cannot be encoded.
    """
    frames, fps, count = read_video(path)
    writer = None
    instances_before, start, done = len(demo.results), time.perf_counter(), 0
    with replaced(out) as temporary:
        try:
            for frame in tqdm(frames, total=count or None, unit="frame", desc=path.name):
                done += 1
                overlay, _ = demo.run_image(frame, f"{path}#{done}")
                if writer is None:
                    codec = cv2.VideoWriter_fourcc(*"mp4v")
                    writer = cv2.VideoWriter(str(temporary), codec, fps, overlay.shape[1::-1])
                    if not writer.isOpened():
                        raise UserError(f"OpenCV cannot write the video {out}; is the disk full?")
                writer.write(np.ascontiguousarray(overlay))
                demo.stop.check()
        finally:
            if writer is not None:
                writer.release()
        # OpenCV does not report a full disk.
        written = count_frames(temporary)
        if written < done:
            raise UserError(
                f"overlay {out} cannot be written: of {done} frames, {written} could be read back "
                "(is the disk full?)."
            )
    seconds = time.perf_counter() - start
    found = counted(len(demo.results) - instances_before, "instance")
    return f"{path}: {counted(done, 'frame')}, {found}, {seconds:.2f} s"


def run_file(demo: Demo, path: Path, out: Path) -> str:
    """Process one file and return the line that reports the result.

    Raises:
        UserError: If it cannot be read, its overlay cannot be written, or memory is exhausted.
    """
    try:
        return _run_file(demo, path, out)
    except OSError as error:
        raise UserError(f"overlay {out} cannot be written ({error.strerror or error}).") from error
    except MemoryError as error:
        raise UserError(f"{path} does not fit into memory; use a smaller one.") from error
    except cv2.error as error:
        raise UserError(f"{path} cannot be processed: OpenCV reports {error.err!r}.") from error


def _run_file(demo: Demo, path: Path, out: Path) -> str:
    if path.suffix.lower() in VIDEO_SUFFIXES:
        if isinstance(demo.predictor.reader, RasterReader):
            raise UserError(
                f"video {path} has 8-bit colours, but the model was trained with INPUT.BANDS or "
                "INPUT.STRETCH; give it images."
            )
        return run_video(demo, path, out)
    image = demo.predictor.read(path)
    overlay, line = demo.run_image(image, str(path))
    # OpenCV does not report a full disk when it writes a file.
    encoded, content = cv2.imencode(out.suffix, overlay)
    if not encoded:
        raise OSError("OpenCV cannot encode it")
    write_whole(out, content.tobytes())
    return line


def main() -> int:
    args = parse_args()
    logging.getLogger("fvcore").setLevel(logging.WARNING)
    inputs = find_inputs(args.input)
    folder = check_writable(args.output)
    outputs = output_names(inputs, folder)
    if args.save_json:
        check_writable(Path(args.save_json).parent)
        if Path(args.save_json).resolve() in {p.resolve() for p in inputs}:
            raise UserError(f"--save-json {args.save_json} is an input; choose another file.")
        if Path(args.save_json).is_dir():
            raise UserError(f"--save-json {args.save_json} is a folder; name a file.")
    stop = StopAfter("image or frame")
    demo = Demo(args, stop)
    with stop:
        failed = run_files(demo, list(zip(inputs, outputs)), args.save_json)
    if failed:
        print(f"error: {failed} of {len(inputs)} inputs failed.", file=sys.stderr)
    return 1 if failed else 0


def run_files(demo: Demo, files: list[tuple[Path, Path]], results: str | None) -> int:
    """Process files, and write the results whatever happens to one of them.

    Args:
        demo: the model.
        files: inputs and their outputs.
        results: JSON file for the results, if any.

    Returns:
        Number of inputs that failed.

    Raises:
        StopRequested: After a signal.
    """
    done, failed = 0, 0
    bar = tqdm(files, unit="file")
    try:
        for path, out in bar:
            try:
                bar.write(run_file(demo, path, out))
                done += 1
            except UserError as error:
                failed += 1
                bar.write(f"error: {error} Skipped.", file=sys.stderr)
            demo.stop.check()
    except StopRequested as request:
        bar.write(f"{request}: {done + failed} of {len(files)} inputs are done.", file=sys.stderr)
        raise
    finally:
        demo.stop.ignore()
        bar.close()
        if results:
            write_whole(results, json.dumps(demo.results))
            print(f"{counted(len(demo.results), 'instance')} saved to {results}")
        print(f"{counted(done, 'overlay')} saved to {files[0][1].parent.resolve()}")
    return failed


if __name__ == "__main__":
    sys.exit(run_command(main))
