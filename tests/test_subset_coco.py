import json
import sys

import pytest
import subset_coco

from facenet_d2.engine import run_command


def run(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["subset_coco.py", *map(str, args)])
    return run_command(subset_coco.main)


def test_keeps_images_with_their_annotations(scenes, tmp_path, monkeypatch):
    source = scenes / "annotations.json"
    args = ("--json", source, "--num-images", 2, "--output", tmp_path / "few" / "few.json")
    assert run(monkeypatch, *args) == 0
    few = json.loads((tmp_path / "few" / "few.json").read_text())
    whole = json.loads(source.read_text())
    assert few["images"] == whole["images"][:2]
    ids = {i["id"] for i in few["images"]}
    assert few["annotations"] == [a for a in whole["annotations"] if a["image_id"] in ids]
    assert few["categories"] == whole["categories"]
    chosen = []
    for _ in range(2):
        assert run(monkeypatch, *args, "--seed", 4) == 0
        chosen.append(json.loads((tmp_path / "few" / "few.json").read_text())["images"])
    assert chosen[0] == chosen[1]


def test_a_set_without_annotations_stays_without(scenes, tmp_path, monkeypatch):
    content = json.loads((scenes / "annotations.json").read_text())
    del content["annotations"]
    (tmp_path / "test.json").write_text(json.dumps(content))
    args = ("--json", tmp_path / "test.json", "--num-images", 2, "--output", tmp_path / "few.json")
    assert run(monkeypatch, *args) == 0
    few = json.loads((tmp_path / "few.json").read_text())
    assert few == {**content, "images": content["images"][:2]}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ("--json", "{json}", "--num-images", "7", "--output", "{tmp}/x.json"),
            "choose from 1 to 6",
        ),
        (("--json", "nowhere", "--num-images", "1", "--output", "{tmp}/x.json"), "does not exist"),
        (("--json", "{json}", "--num-images", "1", "--output", "{json}"), "choose another"),
        (("--json", "{bad}", "--num-images", "1", "--output", "{tmp}/x.json"), "not COCO JSON"),
        (
            ("--json", "{json}", "--num-images", "1", "--output", "{bad}/x.json"),
            "is not writable",
        ),
    ],
)
def test_says_what_is_wrong(scenes, tmp_path, monkeypatch, capsys, args, message):
    (tmp_path / "bad").write_text("{}")
    names = {"json": scenes / "annotations.json", "tmp": tmp_path, "bad": tmp_path / "bad"}
    before = (scenes / "annotations.json").read_bytes()
    assert run(monkeypatch, *(a.format(**names) for a in args)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert (scenes / "annotations.json").read_bytes() == before
