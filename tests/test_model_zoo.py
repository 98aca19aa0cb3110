"""The pages of runs and the README agree with the metrics.json files in docs/model_zoo."""

import json
import re

import numpy as np
import pytest
import yaml
from detectron2.config import get_cfg
from helpers import REPOSITORY
from run_files import final, flat, read_metrics
from safetensors import safe_open

from facenet_d2 import add_facenet_config
from facenet_d2.config import rename_keys
from facenet_d2.engine import read_config
from facenet_d2.engine.num_classes import keys_of_other_models, resolve_num_classes
from facenet_d2.engine.run_record import read_sessions
from facenet_d2.evaluation import METRICS
from facenet_d2.experiments.plan import write_row_config
from facenet_d2.zoo_files import weights_file

README = (REPOSITORY / "README.md").read_text()
ZOO = (REPOSITORY / "MODEL_ZOO.md").read_text()
EARLIER = (REPOSITORY / "docs" / "EARLIER_RUNS.md").read_text()
RUNS_384 = (REPOSITORY / "docs" / "RUNS_384.md").read_text()
FOLDER = REPOSITORY / "docs" / "model_zoo" / "nwpu_vhr10"
# The folders of the light protocol by the side of the images.
LIGHT = {
    384: FOLDER.with_name("nwpu_vhr10_lite0"),
    640: FOLDER.with_name("nwpu_vhr10_lite0_640"),
}
PAGES = [
    (page, sorted(p.parent for p in folder.glob("*/*/metrics.json")))
    for page, folder in ((EARLIER, FOLDER), (RUNS_384, LIGHT[384]), (ZOO, LIGHT[640]))
]
PAGE_NAMES = ["earlier", "384", "640"]
EARLIER_RUNS = PAGES[0][1]
RUNS = [folder for _, runs in PAGES for folder in runs]
# Runs with other settings than the light protocol, by the first column of their table.
VARIANTS = {
    column: sorted(p.parent for p in FOLDER.with_name(name).glob("*/*/metrics.json"))
    for column, name in (
        ("config", "nwpu_vhr10_lite0_jitter"),
        ("windows and baseline", "nwpu_vhr10_lite0_window"),
    )
}
# Folder of the runs of each trained model of the zoo.
PUBLISHED = {
    f"{model}_lite0_{side}_36ep": folder
    for side, folder in LIGHT.items()
    for model in ("solov2", "facenet")
} | {
    f"facenet_lite0_window_{schedule}": FOLDER.with_name("nwpu_vhr10_lite0_window")
    for schedule in ("384_36ep", "stride2_384_12ep")
}
VARIANT_RUNS = [folder for runs in VARIANTS.values() for folder in runs]
ANCHORS = ["MODEL.YOLACT.ANCHOR_SCALE", "1.5", "MODEL.ANCHOR_GENERATOR.SCALE", "4.0"]
# (page, runs of other models, schedule, overrides)
OTHER_MODELS = [
    (page, sorted(p.parent for p in FOLDER.with_name(name).glob("*/*/metrics.json")), *protocol)
    for page, name, *protocol in (
        (EARLIER, "nwpu_vhr10_rivals", "R_18_256_scratch_GN_8ep", ANCHORS),
        (RUNS_384, "nwpu_vhr10_lite0_rivals", "lite0_384_36ep", []),
    )
]
SOLOV2, FACENET = (f"{m}_R_18_256_scratch_GN_8ep" for m in ("solov2", "facenet"))
# Keys that may differ between runs.
OWN = ("SEED", "OUTPUT_DIR", "MODEL.DEVICE", "DATALOADER.NUM_WORKERS")
# A key that is newer than the first runs with windows, which had no such loss.
WINDOW_LOSS = "MODEL.SOLOV2.WINDOW_LOSS_WEIGHT"
# Titles of the tables' columns.
COLUMNS = {
    f"{'mask' if task == 'segm' else 'box'} {f}": f"{task}/{f}"
    for task in ("segm", "bbox")
    for f in METRICS
}


def tables(text):
    """Yield each Markdown table as a list of {column: cell}."""
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        header, _, *rows = (
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()
        )
        yield [dict(zip(header, row, strict=True)) for row in rows]


def recorded_settings(folder):
    """Read a run's config.yaml; necks get the names that they have since MODEL.BOTTOM_UP."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    rename_keys(config)
    settings = flat(config)
    name = settings["MODEL.BACKBONE.NAME"]
    settings["MODEL.BACKBONE.NAME"] = name.replace("_resnet_", "_").replace(
        "build_retinanet_resnet", "build_retinanet"
    )
    return settings


def of(row, key, folder=FOLDER):
    return np.array([final(f)[key] for f in sorted((folder / row).iterdir())])


def table_with(*columns, page=EARLIER):
    (found,) = (t for t in tables(page) if set(columns) <= t[0].keys())
    return found


def check_record(folder, iterations):
    sessions = read_sessions(folder)
    recorded = sum(s["iterations"] for s in sessions)
    # SOLO's machine was gone before its last steps were recorded.
    assert recorded == (4080 if folder.parent.name == "solo" else iterations)
    # Runs of one call on a GPU had the config files of some rows in their working tree.
    changes = "(\\+changes)?" if folder not in RUNS else ""
    assert all(re.fullmatch(f"[0-9a-f]{{40}}{changes}", s["commit"]) for s in sessions)


def check_cells(row, folder):
    """Compare the metrics and the time of a line with the run's files."""
    metrics = final(folder)
    for column, key in COLUMNS.items():
        assert row[column] == f"{metrics[key]:.2f}"
    sessions = read_sessions(folder)
    hours, minutes = map(int, re.fullmatch(r"(\d+) h (\d+) min", row["time"]).groups())
    assert abs(60 * hours + minutes - sum(s["seconds"] for s in sessions) / 60) <= 0.5
    return sessions


def test_there_are_three_seeds_of_both_models():
    assert {(f.parent.name, f.name) for f in EARLIER_RUNS} >= {
        (row, f"seed{seed}") for row in (SOLOV2, FACENET) for seed in (1, 2, 3)
    }


@pytest.mark.parametrize("folder", RUNS + VARIANT_RUNS, ids=lambda f: f"{f.parent.name}-{f.name}")
def test_every_run_is_of_a_committed_config(folder):
    cfg = read_config(REPOSITORY / "configs" / "NWPU-VHR10" / f"{folder.parent.name}.yaml")
    resolve_num_classes(cfg)
    recorded = recorded_settings(folder)
    expected = yaml.safe_load(cfg.dump())
    assert folder.name == f"seed{recorded['SEED']}"
    defaults = get_cfg()
    add_facenet_config(defaults)
    expected, defaults = map(flat, (expected, defaults))
    own = {k for k in expected.keys() | recorded.keys() if k not in OWN}
    own = {k for k in own if not k.startswith(keys_of_other_models(cfg))}
    assert {k: expected[k] for k in recorded if k in own} == {
        k: v for k, v in recorded.items() if k in own
    }
    # Keys that are newer than the run have the value that leaves it as it was.
    before = defaults | ({WINDOW_LOSS: 0.0} if expected["MODEL.SOLOV2.MASK_WINDOW"] else {})
    newer = (expected.keys() - recorded.keys()) & own
    # Depends on whether the process has read annotations of the data set.
    newer.discard("DATASETS.CATEGORY_IDS")
    assert {k: expected[k] for k in newer} == {k: before[k] for k in newer}
    check_record(folder, recorded["SOLVER.MAX_ITER"])


@pytest.mark.parametrize(("page", "runs"), PAGES, ids=PAGE_NAMES)
def test_the_table_of_every_run(page, runs):
    rows = table_with("seed", "device", page=page)
    folders = {(f"`{f.parent.name}`", f.name.removeprefix("seed")): f for f in runs}
    assert {(row["row"], row["seed"]) for row in rows} == set(folders)
    for row in rows:
        sessions = check_cells(row, folders[row["row"], row["seed"]])
        assert row["device"] == ", ".join(dict.fromkeys(s["device"] for s in sessions))


@pytest.mark.parametrize(("page", "runs"), PAGES, ids=PAGE_NAMES)
def test_the_table_of_classes(page, runs):
    rows = table_with("seed", "storage tank", page=page)
    folders = {(f"`{f.parent.name}`", f.name.removeprefix("seed")): f for f in runs}
    assert len(rows) == len(runs)
    for row in rows:
        metrics = final(folders[row.pop("row"), row.pop("seed")])
        assert len(row) == 10
        for column, cell in row.items():
            assert cell == f"{metrics['segm/AP-' + column.replace(' ', '_')]:.2f}"


def test_the_table_of_means_and_gains():
    baseline, facenet, gain, *_ = table_with("seeds")
    assert (baseline["row"], facenet["row"]) == (f"`{SOLOV2}`", f"`{FACENET}`")
    for column, key in COLUMNS.items():
        values = {row: of(row, key) for row in (SOLOV2, FACENET)}
        for row, cells in ((SOLOV2, baseline), (FACENET, facenet)):
            mean, spread = values[row].mean(), values[row].std(ddof=1)
            assert cells[column] == f"{mean:.2f} ± {spread:.2f}"
        change = values[FACENET] - values[SOLOV2]
        assert gain[column] == f"{change.mean():+.2f} ± {change.std(ddof=1):.2f}"


def test_the_table_of_errors():
    errors = json.loads((FOLDER / "errors.json").read_text())
    rows = table_with("seed", "false alarms")
    assert len(rows) == len(errors) == len(EARLIER_RUNS)
    for row in rows:
        model = row.pop("row").strip("`").split("_")[0]
        counts = errors[f"{model}_seed{row.pop('seed')}"]
        every = counts.pop("all")
        for column, cell in row.items():
            key = column.replace("false alarms", "false_alarm")
            assert int(cell) == every[key] == sum(c[key] for c in counts.values())
        assert every["objects"] == sum(every[k] for k in ("right", "poor", "aliased", "missed"))


def test_the_table_of_best_masks():
    best = json.loads((FOLDER / "best_masks.json").read_text())
    rows = table_with("input", "storage tank")
    assert [row.pop("input") for row in rows] == ["256", "800"]
    for size, row in zip(("256", "800"), rows, strict=True):
        assert len(row) == 11
        for column, cell in row.items():
            assert cell == f"{best[size][column.replace(' ', '_')]['mean_iou']:.2f}"


def comparison_with_the_paper(text):
    (rows,) = (t for t in tables(text) if {"data", "model", "AP75"} <= t[0].keys())
    cells = {
        row["model"].removesuffix(" (paper)"): row for row in rows if "(paper)" in row["model"]
    }
    # Table 3 of the paper.
    for model, metrics in (
        ("SOLOv2", ["32.9", "56.4", "31.8"]),
        ("FACENet", ["45.8", "74.8", "44.4"]),
    ):
        assert [cells[model][k] for k in ("mask AP", "AP50", "AP75")] == metrics
    return {row["model"]: row for row in rows}


def test_the_comparison_with_the_paper():
    cells = comparison_with_the_paper(EARLIER)
    keys = {"mask AP": "segm/AP", "AP50": "segm/AP50", "AP75": "segm/AP75", "box AP": "bbox/AP"}
    for model, row in (("SOLOv2, CPU protocol", SOLOV2), ("FACENet, CPU protocol", FACENET)):
        for column, key in keys.items():
            values = of(row, key)
            assert cells[model][column] == f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"


@pytest.mark.parametrize(
    ("page", "name", "side", "digits", "has_spread"),
    [
        (README, "EfficientNet-Lite0, 640 pixels, 36 epochs, mean of two seeds", 640, 1, False),
        (ZOO, "640 pixels, two seeds", 640, 2, True),
        (RUNS_384, "384 pixels, one seed", 384, 2, False),
    ],
    ids=["README", "640", "384"],
)
def test_the_light_protocol_beside_the_paper(page, name, side, digits, has_spread):
    cells = comparison_with_the_paper(page)
    keys = {"mask AP": "segm/AP", "AP50": "segm/AP50", "AP75": "segm/AP75", "box AP": "bbox/AP"}
    for model, title in (("solov2", "SOLOv2"), ("facenet", "FACENet")):
        row = cells[f"{title}, {name}"]
        for column in row.keys() & keys.keys():
            values = of(f"{model}_lite0_{side}_36ep", keys[column], LIGHT[side])
            text = f"{values.mean():.{digits}f}"
            if has_spread:
                assert len(values) == 2
                text += f" ± {values.std(ddof=1):.{digits}f}"
            assert row[column] == text


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_are_those_of_the_run(name):
    """Their metadata has the config of seed 1 and its AP; the table has their size."""
    published_metrics = json.loads((PUBLISHED[name] / "published.json").read_text())[name]
    file = weights_file(name)
    with safe_open(file, "pt") as weights:
        metadata = weights.metadata()
        values = sum(weights.get_tensor(key).numel() for key in weights.offset_keys())
    folder = PUBLISHED[name] / name / "seed1"
    assert metadata["mask AP"] == f"{final(folder)['segm/AP']:.2f}"
    assert metadata["box AP"] == f"{final(folder)['bbox/AP']:.2f}"
    published, recorded = flat(yaml.safe_load(metadata["config"])), recorded_settings(folder)
    changed = {key for key, value in recorded.items() if published[key] != value}
    assert changed <= {*OWN, "MODEL.WEIGHTS"}
    (row,) = (r for r in table_with("name", "file", page=ZOO) if r["name"] == f"`{name}`")
    for column, key in (("mask AP", "segm/AP"), ("AP50", "segm/AP50"), ("box AP", "bbox/AP")):
        assert row[column] == f"{published_metrics[key]:.2f}"
        # Rounding to float16 changes little.
        assert published_metrics[key] == pytest.approx(final(folder)[key], abs=0.2)
    assert row["parameters"] == f"{values / 1e6:.1f} M"
    assert row["file"] == f"{file.stat().st_size / 1e6:.0f} MB"


@pytest.mark.parametrize("folder", RUNS, ids=lambda f: f"{f.parent.name}-{f.name}")
def test_no_run_collapsed(folder):
    lines = read_metrics(folder)
    for loss, share in (("loss_mask", 0.75), ("loss_category", 0.6)):
        values = [line[loss] for line in lines if loss in line]
        assert np.mean(values[-5:]) < share * np.mean(values[:3])
    assert final(folder)["segm/AP50"] > 1


@pytest.mark.parametrize(
    ("page", "folder", "schedule", "overrides"),
    [(page, folder, *protocol) for page, runs, *protocol in OTHER_MODELS for folder in runs],
    ids=[f"{schedule}-{f.parent.name}" for _, runs, schedule, _ in OTHER_MODELS for f in runs],
)
def test_every_other_model_is_a_model_file_on_the_same_protocol(
    page, folder, schedule, overrides, tmp_path
):
    models = REPOSITORY / "configs" / "models"
    protocol = REPOSITORY / "configs" / "NWPU-VHR10" / f"solov2_{schedule}.yaml"
    write_row_config(protocol, models / f"{folder.parent.name}.yaml", tmp_path / "row.yaml")
    assert " ".join(overrides) in page
    cfg = read_config(tmp_path / "row.yaml", overrides)
    resolve_num_classes(cfg)
    expected = flat(yaml.safe_load(cfg.dump()))
    recorded = recorded_settings(folder)
    if recorded["MODEL.META_ARCHITECTURE"] == "GeneralizedRCNN":
        recorded["MODEL.META_ARCHITECTURE"] = "MaskRCNN"  # Its name since version 0.2.
    assert {k for k in recorded if recorded[k] != expected[k]} <= set(OWN)
    check_record(folder, recorded["SOLVER.MAX_ITER"])


@pytest.mark.parametrize(
    ("page", "runs"), [(page, runs) for page, runs, *_ in OTHER_MODELS], ids=["earlier", "384"]
)
def test_the_table_of_other_models(page, runs):
    rows = table_with("model file", "mask AP", page=page)
    assert {row["model file"].strip("`") for row in rows} == {f.parent.name for f in runs}
    for row in rows:
        (folder,) = (f for f in runs if f.parent.name == row["model file"].strip("`"))
        check_cells(row, folder)


def test_windows_beside_the_light_protocol():
    """README: the mean of all seeds, which are the same for both models."""
    windows = FOLDER.with_name("nwpu_vhr10_lite0_window")
    runs = {
        "SOLOv2": [
            *(LIGHT[384] / "solov2_lite0_384_36ep").iterdir(),
            *(windows / "solov2_lite0_384_36ep").iterdir(),
        ],
        "FACENet with windows": [*(windows / "facenet_lite0_window_384_36ep").iterdir()],
    }
    solov2, facenet = ([run.name for run in some] for some in runs.values())
    assert sorted(solov2) == sorted(facenet)
    number = {2: "two", 3: "three"}[len(solov2)]
    cells = comparison_with_the_paper(README)
    for title, some in runs.items():
        row = cells[f"{title}, EfficientNet-Lite0, 384 pixels, 36 epochs, mean of {number} seeds"]
        for column, key in (("mask AP", "segm/AP"), ("AP50", "segm/AP50"), ("AP75", "segm/AP75")):
            assert row[column] == f"{np.mean([final(run)[key] for run in some]):.1f}"
    row = cells["the same with masks at stride 2 for 12 more epochs, one seed"]
    stride2 = windows / "facenet_lite0_window_stride2_384_12ep" / "seed1"
    for column, key in (("mask AP", "segm/AP"), ("AP50", "segm/AP50"), ("AP75", "segm/AP75")):
        assert row[column] == f"{final(stride2)[key]:.1f}"


@pytest.mark.parametrize("column", VARIANTS)
def test_the_tables_of_other_settings(column):
    rows = table_with(column, "mask AP", page=RUNS_384)
    folders = {(f"`{f.parent.name}`", f.name): f for f in VARIANTS[column]}
    keys = [(row[column], f"seed{row.get('seed', 1)}") for row in rows]
    assert set(keys) == set(folders) != set()
    for key, row in zip(keys, rows, strict=True):
        check_cells(row, folders[key])


def test_what_is_linked_is_there():
    pages = ((REPOSITORY, ZOO), (REPOSITORY / "docs", EARLIER), (REPOSITORY / "docs", RUNS_384))
    for folder, page in pages:
        for name in re.findall(r"\]\(([^)#:]+)\)", page):
            assert (folder / name).exists(), name
