"""summarize_runs.py on runs whose metrics are known."""

import json
import math
import sys

import pytest
import summarize_runs
import yaml
from PIL import Image

from facenet_d2.engine import run_command
from facenet_d2.evaluation import METRICS
from facenet_d2.experiments.runs import read_run


def write_run(
    folder, *, seed, ap, lr=0.01, last=20, device="GPU of a test", test_sets=(), **settings
):
    folder.mkdir(parents=True)
    config = {"SEED": seed, "OUTPUT_DIR": str(folder), "MODEL": settings}
    config["SOLVER"] = {"BASE_LR": lr, "MAX_ITER": 20}
    metrics = {f"{task}/{m}": ap + i for task in ("segm", "bbox") for i, m in enumerate(METRICS)}
    metrics |= {"segm/AP-ship": ap - 1, "segm/AP-storage_tank": ap + 1}
    if test_sets:
        config["DATASETS"] = {"TEST": list(test_sets)}
        # Detectron2's names for several data sets; AP is higher by 20 on each further one.
        metrics = {
            f"{name}/{k}": v + 20 * i
            for i, name in enumerate(test_sets)
            for k, v in metrics.items()
        }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    earlier = dict.fromkeys(metrics, 99.0)
    events = [
        {"iteration": 9, "loss_mask": 2.5, "loss_category": 1.0},
        {"iteration": 10, **earlier},
        {"iteration": 19, "loss_mask": 1.5, "loss_category": 0.5},
        {"iteration": last, **metrics},
    ]
    (folder / "metrics.json").write_text("".join(json.dumps(e) + "\n" for e in events))
    sessions = [{"device": device, "seconds": s, "first_iteration": 0} for s in (3600, 125.0)]
    (folder / "run.json").write_text(json.dumps({"sessions": sessions}))


@pytest.fixture
def runs(tmp_path):
    # Named so that the baseline would come last.
    for seed, ap, gain in ((1, 10.0, 3.0), (2, 12.0, 4.0), (3, 17.0, 2.0)):
        write_run(tmp_path / "runs" / "solov2" / f"seed{seed}", seed=seed, ap=ap)
        write_run(tmp_path / "runs" / "facenet" / f"seed{seed}", seed=seed, ap=ap + gain, SEM=True)
    return sorted((tmp_path / "runs").glob("*/*"))


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["summarize_runs.py", *map(str, arguments)])
    return run_command(summarize_runs.main), capsys.readouterr()


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_means_spreads_gains_and_every_run(monkeypatch, capsys, runs):
    code, printed = run(monkeypatch, capsys, *runs, "--baseline", "solov2")
    assert code == 0
    lines = [cells(line) for line in printed.out.splitlines() if line.startswith("|")]
    # 10, 12, 17: mean 13, deviations -3, -1, 4, variance 26 / 2. The last evaluation, not the best.
    assert lines[2][:4] == ["`solov2`", "3", "13.00 ± 3.61", "14.00 ± 3.61"]
    # 13, 16, 19.
    assert lines[3][:3] == ["`facenet`", "3", "16.00 ± 3.00"]
    assert lines[4][:3] == ["*gain, seed by seed*", "3", "+3.00 ± 1.00"]
    every = [line for line in lines if "GPU of a test" in line]
    assert [line[:2] for line in every] == [
        [f"`{name}`", str(seed)] for name in ("solov2", "facenet") for seed in (1, 2, 3)
    ]
    assert every[3][2:6] == ["GPU of a test", "1 h 02 min", "13.00", "14.00"]
    header = next(line for line in lines if "storage tank" in line)
    row = lines[lines.index(header) + 2]
    assert dict(zip(header, row, strict=True)) == {
        **{"row": "`solov2`", "seed": "1"},
        **{"ship": "9.00", "storage tank": "11.00"},
    }
    assert "- `MODEL.SEM`: `None` → `True`" in printed.out


def test_folders_without_seed_are_rows_and_nan_is_a_dash(monkeypatch, capsys, tmp_path):
    """Sibling OUTPUT_DIRs of train_net.py, on data without large objects."""
    folders = [tmp_path / "output" / name for name in ("solov2_R_18", "facenet_R_18")]
    for folder, ap in zip(folders, (10.0, math.nan), strict=True):
        write_run(folder, seed=1, ap=ap, SEM=folder == folders[1])
    code, printed = run(monkeypatch, capsys, *folders)
    assert code == 0, printed.err
    assert "nan" not in printed.out
    lines = [cells(line) for line in printed.out.splitlines() if line.startswith("|")]
    every = [line for line in lines if "GPU of a test" in line]
    assert [line[0] for line in every] == ["`solov2_R_18`", "`facenet_R_18`"]
    assert [line[4] for line in every] == ["10.00", "\N{EN DASH}"]


def test_several_test_sets_have_tables_of_their_own(monkeypatch, capsys, tmp_path):
    folders = [tmp_path / name / "seed1" for name in ("solov2", "facenet")]
    sets = ("harbour_test", "city_test")
    for folder, ap in zip(folders, (10.0, 13.0), strict=True):
        write_run(folder, seed=1, ap=ap, test_sets=sets)
    assert read_run(folders[0]).metrics("city_test")["segm/AP-ship"] == 29.0
    file = tmp_path / "curves.png"
    code, printed = run(monkeypatch, capsys, *folders, "--plot", file)
    assert code == 0, printed.err
    assert file.is_file()
    for name, ap in zip(sets, (10, 30), strict=True):
        _, section = printed.out.split(f"Mean ± standard deviation over the seeds on {name}:")
        lines = [cells(line) for line in section.splitlines() if line.startswith("|")]
        assert lines[2][2:4] == [f"{ap}.00", f"{ap + 1}.00"]
        assert lines[3][2] == f"{ap + 3}.00"
        assert lines[4][2] == "+3.00"
        assert f"Mask AP of each class on {name}:" in printed.out

    # One of the two was not evaluated after the last iteration.
    events = (folders[1] / "metrics.json").read_text().splitlines()
    last = {k: v for k, v in json.loads(events[-1]).items() if not k.startswith("city_test")}
    (folders[1] / "metrics.json").write_text("\n".join([*events[:-1], json.dumps(last)]))
    code, printed = run(monkeypatch, capsys, *folders)
    assert code == 2
    assert "last evaluated on city_test after iteration 10 of 20" in printed.err

    write_run(tmp_path / "sem" / "seed1", seed=1, ap=1.0)
    code, printed = run(monkeypatch, capsys, folders[0], tmp_path / "sem" / "seed1")
    assert code == 2
    assert "solov2: harbour_test, city_test; sem: a single one" in printed.err


def test_runs_recorded_by_earlier_versions_can_be_read(tmp_path):
    folder = tmp_path / "seed1"
    write_run(folder, seed=1, ap=1.0)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({"stretches": record["sessions"]}))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["MODEL"] = {"META_ARCHITECTURE": "SOLOv2", "SOLOV2": {"SCORE_THRESHOLD": 0.25}}
    config["INPUT"] = {"MASK_FORMAT": "bitmask"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    run = read_run(folder)
    assert (run.devices, run.seconds) == (["GPU of a test"], 3725.0)
    assert run.settings["MODEL.SOLOV2.SCORE_THRESH_TEST"] == 0.25
    assert "MODEL.SOLOV2.SCORE_THRESHOLD" not in run.settings
    # Models decided it themselves.
    assert run.settings["INPUT.MASK_FORMAT"] == "stride4"


def test_a_file_is_updated_between_its_marks_alone(monkeypatch, capsys, runs, tmp_path):
    file = tmp_path / "ZOO.md"
    file.write_text("before\n<!-- runs: begin -->\nold\n<!-- runs: end -->\nafter\n")
    for _ in range(2):
        assert run(monkeypatch, capsys, *runs, "--update", file)[0] == 0
    text = file.read_text()
    assert text.startswith("before\n<!-- runs: begin -->\n\nMean")
    assert text.endswith("\n\n<!-- runs: end -->\nafter\n")
    assert "old" not in text
    file.write_text("no marks\n")
    code, printed = run(monkeypatch, capsys, *runs, "--update", file)
    assert code == 2
    assert "must contain the lines" in printed.err
    assert file.read_text() == "no marks\n"


def test_curves_are_drawn(monkeypatch, capsys, runs, tmp_path):
    file = tmp_path / "curves.png"
    assert run(monkeypatch, capsys, *runs, "--plot", file)[0] == 0
    with Image.open(file) as image:
        assert image.width > 1000
    assert read_run(runs[0]).curve("loss_mask") == ([9, 19], [2.5, 1.5])


def test_runs_of_a_row_differ_in_their_seed_alone(monkeypatch, capsys, runs, tmp_path):
    row = tmp_path / "runs" / "solov2"
    write_run(row / "seed4", seed=4, ap=1.0, lr=0.02)
    code, printed = run(monkeypatch, capsys, *runs, row / "seed4")
    assert code == 2
    assert "differ in more than their seed: SOLVER.BASE_LR" in printed.err
    write_run(row / "seed5", seed=1, ap=1.0)
    code, printed = run(monkeypatch, capsys, *runs, row / "seed5")
    assert code == 2
    assert "two of its runs have the same seed" in printed.err


def test_an_unfinished_run_is_refused(monkeypatch, capsys, tmp_path):
    write_run(tmp_path / "row" / "seed1", seed=1, ap=1.0, last=15)
    code, printed = run(monkeypatch, capsys, tmp_path / "row" / "seed1")
    assert code == 2
    assert "last evaluated after iteration 15 of 20" in printed.err


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.json", None, "it has no metrics.json"),
        ("metrics.json", "{\n", "metrics.json, line 1"),
        ("metrics.json", "[1]\n", "metrics.json, line 1"),
        # The last line of a killed process is not complete.
        ("metrics.json", '{"iteration": 1}\n{"iter', "after iteration 0 of"),
        ("run.json", "[]", "it is not the record of a run"),
        ("config.yaml", "a: [", "cannot be read"),
        ("run.json", "{", "run.json"),
    ],
)
def test_broken_runs_are_named(monkeypatch, capsys, tmp_path, file, content, message):
    folder = tmp_path / "row" / "seed1"
    write_run(folder, seed=1, ap=1.0)
    (folder / file).unlink() if content is None else (folder / file).write_text(content)
    code, printed = run(monkeypatch, capsys, folder)
    assert code == 2
    assert message in printed.err
    assert "Traceback" not in printed.err


def test_wrong_options(monkeypatch, capsys, runs, tmp_path):
    code, printed = run(monkeypatch, capsys, *runs, "--baseline", "yolact")
    assert code == 2
    assert "the rows are" in printed.err
    code, printed = run(monkeypatch, capsys, *runs, "--plot", tmp_path / "curves.txt")
    assert code == 2
    assert "give a .png" in printed.err
