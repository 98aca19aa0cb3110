"""demo.py, run as a command."""

import json
import os
import resource
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Instances
from fuzz.harness import run_case
from helpers import save_untrained_model, write_tiny_config

import demo
from facenet_d2.engine import load_config, run_command
from facenet_d2.engine.inputs import find_inputs, output_names
from facenet_d2.signals import STOP_SIGNALS
from facenet_d2.visualization.overlay import draw_instances


@pytest.fixture(scope="module")
def trained(tmp_path_factory, scenes):
    """Return config and weights of an untrained model that detects instances everywhere."""
    folder = tmp_path_factory.mktemp("trained")
    config = write_tiny_config(folder, scenes)
    save_untrained_model(load_config(config), folder / "model.pth")
    return config, folder / "model.pth"


def run(monkeypatch, trained, *args, opts=()):
    config, weights = trained
    argv = ["demo.py", "--config-file", config, *args, "--opts", "MODEL.WEIGHTS", weights, *opts]
    monkeypatch.setattr(sys, "argv", list(map(str, argv)))
    return run_command(demo.main)


def test_images_folders_and_patterns(tmp_path, trained, scenes, monkeypatch, capsys):
    out = tmp_path / "overlays"
    inputs = ["--input", scenes / "images" / "00000.png", scenes / "images" / "0000[12].png"]
    args = (*inputs, "--output", out, "--save-json", tmp_path / "json" / "results.json")
    assert run(monkeypatch, trained, *args) == 0
    assert sorted(p.name for p in out.iterdir()) == ["00000.png", "00001.png", "00002.png"]
    printed = capsys.readouterr().out
    assert printed.count(" instances, ") == 3
    assert str(out) in printed
    results = json.loads((tmp_path / "json" / "results.json").read_text())
    assert len(results) > 3
    for r in results:
        assert {"image_id", "category_id", "bbox", "score", "segmentation", "file_name"} <= set(r)
        assert r["segmentation"]["size"] == [128, 128]
        assert r["score"] >= 0.3
        assert 1 <= r["category_id"] <= 5
    assert {r["image_id"] for r in results} <= {1, 2, 3}
    overlay = cv2.imread(str(out / "00000.png"))
    assert overlay.shape == (768, 768, 3)


def test_a_broken_image_is_reported_skipped_and_counted(
    tmp_path, trained, scenes, monkeypatch, capsys
):
    folder = tmp_path / "mixed"
    folder.mkdir()
    good = (scenes / "images" / "00000.png").read_bytes()
    (folder / "a.png").write_bytes(good)
    (folder / "b.png").write_bytes(good[:500])
    (folder / "c.png").write_bytes(good)
    (folder / "notes.txt").write_text("no image")
    assert run(monkeypatch, trained, "--input", folder, "--output", tmp_path / "out") == 1
    captured = capsys.readouterr()
    assert "b.png cannot be used" in captured.err
    assert "1 of 3 inputs failed" in captured.err
    assert "Traceback" not in captured.err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]


def test_grayscale_and_odd_sizes(tmp_path, trained, monkeypatch):
    cv2.imwrite(str(tmp_path / "gray.tif"), np.full((61, 203), 90, np.uint8))
    cv2.imwrite(str(tmp_path / "large.jpg"), np.full((900, 1200, 3), 90, np.uint8))
    args = ("--input", tmp_path / "gray.tif", tmp_path / "large.jpg", "--output", tmp_path / "out")
    assert run(monkeypatch, trained, *args) == 0
    assert cv2.imread(str(tmp_path / "out" / "gray.png")).shape[1] == 812
    assert cv2.imread(str(tmp_path / "out" / "large.jpg")).shape == (900, 1200, 3)


def test_images_with_more_than_8_bits_are_refused(tmp_path, trained, monkeypatch, capsys):
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((40, 40), 5000, np.uint16))
    # Satellite images often have 11 bits per channel.
    colours = np.full((40, 40, 3), 2000, np.uint16)
    for name in ("colours.png", "colours.tif"):
        cv2.imwrite(str(tmp_path / name), colours)
    cv2.imwrite(str(tmp_path / "float.tif"), np.full((40, 40), 0.5, np.float32))
    images = [tmp_path / n for n in ("deep.png", "float.tif", "colours.png", "colours.tif")]
    args = ("--input", *images, "--output", tmp_path / "out")
    assert run(monkeypatch, trained, *args) == 1
    assert capsys.readouterr().err.count("8 bits per channel") == 4


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("DefaultCPUAllocator: not enough memory"), "cannot be processed: Default"),
        (MemoryError(), "does not fit into memory"),
    ],
)
def test_one_image_that_cannot_be_processed_does_not_stop_the_others(
    tmp_path, trained, scenes, monkeypatch, capsys, error, message
):
    fail_or_signal(monkeypatch, lambda: raise_error(error), at=2)
    assert run(monkeypatch, trained, *three_images(scenes, tmp_path)) == 1
    captured = capsys.readouterr()
    assert "00001.png" in captured.err
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert outcome(tmp_path) == (["00000.png", "00002.png"],) * 2


def test_an_unexpected_error_does_not_lose_the_results(tmp_path, trained, scenes, monkeypatch):
    fail_or_signal(monkeypatch, lambda: raise_error(AttributeError("a bug")), at=3)
    with pytest.raises(AttributeError, match="a bug"):
        run(monkeypatch, trained, *three_images(scenes, tmp_path))
    assert outcome(tmp_path) == (["00000.png", "00001.png"],) * 2


def raise_error(error):
    raise error


def fail_or_signal(monkeypatch, action, at):
    """Run an action before the prediction of the ``at``-th image."""
    predict, count = demo.Predictor.__call__, []

    def wrapped(self, image):
        count.append(1)
        if len(count) == at:
            action()
        return predict(self, image)

    monkeypatch.setattr(demo.Predictor, "__call__", wrapped)


def three_images(scenes, folder):
    files = [scenes / "images" / f"0000{i}.png" for i in range(3)]
    return ("--input", *files, "--output", folder / "out", "--save-json", folder / "r.json")


def outcome(folder):
    """Return the names of the overlays and of the images with results."""
    results = json.loads((folder / "r.json").read_text())
    overlays = sorted(p.name for p in (folder / "out").iterdir())
    return overlays, sorted({Path(r["file_name"]).name for r in results})


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_stops_after_the_image(tmp_path, trained, scenes, monkeypatch, capfd, name):
    signum = signal.Signals[name]
    before = [signal.getsignal(s) for s in STOP_SIGNALS]
    signal.signal(signum, signal.default_int_handler)  # As if it were not ignored.
    fail_or_signal(monkeypatch, lambda: os.kill(os.getpid(), signum), at=2)
    try:
        assert run(monkeypatch, trained, *three_images(scenes, tmp_path)) == 128 + signum
    finally:
        signal.signal(signum, before[STOP_SIGNALS.index(signum)])
    assert [signal.getsignal(s) for s in STOP_SIGNALS] == before
    error = capfd.readouterr().err
    assert f"{name}: stopping after this image" in error
    assert f"stopped by {name}: 2 of 3 inputs are done" in error
    assert "Traceback" not in error
    assert outcome(tmp_path) == (["00000.png", "00001.png"],) * 2


def test_a_second_signal_stops_at_once(tmp_path, trained, scenes, monkeypatch, capfd):
    def signal_twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    fail_or_signal(monkeypatch, signal_twice, at=2)
    assert run(monkeypatch, trained, *three_images(scenes, tmp_path)) == 130
    assert "1 of 3 inputs are done" in capfd.readouterr().err
    assert outcome(tmp_path) == (["00000.png"],) * 2


def test_a_signal_while_the_model_is_loaded(tmp_path, trained, scenes, monkeypatch, capfd):
    def load(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not interrupted")

    monkeypatch.setattr(demo, "Predictor", load)
    assert run(monkeypatch, trained, *three_images(scenes, tmp_path)) == 130
    assert "Traceback" not in capfd.readouterr().err
    assert not (tmp_path / "r.json").exists()


def test_thin_images(tmp_path, trained, monkeypatch, capsys):
    sizes = [(1, 1), (1, 3000), (3000, 1), (33, 2), (7, 1), (1, 7), (9000, 2)]
    for height, width in sizes:
        image = np.full((height, width, 3), 90, np.uint8)
        cv2.imwrite(str(tmp_path / f"{height}x{width}.png"), image)
    args = ("--input", tmp_path, "--output", tmp_path / "out", "--save-json", tmp_path / "r.json")
    assert run(monkeypatch, trained, *args) == 0
    for height, width in sizes:
        overlay = cv2.imread(str(tmp_path / "out" / f"{height}x{width}.png"))
        scale = max(1, round(800 / max(height, width)))
        assert overlay.shape == (height * scale, width * scale, 3)
    results = json.loads((tmp_path / "r.json").read_text())
    assert results
    for r in results:
        height, width = map(int, Path(r["file_name"]).stem.split("x"))
        assert r["segmentation"]["size"] == [height, width]
        assert mask_util.toBbox(r["segmentation"]).tolist() == r["bbox"]


def test_labels_can_be_left_out(tmp_path, trained, scenes, monkeypatch):
    args = ("--input", scenes / "images" / "00000.png", "--output")
    assert run(monkeypatch, trained, *args, tmp_path / "with") == 0
    assert run(monkeypatch, trained, *args, tmp_path / "without", "--no-labels") == 0
    images = [cv2.imread(str(tmp_path / f / "00000.png")) for f in ("with", "without")]
    # The backgrounds of labels are nearly black.
    dark = [(image.max(axis=2) < 50).sum() for image in images]
    assert dark[0] > dark[1] + 1000


def test_large_images_are_said_to_be_shrunk(tmp_path, trained, monkeypatch, capsys):
    for name, side in (("small", 200), ("large", 600)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((side, side, 3), 90, np.uint8))
    assert run(monkeypatch, trained, "--input", tmp_path, "--output", tmp_path / "out") == 0
    large, small = (line for line in capsys.readouterr().out.splitlines() if "instances, " in line)
    # The tests' model has inputs of 96 pixels.
    assert "the network saw it at 0.16 of its size" in large
    assert "predict_scenes" not in small


def test_memory_is_bounded_by_what_is_found(tmp_path, trained, monkeypatch):
    """100 instances in an image of 4 million pixels: 400 MB as masks of full size."""
    image = np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)
    file = tmp_path / "large.png"
    cv2.imwrite(str(file), cv2.resize(image, (2000, 2000), interpolation=cv2.INTER_CUBIC))
    args = ("--input", file, "--output", tmp_path / "out", "--save-json", tmp_path / "r.json")
    opts = ("TEST.DETECTIONS_PER_IMAGE", 100, "MODEL.SOLOV2.NMS_SCORE_THRESH_TEST", 0.0)
    grown = []
    load = demo.Demo.__init__

    def load_and_measure(self, *args):
        load(self, *args)
        grown.append(peak_memory())

    monkeypatch.setattr(demo.Demo, "__init__", load_and_measure)

    def check():
        # The threads of the parent process do not exist in a forked one.
        torch.set_num_threads(1)
        cv2.setNumThreads(0)
        args_of_demo = (*args, "--confidence-threshold", "0")
        assert run(monkeypatch, trained, *args_of_demo, opts=opts) == 0
        results = json.loads((tmp_path / "r.json").read_text())
        assert len(results) == 100
        # Large masks, of which the crops would not be much smaller.
        boxes = np.array([r["bbox"] for r in results])
        assert boxes[:, 2:].prod(axis=1).mean() > 4e6 / 4
        # The image itself, its overlay and their copies take 12 MB each.
        assert peak_memory() - grown[0] < 160 * 2**20

    outcome = run_case(check, seconds=120, memory=4 * 2**30)
    assert outcome.kind == "accepted", outcome.detail


def peak_memory():
    """Return the maximum size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_a_video_on_a_full_disk_keeps_the_older_overlay(
    tmp_path, trained, scenes, monkeypatch, capfd
):
    file = tmp_path / "flight.avi"
    write_video(file, scenes)
    out = tmp_path / "out"
    out.mkdir()
    (out / "flight.mp4").write_bytes(b"an older overlay")
    # Files of more than this size fail as on a full disk.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        code = run(monkeypatch, trained, "--input", file, "--output", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 1
    error = capfd.readouterr().err
    assert "flight.mp4 cannot be written: of 3 frames, 0 could be read back" in error
    assert (out / "flight.mp4").read_bytes() == b"an older overlay"
    assert [p.name for p in out.iterdir()] == ["flight.mp4"]


def test_a_signal_in_a_video(tmp_path, trained, scenes, monkeypatch, capfd):
    write_video(tmp_path / "flight.avi", scenes)
    args = ("--input", tmp_path / "flight.avi", "--output", tmp_path / "out")
    fail_or_signal(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGINT), at=2)
    assert run(monkeypatch, trained, *args, "--save-json", tmp_path / "r.json") == 130
    assert "0 of 1 inputs are done" in capfd.readouterr().err
    # The results of the frames so far, but no part of a video.
    assert outcome(tmp_path) == ([], ["flight.avi#1", "flight.avi#2"])


def test_nothing_found_says_why(tmp_path, trained, scenes, monkeypatch, capsys):
    image = scenes / "images" / "00000.png"
    args = ("--input", image, "--output", tmp_path, "--confidence-threshold", "0.999")
    assert run(monkeypatch, trained, *args) == 0
    assert "below --confidence-threshold 0.999" in capsys.readouterr().out
    opts = ("MODEL.SOLOV2.SCORE_THRESH_TEST", "0.999")
    assert run(monkeypatch, trained, *args, opts=opts) == 0
    assert "no score above MODEL.SOLOV2.SCORE_THRESH_TEST" in capsys.readouterr().out


def write_video(file, scenes):
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 5, (128, 128))
    for i in range(3):
        writer.write(cv2.imread(str(scenes / "images" / f"0000{i}.png")))
    writer.release()


def test_video(tmp_path, trained, scenes, monkeypatch, capsys):
    file = tmp_path / "flight.avi"
    write_video(file, scenes)
    assert run(monkeypatch, trained, "--input", file, "--output", tmp_path / "out") == 0
    assert "3 frames" in capsys.readouterr().out
    video = cv2.VideoCapture(str(tmp_path / "out" / "flight.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["flight.mp4"]
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    args = ("--input", tmp_path / "broken.mp4", "--output", tmp_path / "out")
    assert run(monkeypatch, trained, *args) == 1
    assert "cannot be decoded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--input", "nowhere/*.png"), "no such file, folder or match"),
        (("--input", "{empty}"), "no images"),
        (("--input", "{image}", "--output", "{file}/out"), "is not writable"),
        (("--input", "{image}", "--output", "{images}"), "overwrite an input"),
        (("--input", "{image}", "--save-json", "{file}/r.json"), "is not writable"),
        (("--input", "{image}", "--save-json", "{empty}"), "is a folder"),
        (("--input", "{image}", "--save-json", "{image}"), "is an input"),
    ],
)
def test_wrong_arguments_give_one_sentence(
    tmp_path, trained, scenes, monkeypatch, capfd, args, message
):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    names = {
        "empty": tmp_path / "empty",
        "file": tmp_path / "file",
        "images": scenes / "images",
        "image": scenes / "images" / "00000.png",
    }
    if "--output" not in args:
        args = (*args, "--output", str(tmp_path / "out"))
    assert run(monkeypatch, trained, *(a.format(**names) for a in args)) == 2
    error = capfd.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_missing_and_broken_weights(tmp_path, trained, scenes, monkeypatch, capfd):
    image = scenes / "images" / "00000.png"
    (tmp_path / "broken.pth").write_bytes(b"nothing")
    for weights, message in (
        ("nowhere.pth", "nowhere.pth does not exist"),
        (tmp_path / "broken.pth", "broken.pth cannot be"),
        ("", "MODEL.WEIGHTS is empty"),
    ):
        model = (trained[0], weights)
        assert run(monkeypatch, model, "--input", image, "--output", tmp_path / "out") == 2
        assert message in capfd.readouterr().err


def test_a_trained_model_is_used_without_its_data(tmp_path, trained, scenes, monkeypatch):
    config, weights = trained
    cfg = load_config(config).clone()
    cfg.defrost()
    cfg.DATASETS.COCO = [[cfg.DATASETS.TRAIN[0], str(tmp_path / "gone.json"), str(tmp_path)]]
    (tmp_path / "config.yaml").write_text(cfg.dump())
    image = scenes / "images" / "00000.png"
    args = ("--input", image, "--output", tmp_path / "out")
    assert run(monkeypatch, (tmp_path / "config.yaml", weights), *args) == 0


def test_inputs_with_the_same_name_do_not_overwrite_each_other(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_bytes(b"")
        (tmp_path / folder / "y.tif").write_bytes(b"")
    inputs = find_inputs([str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "a" / "x.png")])
    assert len(inputs) == 4
    names = output_names(inputs, tmp_path / "out")
    assert [n.name for n in names] == ["x.png", "y.png", "x_2.png", "y_2.png"]


def test_the_overlay_lies_on_its_object():
    image = np.zeros((200, 300, 3), np.uint8)
    masks = torch.zeros(1, 200, 300, dtype=torch.bool)
    masks[0, 50:120, 180:260] = True
    instances = Instances((200, 300))
    instances.pred_masks = masks
    instances.pred_classes = torch.tensor([1])
    instances.scores = torch.tensor([0.9])
    metadata = Metadata(thing_classes=["a", "b"], thing_colors=[(0, 0, 255), (255, 0, 0)])
    overlay = draw_instances(image, instances, metadata)
    scale = overlay.shape[0] // 200
    assert overlay.shape == (200 * scale, 300 * scale, 3)
    # Pixels with the mask's colour; the label is white on black.
    red = (overlay[:, :, 0] > 60) & (overlay[:, :, 1] < 40) & (overlay[:, :, 2] < 40)
    ys, xs = np.nonzero(red)
    edge = 2 * scale
    assert abs(ys.min() - 50 * scale) <= edge
    assert abs(ys.max() - 120 * scale) <= edge
    assert abs(xs.min() - 180 * scale) <= edge
    assert abs(xs.max() - 260 * scale) <= edge
    assert red[60 * scale : 110 * scale, 190 * scale : 250 * scale].mean() > 0.5
