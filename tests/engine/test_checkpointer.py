"""Checkpoints are written atomically, tagged when they exist, and read as data only."""

import pickle
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from facenet_d2 import UserError
from facenet_d2.engine.checkpointer import (
    DamagedCheckpointError,
    ModelCheckpointer,
    load_checkpoint,
    resumable_checkpoints,
)


def full_disk(data, stream):
    stream.write(b"the first half")
    try:
        raise OSError(28, "No space left on device")
    except OSError:
        # As torch does.
        raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904


def files(folder) -> set[str]:
    return {p.name for p in folder.iterdir()}


@pytest.fixture
def checkpointer(tmp_path):
    return ModelCheckpointer(torch.nn.Linear(2, 1), str(tmp_path))


def config(tmp_path, weights=""):
    return SimpleNamespace(
        OUTPUT_DIR=str(tmp_path),
        MODEL=SimpleNamespace(WEIGHTS=weights),
        INPUT=SimpleNamespace(FORMAT="BGR"),
    )


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, checkpointer, monkeypatch):
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


def test_the_tag_never_names_a_missing_file(tmp_path, checkpointer, monkeypatch):
    """A run that is killed at any time while it saves can be resumed."""
    checkpointer.save("model_0000001")
    tags = []

    def tag(name):
        assert (tmp_path / name).is_file()
        tags.append(name)

    monkeypatch.setattr(checkpointer, "tag_last_checkpoint", tag)
    checkpointer.save("model_0000002")
    assert tags == ["model_0000002.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"


def test_no_run_resumes_from_the_best_checkpoint(tmp_path, checkpointer):
    checkpointer.save("model_best", iteration=9)
    assert not checkpointer.has_checkpoint()
    checkpointer.save("model_0000009", iteration=9)
    checkpointer.save("model_best", iteration=9)
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000009.pth")
    # As runs of earlier versions, killed in the wrong moment, have it.
    for tag in ("model_best.pth", "", "model_0000009.new.pth", "\0\xff", "../model_0000009.pth"):
        (tmp_path / "last_checkpoint").write_text(tag)
        assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000009.pth")
    (tmp_path / "last_checkpoint").unlink()
    assert not checkpointer.has_checkpoint()


def damage_by_zeros(file):
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        entry = max(archive.infolist(), key=lambda e: e.file_size)
    start = entry.header_offset + 200
    content[start : start + 8] = bytes(b ^ 1 for b in content[start : start + 8])
    file.write_bytes(content)


def damage_by_nan(file):
    content = torch.load(file)
    content["model"]["weight"][0, 0] = torch.nan
    torch.save(content, file)


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:300]),
        damage_by_zeros,
        damage_by_nan,
    ],
    ids=["empty", "truncated", "flipped bits", "NaN"],
)
def test_a_damaged_checkpoint_is_skipped(tmp_path, damage):
    checkpointer = ModelCheckpointer(torch.nn.Linear(64, 64), str(tmp_path))
    for i in (1, 2):
        torch.nn.init.constant_(checkpointer.model.weight, i)
        checkpointer.save(f"model_000000{i}", iteration=i)
    damage(tmp_path / "model_0000002.pth")
    load_checkpoint(checkpointer, config(tmp_path), resume=True)
    assert checkpointer.model.weight.unique().tolist() == [1]
    damage(tmp_path / "model_0000001.pth")
    with pytest.raises(UserError, match=r"model_0000001\.pth cannot be loaded"):
        load_checkpoint(checkpointer, config(tmp_path), resume=True)


def test_the_newest_is_the_first_alternative(tmp_path, checkpointer):
    for name in ("model_0000003", "model_0000001", "model_0000002"):
        checkpointer.save(name)
    checkpointer.tag_last_checkpoint("model_0000001.pth")
    (tmp_path / "model_evil.pth").write_bytes(b"")
    found = [f.name for f in resumable_checkpoints(tmp_path)]
    assert found == ["model_0000001.pth", "model_0000002.pth", "model_0000003.pth"]


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("suffix", ["pkl", "pth", "pyth", "safetensors", "bin"])
@pytest.mark.parametrize("inside", [True, False])
def test_no_code_in_weights_is_executed(tmp_path, checkpointer, suffix, inside):
    marker = tmp_path / "executed"
    file = tmp_path / f"evil.{suffix}"
    content = Evil(marker)
    if inside:
        content = {"model": {"weight": content}, "__author__": "somebody"}
    if suffix in ("pkl", "safetensors"):
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_checkpoint(checkpointer, config(tmp_path, str(file)))
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_detectron2s_pickled_weights_are_read(tmp_path, checkpointer, protocol):
    weight = np.arange(2, dtype=np.float32).reshape(1, 2)
    content = {"model": {"weight": weight, "bias": np.float32(3) * np.ones(1, np.float32)}}
    content |= {"__author__": "Caffe2", "matching_heuristics": False, "scale": np.float64(2)}
    file = tmp_path / "weights.pkl"
    file.write_bytes(pickle.dumps(content, protocol=protocol))
    load_checkpoint(checkpointer, config(tmp_path, str(file)), complete=True)
    assert checkpointer.model.weight.tolist() == weight.tolist()
    assert checkpointer.model.bias.item() == 3


def test_weights_that_are_not_finite_are_rejected(tmp_path, checkpointer):
    file = tmp_path / "nan.pth"
    torch.save({"model": {"weight": torch.full((1, 2), torch.inf), "bias": torch.zeros(1)}}, file)
    before = checkpointer.model.weight.detach().clone()
    with pytest.raises(DamagedCheckpointError, match="weight has infinite or NaN values"):
        checkpointer.load(str(file))
    assert checkpointer.model.weight.equal(before)
