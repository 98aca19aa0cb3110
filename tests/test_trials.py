"""docs/TRIALS.md agrees with the metrics.json files in docs/model_zoo/trials."""

import re

import numpy as np
import pytest
import yaml
from helpers import REPOSITORY
from run_files import final, flat, read_metrics

from facenet_d2.engine.run_record import read_sessions
from facenet_d2.evaluation import METRICS

FOLDER = REPOSITORY / "docs" / "model_zoo" / "trials"
RUNS = sorted(p.parent for p in FOLDER.glob("*/metrics.json"))
WINDOWS = FOLDER.with_name("window_trials")
# Settings of the rows of the sixth round that differ from those of its first.
FACE_FPN = {"MODEL.BACKBONE.NAME": "build_face_fpn_backbone"}
FACENET = FACE_FPN | {"MODEL.SEM.ENABLED": True, "MODEL.SOLOV2.DEFORM_BRANCHES": ["kernel"]}
CHANGES: dict[str, dict[str, object]] = {
    "solov2": {},
    "solov2_dcn": {"MODEL.SOLOV2.DEFORM_BRANCHES": ["kernel"]},
    "solov2_sem": {"MODEL.BACKBONE.NAME": "build_sem_fpn_backbone"},
    "solov2_face_fpn": FACE_FPN,
    "solov2_sem_face_fpn": FACE_FPN | {"MODEL.SEM.ENABLED": True},
    "facenet": FACENET,
    "facenet_equation_2": FACENET | {"MODEL.FACE_FPN.TOP_DOWN": False},
    "facenet_conv_first": FACENET | {"MODEL.FACE_FPN.SUBPIXEL_CONV_FIRST": True},
    "facenet_aspp_128": FACENET | {"MODEL.FACE_FPN.ASPP_CHANNELS": 128},
    "facenet_offsets_0.1": FACENET | {"SOLVER.OFFSET_MULTIPLIER": 0.1},
    "facenet_deform_both": FACENET | {"MODEL.SOLOV2.DEFORM_BRANCHES": ["kernel", "category"]},
    "facenet_stride2": FACENET | {"MODEL.SOLOV2.MASK_STRIDE": 2},
}
TEXT = (REPOSITORY / "docs" / "TRIALS.md").read_text()


def final_metrics(folder):
    last = final(folder)
    assert last["iteration"] == 1024
    return [last[f"segm/{metric}"] for metric in METRICS]


def table_rows():
    return [[c.strip() for c in line.strip("|").split("|")] for line in TEXT.splitlines()]


def cells(folder):
    """Compute a row of the table plainly: losses over four windows, and the final metrics."""
    lines = read_metrics(folder)
    row = []
    for first, last in ((0, 200), (200, 400), (400, 600), (920, 1024)):
        window = [x for x in lines if "loss_mask" in x and first <= x["iteration"] < last]
        mask, category = (
            sum(x[key] for x in window) / len(window) for key in ("loss_mask", "loss_category")
        )
        row.append(f"{mask:.2f}/{category:.2f}")
    return row + [f"{x:.1f}" for x in final_metrics(folder)]


def test_there_are_runs():
    assert len(RUNS) >= 5


@pytest.mark.parametrize("folder", RUNS, ids=lambda f: f.name)
def test_every_run_has_its_row(folder):
    (row,) = (r for r in table_rows() if r[0].endswith(f"(`{folder.name}`)") and "/" in r[1])
    assert row[1:] == cells(folder)


def test_the_rows_with_windows_are_all_there():
    assert {folder.name for folder in WINDOWS.iterdir()} == set(CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_the_rows_with_windows(name):
    """AP of three seeds, its mean and sample deviation, and the means of the other metrics."""
    metrics = np.array([final_metrics(WINDOWS / name / f"seed{seed}") for seed in (1, 2, 3)])
    (row,) = (r for r in table_rows() if r[0].endswith(f"(`{name}`)") and "±" in "".join(r))
    deviation = np.sqrt(((metrics[:, 0] - metrics[:, 0].mean()) ** 2).sum() / 2)
    assert row[1:4] == [f"{ap:.1f}" for ap in metrics[:, 0]]
    assert row[4] == f"{metrics[:, 0].mean():.1f} ± {deviation:.1f}"
    assert row[5:] == [f"{x:.1f}" for x in metrics[:, 1:].mean(axis=0)]


@pytest.mark.parametrize("name", CHANGES)
def test_the_rows_with_windows_differ_as_stated(name):
    def settings(row, seed):
        return flat(yaml.safe_load((WINDOWS / row / f"seed{seed}" / "config.yaml").read_text()))

    first = settings("solov2", 1)
    for seed in (1, 2, 3):
        own = settings(name, seed)
        expected = {"SEED": seed} if seed > 1 else {}
        changed = {key: own[key] for key in own if own[key] != first[key]}
        changed.pop("OUTPUT_DIR", None)
        assert changed == CHANGES[name] | expected


@pytest.mark.parametrize(
    "folder", [*RUNS, *sorted(WINDOWS.glob("*/*"))], ids=lambda f: f"{f.parent.name}-{f.name}"
)
def test_every_run_is_of_one_commit(folder):
    sessions = read_sessions(folder)
    assert sum(s["iterations"] for s in sessions) == 1024
    assert all(re.fullmatch(r"[0-9a-f]{40}(\+changes)?", s["commit"]) for s in sessions)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("name", "model"), [("solov2", "SOLOv2"), ("facenet", "FACENet")])
def test_runs_with_the_settings_of_the_paper_did_not_collapse(name, model, seed):
    folder = FOLDER.parent / "paper_settings" / name / f"seed{seed}"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    solver = config["SOLVER"]
    assert (solver["OPTIMIZER"], solver["BASE_LR"], solver["IMS_PER_BATCH"]) == ("SGD", 0.0025, 2)
    assert (solver["WARMUP_ITERS"], solver["CLIP_GRADIENTS"]["CLIP_VALUE"]) == (500, 35.0)
    assert config["SEED"] == seed
    assert sum(s["iterations"] for s in read_sessions(folder)) == 600
    lines = read_metrics(folder)
    losses = []
    for first in range(0, 600, 100):
        window = [x["loss_mask"] for x in lines if first <= x["iteration"] < first + 100]
        losses.append(sum(window) / len(window))
    # Empty masks have a loss of 3.
    assert losses[-1] < 2.5
    assert f"| {model} | {seed} | {' | '.join(f'{x:.2f}' for x in losses)} |" in TEXT
