"""Checkpoints are written atomically, and only existing ones are tagged."""

import pytest
import torch

from facenet_d2.engine.checkpointer import ModelCheckpointer


def full_disk(data, file):
    with open(file, "wb") as half:
        half.write(b"the first half")
    raise OSError(28, "No space left on device")


def files(folder) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    checkpointer = ModelCheckpointer(torch.nn.Linear(2, 1), str(tmp_path))
    checkpointer.save("model_0000001", iteration=1)
    before = (tmp_path / "model_0000001.pth").read_bytes()
    for name in ("model_0000001", "model_0000002"):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "save", full_disk)
            with pytest.raises(OSError, match="No space left"):
                checkpointer.save(name, iteration=2)
        assert (tmp_path / "model_0000001.pth").read_bytes() == before
        assert files(tmp_path) == {"model_0000001.pth", "last_checkpoint"}
        assert checkpointer.load(checkpointer.get_checkpoint_file())["iteration"] == 1

    checkpointer.save("model_0000002", iteration=2)
    assert checkpointer.load(checkpointer.get_checkpoint_file())["iteration"] == 2


def test_the_tag_never_names_a_missing_file(tmp_path, monkeypatch):
    """A run that is killed at any time while it saves can be resumed."""
    checkpointer = ModelCheckpointer(torch.nn.Linear(2, 1), str(tmp_path))
    checkpointer.save("model_0000001")
    tags = []

    def tag(name):
        assert (tmp_path / name).is_file()
        tags.append(name)

    monkeypatch.setattr(checkpointer, "tag_last_checkpoint", tag)
    checkpointer.save("model_0000002")
    assert tags == ["model_0000002.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"


def test_no_run_resumes_from_the_best_checkpoint(tmp_path):
    checkpointer = ModelCheckpointer(torch.nn.Linear(2, 1), str(tmp_path))
    checkpointer.save("model_best", iteration=9)
    assert not checkpointer.has_checkpoint()
    checkpointer.save("model_0000009", iteration=9)
    checkpointer.save("model_best", iteration=9)
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000009.pth")
