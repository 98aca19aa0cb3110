"""train_net.py, run as a command."""

import json
import sys
from pathlib import Path

import pytest
import torch
from helpers import write_tiny_config

import train_net
from facenet_d2 import UserError
from facenet_d2.engine import run_command
from facenet_d2.experiments.runs import read_run


def run(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["train_net.py", *map(str, args)])
    return run_command(train_net.run)


def weights(folder, name="model_final.pth"):
    return torch.load(Path(folder) / name, map_location="cpu", weights_only=False)


def assert_same(a, b, path=""):
    """Check that nested dicts, lists and tensors are equal to the bit."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert list(a) == list(b), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, path


# R-CNNs and Mask2Former sample at random; CondInst's focal loss is compiled.
@pytest.mark.parametrize(
    "model",
    [
        *("facenet", "solo", "yolact", "condinst", "elliptic_centerness", "rdsnet"),
        *("mask_scoring_rcnn", "cascade_mask_rcnn", "panet", "refinemask"),
        *("queryinst", "mask2former"),
    ],
)
def test_one_step_resume_three_steps_is_four_steps_to_the_bit(
    tmp_path, scenes, monkeypatch, caplog, model
):
    base = "Base-FACENet.yaml" if model == "facenet" else f"iSAID/{model}_R_101_36ep.yaml"
    config = write_tiny_config(tmp_path, scenes, base=base)
    quiet = ["DATASETS.TEST", "()", "SOLVER.CHECKPOINT_PERIOD", "1"]
    quiet += ["SOLVER.MAX_ITER", "4"]
    assert run(monkeypatch, "--config-file", config, *quiet) == 0
    whole = weights(tmp_path / "output")

    # A run that is killed after the first step leaves the checkpoint of that step.
    other = tmp_path / "resumed"
    other.mkdir()
    (tmp_path / "output" / "model_0000000.pth").rename(other / "model_0000000.pth")
    (other / "last_checkpoint").write_text("model_0000000.pth")
    args = ["--config-file", config, "--resume", *quiet, "OUTPUT_DIR", other]
    caplog.clear()
    assert run(monkeypatch, *args) == 0
    resumed = weights(other)
    assert whole["iteration"] == resumed["iteration"] == 3
    assert_same(whole["model"], resumed["model"])
    assert_same(whole["trainer"], resumed["trainer"])
    messages = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert not [m for m in messages if "checkpoint" in m or "not found" in m], messages


def test_a_random_seed_is_resumed_too(tmp_path, scenes, monkeypatch):
    config = write_tiny_config(tmp_path, scenes)
    args = ["DATASETS.TEST", "()", "SEED", "-1", "SOLVER.CHECKPOINT_PERIOD", "1"]
    assert run(monkeypatch, "--config-file", config, *args) == 0
    seed = weights(tmp_path / "output")["trainer"]["data_seed"]
    args += ["SOLVER.MAX_ITER", "3"]
    assert run(monkeypatch, "--config-file", config, "--resume", *args) == 0
    assert weights(tmp_path / "output")["trainer"]["data_seed"] == seed
    assert weights(tmp_path / "output")["iteration"] == 2


def test_trains_evaluates_and_keeps_the_best(tmp_path, scenes, monkeypatch, capsys):
    config = write_tiny_config(tmp_path, scenes)
    output = tmp_path / "output"
    assert run(monkeypatch, "--config-file", config, "--json", "TEST.EVAL_PERIOD", "1") == 0
    printed = capsys.readouterr().out
    final = json.loads(printed.splitlines()[-1])
    assert {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-ship"} <= set(final["segm"])
    assert set(final["bbox"]) == set(final["segm"])
    assert str(output) in printed
    for name in ("model_best.pth", "model_final.pth", "metrics.json", "config.yaml", "log.txt"):
        assert (output / name).is_file(), name
    best = json.loads((output / "model_best.json").read_text())
    assert best["metric"] == "segm/AP"
    assert (
        output / "inference" / f"scenes_{tmp_path.name}" / "coco_instances_results.json"
    ).exists()
    metrics = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert {"loss_category", "loss_mask", "gradient_norm", "positive_cells"} <= set(metrics[0])

    args = ("--eval-only", "--json", "MODEL.WEIGHTS", output / "model_final.pth")
    assert run(monkeypatch, "--config-file", config, *args) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["segm"]["AP"] == pytest.approx(final["segm"]["AP"], nan_ok=True)


def test_a_new_run_does_not_append_to_the_metrics_of_an_earlier_one(tmp_path, scenes, monkeypatch):
    config = write_tiny_config(tmp_path, scenes)
    output = tmp_path / "output"
    assert run(monkeypatch, "--config-file", config) == 0
    first = (output / "metrics.json").read_text()
    assert "overwritten" not in (output / "log.txt").read_text()
    # Not evaluated, and therefore not finished: the evaluation of the first run does not count.
    assert run(monkeypatch, "--config-file", config, "DATASETS.TEST", "()") == 0
    assert "contains an earlier run, which is overwritten" in (output / "log.txt").read_text()
    assert (output / "metrics_previous.json").read_text() == first
    assert "segm/AP" in first
    with pytest.raises(UserError, match="is not finished"):
        read_run(output)


def test_the_best_metric_survives_a_resume(tmp_path, scenes, monkeypatch):
    config = write_tiny_config(tmp_path, scenes)
    periods = ["TEST.EVAL_PERIOD", "1", "SOLVER.CHECKPOINT_PERIOD", "1"]
    assert run(monkeypatch, "--config-file", config, *periods) == 0
    record = tmp_path / "output" / "model_best.json"
    best = json.dumps({"metric": "segm/AP", "value": 99.0, "iteration": 1})
    record.write_text(best)
    before = weights(tmp_path / "output", "model_best.pth")["model"]
    (tmp_path / "output" / "last_checkpoint").write_text("model_0000001.pth")
    args = ("--config-file", config, "--resume", *periods, "SOLVER.MAX_ITER", "3")
    assert run(monkeypatch, *args) == 0
    assert json.loads(record.read_text())["value"] == 99.0
    assert_same(before, weights(tmp_path / "output", "model_best.pth")["model"])


def test_the_norm_of_all_gradients_is_clipped(tmp_path, scenes, monkeypatch):
    config = write_tiny_config(tmp_path, scenes)
    args = [
        *("DATASETS.TEST", "()", "SOLVER.MAX_ITER", "1", "SOLVER.MOMENTUM", "0.0"),
        *("SOLVER.WEIGHT_DECAY", "0.0", "SOLVER.WEIGHT_DECAY_NORM", "0.0", "SOLVER.BASE_LR", "1.0"),
    ]
    weights_before = {}
    original = train_net.Trainer.train

    def remember(self):
        weights_before.update({n: p.detach().clone() for n, p in self.model.named_parameters()})
        original(self)

    monkeypatch.setattr(train_net.Trainer, "train", remember)
    assert (
        run(monkeypatch, "--config-file", config, *args, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.01")
        == 0
    )
    after = weights(tmp_path / "output")["model"]
    step = torch.cat([(after[n] - p).flatten() for n, p in weights_before.items()]).norm()
    assert step.item() == pytest.approx(0.01, rel=1e-2)


def error_of(monkeypatch, capfd, *args):
    assert run(monkeypatch, *args) == 2
    captured = capfd.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in captured.err + captured.out
    return lines[0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.BASE_LRR", "1"], "SOLVER.BASE_LRR"),
        (["SOLVER.BASE_LR"], "KEY VALUE"),
        (["MODEL.SEM.CHANNELS", "many"], "MODEL.SEM.CHANNELS"),
        (["MODEL.WEIGHTS", "nowhere.pth"], "MODEL.WEIGHTS nowhere.pth does not exist"),
        (["DATASETS.TRAIN", "('nowhere',)"], "'nowhere' is not registered"),
        (
            ["DATASETS.COCO", "[['a', 'nowhere.json', '.']]", "DATASETS.TRAIN", "('a',)"],
            "nowhere.json",
        ),
        (["MODEL.SOLOV2.NUM_CLASSES", "3"], "MODEL.SOLOV2.NUM_CLASSES is 3"),
        (["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "fp8"], "SOLVER.AMP.DTYPE is 'fp8'"),
        (["SOLVER.OPTIMIZER", "Adam"], "SOLVER.OPTIMIZER is 'Adam'"),
        (
            [
                *("MODEL.BACKBONE.NAME", "build_resnet_face_fpn_backbone"),
                *("MODEL.BOTTOM_UP.NAME", "build_timm_backbone"),
            ],
            "use build_face_fpn_backbone",
        ),
        (["SOLVER.MAX_ITER", "0"], "SOLVER.MAX_ITER is 0"),
        (["SOLVER.BASE_LR", "-1.0"], "SOLVER.BASE_LR is -1.0; it must be a number from 0"),
        (["SOLVER.LR_SCHEDULER_NAME", "Foo"], "Unknown LR scheduler: Foo"),
        (["MODEL.DEVICE", "gpu"], "MODEL.DEVICE 'gpu'"),
        (["MODEL.MASK_ON", "False"], "MODEL.MASK_ON is False"),
        (["TEST.DETECTIONS_PER_IMAGE", "0"], "TEST.DETECTIONS_PER_IMAGE is 0"),
        (["SEED", "99999999999"], "SEED is 99999999999"),
        # Detectron2 asserts this without a message.
        (
            [
                *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.SEM.ENABLED", "False"),
                *("MODEL.FPN.FUSE_TYPE", "bad"),
            ],
            "assert",
        ),
        (["OUTPUT_DIR", ""], "OUTPUT_DIR is ''; it must be text of 1 to"),
        (["SOLVER.BASE_LR", "1e6", "DATASETS.TEST", "()", "SOLVER.MAX_ITER", "5"], "Lower SOLVER"),
        (["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"], "MODEL.SEM.ENABLED"),
        (["MODEL.SOLOV2.DEFORM_BRANCHES", "['mask']"], "MODEL.SOLOV2.DEFORM_BRANCHES"),
        (["MODEL.BACKBONE.NAME", "build_nothing", "MODEL.SEM.ENABLED", "False"], "build_nothing"),
        (["MODEL.META_ARCHITECTURE", "YOLO", "MODEL.ROI_HEADS.NUM_CLASSES", "5"], "YOLO"),
    ],
)
def test_wrong_values_give_one_sentence(tiny_config, monkeypatch, capfd, overrides, message):
    assert message in error_of(monkeypatch, capfd, "--config-file", tiny_config, *overrides)


def test_wrong_config_files_give_one_sentence(tmp_path, monkeypatch, capfd):
    assert "nowhere.yaml does not exist" in error_of(
        monkeypatch, capfd, "--config-file", "nowhere.yaml"
    )
    assert "--config-file is required" in error_of(monkeypatch, capfd)
    file = tmp_path / "config.yaml"
    for content, message in (
        ("MODEL: [", "not plain YAML"),
        ("MODEL: !!python/object/apply:os.getcwd []", "not plain YAML"),
        ("_BASE_: gone.yaml", "gone.yaml"),
        ("MODEL: {UNKNOWN_KEY: 1}", "MODEL.UNKNOWN_KEY"),
    ):
        file.write_text(content)
        assert message in error_of(monkeypatch, capfd, "--config-file", file)


def test_an_output_folder_that_cannot_be_written(tiny_config, tmp_path, monkeypatch, capfd):
    (tmp_path / "file").write_text("")
    args = ("--config-file", tiny_config, "OUTPUT_DIR", tmp_path / "file" / "out")
    assert "is not writable" in error_of(monkeypatch, capfd, *args)


def test_evaluation_needs_a_model(tiny_config, monkeypatch, capfd):
    args = ("--config-file", tiny_config, "--eval-only")
    assert "MODEL.WEIGHTS" in error_of(monkeypatch, capfd, *args)


def test_more_gpus_than_there_are(tiny_config, monkeypatch, capfd):
    args = ("--config-file", tiny_config, "--num-gpus", "99")
    assert "--num-gpus is 99" in error_of(monkeypatch, capfd, *args)


def test_options_after_overrides(tiny_config, monkeypatch, capfd):
    args = ("--config-file", tiny_config, "SEED", "1", "--resume")
    assert "--resume follows the KEY VALUE" in error_of(monkeypatch, capfd, *args)


def test_a_broken_checkpoint(tiny_config, tmp_path, monkeypatch, capfd):
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"no checkpoint")
    args = ("--config-file", tiny_config, "MODEL.WEIGHTS", broken)
    assert "broken.pth cannot be loaded" in error_of(monkeypatch, capfd, *args)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_among_good_ones_is_named(tmp_path, scenes, monkeypatch, capfd, workers):
    own = tmp_path / "scenes"
    (own / "images").mkdir(parents=True)
    for file in (scenes / "images").iterdir():
        (own / "images" / file.name).write_bytes(file.read_bytes())
    (own / "annotations.json").write_bytes((scenes / "annotations.json").read_bytes())
    bad = own / "images" / "00003.png"
    bad.write_bytes(bad.read_bytes()[:300])
    config = write_tiny_config(tmp_path, own)
    args = ("SOLVER.MAX_ITER", "6", "DATASETS.TEST", "()", "DATALOADER.NUM_WORKERS", workers)
    message = error_of(monkeypatch, capfd, "--config-file", config, *args)
    assert "00003.png cannot be used" in message
    assert "fix it or remove it" in message


def test_trains_on_images_without_objects(tmp_path, scenes, monkeypatch):
    """Half of the images are empty, and so are some batches."""
    content = json.loads((scenes / "annotations.json").read_text())
    empty = {i["id"] for i in content["images"][:3]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] not in empty]
    own = tmp_path / "scenes"
    own.mkdir()
    (own / "images").symlink_to(scenes / "images")
    (own / "annotations.json").write_text(json.dumps(content))
    config = write_tiny_config(tmp_path, own)
    args = ("DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False", "SOLVER.MAX_ITER", "6")
    args += ("DATASETS.TEST", "()", "SOLVER.IMS_PER_BATCH", "1")
    assert run(monkeypatch, "--config-file", config, *args) == 0
    assert all(v.isfinite().all() for v in weights(tmp_path / "output")["model"].values())


def test_a_checkpoint_of_another_model_is_refused(tmp_path, scenes, monkeypatch, capfd):
    config = write_tiny_config(tmp_path, scenes)
    quiet = ("DATASETS.TEST", "()", "SOLVER.MAX_ITER", "1")
    assert run(monkeypatch, "--config-file", config, *quiet) == 0
    before = (tmp_path / "output" / "config.yaml").read_text()
    capfd.readouterr()
    wider = ("MODEL.SOLOV2.CONV_CHANNELS", "64")
    given = ("MODEL.WEIGHTS", tmp_path / "output" / "model_final.pth", *wider)
    message = error_of(monkeypatch, capfd, "--config-file", config, "--eval-only", *given)
    assert "have another shape: instance_head." in message
    assert (tmp_path / "output" / "config.yaml").read_text() == before
    message = error_of(monkeypatch, capfd, "--config-file", config, "--resume", *wider)
    assert "have another shape" in message
    # All parameters of this model, and one more.
    whole = weights(tmp_path / "output")
    whole["model"]["backbone.extra.weight"] = torch.zeros(1)
    torch.save(whole, tmp_path / "more.pth")
    more = ("--eval-only", "MODEL.WEIGHTS", tmp_path / "more.pth")
    message = error_of(monkeypatch, capfd, "--config-file", config, *more)
    assert "1 of its parameters are not in the model: backbone.extra.weight" in message
    torch.save({"model": {"x": torch.zeros(1)}}, tmp_path / "foreign.pth")
    foreign = ("MODEL.WEIGHTS", tmp_path / "foreign.pth")
    assert "cannot be loaded" in error_of(monkeypatch, capfd, "--config-file", config, *foreign)


def test_evaluation_needs_data(tiny_config, monkeypatch, capfd):
    args = ("--config-file", tiny_config, "--eval-only", "DATASETS.TEST", "()")
    assert "DATASETS.TEST is empty" in error_of(monkeypatch, capfd, *args)


def test_the_error_of_a_child_process_is_one_sentence(tiny_config, monkeypatch, capfd):
    def launch(*args, **kwargs):
        text = (
            "Process 1 ...\nTraceback (most recent call last):\n"
            "facenet_d2.errors.UserError: image a.png is bad."
        )
        raise torch.multiprocessing.ProcessRaisedException(text, 1, 99)

    monkeypatch.setattr(train_net, "launch", launch)
    assert (
        error_of(monkeypatch, capfd, "--config-file", tiny_config) == "error: image a.png is bad."
    )
