"""Files are replaced completely or not at all; configs and train_net.py are found."""

import importlib.util

import pytest

from facenet_d2 import UserError, files, paths
from facenet_d2.files import replaced, write_whole


def test_a_file_is_replaced_at_the_end(tmp_path):
    file = tmp_path / "a.png"
    write_whole(file, "old")
    with replaced(file) as temporary:
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".png")
        temporary.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_an_error_leaves_what_was_there(tmp_path):
    file = tmp_path / "a.txt"
    write_whole(file, b"old")

    def fail(create):
        with replaced(file) as temporary:
            create(temporary)
            raise OSError("disk full")

    for create in (lambda _: None, lambda t: t.write_text("half"), lambda t: t.mkdir()):
        with pytest.raises(OSError, match="disk full"):
            fail(create)
        assert file.read_text() == "old"
        assert list(tmp_path.iterdir()) == [file]


def test_processes_of_the_same_number_in_two_containers(tmp_path):
    """Each is process 7, for example, and they share the disk."""
    spec = importlib.util.spec_from_file_location("facenet_d2.other", files.__file__)
    other = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(other)
    file = tmp_path / "a.json"
    with files.replaced(file) as first, other.replaced(file) as second:
        first.write_text("first")
        second.write_text("second")
    assert file.read_text() == "first"
    assert list(tmp_path.iterdir()) == [file]
    for module in (files, other):
        module.temporary_path(file).touch()
    files.remove_temporary_files(tmp_path, "a")
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_is_renamed_at_the_end(tmp_path):
    with replaced(tmp_path / "images") as temporary:
        temporary.mkdir()
        (temporary / "0.png").touch()
    assert [p.name for p in (tmp_path / "images").iterdir()] == ["0.png"]


def test_files_of_the_checkout(monkeypatch, tmp_path):
    assert (paths.configs() / "Base-SOLOv2.yaml").is_file()
    assert paths.train_net().is_file()
    monkeypatch.setattr(paths, "REPOSITORY", tmp_path)
    for find in (paths.configs, paths.train_net):
        with pytest.raises(UserError, match="not installed completely"):
            find()


def test_files_of_an_installed_package(monkeypatch, tmp_path):
    """Its own files come before those of a folder that happens to have the same name."""
    monkeypatch.setattr(paths, "REPOSITORY", tmp_path)
    monkeypatch.setattr(paths, "PACKAGE", tmp_path / "package")
    for folder in ("configs", "package/model_zoo/configs", "package/commands"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("train_net.py", "package/commands/train_net.py"):
        (tmp_path / file).touch()
    assert paths.configs() == tmp_path / "package" / "model_zoo" / "configs"
    assert paths.train_net() == tmp_path / "package" / "commands" / "train_net.py"
