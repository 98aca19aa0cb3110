"""reproduce.py: configs of rows, tables, refused requests, interruption and resumption."""

import fcntl
import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import reproduce
import yaml
from helpers import REPOSITORY, write_tiny_config
from PIL import Image

from facenet_d2 import UserError
from facenet_d2.config import LIMITS
from facenet_d2.engine import read_config, run_command
from facenet_d2.evaluation import METRICS
from facenet_d2.experiments import choose_rows, find_protocol, make_plan
from facenet_d2.experiments.paper import TABLES
from facenet_d2.experiments.plan import Job, write_row_config
from facenet_d2.experiments.runs import flatten
from facenet_d2.files import remove_partial_line

CONFIGS = REPOSITORY / "configs"
MODELS = sorted(p.stem for p in (CONFIGS / "models").glob("*.yaml"))
NAME = re.compile(r"(?P<model>.+?)_(?P<schedule>R_\d+_.+)")
NAN, DASH = math.nan, "\N{EN DASH}"


def committed_rows():
    """Yield (config, protocol, model) of each committed config that merges the latter two."""
    for file in sorted(CONFIGS.glob("*/**/*.yaml")):
        match = NAME.fullmatch(file.stem)
        folder = CONFIGS / file.relative_to(CONFIGS).parts[0]
        if match is None or file.name.startswith("Base-"):
            continue
        protocol = folder / f"solov2_{match['schedule']}.yaml"
        model = match["model"]
        if file.parent.name == "ablation":
            model = model.removeprefix("solov2_")
        if protocol.is_file():
            yield pytest.param(file, protocol, model, id=str(file.relative_to(CONFIGS)))


@pytest.mark.parametrize(("file", "protocol", "model"), committed_rows())
def test_a_row_is_put_together_as_the_committed_config(file, protocol, model, tmp_path):
    assert model in MODELS
    write_row_config(protocol, CONFIGS / "models" / f"{model}.yaml", tmp_path / "row.yaml")
    ours, theirs = (
        dict(flatten(yaml.safe_load(read_config(f).dump()))) for f in (tmp_path / "row.yaml", file)
    )
    del ours["OUTPUT_DIR"], theirs["OUTPUT_DIR"]
    assert ours == theirs


@pytest.fixture
def protocol(tmp_path, scenes):
    return write_tiny_config(tmp_path, scenes, base="Base-SOLOv2.yaml")


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *map(str, arguments)])
    return run_command(reproduce.main), capsys.readouterr()


def plan_of(number, protocol, output, *, rows=None, seeds=(1,), overrides=()):
    table = TABLES[number]
    chosen = choose_rows(table, rows)
    return make_plan(table, chosen, find_protocol(str(protocol)), seeds, output, overrides)


def write_runs(plan, ap_of, *, commits=("a" * 40,)):
    """Write runs with the AP of each row and seed; the other metrics are AP + 1, AP + 2, ..."""
    settings = {r.row.name: r.cfg for r in plan.rows}
    for number, job in enumerate(plan.jobs):
        ap = ap_of[job.row.name][plan.jobs[0].seed - job.seed]
        job.folder.mkdir(parents=True)
        cfg = settings[job.row.name].clone()
        cfg.defrost()
        cfg.SEED, cfg.OUTPUT_DIR = job.seed, str(job.folder)
        (job.folder / "config.yaml").write_text(cfg.dump())
        final = {f"segm/{m}": ap + i for i, m in enumerate(METRICS)} | {"segm/APl": NAN}
        events = [
            {"iteration": 1, "total_loss": 3.0 + number},
            {"iteration": cfg.SOLVER.MAX_ITER, **final},
        ]
        lines = [json.dumps(e) + "\n" for e in events]
        (job.folder / "metrics.json").write_text("".join(lines))
        session = {
            **{"first_iteration": 0, "iterations": 2, "seconds": 4000.0, "device": "a device"},
            **{"commit": commits[number % len(commits)], "python": "3.11.7", "torch": "2.11.0"},
        }
        (job.folder / "run.json").write_text(json.dumps({"sessions": [session]}))


def tables(text):
    """Yield each Markdown table as {first cell: the other cells}."""
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        rows = [[c.strip() for c in line.strip("|").split("|")] for line in block.splitlines()]
        yield {row[0]: row[1:] for row in rows}


def test_the_table_says_what_the_runs_and_the_paper_say(monkeypatch, capsys, protocol, tmp_path):
    output = tmp_path / "out"
    plan = plan_of(8, protocol, output, rows=["pafpn", "solo"], seeds=(3, 2, 1))
    # Written for seeds 3, 2, 1: means of FPN 12, PAFPN 15, SOLO 12.
    ap_of = {"FPN": (10.0, 12.0, 14.0), "PAFPN": (14.0, 15.0, 16.0), "solo": (11.0, 12.0, 13.0)}
    write_runs(plan, ap_of, commits=("a" * 40, "b" * 40))
    code, printed = run(
        monkeypatch,
        capsys,
        *("--table", 8, "--dataset", protocol, "--output", output, "--json"),
        *("--rows", "pafpn", "SOLO", "--seeds", 3, 2, 1),
    )
    assert code == 0, printed.err
    assert "nan" not in printed.out.lower().replace("nanoseconds", "")
    text = (output / "table8.md").read_text()
    assert text in printed.out + "\n"
    ours, gains, runs = tables(text)
    # The spread of 10, 12, 14 is 2. The paper's: 32.9, 56.4, ... and 31.3, 53.2, ...
    assert ours["FPN (baseline)"][:3] == ["3", "12.00 ± 2.00 / 32.9", "13.00 ± 2.00 / 56.4"]
    assert ours["PAFPN"][:3] == ["3", "15.00 ± 1.00 / 31.3", "16.00 ± 1.00 / 53.2"]
    assert ours["PAFPN"][6] == f"{DASH} / 46.2"
    assert ours["solo"][1] == f"12.00 ± 1.00 / {DASH}"
    assert ours["solo"][6] == DASH
    # Seed by seed 4, 3, 2; and 31.3 - 32.9, 53.2 - 56.4.
    assert gains["PAFPN"][:3] == ["3", "+3.00 ± 1.00 / -1.6", "+3.00 ± 1.00 / -3.2"]
    # 1, 0, -1.
    assert gains["solo"][1] == f"+0.00 ± 1.00 / {DASH}"
    assert "FPN (baseline)" not in gains
    assert set(runs) == {"run of", "---", "FPN", "PAFPN", "solo"}
    data = f"scenes_{tmp_path.name}"
    assert f"**Trained on {data}, not on NWPU VHR-10" in text
    assert f"**The runs used 2 commits**: {'a' * 40}: FPN seed 3" in text
    assert "`'build_fpn_backbone'` → `'build_pafpn_backbone'`" in text
    assert "- `MODEL.META_ARCHITECTURE`: `'SOLOv2'` → `'SOLO'`" in text
    with Image.open(output / "table8.png") as image:
        assert image.width > 1000

    result = json.loads(printed.out.splitlines()[-1])
    assert result["comparable_with_paper"] is False
    fpn, pafpn, solo = result["rows"]
    assert fpn["ours"]["AP"] == {"mean": 12.0, "sd": 2.0, "values": [10.0, 12.0, 14.0]}
    assert pafpn["difference"]["AP"]["values"] == [4.0, 3.0, 2.0]
    assert pafpn["paper_difference"]["AP"] == -1.6
    assert (solo["paper"], solo["ours"]["APl"]) == (None, None)


def test_all_rows_of_a_table_in_the_papers_order(monkeypatch, capsys, protocol, tmp_path):
    output = tmp_path / "out"
    plan = plan_of(3, protocol, output)
    write_runs(plan, {r.name: (20.0,) for r in TABLES[3].rows})
    options = ("--table", 3, "--dataset", protocol, "--output", output)
    code, printed = run(monkeypatch, capsys, *options)
    assert code == 0, printed.err
    text = (output / "table3.md").read_text()
    ours, gains, _ = tables(text)
    assert list(ours)[2:] == ["YOLACT", "QueryInst", "SOLO", "SOLOv2 (baseline)", "FACENet"]
    assert ours["QueryInst"][:2] == ["1", "20.00 / 38.3"]
    # 38.3 - 32.9.
    assert gains["QueryInst"][:2] == ["1", "+0.00 / +5.4"]
    assert "**Trained with ResNet-50 and images of at most 128 pixels: the values are not" in text


LIGHT = {2: "solov2_lite0_384_3ep", 4: "solov2_lite0_384_12ep", 8: "solov2_lite0_384_36ep"}


@pytest.mark.parametrize("number", LIGHT)
def test_the_light_protocol_has_the_same_name_for_every_data_set(number):
    """Its configs share everything but data, augmentation, and number of iterations."""
    protocol = find_protocol(TABLES[number].dataset, "lite0-384")
    assert protocol.file == CONFIGS / TABLES[number].dataset / f"{LIGHT[number]}.yaml"
    cfg, base = (
        dict(flatten(yaml.safe_load(read_config(file).dump())))
        for file in (protocol.file, CONFIGS / "Base-lite0_384.yaml")
    )
    changed = {k for k in cfg if cfg[k] != base[k]}
    # Limits are raised with TEST.DETECTIONS_PER_IMAGE.
    assert {k for k in changed if k.startswith("MODEL.")} <= set(LIMITS)
    assert changed - set(LIMITS) <= {
        *("DATASETS.TRAIN", "DATASETS.TEST", "INPUT.RAND_AUGMENT.ENABLED", "OUTPUT_DIR"),
        *("SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.CHECKPOINT_PERIOD"),
        *("TEST.EVAL_PERIOD", "TEST.DETECTIONS_PER_IMAGE", "TEST.AREA_RANGES"),
    }


def test_every_model_changes_what_its_file_sets(protocol, tmp_path):
    plan = plan_of(8, protocol, tmp_path, rows=MODELS)
    assert sorted(r.row.model for r in plan.rows) == MODELS
    changes = {r.row.model: r.changes for r in plan.rows}
    assert changes["solov2"] == {}
    assert all(changes[m] for m in MODELS if m != "solov2")
    assert changes["dcn"] == {"MODEL.SOLOV2.DEFORM_BRANCHES": ([], ["kernel"])}
    # Nothing is written before training.
    assert not (tmp_path / "solov2").exists()


def test_runs_of_other_settings_are_not_mixed(monkeypatch, capsys, protocol, tmp_path):
    output = tmp_path / "out"
    plan = plan_of(8, protocol, output, rows=["pafpn"])
    write_runs(plan, {"FPN": (10.0,), "PAFPN": (11.0,)})
    options = ("--table", 8, "--dataset", protocol, "--output", output, "--rows", "pafpn")
    code, printed = run(monkeypatch, capsys, *options, "SOLVER.BASE_LR", 0.5)
    assert code == 2
    assert f"{output / 'solov2' / 'seed1'} was trained with other settings" in printed.err
    assert "SOLVER.BASE_LR 0.0025 there, 0.5 now" in printed.err
    assert "choose another --output, or remove" in printed.err
    assert not (output / "table8.md").exists()

    # An unfinished run of the second row is found before the first row is trained.
    record = output / "pafpn" / "seed1" / "config.yaml"
    whole = record.read_text()
    settings = yaml.safe_load(whole)
    settings["MODEL"]["FPN"]["NORM"] = ""
    record.write_text(yaml.safe_dump(settings))
    for file in (output / "solov2" / "seed1").iterdir():
        file.unlink()
    (output / "pafpn" / "seed1" / "metrics.json").unlink()
    code, printed = run(monkeypatch, capsys, *options)
    assert code == 2
    assert "MODEL.FPN.NORM '' there, 'GN' now" in printed.err
    assert not any((output / "solov2" / "seed1").iterdir())

    # Output folder and device do not matter, and a newer key has its default.
    settings = yaml.safe_load(whole)
    settings["OUTPUT_DIR"], settings["MODEL"]["DEVICE"] = "elsewhere", "cuda"
    # Keys of other models do not matter either.
    settings["MODEL"]["YOLACT"]["NUM_CONVS"] = 7
    del settings["MODEL"]["SEM"]["RESIDUAL"]
    record.write_text(yaml.safe_dump(settings))
    plan.check_folders()
    settings["SEED"] = 7
    record.write_text(yaml.safe_dump(settings))
    with pytest.raises(UserError, match="SEED 7 there, 1 now"):
        plan.check_folders()
    record.unlink()
    (record.parent / "metrics.json").touch()
    with pytest.raises(UserError, match=r"no config\.yaml with its settings"):
        plan.check_folders()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dataset", "dota"), "choose one of HRSID, NWPU-VHR10, iSAID, synthetic"),
        (("--dataset", "none.yaml"), "there is no such file"),
        (("--dataset", "synthetic"), "choose one of: --schedule R_18_demo, R_18_overfit"),
        (("--schedule", "R_200_1ep"), "R_50_36ep"),
        (
            ("--schedule", "lite0"),
            "NWPU-VHR10 has several schedules lite0...; choose one of: --schedule lite0_320_9ep, "
            "lite0_384_36ep, lite0_640_36ep, lite0_jitter_384_36ep, lite0_narrow_640_36ep, "
            "lite0_sgd_384_36ep, lite0_stride2_384_36ep, lite0_window_384_36ep.",
        ),
        (("--dataset", "{tiny}", "--schedule", "R_50_36ep"), "omit it"),
        (("--dataset", "{tiny}", "--rows", "resnet"), "the rows of the table are FPN, HRFPN"),
        (("--dataset", "{tiny}", "SEED", "3"), "use --seeds"),
        (("--dataset", "{tiny}", "OUTPUT_DIR", "here"), "use --output"),
        (("--dataset", "{tiny}", "--rows", "SEM", "SEED", "5"), "use --seeds"),
        (("--dataset", "{tiny}", "SOLVER.NO_SUCH", "1"), "SOLVER.NO_SUCH"),
        (
            ("--dataset", "{tiny}", "--rows", "bifpn", "MODEL.BIFPN.REPEATS", "0"),
            "MODEL.BIFPN.REPEATS",
        ),
        (("--dataset", "{tiny}", "DATASETS.TEST", "()"), "exactly one data set to evaluate on"),
        (("--dataset", "{tiny}", "--num-gpus", "64"), "--num-gpus is 64"),
        (("--dataset", "HRSID"), "does not exist"),
    ],
)
def test_wrong_requests_are_one_sentence(
    arguments, message, monkeypatch, capsys, protocol, tmp_path
):
    arguments = [a.format(tiny=protocol) for a in arguments]
    output = tmp_path / "out"
    code, printed = run(monkeypatch, capsys, "--table", 8, "--output", output, *arguments)
    assert code == 2
    assert message in printed.err
    assert printed.err.startswith("error: ")
    assert len(printed.err.splitlines()) == 1
    assert not output.exists()


def test_names_are_matched_where_that_is_harmless():
    assert find_protocol("nwpu_vhr10", "r_50_36EP").file.name == "solov2_R_50_36ep.yaml"
    names = [r.name for r in choose_rows(TABLES[7], ["sem*", "case1", "mask r-cnn", "SEM*"])]
    assert names == ["SOLOv2", "Case 1", "SEM*", "mask_rcnn"]
    assert [r.name for r in choose_rows(TABLES[5], ["facenet", "dcn"])] == [
        *("SOLOv2", "DCNv2", "SEM + FACE-FPN + DCNv2")
    ]


def test_a_dry_run_prints_commands(monkeypatch, capsys, protocol, tmp_path):
    output = tmp_path / "out"
    plan = plan_of(8, protocol, output, rows=["pafpn"])
    write_runs(plan, {"FPN": (10.0,), "PAFPN": (11.0,)})
    (output / "pafpn" / "seed1" / "metrics.json").unlink()
    options = ("--table", 8, "--dataset", protocol, "--output", output, "--dry-run")
    # An override after an option with several values is not a row.
    code, printed = run(monkeypatch, capsys, *options, "--rows", "pafpn", "SOLVER.MAX_ITER", "2")
    assert code == 0, printed.err
    finished, what, command = printed.out.splitlines()
    assert finished == f"# FPN, seed 1: finished, in {output / 'solov2' / 'seed1'}"
    assert what == "# PAFPN, seed 1: 2 iterations"
    assert command.endswith(
        f"train_net.py --config-file {output / 'pafpn' / 'row.yaml'} --resume --num-gpus 1 "
        f"SEED 1 OUTPUT_DIR {output / 'pafpn' / 'seed1'} SOLVER.MAX_ITER 2"
    )
    assert read_config(output / "pafpn" / "row.yaml").MODEL.BACKBONE.NAME.endswith("pafpn_backbone")
    (output / "pafpn" / "seed1" / "last_checkpoint").write_text("model_0000000.pth")
    code, printed = run(monkeypatch, capsys, *options, "--rows", "pafpn", "SOLVER.MAX_ITER", "2")
    assert "# PAFPN, seed 1: 2 iterations, 1 of them done" in printed.out


def test_only_one_process_trains_into_a_folder(monkeypatch, capsys, protocol, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        with (output / ".lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            handle.write(f"{sleeper.pid}\n")
            handle.flush()
            options = ("--table", 8, "--dataset", protocol, "--output", output, "--rows", "pafpn")
            code, printed = run(monkeypatch, capsys, *options)
    finally:
        sleeper.kill()
        sleeper.wait()
    assert code == 2
    assert f"in use by another training (process {sleeper.pid})" in printed.err
    assert not (output / "solov2").exists()


def test_saved_iterations(tmp_path):
    job = Job(TABLES[8].row("FPN"), 1, tmp_path)
    assert job.saved_iterations(40) == 0
    job.folder.mkdir(parents=True)
    tag = job.folder / "last_checkpoint"
    for number in (9, 19):
        (job.folder / f"model_{number:07d}.pth").touch()
    tag.write_text("model_0000009.pth")
    assert job.saved_iterations(40) == 10
    # Earlier versions tagged the best checkpoint.
    tag.write_text("model_best.pth")
    (job.folder / "model_best.pth").touch()
    assert job.saved_iterations(40) == 20
    (job.folder / "model_final.pth").touch()
    assert job.saved_iterations(40) == 40
    tag.write_text("model_final.pth")
    assert job.saved_iterations(40) == 40


def test_half_a_line_of_a_killed_process_is_cut_off(tmp_path):
    file = tmp_path / "metrics.json"
    for content, kept in (('{"a": 1}\n{"a"', '{"a": 1}\n'), ('{"a"', ""), ("", "")):
        file.write_text(content)
        remove_partial_line(file)
        assert file.read_text() == kept


def test_interruption_and_resumption(protocol, tmp_path):
    """Ctrl-C in the second of two rows, in processes of their own."""
    output = tmp_path / "out"
    command = [
        *(sys.executable, "tools/reproduce.py", "--table", "8", "--dataset", str(protocol)),
        *("--output", str(output), "--rows", "pafpn"),
        *("SOLVER.MAX_ITER", "12", "SOLVER.CHECKPOINT_PERIOD", "1"),
    ]
    # On a busy machine, threads wait for one another.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run_folder = output / "pafpn" / "seed1"
    with (tmp_path / "printed.txt").open("w") as printed:
        tool = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=printed, stderr=subprocess.STDOUT
        )
        deadline = time.time() + 240
        # Before its first iteration, a run has no record.
        while not (run_folder / "model_0000000.pth").exists():
            assert tool.poll() is None, (tmp_path / "printed.txt").read_text()
            assert time.time() < deadline
            time.sleep(0.02)
        tool.send_signal(signal.SIGINT)
        assert tool.wait(120) == 130
    text = (tmp_path / "printed.txt").read_text()
    assert "interrupted; run the same command again to resume" in text
    assert "Traceback" not in text
    ours, *_ = tables((output / "table8.md").read_text())
    assert ours["FPN (baseline)"][0] == "1"
    first = json.loads((run_folder / "run.json").read_text())["sessions"][0]["iterations"]
    assert 0 < first < 12
    stopped = f"stopped after {first} of 12 iterations"
    assert ours["PAFPN"][:2] == [stopped, f"{DASH} / 31.3"]
    finished = output / "solov2" / "seed1" / "metrics.json"
    before = (finished.read_bytes(), finished.stat().st_mtime_ns)

    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "[1/2] FPN, seed 1: finished already" in done.stdout
    assert "[2/2] PAFPN, seed 1: resumes in" in done.stdout
    assert (finished.read_bytes(), finished.stat().st_mtime_ns) == before
    first, second = json.loads((run_folder / "run.json").read_text())["sessions"]
    assert first["iterations"] == second["first_iteration"] > 0
    assert first["iterations"] + second["iterations"] == 12
    ours, *_ = tables((output / "table8.md").read_text())
    assert ours["PAFPN"][0] == "1"
    assert re.fullmatch(r"\d+\.\d\d / 31\.3", ours["PAFPN"][1])


def test_a_row_that_fails_does_not_stop_the_others(monkeypatch, capsys, protocol, tmp_path):
    output = tmp_path / "out"
    plan = plan_of(8, protocol, output, rows=["pafpn", "bifpn"])
    write_runs(plan, {"FPN": (10.0,), "PAFPN": (11.0,), "BiFPN": (12.0,)})
    # A checkpoint that torch cannot load.
    failing = output / "pafpn" / "seed1"
    (failing / "metrics.json").unlink()
    (failing / "model_0000000.pth").write_text("no checkpoint")
    (failing / "last_checkpoint").write_text("model_0000000.pth")
    options = ("--table", 8, "--dataset", protocol, "--output", output)
    code, printed = run(monkeypatch, capsys, *options, "--rows", "pafpn", "bifpn")
    assert code == 1
    assert "PAFPN, seed 1: failed: checkpoint" in printed.err
    assert str(failing / "train.log") in printed.err
    assert "BiFPN, seed 1: finished already" in printed.out
    text = (output / "table8.md").read_text()
    ours, *_ = tables(text)
    assert ours["PAFPN"][0] == "failed"
    assert "- PAFPN, seed 1: checkpoint" in text
