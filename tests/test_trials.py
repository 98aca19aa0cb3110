"""docs/TRIALS.md says what the metrics.json files under docs/model_zoo/trials say."""

import json
import re

import pytest
from conftest import REPOSITORY

FOLDER = REPOSITORY / "docs" / "model_zoo" / "trials"
RUNS = sorted(p.parent for p in FOLDER.glob("*/metrics.json"))
TEXT = (REPOSITORY / "docs" / "TRIALS.md").read_text()
FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def cells(folder):
    """A row of the table, computed plainly: losses over four windows, and the final figures."""
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
    return row + [f"{final[f'segm/{figure}']:.1f}" for figure in FIGURES]


def test_there_are_runs():
    assert len(RUNS) >= 5


@pytest.mark.parametrize("folder", RUNS, ids=lambda f: f.name)
def test_every_run_has_its_row(folder):
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in TEXT.splitlines()]
    (row,) = (r for r in rows if r[0].endswith(f"(`{folder.name}`)"))
    assert row[1:] == cells(folder)


@pytest.mark.parametrize("folder", RUNS, ids=lambda f: f.name)
def test_every_run_is_of_one_commit(folder):
    stretches = json.loads((folder / "run.json").read_text())["stretches"]
    assert sum(s["iterations"] for s in stretches) == 1024
    assert all(re.fullmatch(r"[0-9a-f]{40}(\+changes)?", s["commit"]) for s in stretches)
