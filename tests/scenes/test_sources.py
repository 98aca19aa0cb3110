"""Names of rasters."""

import os

import pytest

from facenet_d2.errors import UserError
from facenet_d2.scenes.sources import find_rasters, is_gdal_name, public_name, url_of


@pytest.fixture
def folder(tmp_path):
    for name in ("b.tif", "a.TIF", "c.jp2", "c.jp2.aux.xml", "a.tif.msk", "d.vrt", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "e.zarr").mkdir()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "f.tif").touch()
    return tmp_path


def test_folders_files_and_globs(folder):
    assert find_rasters([str(folder)]) == [
        str(folder / name) for name in ("a.TIF", "b.tif", "c.jp2", "d.vrt", "e.zarr")
    ]
    assert find_rasters([str(folder / "b.tif"), str(folder / "*.tif"), str(folder / "d.vrt")]) == [
        str(folder / "b.tif"),
        str(folder / "d.vrt"),
    ]
    assert find_rasters([str(folder / "**" / "*.tif")]) == [
        str(folder / "b.tif"),
        str(folder / "sub" / "f.tif"),
    ]
    # A file that is named is taken, whatever its suffix.
    assert find_rasters([str(folder / "notes.txt")]) == [str(folder / "notes.txt")]


@pytest.mark.parametrize(
    "name",
    [
        "https://example.com/a.tif?x=1",
        "s3://bucket/a.tif",
        "/vsizip//data/a.zip/a.tif",
        'NETCDF:"a.nc":red',
        "GTIFF_DIR:2:a.tif",
        "zip://a.zip!a.tif",
    ],
)
def test_names_of_gdal_are_kept(name, folder):
    assert is_gdal_name(name)
    assert find_rasters([name, str(folder / "b.tif"), name]) == [name, str(folder / "b.tif")]


@pytest.mark.parametrize("name", ["a.tif", "/data/a:b.tif", "C.tif", "vsi/a.tif", "http/a.tif"])
def test_names_of_files(name):
    assert not is_gdal_name(name)


def test_messages(folder):
    with pytest.raises(UserError, match=r"^--scene .*none\.tif: no such file, folder or match"):
        find_rasters([str(folder / "none.tif")], "--scene")
    with pytest.raises(UserError, match=r"no such file, folder or match"):
        find_rasters([str(folder / "*.nothing")])
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=r"^--input .*empty: the folder contains no rasters \("):
        find_rasters([str(folder / "empty")])


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every folder")
def test_a_folder_that_is_not_readable(folder):
    (folder / "sub").chmod(0)
    try:
        with pytest.raises(UserError, match="the folder is not readable"):
            find_rasters([str(folder / "sub")])
    finally:
        (folder / "sub").chmod(0o700)


def test_credentials_are_not_shown():
    assert public_name("https://me:pass@host/a.tif?sig=x") == "https://host/a.tif"
    assert public_name("/vsicurl/https://host/a.tif?sig=x") == "/vsicurl/https://host/a.tif"
    assert public_name("what?.tif") == "what?.tif"


def test_urls():
    assert url_of("/vsicurl/https://host/a.tif") == "https://host/a.tif"
    assert url_of("http://host/a.tif?x=1") == "http://host/a.tif?x=1"
    assert url_of("s3://bucket/a.tif") is None
    assert url_of("a.tif") is None
