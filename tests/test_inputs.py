"""Files, folders and patterns on the command line."""

import os

import pytest

from facenet_d2.errors import UserError
from facenet_d2.inputs import find_files


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "A.PNG", "c.txt", "sub/d.png", "e.zarr/0", "f.zarr.png/0"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


def names(folder, *patterns, **options):
    found = find_files([str(folder / p) for p in patterns], "--input", kind="images", **options)
    return [str(f.relative_to(folder)) for f in found]


def test_folders_have_files_of_the_kind(folder):
    assert names(folder, ".", suffixes=[".png"]) == ["A.PNG", "b.png"]
    assert names(folder, ".", suffixes=[".png"], folder_suffixes=[".zarr"]) == [
        *("A.PNG", "b.png", "e.zarr")
    ]


def test_named_files_have_any_suffix(folder):
    assert names(folder, "c.txt", "*.*", suffixes=[".png"]) == ["c.txt", "A.PNG", "b.png"]
    # A folder that counts as a file is not searched.
    assert names(folder, "e.zarr", suffixes=[""], folder_suffixes=[".zarr"]) == ["e.zarr"]
    assert names(folder, "e.zarr", suffixes=[""]) == ["e.zarr/0"]


def test_no_file_is_listed_twice(folder):
    patterns = ("b.png", "**/*.png", ".", "sub")
    assert names(folder, *patterns, suffixes=[".png"]) == ["b.png", "sub/d.png", "A.PNG"]


def test_messages(folder):
    with pytest.raises(UserError, match=r"^--input .*none: no such file, folder or match\."):
        names(folder, "none", suffixes=[".png"])
    with pytest.raises(UserError, match=r"empty: the folder contains no images \(\.png, \.tif\)\."):
        names(folder, "empty", suffixes=[".png", ".tif"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every folder")
def test_a_folder_that_is_not_readable(folder):
    (folder / "sub").chmod(0)
    try:
        with pytest.raises(UserError, match="the folder is not readable"):
            names(folder, "sub", suffixes=[".png"])
    finally:
        (folder / "sub").chmod(0o700)
