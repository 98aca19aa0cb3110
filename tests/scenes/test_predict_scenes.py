"""tools/predict_scenes.py and ScenePredictor, with a small model whose weights are random."""

import json
import os
import signal
import sqlite3
import sys
import time
from types import SimpleNamespace

import numpy as np
import predict_scenes as tool
import pyogrio.raw
import pytest
import rasterio
import shapely
from affine import Affine
from helpers import save_untrained_model, write_tiny_config
from PIL import Image
from programs import start_program

from facenet_d2 import UserError
from facenet_d2.engine import run_command
from facenet_d2.engine.scene_predictor import ScenePredictor
from facenet_d2.engine.setup import load_config
from facenet_d2.scenes import geo
from facenet_d2.scenes.prediction import Scene
from facenet_d2.scenes.raster import Raster
from facenet_d2.scenes.stretch import Stretch
from facenet_d2.scenes.tiles import TileGrid

THRESHOLD = ("--confidence-threshold", "0")
TILES = ("--tile-size", "96", "--overlap", "32", "--batch-size", "2")


@pytest.fixture(scope="module")
def model(tmp_path_factory, scenes):
    """A config and a checkpoint of a model that predicts something everywhere."""
    folder = tmp_path_factory.mktemp("model")
    config = write_tiny_config(folder, scenes)
    cfg = load_config(config, ["TEST.DETECTIONS_PER_IMAGE", "20"])
    save_untrained_model(cfg, folder / "model.pth")
    (folder / "own.yaml").write_text(cfg.dump())
    return folder


@pytest.fixture
def scene(tmp_path, scenes):
    """Two scenes side by side, as a GeoTIFF."""
    images = [np.asarray(Image.open(scenes / "images" / f"0000{i}.png")) for i in range(2)]
    return write_scene(tmp_path / "scene.tif", np.concatenate(images, axis=1))


def write_scene(file, pixels):
    with rasterio.open(
        file,
        "w",
        driver="GTiff",
        height=pixels.shape[0],
        width=pixels.shape[1],
        count=pixels.shape[2],
        dtype=pixels.dtype,
        crs="EPSG:32633",
        transform=Affine(0.5, 0, 500000, 0, -0.5, 4649776),
    ) as dataset:
        dataset.write(np.moveaxis(pixels, 2, 0))
    return file


def write_mosaic(file, source):
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource><SourceFilename '
        f'relativeToVRT="1">{source}</SourceFilename><SourceBand>{band}</SourceBand>'
        "</SimpleSource></VRTRasterBand>"
        for band in (1, 2, 3)
    )
    file.write_text(f'<VRTDataset rasterXSize="128" rasterYSize="64">{bands}</VRTDataset>')


def predict(monkeypatch, model, *args):
    command = ["predict_scenes.py", "--config-file", model / "own.yaml", *args]
    command += ["--opts", "MODEL.WEIGHTS", model / "model.pth"]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    return run_command(tool.main)


def test_files_and_python_agree(monkeypatch, capsys, model, scene, tmp_path):
    outputs = [tmp_path / f"out.{suffix}" for suffix in ("gpkg", "json", "png")]
    assert (
        predict(monkeypatch, model, "--input", scene, "--output", *outputs, *THRESHOLD, *TILES) == 0
    )
    printed = capsys.readouterr()
    line = printed.out.splitlines()[-1]
    # Tiles of 96 pixels that overlap by 32 cover 128 rows of pixels in two rows.
    assert " 2/2 " in printed.err.split("Merging and writing: 100%")[1]
    results = json.loads(outputs[1].read_text())
    assert line.startswith(f"{scene}: {len(results)} instances")
    with sqlite3.connect(outputs[0]) as connection:
        (number,) = connection.execute("SELECT COUNT(*) FROM instances").fetchone()
    assert number == len(results) > 5
    assert not list(tmp_path.glob(".*tiles"))

    predictor = ScenePredictor(
        model / "own.yaml", model / "model.pth", tile_size=96, overlap=32, batch_size=2
    )
    from_file = predictor(scene)
    assert len(from_file) == len(results)
    assert [i.score for i in from_file.instances] == [r["score"] for r in results]
    assert len(from_file.geometries) == len(results)
    x0, y0, x1, y1 = from_file.geometries[0].bounds
    assert 500000 <= x0 < x1 <= 500128
    assert 4649712 <= y0 < y1 <= 4649776
    pixels = np.moveaxis(rasterio.open(scene).read(), 0, 2)
    from_array = predictor(pixels)
    for a, b in zip(from_file.instances, from_array.instances, strict=True):
        assert (a.x0, a.y0, a.score) == (b.x0, b.y0, b.score)
        np.testing.assert_array_equal(a.mask, b.mask)


def test_one_tile_is_the_prediction_of_the_image(model, scenes):
    """For a scene that is not larger than a tile, the model's own result for the image."""
    image = np.asarray(Image.open(scenes / "images" / "00000.png"))[:96, :96]
    predictor = ScenePredictor(model / "own.yaml", model / "model.pth", tile_size=96)
    expected = predictor.predictor(np.ascontiguousarray(image[:, :, ::-1]))
    actual = predictor(np.ascontiguousarray(image))
    assert len(actual) == len(expected) == 20
    order = np.argsort([-i.score for i in actual.instances], kind="stable")
    for place, mask in zip(order, expected.pred_masks, strict=True):
        instance = actual.instances[place]
        h, w = instance.mask.shape
        full = np.zeros((96, 96), bool)
        full[instance.y0 : instance.y0 + h, instance.x0 : instance.x0 + w] = instance.mask
        np.testing.assert_array_equal(full, mask.numpy())
    # The limit of detections is reached, which is counted.
    assert actual.report.capped == [(0, 0)]


def test_interrupted_sharded_and_parallel_runs_are_identical(model, scene, tmp_path, monkeypatch):
    def outputs(name):
        folder = tmp_path / name
        folder.mkdir()
        return [folder / "out.gpkg", folder / "out.json"]

    def content(files):
        return [file.read_bytes() for file in files]

    where = ("--input", scene, *THRESHOLD, *TILES, "--output")
    plain = outputs("plain")
    assert predict(monkeypatch, model, *where, *plain) == 0
    sharded = outputs("sharded")
    for shard in ("1/2", "2/2"):
        assert predict(monkeypatch, model, *where, *sharded, "--shard", shard) == 0
        assert not sharded[0].exists()
    (tiles,) = (tmp_path / "sharded").glob(".*tiles")
    before = {file.name: file.stat().st_mtime_ns for file in tiles.iterdir()}
    assert predict(monkeypatch, model, *where, *sharded, "--keep-tiles") == 0
    assert {file.name: file.stat().st_mtime_ns for file in tiles.iterdir()} == before
    assert content(sharded) == content(plain)
    parallel = outputs("parallel")
    assert predict(monkeypatch, model, *where, *parallel, "--workers", "2") == 0
    assert content(parallel) == content(plain)


def test_interrupt(model, tmp_path, monkeypatch, capsys):
    """Ctrl-C keeps the finished tiles, and the same command continues."""
    rng = np.random.default_rng(0)
    scene = write_scene(tmp_path / "scene.tif", rng.integers(0, 255, (400, 500, 3), np.uint8))
    arguments = [
        *("--config-file", model / "own.yaml", "--input", scene, *THRESHOLD, *TILES),
        *("--output", tmp_path / "out.gpkg", "--opts", "MODEL.WEIGHTS", model / "model.pth"),
    ]
    printed = tmp_path / "printed.txt"
    process = start_program("tools/predict_scenes.py", arguments, printed)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob(".*tiles/[0-9]*.npz"))) < 4:
        assert process.is_alive(), printed.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    assert "run the same command again" in printed.read_text()
    assert "Traceback" not in printed.read_text()
    assert not (tmp_path / "out.gpkg").exists()
    done = len(list(tmp_path.glob(".*tiles/[0-9]*.npz")))
    assert done >= 4
    monkeypatch.setattr(sys, "argv", ["predict_scenes.py", *map(str, arguments)])
    assert run_command(tool.main) == 0
    first = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[0]
    # A batch of two tiles, of which one had been saved, is detected as a whole.
    assert f"| {done // 2 * 2}/" in first
    assert (tmp_path / "out.gpkg").is_file()


def test_several_scenes(monkeypatch, capsys, model, scene, tmp_path):
    pixels = np.moveaxis(rasterio.open(scene).read(), 0, 2)
    (tmp_path / "many").mkdir()
    write_scene(tmp_path / "many" / "a.tif", pixels[:90, :90])
    (tmp_path / "many" / "b.tif").write_bytes(b"II*\0 not a raster")
    write_scene(tmp_path / "many" / "c.tif", pixels[:, :, :2])
    write_scene(tmp_path / "many" / "d.tif", pixels[:60, :90])
    where = ("--input", tmp_path / "many", *TILES, *THRESHOLD)
    assert (
        predict(monkeypatch, model, *where, "--output", tmp_path / "out", "--format", "json") == 1
    )
    printed = capsys.readouterr()
    # The number of a scene is its place in the input, whatever has failed.
    for name, number in (("a", 1), ("d", 4)):
        results = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        assert {result["image_id"] for result in results} == {number}
    assert "2 of 4 scenes failed" in printed.err
    assert "has 2 bands, but the model expects 3" in printed.err
    names = sorted(p.name for p in (tmp_path / "out").iterdir() if p.suffix == ".json")
    assert names == ["a.json", "d.json"]


@pytest.mark.parametrize("bounds", [(500100, 4649700, 500128, 4649776), (0, 0, 9, 9)])
def test_scenes_outside_of_the_area_are_left_out(monkeypatch, capsys, model, tmp_path, bounds):
    """Of three scenes, the first lies in the area, or none."""
    for name, width in (("a", 250), ("b", 150), ("c", 60)):
        write_scene(tmp_path / f"{name}.tif", np.full((60, width, 3), 99, np.uint8))
    polygon = np.array([shapely.to_wkb(shapely.box(*bounds))], object)
    options = {"geometry_type": "Polygon", "crs": "EPSG:32633", "driver": "GPKG"}
    pyogrio.raw.write(tmp_path / "area.gpkg", polygon, [], [], **options)
    inputs = [tmp_path / f"{name}.tif" for name in "abc"]
    where = ("--input", *inputs, "--output", tmp_path / "out", *TILES)
    code = predict(monkeypatch, model, *where, "--aoi", tmp_path / "area.gpkg")
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"Area of interest {tmp_path / 'area.gpkg'}: no part of it lies in" in error
    if bounds[0]:
        assert code == 0
        assert error.startswith(f"2 of 3 scenes are left out ({inputs[1]}, {inputs[2]}): Area")
    else:
        assert code == 2
        assert error.startswith("error: Area of interest")
    written = [path.name for path in (tmp_path / "out").glob("*.gpkg")]
    assert written == (["a.gpkg"] if bounds[0] else [])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--output", "{tmp}/a.shp"), None),
        (("--output", "{tmp}/a.gpkg", "{tmp}/b.xyz"), "name one folder, or files"),
        (("--output", "{tmp}/a.gpkg", "--bands", "1", "2", "9"), "9"),
        (("--output", "{tmp}/a.gpkg", "--stretch", "bright"), "is not a stretch"),
        (("--output", "{tmp}/a.gpkg", "--overlap", "96"), "overlap"),
        (("--output", "{tmp}/a.gpkg", "--aoi", "{tmp}/no.gpkg"), "no.gpkg"),
    ],
)
def test_errors_in_one_sentence(monkeypatch, capsys, model, scene, tmp_path, args, message):
    own = [a.format(tmp=tmp_path) for a in args]
    code = predict(monkeypatch, model, "--input", scene, *TILES, *own)
    if message is None:  # Not a known suffix: a folder of this name.
        assert (code, (tmp_path / "a.shp" / "scene.gpkg").is_file()) == (0, True)
        return
    assert code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


@pytest.mark.parametrize(
    "args",
    [
        ("scene.tif", "other.tif"),  # What a shell makes of *.tif.
        ("--input", "scene.tif", "--output", "scene.tif"),
        ("--input", "scene.tif", "--output", "ids.gpkg", "link.tif"),
        ("--input", "link.tif", "--output", "scene.tif"),
        ("--input", "scene.tif", "--output", "sub/../scene.tif"),
        ("--input", "scene.tif", "other.tif", "--output", ".", "--format", "gpkg", "tif"),
        ("--input", "sub", "--output", "sub", "--format", "png"),
        ("--input", "scene.tif", "--output", "area.geojson", "--aoi", "area.geojson"),
        ("--input", "scene.tif", "--output", "area.gpkg", "--aoi", "area.gpkg|layername=a"),
        # Known to GDAL only.
        ("--input", "mosaic.vrt", "--output", "scene.tif"),
        ("--input", "vrt://scene.tif", "--output", "scene.tif"),
    ],
)
def test_inputs_are_never_replaced(monkeypatch, capsys, model, scene, tmp_path, args):
    monkeypatch.chdir(tmp_path)
    for name in ("area.geojson", "area.gpkg"):
        (tmp_path / name).write_text("never opened")
    (tmp_path / "other.tif").write_bytes(scene.read_bytes())
    (tmp_path / "link.tif").symlink_to("scene.tif")
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (100, 100)).save(tmp_path / "sub" / "scene.png")
    write_mosaic(tmp_path / "mosaic.vrt", "scene.tif")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.*") if file.is_file()}
    assert predict(monkeypatch, model, *args, *TILES) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "would replace an input" in error or "name it with --output" in error
    assert {file: file.read_bytes() for file in before} == before


def test_python_does_not_replace_the_scene(model, tmp_path):
    scene = write_scene(tmp_path / "scene.tif", np.full((60, 60, 3), 99, np.uint8))
    result = ScenePredictor(model / "own.yaml", model / "model.pth", tile_size=96)(scene)
    with pytest.raises(UserError, match="would replace an input"):
        result.write(scene)


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ((300, 200), {}, (40, 27)),
        ((300, 200), {"scale": 0.5}, (40, 27)),
        ((300, 200), {"pixel_size": 0.25}, (40, 27)),
        ((300, 200), {"scale": 0.1}, (30, 20)),
        ((200, 300), {"pixel_size": 2.0}, (27, 40)),
        ((20, 18), {"scale": 1.5}, (30, 27)),
        ((41, 7), {}, (40, 7)),  # Rasters are not resampled by less than 1 %.
    ],
)
def test_size_of_the_picture(monkeypatch, tmp_path, size, options, expected):
    monkeypatch.setattr(tool, "PICTURE_SIDE", 40)
    rows, columns = np.mgrid[: size[0], : size[1]]
    pixels = np.stack([rows / size[0], columns / size[1], 0 * rows], axis=2) * 255
    file = write_scene(tmp_path / "scene.tif", pixels.round().astype(np.uint8))
    predictor = SimpleNamespace(rgb_channels=lambda count: [0, 1, 2])
    with Raster(file, **options) as raster:
        grid = TileGrid(raster.height, raster.width, 96, 32)
        picture = tool.read_picture(Scene(raster, Stretch(), grid), predictor)
    # OpenCV draws on nothing else.
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    assert picture.shape == (*expected, 3)
    whole = np.asarray(Image.fromarray(pixels.round().astype(np.uint8)).resize(expected[::-1], 2))
    np.testing.assert_allclose(picture.astype(int), whole, atol=2)


def test_the_picture_needs_no_more_memory_than_the_tiles(monkeypatch, caplog, tmp_path):
    """A file in strips, of which GDAL keeps as many rows as a tile has."""
    monkeypatch.setattr(tool, "PICTURE_SIDE", 40)
    # 0.9 MB, of which the rows of a tile are a fifth; a quarter of the memory is 0.4 MB.
    pages = 1_600_000 // os.sysconf("SC_PAGE_SIZE")
    sysconf = os.sysconf
    monkeypatch.setattr(os, "sysconf", lambda x: pages if x == "SC_PHYS_PAGES" else sysconf(x))
    monkeypatch.setattr(geo, "_block_cache", 0)
    file = write_scene(tmp_path / "scene.tif", np.ones((1000, 300, 3), np.uint8))
    predictor = SimpleNamespace(rgb_channels=lambda count: [0, 1, 2])
    with Raster(file) as raster:
        grid = TileGrid(raster.height, raster.width, 192, 32)
        scene = Scene(raster, Stretch(), grid)
        for tile in grid:
            scene.read(tile)
        reserved = rasterio.env.get_gdal_config("GDAL_CACHEMAX")
        assert 192 * 300 * 3 < reserved < 300_000
        assert tool.read_picture(scene, predictor).shape == (40, 12, 3)
    assert rasterio.env.get_gdal_config("GDAL_CACHEMAX") == reserved
    assert "will be slow" not in caplog.text


def test_parts_of_the_tiles_need_no_picture(monkeypatch, model, scene, tmp_path):
    monkeypatch.setattr(tool, "read_picture", None)
    where = ("--input", scene, *TILES, "--output", tmp_path / "out.png", "--shard", "1/4")
    assert predict(monkeypatch, model, *where) == 0


def test_bands_are_checked(model):
    predictor = ScenePredictor(model / "own.yaml", model / "model.pth")
    with pytest.raises(UserError, match="has 5 bands, but the model expects 3"):
        predictor(np.zeros((50, 50, 5), np.uint8))
    with pytest.raises(UserError, match=r"\(H, W, bands\), not one of shape \(50, 50\)"):
        predictor(np.zeros((50, 50), np.uint8))
    with pytest.raises(UserError, match="has 4 bands, but the model expects 3"):
        predictor(np.zeros((50, 50, 4), np.uint8))


def test_arrays_have_no_alpha_band_and_no_warnings(model, scenes, recwarn, caplog):
    predictor = ScenePredictor(model / "own.yaml", model / "model.pth", tile_size=64)
    pixels = np.asarray(Image.open(scenes / "images" / "00000.png"))[:64, :64]
    expected = predictor(pixels)
    assert len(expected)
    more = np.concatenate([np.zeros_like(pixels[:, :, :1]), pixels], axis=2)[:, :, [1, 2, 3, 0]]
    recwarn.clear()
    caplog.clear()
    found = predictor(more, bands=[1, 2, 3])
    assert not [str(warning.message) for warning in recwarn]
    assert "no place" not in caplog.text
    assert [i.score for i in found.instances] == [i.score for i in expected.instances]
    for a, b in zip(found.instances, expected.instances, strict=True):
        np.testing.assert_array_equal(a.mask, b.mask)
    assert found.scene.crs is None
    assert found.scene.transform.is_identity
