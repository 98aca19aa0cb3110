"""docs/TRIALS.md agrees with the metrics.json files in docs/model_zoo/trials."""

import json
import re

import pytest
import yaml
from helpers import REPOSITORY

from facenet_d2.engine.run_record import read_sessions
from facenet_d2.evaluation import METRICS

FOLDER = REPOSITORY / "docs" / "model_zoo" / "trials"
RUNS = sorted(p.parent for p in FOLDER.glob("*/metrics.json"))
TEXT = (REPOSITORY / "docs" / "TRIALS.md").read_text()


def cells(folder):
    """Compute a row of the table plainly: losses over four windows, and the final metrics."""
    lines = [json.loads(line) for line in (folder / "metrics.json").open()]
    row = []
    for first, last in ((0, 200), (200, 400), (400, 600), (920, 1024)):
        window = [x for x in lines if "loss_mask" in x and first <= x["iteration"] < last]
        mask, category = (
            sum(x[key] for x in window) / len(window) for key in ("loss_mask", "loss_category")
        )
        row.append(f"{mask:.2f}/{category:.2f}")
    *_, final = (x for x in lines if "segm/AP" in x)
    assert final["iteration"] == 1024
    return row + [f"{final[f'segm/{metric}']:.1f}" for metric in METRICS]


def test_there_are_runs():
    assert len(RUNS) >= 5


@pytest.mark.parametrize("folder", RUNS, ids=lambda f: f.name)
def test_every_run_has_its_row(folder):
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in TEXT.splitlines()]
    (row,) = (r for r in rows if r[0].endswith(f"(`{folder.name}`)"))
    assert row[1:] == cells(folder)


@pytest.mark.parametrize("folder", RUNS, ids=lambda f: f.name)
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
    lines = [json.loads(line) for line in (folder / "metrics.json").open()]
    losses = []
    for first in range(0, 600, 100):
        window = [x["loss_mask"] for x in lines if first <= x["iteration"] < first + 100]
        losses.append(sum(window) / len(window))
    # Empty masks have a loss of 3.
    assert losses[-1] < 2.5
    assert f"| {model} | {seed} | {' | '.join(f'{x:.2f}' for x in losses)} |" in TEXT
