import pytest
import torch

from facenet_d2.engine.checkpointer import ModelCheckpointer


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    model = torch.nn.Linear(2, 1)
    checkpointer = ModelCheckpointer(model, str(tmp_path))
    checkpointer.save("model_best", iteration=1)
    before = (tmp_path / "model_best.pth").read_bytes()

    def full_disk(data, file):
        file.write(b"the first half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_disk)
        with pytest.raises(OSError, match="No space left"):
            checkpointer.save("model_best", iteration=2)
    assert (tmp_path / "model_best.pth").read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"model_best.pth", "last_checkpoint"}
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_best.pth")
    assert checkpointer.load(checkpointer.get_checkpoint_file())["iteration"] == 1

    checkpointer.save("model_best", iteration=3)
    assert checkpointer.load(checkpointer.get_checkpoint_file())["iteration"] == 3
    assert {p.name for p in tmp_path.iterdir()} == {"model_best.pth", "last_checkpoint"}
