"""Tries to execute code, or to start a download, by each kind of file that this project reads.

Each path plants something that creates a marker file, or asks a local server for a file, if
anything executes or follows it; ``CONTROLS`` shows that careless reading does. A path is inert if
neither happens and the file is used as data or refused with one sentence.

  python tests/faults/code_paths.py
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import importlib
import importlib.util
import io
import json
import os
import pickle
import shutil
import stat
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import facenet_d2.compat  # noqa: F401  isort: skip
import numpy as np
import torch
import yaml
from detectron2.config import get_cfg
from faults import commands
from fuzz import harness
from helpers import REPOSITORY, write_tiny_config
from PIL import Image

from facenet_d2 import UserError
from facenet_d2.conversion import read_state
from facenet_d2.data.images import read_image
from facenet_d2.engine import Predictor, load_config
from facenet_d2.engine.checkpointer import ModelCheckpointer, load_checkpoint
from facenet_d2.engine.downloads import ALLOW
from facenet_d2.synthetic.dataset import write_dataset

SECONDS, MEMORY = 120, 4 * 2**30


@dataclass(frozen=True)
class Place:
    """What a path can use.

    Attributes:
        folder: folder of its own, which is the current one.
        marker: file that no path may create.
        server: address of a server that no path may ask, ``http://...``.
        scenes: data set with ``images`` and ``annotations.json``.
    """

    folder: Path
    marker: Path
    server: str
    scenes: Path

    @property
    def shell(self) -> str:
        return f"touch {self.marker}"

    def config(self, *lines: str, name: str = "output") -> Path:
        """Write the config of a tiny model, with further lines of YAML."""
        file = write_tiny_config(self.folder, self.scenes, output=name)
        text = file.read_text().replace('WEIGHTS: ""', 'WEIGHTS: ""' if not lines else lines[0])
        file.write_text("\n".join([text, *lines[1:]]))
        return file


class Harm:
    """Object whose unpickling runs a shell command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


class HarmfulScript(torch.nn.Module):
    """TorchScript program that creates a file when it is loaded."""

    def __init__(self, marker: str) -> None:
        super().__init__()
        self.marker = marker

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.marker, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.marker = state[0]
        # Without a use of the result, the call would be optimised away.
        self.training = state[1] and bool(torch.from_file(state[0], True, 8).numel())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def pickled(place: Place, *, inside: bool = True, file: str = "evil.pkl") -> Path:
    harm = Harm(place.shell)
    content = {"model": {"weight": harm}, "__author__": "somebody"} if inside else harm
    path = place.folder / file
    path.write_bytes(pickle.dumps(content))
    return path


def zipped(place: Place, file: str = "evil.pth", **kwargs: Any) -> Path:
    path = place.folder / file
    torch.save({"model": {"weight": torch.ones(1, 2)}, "meta": Harm(place.shell)}, path, **kwargs)
    return path


def dotted(place: Place, file: str = "evil.pkl") -> Path:
    """Write a pickle that goes from an allowed function to ``os.system`` by its attributes."""

    def text(value: str) -> bytes:
        return pickle.BINUNICODE + len(value.encode()).to_bytes(4, "little") + value.encode()

    name = text("numpy.core.multiarray") + text("_reconstruct.__globals__.__getitem__")
    call = name + pickle.STACK_GLOBAL + text("os") + pickle.TUPLE1 + pickle.REDUCE
    path = place.folder / file
    path.write_bytes(pickle.PROTO + b"\x04" + call + pickle.STOP)
    return path


def tarred(place: Place, file: str = "evil.pth") -> Path:
    """Write PyTorch's first format, a tar archive of pickles."""
    path = place.folder / file
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(Harm(place.shell), protocol=2)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def scripted(place: Place, file: str = "evil.pth") -> Path:
    path = place.folder / file
    torch.jit.save(torch.jit.script(HarmfulScript(str(place.marker))), path)
    place.marker.unlink(missing_ok=True)
    return path


def object_array(place: Place, file: str) -> Path:
    path = place.folder / file
    array = np.array([Harm(place.shell)], dtype=object)
    with path.open("wb") as stream:
        (np.savez if file.endswith(".npz") else np.save)(stream, array, allow_pickle=True)
    return path


def postscript(place: Place, file: str = "evil.png") -> Path:
    """Write EPS under the name of another format, and put a "Ghostscript" into PATH."""
    path = place.folder / file
    path.write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 128 128\n%%EndComments\nshowpage\n%%EOF\n"
    )
    fake = place.folder / "bin" / "gs"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\n{place.shell}\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    os.environ["PATH"] = f"{fake.parent}:{os.environ['PATH']}"
    return path


def tagged_yaml(place: Place, file: str = "evil.yaml") -> Path:
    path = place.folder / file
    path.write_text(f'A: !!python/object/apply:os.system ["{place.shell}"]\n')
    return path


# How each payload does harm if it is read without care.
CONTROLS: dict[str, Callable[[Place], object]] = {
    "pickle": lambda p: pickle.loads(pickled(p).read_bytes()),
    "zip": lambda p: torch.load(zipped(p), weights_only=False),
    "tar": lambda p: torch.load(tarred(p), weights_only=False),
    "TorchScript": lambda p: torch.jit.load(scripted(p)),
    "npy": lambda p: np.load(object_array(p, "a.npy"), allow_pickle=True),
    "YAML": lambda p: yaml.unsafe_load(tagged_yaml(p).read_text()),
    "EPS": lambda p: _open_with_ghostscript(postscript(p)),
    "shell": lambda p: os.system(p.shell),
    "weights by http": lambda p: _allowed(lambda: shared(p, f"{p.server}/evil.pkl")),
    "_BASE_ by http": lambda p: _allowed(lambda: base(p, f"{p.server}/evil.yaml")),
}


def _open_with_ghostscript(file: Path) -> None:
    Image.open(file).load()


def _allowed(read: Callable[[], object]) -> None:
    os.environ[ALLOW] = "1"
    os.environ["FVCORE_CACHE"] = tempfile.mkdtemp()
    read()


# Readers.


def load(weights: Path | str) -> None:
    cfg = get_cfg()
    cfg.MODEL.WEIGHTS = str(weights)
    load_checkpoint(ModelCheckpointer(torch.nn.Linear(2, 1)), cfg)


def predict(config: Path) -> None:
    Predictor(config)


def train(config: Path, *options: str, iterations: int = 1) -> None:
    overrides = ("DATASETS.TEST", "()", "SOLVER.MAX_ITER", iterations)
    commands.run("train_net", "--config-file", config, *options, *overrides)


def resume(place: Place, tag: str, evil: Path | None = None) -> None:
    """Resume a run whose last_checkpoint contains ``tag``; train without a checkpoint."""
    output = place.folder / "output"
    output.mkdir()
    if evil is not None:
        shutil.copy(evil, output / evil.name)
    (output / "last_checkpoint").write_text(tag)
    train(place.config(), "--resume")


def linked(place: Place) -> None:
    """Resume from a link to weights elsewhere."""
    output = place.folder / "output"
    output.mkdir()
    evil = zipped(place)
    (output / "model_0000001.pth").symlink_to(evil)
    (output / "last_checkpoint").symlink_to(output / "tag")
    (output / "tag").write_text("model_0000001.pth")
    train(place.config(), "--resume")


def coco(place: Place, change: Callable[[dict[str, Any]], None]) -> Path:
    """Copy the data set with changed annotations."""
    content = json.loads((place.scenes / "annotations.json").read_text())
    change(content)
    folder = place.folder / "data"
    folder.mkdir()
    (folder / "annotations.json").write_text(json.dumps(content))
    shutil.copytree(place.scenes / "images", folder / "images")
    return folder


def named(place: Place, name: str) -> Path:
    def change(content: dict[str, Any]) -> None:
        content["categories"][0]["name"] = name

    return coco(place, change)


def filed(place: Place, name: str) -> Path:
    def change(content: dict[str, Any]) -> None:
        content["images"][0]["file_name"] = name

    return coco(place, change)


def check(place: Place, data: Path) -> str:
    page = place.folder / "report.html"
    with contextlib.suppress(UserError):
        commands.run(
            "check_dataset",
            *("--annotations", data / "annotations.json", "--images", data / "images"),
            *("--html", page, "--fix", place.folder / "fixed.json", "--workers", 1),
        )
    return page.read_text() if page.is_file() else ""


def check_names(place: Place, name: str) -> None:
    page = check(place, named(place, name))
    assert page, "no report was written"
    assert "<script" not in page.lower()
    assert "<img src=x" not in page.lower()


def train_on(place: Place, data: Path) -> None:
    """Train on a data set; two iterations take all of its four images."""
    train(write_tiny_config(place.folder, data), iterations=2)


def scene(place: Place) -> None:
    """Read a virtual raster of GDAL whose pixels are computed by Python code in the file."""
    if importlib.util.find_spec("rasterio") is None:
        raise UserError("rasterio is not installed")
    from facenet_d2.scenes.geo import GDAL_ERRORS
    from facenet_d2.scenes.opening import open_dataset

    source = place.scenes / "images" / "00000.png"
    file = place.folder / "evil.vrt"
    file.write_text(
        f"""<VRTDataset rasterXSize="128" rasterYSize="128">
<VRTRasterBand dataType="Byte" band="1" subClass="VRTDerivedRasterBand">
<PixelFunctionType>evil</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage>
<PixelFunctionCode><![CDATA[
import os
os.system("{place.shell}")
def evil(*args, **kwargs):
    os.system("{place.shell}")
]]></PixelFunctionCode>
<SimpleSource><SourceFilename>{source}</SourceFilename></SimpleSource>
</VRTRasterBand></VRTDataset>"""
    )
    try:
        open_dataset(str(file)).read(1)
    except GDAL_ERRORS as error:
        raise UserError(str(error)) from error


def tile(place: Place) -> None:
    """Read the detections in a tile of a scene, whose arrays are pickled objects."""
    from facenet_d2.scenes.detections import FIELDS, TileDetections

    file = place.folder / "tile.npz"
    array = np.array([Harm(place.shell)], dtype=object)
    np.savez(file, **{field.name: array for field in FIELDS}, allow_pickle=True)
    TileDetections.load(file)


def play(place: Place) -> None:
    """Open a playlist of a remote video as a video."""
    from demo import read_video

    file = place.folder / "evil.mp4"
    file.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{place.server}/evil.ts\n")
    frames, *_ = read_video(file)
    next(frames)


def compare_runs(place: Place, name: str, content: str) -> None:
    """Summarise a run with a planted file."""
    run = place.folder / "run"
    shutil.copytree(REPOSITORY / "docs" / "model_zoo" / "trials" / "facenet", run)
    (run / name).write_text(content)
    commands.run("summarize_runs", run)


def with_events(place: Place) -> None:
    """Train into a folder with a hostile event file of TensorBoard."""
    output = place.folder / "output"
    output.mkdir()
    shutil.copy(pickled(place), output / "events.out.tfevents.1.host.1.0")
    train(place.config())


def evaluate(config: Path, *overrides: str) -> None:
    commands.run("train_net", "--config-file", config, "--eval-only", *overrides)


def proposals(place: Place, split: str) -> None:
    evil = pickled(place)
    overrides = ("MODEL.LOAD_PROPOSALS", "True", f"DATASETS.PROPOSAL_FILES_{split}", f"('{evil}',)")
    commands.run("train_net", "--config-file", place.config(), *overrides)


def deep_json(place: Place) -> None:
    file = place.folder / "deep.json"
    file.write_text("[" * 100_000 + "NaN")
    commands.run("subset_coco", "--json", file, "--output", place.folder / "o", "--num-images", 1)


def base(place: Place, value: str) -> None:
    file = place.folder / "config.yaml"
    file.write_text(f"_BASE_: {value}\nSEED: 1\n")
    load_config(file, need_data=False)


def shared(place: Place, weights: str) -> None:
    """Use a config as somebody else may share it."""
    predict(place.config(f'WEIGHTS: "{weights}"'))


def in_path(place: Place, text: str) -> None:
    shared(place, text)
    commands.run("demo", "--config-file", place.config(), "--input", text)


def overridden(place: Place, value: str) -> None:
    load_config(place.config(), ["DATASETS.CLASS_NAMES", value, "SOLVER.BASE_LR", value])


def convert(file: Path) -> None:
    read_state(file)


def timm(place: Place, lines: str) -> None:
    config = place.config('WEIGHTS: ""', "  BOTTOM_UP: {NAME: build_timm_backbone}")
    text = config.read_text().replace("MODEL:\n", f"MODEL:\n  TIMM: {lines}\n", 1)
    text = text.replace("\n  BOTTOM_UP: {NAME: build_timm_backbone}", "")
    config.write_text(
        text.replace("MODEL:\n", "MODEL:\n  BOTTOM_UP: {NAME: build_timm_backbone}\n", 1)
    )
    train(config)


def python_config(place: Place) -> None:
    file = place.folder / "config.py"
    file.write_text(f"import os\nos.system('{place.shell}')\n")
    load_config(file, need_data=False)


# The 23 of the study, then others.
PATHS: dict[str, Callable[[Place], object]] = {
    "MODEL.WEIGHTS .pkl, demo": lambda p: predict(p.config(f"WEIGHTS: {pickled(p)}")),
    "MODEL.WEIGHTS .pkl, training": lambda p: train(p.config(f"WEIGHTS: {pickled(p)}")),
    "MODEL.WEIGHTS .pkl, --eval-only": lambda p: evaluate(
        p.config(), "MODEL.WEIGHTS", str(pickled(p))
    ),
    "config alone, relative .pkl": lambda p: (pickled(p), shared(p, "evil.pkl")),
    "config alone, http": lambda p: shared(p, f"{p.server}/evil.pkl"),
    "last_checkpoint .pkl": lambda p: resume(p, "evil.pkl", pickled(p)),
    "last_checkpoint ../": lambda p: (pickled(p), resume(p, "../evil.pkl")),
    "last_checkpoint absolute": lambda p: resume(p, str(pickled(p))),
    "proposals, training": lambda p: proposals(p, "TRAIN"),
    "proposals, test": lambda p: proposals(p, "TEST"),
    ".pth zip": lambda p: load(zipped(p)),
    ".pth pickle": lambda p: load(zipped(p, _use_new_zipfile_serialization=False)),
    ".pyth": lambda p: load(zipped(p, "evil.pyth")),
    "--resume .pth zip": lambda p: resume(
        p, "model_0000001.pth", zipped(p, "model_0000001.pth")
    ),
    "--resume .pth pickle": lambda p: resume(
        p,
        "model_0000001.pth",
        zipped(p, "model_0000001.pth", _use_new_zipfile_serialization=False),
    ),
    "--resume bare pickle": lambda p: resume(
        p, "model_0000001.pth", pickled(p, inside=False, file="model_0000001.pth")
    ),
    "YAML tag in a config": lambda p: load_config(tagged_yaml(p), need_data=False),
    "YAML tag in _BASE_": lambda p: (tagged_yaml(p), base(p, "evil.yaml")),
    "YAML tag in a run's config.yaml": lambda p: compare_runs(
        p, "config.yaml", tagged_yaml(p).read_text()
    ),
    ".py as config": python_config,
    "overrides": lambda p: overridden(p, f"__import__('os').system('{p.shell}')"),
    "class names": lambda p: check_names(p, f"{{0.__class__}} $({p.shell}) `{p.shell}`"),
    "file names": lambda p: train_on(p, filed(p, f"| {p.shell}")),
    # Others.
    "TorchScript": lambda p: load(scripted(p)),
    "TorchScript, convert_weights": lambda p: convert(scripted(p)),
    "tar of PyTorch 0.1": lambda p: load(tarred(p)),
    "tar of PyTorch 0.1, convert_weights": lambda p: convert(tarred(p)),
    "tar, --resume": lambda p: resume(p, "model_0000001.pth", tarred(p, "model_0000001.pth")),
    ".pth, convert_weights": lambda p: convert(zipped(p)),
    "pickle, convert_weights": lambda p: convert(pickled(p, file="evil.pth")),
    ".pkl with a dotted name": lambda p: load(dotted(p)),
    ".pkl of Caffe2": lambda p: load(pickled(p, inside=False)),
    ".safetensors that is a pickle": lambda p: load(pickled(p, file="evil.safetensors")),
    ".safetensors with a long header": lambda p: load(_header(p)),
    ".npy as weights": lambda p: load(object_array(p, "evil.npy")),
    ".npz as weights": lambda p: load(object_array(p, "evil.npz")),
    ".npz named .pth": lambda p: load(shutil.copy(object_array(p, "a.npz"), p.folder / "a.pth")),
    ".pt2": lambda p: load(zipped(p, "evil.pt2")),
    ".onnx": lambda p: load(pickled(p, file="evil.onnx")),
    "last_checkpoint is a link": linked,
    "_BASE_ http": lambda p: base(p, f"{p.server}/evil.yaml"),
    "_BASE_ list with http": lambda p: base(p, f'["{p.server}/evil.yaml"]'),
    "_BASE_ file://": lambda p: base(p, f"file://{tagged_yaml(p)}"),
    "_BASE_ tag": lambda p: base(p, f'!!python/object/apply:os.system ["{p.shell}"]'),
    "MODEL.WEIGHTS ftp": lambda p: shared(p, f"{p.server.replace('http', 'ftp')}/evil.pkl"),
    "MODEL.WEIGHTS s3": lambda p: shared(p, "s3://bucket/evil.pkl"),
    "MODEL.WEIGHTS HTTP in capitals": lambda p: shared(p, f"{p.server.upper()}/evil.pkl"),
    "MODEL.WEIGHTS detectron2://..": lambda p: shared(p, "detectron2://../../evil.pkl"),
    "MODEL.WEIGHTS catalog://": lambda p: shared(p, f"catalog://{p.server}/evil.pkl"),
    "MODEL.WEIGHTS timm:// of a user": lambda p: shared(p, "timm://hf_hub:somebody/evil"),
    "MODEL.TIMM.NAME of a user": lambda p: timm(p, '{NAME: "hf_hub:somebody/evil"}'),
    "MODEL.TIMM.ARGUMENTS checkpoint_path": lambda p: timm(
        p, f"{{NAME: resnet18, ARGUMENTS: {{checkpoint_path: {zipped(p)}}}}}"
    ),
    "MODEL.TIMM.ARGUMENTS pretrained_cfg": lambda p: timm(
        p,
        "{NAME: resnet18, ARGUMENTS: {pretrained: true, pretrained_cfg: {url: "
        f'"{p.server}/evil.pth"}}}}}}',
    ),
    "EPS named .png": lambda p: read_image(postscript(p)),
    "raster with Python code": scene,
    "tile of a scene with a pickle": tile,
    "EPS among the training images": lambda p: train_on(p, _with_postscript(p)),
    "EPS, check_dataset": lambda p: check(p, _with_postscript(p)),
    "script in a class name": lambda p: check_names(p, "<script>alert(1)</script>"),
    "script in an attribute": lambda p: check_names(p, '"><img src=x onerror=alert(1)>'),
    "formula in a class name": lambda p: check_names(p, r"$\input{/etc/passwd}$ $"),
    "script in a file name": lambda p: _no_script(check(p, filed(p, "<script>1</script>.png"))),
    "file_name http": lambda p: train_on(p, filed(p, f"{p.server}/evil.png")),
    "file_name with a variable": lambda p: train_on(p, filed(p, f"$({p.shell}).png")),
    "variable in a path": lambda p: in_path(p, f"$({p.shell})/`{p.shell}`/~root/x.pth"),
    "playlist as video": play,
    "run.json with a YAML tag": lambda p: compare_runs(
        p, "run.json", tagged_yaml(p).read_text()
    ),
    "metrics.json with a pickle": lambda p: compare_runs(
        p, "metrics.json", pickle.dumps(Harm(p.shell), protocol=0).decode() + "\n"
    ),
    "event file of TensorBoard": with_events,
    "deeply nested JSON": deep_json,
}  # fmt: skip

# Those that train, check a data set, summarise runs or build models take seconds each.
SLOW = (
    *("training", "resume", "last_checkpoint", "proposals", "event", "TIMM", "file", "eval"),
    *("run", "metrics", "check_dataset", "class name", "attribute"),
)
QUICK = [name for name in PATHS if not any(word in name for word in SLOW)]


def _header(place: Place) -> Path:
    file = place.folder / "evil.safetensors"
    file.write_bytes((2**62).to_bytes(8, "little") + b'{"__metadata__": {}}')
    return file


def _with_postscript(place: Place) -> Path:
    data = filed(place, "evil.png")
    shutil.copy(postscript(place), data / "images")
    return data


def _no_script(page: str) -> None:
    assert "<script" not in page.lower()


class _Server(http.server.BaseHTTPRequestHandler):
    """Answers every request with a harmless file, and counts it."""

    requests = 0

    def do_GET(self) -> None:
        type(self).requests += 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"SEED: 1\n")

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@contextlib.contextmanager
def places() -> Iterator[Callable[[], Place]]:
    """Yield a function that creates a place for a path."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as root:
        scenes = Path(root) / "scenes"
        write_dataset(scenes, num_scenes=4, seed=11, size=128)

        def create() -> Place:
            folder = Path(tempfile.mkdtemp(dir=root))
            (folder / "work").mkdir()
            address = f"http://127.0.0.1:{server.server_port}"
            return Place(folder / "work", folder / "executed", address, scenes)

        yield create
    server.shutdown()


def try_path(path: Callable[[Place], object], place: Place) -> tuple[bool, str]:
    """Follow a path in a process of its own; return whether it is inert, and what happened."""

    def follow() -> None:
        os.chdir(place.folder)
        os.environ["FVCORE_CACHE"] = str(place.folder)
        os.environ.pop(ALLOW, None)
        path(place)

    before = _Server.requests
    outcome = harness.run_case(follow, seconds=SECONDS, memory=MEMORY)
    if place.marker.exists():
        return False, "CODE WAS EXECUTED"
    if _Server.requests > before:
        return False, "A FILE WAS DOWNLOADED"
    return outcome.kind in harness.GOOD, f"{outcome.kind} {outcome.detail}"


def does_harm(control: Callable[[Place], object], place: Place) -> bool:
    """Return whether careless reading executes a payload or asks the server."""
    before = _Server.requests
    harness.run_case(partial(control, place), seconds=SECONDS, memory=MEMORY)
    return place.marker.exists() or _Server.requests > before


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="part of the names of the paths to try")
    args = parser.parse_args()
    torch.set_num_threads(1)
    executed = failed = tried = 0
    with places() as create:
        for name, control in CONTROLS.items():
            harm = does_harm(control, create())
            executed += harm
            if not harm:
                print(f"the payload {name} does nothing")
        for name, path in PATHS.items():
            if args.only not in name:
                continue
            tried += 1
            inert, what = try_path(path, create())
            failed += not inert
            shown = " ".join(what.split())[:200] if inert else what
            print(f"{name:40} {'inert' if inert else 'FAILED'}: {shown}", flush=True)
    print(f"{executed} of {len(CONTROLS)} payloads execute if they are read carelessly")
    print(f"{tried - failed} of {tried} paths are inert")
    return int(failed > 0 or executed < len(CONTROLS))


if __name__ == "__main__":
    sys.exit(main())
