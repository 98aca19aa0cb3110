"""All files of a run agree on the category ids of its data set."""

import json
import sys

import pytest
from helpers import save_untrained_model, write_tiny_config

import demo
from facenet_d2.engine import Trainer, load_config, run_command


@pytest.mark.parametrize(("first", "step"), [(0, 1), (3, 4)])
def test_demo_and_evaluation_write_the_ids_of_the_data(
    tmp_path, scenes, monkeypatch, capsys, first, step
):
    """Ids from 0, as some tools write, and with gaps; the demo has only the run's config.yaml."""
    content = json.loads((scenes / "annotations.json").read_text())
    ids = {c["id"]: first + step * i for i, c in enumerate(content["categories"])}
    for category in content["categories"]:
        category["id"] = ids[category["id"]]
    for annotation in content["annotations"]:
        annotation["category_id"] = ids[annotation["category_id"]]
    folder = tmp_path / f"set_{first}"
    folder.mkdir()
    (folder / "images").symlink_to(scenes / "images")
    (folder / "annotations.json").write_text(json.dumps(content))
    cfg = load_config(write_tiny_config(folder, folder))
    assert list(cfg.DATASETS.CATEGORY_IDS) == list(ids.values())
    model = save_untrained_model(cfg, folder / "model.pth")
    Trainer.test(cfg, model)
    evaluated = folder / "output" / "inference" / cfg.DATASETS.TEST[0]
    results = json.loads((evaluated / "coco_instances_results.json").read_text())
    expected = [r["category_id"] for r in results if r["image_id"] == 1]

    (folder / "config.yaml").write_text(cfg.dump())
    (folder / "annotations.json").unlink()
    command = [
        *("demo.py", "--config-file", folder / "config.yaml", "--confidence-threshold", "0"),
        *("--input", scenes / "images" / "00000.png", "--output", folder / "overlays"),
        *("--save-json", folder / "demo.json", "--opts", "MODEL.WEIGHTS", folder / "model.pth"),
    ]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    assert run_command(demo.main) == 0
    drawn = [r["category_id"] for r in json.loads((folder / "demo.json").read_text())]
    assert drawn == expected
    assert set(drawn) <= set(ids.values())
    assert len(drawn) > 5
