"""Rasters of every kind, read in windows."""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, Resampling
from rasterio.rpc import RPC
from rasters import (
    CASES,
    CRS,
    HEIGHT,
    NORTH_UP,
    ROTATED,
    UTM,
    VRT,
    WIDTH,
    Affine,
    control_points,
    noise,
    rasterio,
    wedge,
    write_raster,
)

from facenet_d2.errors import UserError
from facenet_d2.scenes.raster import Raster

WHOLE = (0, 0, WIDTH, HEIGHT)
WINDOWS = [
    WHOLE,
    (10, 20, 33, 41),
    (-5, -7, 20, 12),
    (60, 40, 90, 77),
    (-3, -3, WIDTH + 4, HEIGHT + 2),
    (WIDTH, 0, WIDTH + 9, 9),
    (-20, -20, -10, -10),
]


def padded(array, window):
    """Cut a window from an array; 0 or False outside of it."""
    left, top, right, bottom = window
    result = np.zeros((*array.shape[:-2], bottom - top, right - left), array.dtype)
    for row in range(max(top, 0), min(bottom, array.shape[-2])):
        for column in range(max(left, 0), min(right, array.shape[-1])):
            result[..., row - top, column - left] = array[..., row, column]
    return result


@pytest.mark.parametrize("name", CASES)
def test_windows_have_the_known_values_and_validity(name, tmp_path):
    case = CASES[name](tmp_path)
    expected = np.where(case.valid, case.values, 0)
    with Raster(case.path, **case.options) as raster:
        assert (raster.height, raster.width) == (HEIGHT, WIDTH)
        assert raster.transform.almost_equals(case.transform, 1e-9)
        assert raster.crs == case.crs
        assert raster.dtype == (np.uint8 if case.values.dtype == np.uint8 else np.float32)
        for window in WINDOWS:
            values, valid = raster.read(window)
            assert values.dtype == raster.dtype
            assert np.array_equal(valid, padded(case.valid, window))
            if raster.dtype == np.uint8 or case.values.dtype.kind in "ui":
                assert np.array_equal(values, padded(expected, window))
            else:
                assert np.allclose(values, padded(expected, window), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["no CRS", "palette"])
def test_a_scene_without_a_place_is_reported(name, tmp_path, caplog):
    case = CASES[name](tmp_path)
    with Raster(case.path) as raster:
        assert raster.pixel_metres is None
    assert "no coordinate reference system" in caplog.text or "is not georeferenced" in caplog.text
    with pytest.raises(UserError, match="give a scale instead"):
        Raster(case.path, pixel_size=0.3)


def test_jpeg_in_tiff(tmp_path):
    # Smooth, because JPEG loses detail.
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    values = np.stack([rows * 4, columns * 3, 200 - rows * 2]).astype(np.uint8)
    path = write_raster(
        tmp_path / "scene.tif",
        values,
        compress="jpeg",
        photometric="ycbcr",
        tiled=True,
        blockxsize=16,
        blockysize=16,
    )
    with Image.open(path) as image:
        decoded = np.asarray(image.convert("RGB")).transpose(2, 0, 1).astype(int)
    with Raster(path) as raster:
        read, valid = raster.read(WHOLE)
        assert valid.all()
        assert np.abs(read - decoded).max() <= 3
        assert np.abs(read.astype(int) - values).mean() < 4
        assert np.array_equal(raster.read((13, 5, 40, 33))[0], read[:, 5:33, 13:40])
        assert raster.rgb_bands == (1, 2, 3)


def test_order_of_the_colours(tmp_path):
    colours = (ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined)

    def setup(file):
        file.colorinterp = colours

    path = write_raster(tmp_path / "scene.tif", noise(4, "uint8"), setup, photometric="MINISBLACK")
    with Raster(path) as raster:
        assert raster.bands == (1, 2, 3, 4)
        assert raster.rgb_bands == (3, 2, 1)
    with Raster(write_raster(tmp_path / "grey.tif", noise(1, "uint8"))) as raster:
        assert raster.rgb_bands is None


@pytest.mark.parametrize("scale", [0.31, 0.5, 1.7, 0.05, 3.0])
def test_resampling_is_that_of_pillow(scale, tmp_path):
    values = noise(2, "float32")
    height, width = round(HEIGHT * scale), round(WIDTH * scale)
    expected = np.stack(
        [
            np.asarray(Image.fromarray(band).resize((width, height), Image.Resampling.BILINEAR))
            for band in values
        ]
    )
    with Raster(write_raster(tmp_path / "scene.tif", values), scale=scale) as raster:
        assert (raster.height, raster.width) == (height, width)
        assert np.allclose(raster.read((0, 0, width, height))[0], expected, atol=1e-3)
        # Tiles have the pixels of the whole scene, whatever their position.
        size = max(2, height // 3)
        for top in range(-1, height, size):
            for left in range(-1, width, size):
                window = (left, top, left + size, top + size)
                tile, valid = raster.read(window)
                assert np.allclose(tile, padded(expected, window), atol=1e-3)
                assert np.array_equal(valid, padded(np.ones((height, width), bool), window))


def test_resampling_ignores_invalid_pixels(tmp_path):
    values = np.full((1, HEIGHT, WIDTH), 100, np.float32)
    values[:, :, :20] = -9999
    path = write_raster(tmp_path / "scene.tif", values, nodata=-9999)
    with Raster(path, scale=0.4) as raster:
        read, valid = raster.read((0, 0, raster.width, raster.height))
    assert np.array_equal(valid, np.broadcast_to(np.arange(28) >= 8, valid.shape))
    assert np.allclose(read[0][valid], 100)


@pytest.mark.parametrize("name", ["8 bits", "palette", "alpha, float", "VRT"])
def test_resampling_of_all_kinds(name, tmp_path):
    case = CASES[name](tmp_path)
    with Raster(case.path, scale=2) as raster:
        values, valid = raster.read((0, 0, raster.width, raster.height))
    # At twice the size, a pixel's nearest one is known.
    assert np.array_equal(valid, case.valid.repeat(2, axis=0).repeat(2, axis=1))
    enlarged = np.where(case.valid, case.values, 0).repeat(2, axis=1).repeat(2, axis=2)
    if name == "palette":
        assert np.array_equal(values, enlarged)
    else:
        assert np.corrcoef(values.ravel(), enlarged.ravel())[0, 1] > 0.8


def test_the_working_grid_covers_the_scene(tmp_path):
    path = write_raster(tmp_path / "scene.tif", noise(1, "uint8"), transform=ROTATED)
    with Raster(path, pixel_size=1) as raster:
        # A metre on the ground is 0.9996 in UTM.
        assert (raster.height, raster.width) == (26, 35)
        for corner in ((0, 0), (1, 0), (0, 1), (1, 1)):
            ours = raster.transform @ (corner[0] * raster.width, corner[1] * raster.height)
            assert np.allclose(ours, ROTATED @ (corner[0] * WIDTH, corner[1] * HEIGHT))
        assert np.allclose(raster.pixel_metres, 1, rtol=0.01)


def test_a_scale_near_1_keeps_the_values(tmp_path):
    values = noise(1, "uint16", 0, 60_000)
    path = write_raster(tmp_path / "scene.tif", values)
    with Raster(path, pixel_size=0.5001) as raster:
        assert np.array_equal(raster.read(WHOLE)[0], values)
        assert raster.transform == NORTH_UP


def degree_in_metres(latitude):
    """Return the lengths of a degree of longitude and of latitude on WGS84."""
    a, e2 = 6378137.0, 0.00669437999014
    sine = math.sin(math.radians(latitude))
    curvature = math.sqrt(1 - e2 * sine**2)
    east = a / curvature * math.cos(math.radians(latitude))
    return math.radians(east), math.radians(a * (1 - e2) / curvature**3)


@pytest.mark.parametrize(
    ("code", "transform", "metres"),
    [
        (32633, NORTH_UP, (0.5 / 0.9996, 0.5 / 0.9996)),
        (4326, Affine(1e-5, 0, 13, 0, -1e-5, 60), [1e-5 * d for d in degree_in_metres(60)]),
        (4326, Affine(1e-5, 0, 180, 0, 1e-5, -17), [1e-5 * d for d in degree_in_metres(-17)]),
        # Web Mercator enlarges by 1 / cos(latitude), of a sphere.
        (
            3857,
            Affine(2, 0, 0, 0, -2, 6378137 * math.asinh(math.tan(math.radians(60)))),
            [
                2 / 6378137 * math.degrees(d) * math.cos(math.radians(60)) ** power
                for d, power in zip(degree_in_metres(60), (0, 1))
            ],
        ),
        # New York, in feet of the US survey.
        (2263, Affine(3, 0, 985_000, 0, -3, 200_000), (3 * 1200 / 3937, 3 * 1200 / 3937)),
    ],
)
def test_pixel_size_on_the_ground(code, transform, metres, tmp_path):
    path = write_raster(
        tmp_path / "scene.tif", noise(1, "uint8"), crs=CRS.from_epsg(code), transform=transform
    )
    with Raster(path) as raster:
        assert np.allclose(raster.pixel_metres, metres, rtol=1e-4)
    with Raster(path, pixel_size=metres[0] * 2.5) as raster:
        assert raster.width == WIDTH / 2.5
        assert raster.height == max(1, round(HEIGHT * metres[1] / metres[0] / 2.5))


def test_pixel_size_on_another_planet(tmp_path):
    mars = CRS.from_proj4("+proj=eqc +R=3396190 +units=m +no_defs")
    path = write_raster(tmp_path / "scene.tif", noise(1, "uint8"), crs=mars)
    with Raster(path, pixel_size=1) as raster:
        assert raster.width == WIDTH / 2


def test_overviews_are_used(tmp_path):
    small = np.full((1, HEIGHT, WIDTH), 50, np.uint8)
    path = write_raster(
        tmp_path / "scene.tif",
        small,
        lambda file: file.build_overviews([2, 4], Resampling.nearest),
        tiled=True,
        blockxsize=16,
        blockysize=16,
    )
    full = noise(1, "uint8", 100, 250)
    with rasterio.open(path, "r+") as file:
        file.write(full)
    for scale, is_overview in ((1, False), (0.6, False), (0.5, True), (0.3, True), (0.2, True)):
        with Raster(path, scale=scale) as raster:
            for window in ((0, 0, raster.width, raster.height), (3, 2, 9, 8)):
                values, valid = raster.read(window)
                assert valid.all()
                assert (values == 50).all() == is_overview
            corner = raster.transform @ (raster.width, raster.height)
            assert np.allclose(corner, NORTH_UP @ (WIDTH, HEIGHT))


@pytest.mark.parametrize("is_warped", [False, True])
def test_windows_of_a_resampled_raster_with_overviews_agree(is_warped, tmp_path):
    rng = np.random.default_rng(0)
    values = rng.integers(1, 250, (1, 317, 433), dtype=np.uint8)
    values[:, :100, :100] = 0

    def setup(file):
        file.build_overviews([2, 4, 8], Resampling.nearest)
        if is_warped:
            corners = [(row, column) for row in (0, 317) for column in (0, 433)]
            points = [GroundControlPoint(r, c, *(ROTATED @ (c, r))) for r, c in corners]
            file.gcps = (points, UTM)

    place = {"crs": None, "transform": None} if is_warped else {}
    path = write_raster(tmp_path / "scene.tif", values, setup, nodata=0, **place)
    # At scales around those of the overviews, GDAL may choose any of them for a small window.
    for scale in (1, 0.5, 0.4999, 0.501, 0.26, 0.2501, 0.2499, 0.125, 0.1249, 0.13):
        with Raster(path, scale=scale) as raster:
            whole, all_valid = raster.read((0, 0, raster.width, raster.height))
            for _ in range(30):
                left, top = rng.integers(0, (raster.width, raster.height)).tolist()
                right = min(raster.width, left + int(rng.integers(1, 60)))
                bottom = min(raster.height, top + int(rng.integers(1, 60)))
                part, valid = raster.read((left, top, right, bottom))
                assert np.array_equal(valid, all_valid[top:bottom, left:right])
                difference = part.astype(int) - whole[:, top:bottom, left:right]
                # Beside invalid pixels, a single one of tiny weight may decide.
                assert (np.abs(difference) > 1).sum() <= 1


def test_overviews_match_the_place_of_pixels(tmp_path):
    # An odd size: the overview's pixels are not exactly four of the file's.
    rows, columns = np.mgrid[:203, :301].astype(np.float32)
    path = write_raster(
        tmp_path / "scene.tif",
        np.stack([rows, columns]),
        lambda file: file.build_overviews([2, 4], Resampling.average),
    )
    with Raster(path, scale=0.2) as raster:
        values, _ = raster.read((0, 0, raster.width, raster.height))
        ys, xs = np.mgrid[: raster.height, : raster.width] + 0.5
        expected = [ys * 203 / raster.height - 0.5, xs * 301 / raster.width - 0.5]
    # The filter is cut off at the edges, and the last pixels of the overview are smaller.
    assert np.abs(values - expected)[:, 2:-2, 2:-2].max() < 0.6


@pytest.mark.parametrize("internal", [True, False])
@pytest.mark.parametrize("mask_first", [True, False])
def test_masks_and_overviews(internal, mask_first, tmp_path):
    path = write_raster(tmp_path / "scene.tif", noise(2, "uint8"))
    steps = [
        lambda file: file.write_mask(wedge()),
        lambda file: file.build_overviews([2, 4], Resampling.nearest),
    ]
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
        for step in steps if mask_first else steps[::-1]:
            with rasterio.open(path, "r+") as file:
                step(file)
    for scale in (1, 0.5, 0.25):
        with Raster(path, scale=scale) as raster:
            values, valid = raster.read((0, 0, raster.width, raster.height))
        # Pixels along the edge may be of either kind.
        assert valid.mean() == pytest.approx(wedge().mean(), abs=0.03)
        assert not valid[: int(14 * scale), : int(14 * scale)].any()
        assert (values[:, ~valid] == 0).all()


@pytest.mark.parametrize(
    ("code", "transform", "metres"),
    [
        (32633, NORTH_UP, 0.5),
        # New York, in feet of the US survey.
        (2263, Affine(3, 0, 985_000, 0, -3, 200_000), 3 * 1200 / 3937),
    ],
)
def test_ground_control_points(tmp_path, caplog, code, transform, metres):
    caplog.set_level(logging.INFO)
    values = noise(2, "uint8")

    def setup(file):
        file.gcps = (control_points(transform), CRS.from_epsg(code))

    path = write_raster(tmp_path / "scene.tif", values, setup, crs=None, transform=None)
    with Raster(path) as raster:
        assert raster.crs == CRS.from_epsg(code)
        assert raster.transform.almost_equals(transform, 1e-6)
        assert raster.pixel_metres == pytest.approx((metres, metres), rel=1e-3)
        read, valid = raster.read(WHOLE)
        assert valid.all()
        assert np.array_equal(read, values)
    assert f"warped to EPSG:{code} by its 4 ground control points" in caplog.text


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int16"])
@pytest.mark.parametrize("crs", [UTM, CRS.from_epsg(4326)])
def test_rotated_ground_control_points(dtype, crs, tmp_path):
    values = np.full((1, HEIGHT, WIDTH), 10, dtype)
    values[:, 30:34, 50:54] = 200
    # In degrees, half as wide as high on the ground at 60 degrees north.
    transform = ROTATED if crs == UTM else Affine(1e-5, 0, 15, 0, -1e-5, 60)

    def setup(file):
        file.gcps = (control_points(transform), crs)

    path = write_raster(tmp_path / "scene.tif", values, setup, crs=None, transform=None)
    with Raster(path) as raster:
        assert raster.crs == UTM
        read, valid = raster.read((0, 0, raster.width, raster.height))
        ys, xs = np.nonzero(read[0] > 100)
        place = raster.transform @ (xs.mean() + 0.5, ys.mean() + 0.5)
        east, north = rasterio.warp.transform(crs, UTM, *np.transpose([transform @ (52, 32)]))
        assert np.allclose(place, (east[0], north[0]), atol=0.5)
        area = valid.sum() * abs(raster.transform.determinant)
        metres = [1e-5 * d for d in degree_in_metres(60)]
        expected = (0.25 if crs == UTM else metres[0] * metres[1]) * HEIGHT * WIDTH
        assert area == pytest.approx(expected, rel=0.05)
        assert valid.mean() < 1 or crs != UTM
        assert (read[:, ~valid] == 0).all()
        assert np.allclose(raster.pixel_metres[0], raster.pixel_metres[1], rtol=1e-3)
    with Raster(path, scale=0.5) as raster:
        assert raster.read((0, 0, raster.width, raster.height))[1].mean() == pytest.approx(
            valid.mean(), abs=0.03
        )


def test_a_palette_is_not_mixed_when_it_is_warped(tmp_path):
    colours = {i: (i, 255 - i, i // 2, 255) for i in range(256)}

    def setup(file):
        file.write_colormap(1, colours)
        file.gcps = (control_points(ROTATED), UTM)

    values = np.random.default_rng(0).choice([3, 90, 251], (1, HEIGHT, WIDTH)).astype(np.uint8)
    path = write_raster(tmp_path / "scene.tif", values, setup, crs=None, transform=None)
    with Raster(path) as raster:
        read, valid = raster.read((0, 0, raster.width, raster.height))
    assert {tuple(pixel) for pixel in read[:, valid].T.tolist()} == {
        colours[i][:3] for i in (3, 90, 251)
    }


def test_ground_control_points_without_a_reference_system(tmp_path, caplog):
    values = noise(1, "uint8")
    write_raster(tmp_path / "a.tif", values, crs=None, transform=None)
    body = (
        '<GCPList><GCP Id="" Pixel="0" Line="0" X="1" Y="2"/>'
        '<GCP Id="" Pixel="9" Line="0" X="2" Y="2"/><GCP Id="" Pixel="0" Line="9" X="1" Y="1"/>'
        '</GCPList><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        '<SourceFilename relativeToVRT="1">a.tif</SourceFilename></SimpleSource></VRTRasterBand>'
    )
    path = tmp_path / "scene.vrt"
    path.write_text(VRT.format(width=WIDTH, height=HEIGHT, body=body))
    with Raster(path) as raster:
        assert raster.crs is None
        assert np.array_equal(raster.read(WHOLE)[0], values)
    assert f"{path} is not georeferenced; results have pixel coordinates." in caplog.text


# Programs that copy a raster may write the identity where it has no transform.
@pytest.mark.parametrize(("latitude", "written"), [(48.0, None), (-33.0, Affine.identity())])
def test_rational_polynomials(latitude, written, tmp_path):
    values = np.full((1, HEIGHT, WIDTH), 10, np.uint8)
    values[:, 30:34, 50:54] = 200
    constant, east, north, up = np.eye(20)[:4].tolist()
    rpc = RPC(
        lat_off=latitude,
        lat_scale=2e-4,
        long_off=14.3,
        long_scale=3e-4,
        height_off=900,
        height_scale=500,
        line_off=HEIGHT / 2,
        line_scale=HEIGHT / 2,
        samp_off=WIDTH / 2,
        samp_scale=WIDTH / 2,
        # Rows point south, and a point that is higher than the offset appears further east.
        line_num_coeff=[-c for c in north],
        line_den_coeff=constant,
        samp_num_coeff=[a + b for a, b in zip(east, up)],
        samp_den_coeff=constant,
        err_bias=None,
        err_rand=None,
    )

    def setup(file):
        file.rpcs = rpc

    path = write_raster(tmp_path / "scene.tif", values, setup, crs=None, transform=written)
    with Raster(path) as raster:
        assert raster.crs == CRS.from_epsg(32633 if latitude > 0 else 32733)
        read, _ = raster.read((0, 0, raster.width, raster.height))
        ys, xs = np.nonzero(read[0] > 100)
        place = raster.transform @ (xs.mean() + 0.5, ys.mean() + 0.5)
        # RPC refer to the centres of pixels.
        longitude = 14.3 + 3e-4 * (51.5 - WIDTH / 2) / (WIDTH / 2)
        north = latitude - 2e-4 * (31.5 - HEIGHT / 2) / (HEIGHT / 2)
        x, y = rasterio.warp.transform("EPSG:4326", raster.crs, [longitude], [north])
        assert np.allclose(place, (x[0], y[0]), atol=1.5 * raster.pixel_metres[0])


def test_a_striped_file_is_decoded_once(tmp_path):
    # 6 MB, of which GDAL may keep 1: it would read each strip again for each window beside it.
    values = np.random.default_rng(0).integers(0, 255, (3, 256, 8192), dtype=np.uint8)
    path = write_raster(tmp_path / "scene.tif", values, compress="deflate")
    rasterio.env.set_gdal_config("GDAL_CACHEMAX", 1_000_000)
    with Raster(path) as raster:
        raster.read((0, 0, 256, 200))
        # Only what has been decoded can still be read.
        os.truncate(path, 100)
        for left in range(0, 8192, 256):
            tile, valid = raster.read((left, 0, left + 256, 200))
            assert np.array_equal(tile, values[:, :200, left : left + 256])
            assert valid.all()
        with pytest.raises(UserError):
            raster.read((0, 220, 256, 256))


def test_the_users_cache_size_has_precedence(tmp_path, monkeypatch):
    path = write_raster(tmp_path / "scene.tif", noise(1, "uint8"))
    rasterio.env.set_gdal_config("GDAL_CACHEMAX", 1_000_000)
    monkeypatch.setenv("GDAL_CACHEMAX", "1000000")
    with Raster(path) as raster:
        raster.read(WHOLE)
    assert rasterio.env.get_gdal_config("GDAL_CACHEMAX") == 1_000_000
    monkeypatch.delenv("GDAL_CACHEMAX")
    with Raster(path) as raster:
        raster.read(WHOLE)
    assert rasterio.env.get_gdal_config("GDAL_CACHEMAX") >= 64 << 20


def test_pickled_rasters(tmp_path):
    path = write_raster(tmp_path / "scene.tif", noise(3, "uint16", 1, 60_000))
    with Raster(path, bands=[3, 1], scale=2) as raster:
        window = (3, 5, 60, 70)
        with pickle.loads(pickle.dumps(raster)) as copy:
            assert np.array_equal(copy.read(window)[0], raster.read(window)[0])


@pytest.fixture
def strips(tmp_path):
    """A raster whose strips are read one by one, and its values; nothing of it is in a cache."""
    values = np.random.default_rng(0).integers(0, 60_000, (1, 1000, 700), dtype=np.uint16)
    path = write_raster(tmp_path / "scene.tif", values, compress="deflate", blockysize=1)
    with Raster(path) as raster:
        yield raster, values


def wrong_windows(raster, values, seed):
    """Return the number of windows of one row that are not read as they are, in random order."""
    rows = np.random.default_rng(seed).permutation(raster.height)
    return sum(
        not np.array_equal(raster.read((0, row, 700, row + 1))[0], values[:, row : row + 1])
        for row in map(int, rows)
    )


def test_rasters_in_forked_processes(strips):
    # Processes that share an open file move its position for each other.
    pids = []
    for seed in range(4):
        pid = os.fork()
        if not pid:
            os._exit(1 if wrong_windows(*strips, seed) else 0)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4


def test_rasters_in_threads(strips):
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(wrong_windows, *strips, seed) for seed in range(4)]
        assert [future.result() for future in futures] == [0] * 4


def test_fingerprints(tmp_path):
    case = CASES["VRT"](tmp_path)

    def fingerprint(**options):
        with Raster(case.path, **options) as raster:
            return raster.fingerprint()

    first = fingerprint()
    assert json.loads(json.dumps(first)) == first
    assert fingerprint() == first
    assert fingerprint(bands=[1, 1])["bands"] != first["bands"]
    assert fingerprint(scale=0.5)["transform"] != first["transform"]
    # A file that the VRT refers to.
    os.utime(tmp_path / "b.tif", ns=(0, 1))
    assert {k for k, v in fingerprint().items() if v != first[k]} == {"version"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Folder and address of a server."""
    folder = tmp_path_factory.mktemp("server")
    command = [sys.executable, Path(__file__).with_name("range_server.py"), folder]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield folder, f"127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.communicate()


def test_remote_files(server):
    folder, address = server
    case = CASES["COG"](folder)
    url = f"http://{address}/scene.tif"
    with Raster(f"{url}?token=secret") as raster:
        assert np.array_equal(raster.read((5, 6, 40, 50))[0], case.values[:, 6:50, 5:40])
        fingerprint = raster.fingerprint()
        assert raster.fingerprint() == fingerprint
        assert "secret" not in json.dumps(fingerprint)
        assert raster.name == url
        # The server's ETag is the time of modification.
        os.utime(case.path, ns=(0, 1))
        assert raster.fingerprint()["version"] != fingerprint["version"]
    with Raster(f"/vsicurl/{url}") as raster:
        assert np.array_equal(raster.read(WHOLE)[0], case.values)
    missing = f"http://{address}/missing.tif"
    with pytest.raises(UserError, match=rf"{missing} cannot be opened: .*404") as error:
        Raster(f"{missing}?token=secret")
    assert "secret" not in str(error.value)


def test_object_stores(server, monkeypatch):
    folder, address = server
    (folder / "bucket").mkdir()
    case = CASES["COG"](folder / "bucket")
    for key, value in {
        "AWS_S3_ENDPOINT": address,
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_NO_SIGN_REQUEST": "YES",
    }.items():
        monkeypatch.setenv(key, value)
    with Raster("s3://bucket/scene.tif") as raster:
        assert np.array_equal(raster.read(WHOLE)[0], case.values)
        # GDAL does not tell a time of modification: the values decide.
        version = raster.fingerprint()["version"]
    for name, values in (("same", case.values), ("other", case.values + 1)):
        write_raster(folder / "bucket" / f"{name}.tif", values, driver="COG")
        with Raster(f"s3://bucket/{name}.tif") as raster:
            assert (raster.fingerprint()["version"] == version) == (name == "same")


@pytest.mark.parametrize("package", ["rasterio", "pyogrio"])
def test_a_missing_package(package, monkeypatch):
    monkeypatch.delitem(sys.modules, "facenet_d2.scenes.geo")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package}.*pip install 'facenet_d2\[geo\]'"):
        importlib.import_module("facenet_d2.scenes.geo")


def test_an_unreachable_server():
    with pytest.raises(UserError, match=r"^https://127\.0\.0\.1:1/a\.tif cannot be opened: "):
        Raster("https://127.0.0.1:1/a.tif")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.tif", b"text", "is not a raster that GDAL can read"),
        ("empty.tif", b"", "is not a raster that GDAL can read"),
        ("scene.ecw", b"ecw", r"may lack a driver for \.ecw files: convert"),
        ("missing.tif", None, "no such file"),
    ],
)
def test_files_that_are_not_rasters(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}.*{message}"):
        Raster(tmp_path / name)


def test_a_folder_is_not_a_raster(tmp_path):
    with pytest.raises(UserError, match="is a folder, not a raster"):
        Raster(tmp_path)


def test_files_with_several_rasters(tmp_path):
    for name in "ab":
        with rasterio.open(
            tmp_path / "scene.gpkg",
            "w",
            driver="GPKG",
            width=20,
            height=20,
            count=1,
            dtype="uint8",
            crs=UTM,
            transform=NORTH_UP,
            raster_table=name,
            append_subdataset="YES" if name == "b" else "NO",
        ) as file:
            file.write(np.full((1, 20, 20), 7 if name == "a" else 9, np.uint8))
    with pytest.raises(UserError, match=r"consists of 2 rasters; name one of them: GPKG:.*:a, "):
        Raster(tmp_path / "scene.gpkg")
    with Raster(f"GPKG:{tmp_path}/scene.gpkg:b", bands=[1]) as raster:
        assert (raster.read((0, 0, 20, 20))[0] == 9).all()


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ([4], "scene.tif has no band 4; its bands are 1 to 3"),
        ([0], "has no band 0"),
        ([], r"The bands are \[\]"),
        ([1.5], r"The bands are \[1.5\]"),
    ],
)
def test_missing_bands(bands, message, tmp_path):
    path = write_raster(tmp_path / "scene.tif", noise(3, "uint8"))
    with pytest.raises(UserError, match=message):
        Raster(path, bands=bands)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0}, "The scale is 0"),
        ({"scale": math.nan}, "The scale is nan"),
        ({"pixel_size": -1}, "The pixel size is -1"),
        ({"pixel_size": 1, "scale": 1}, "Both pixel size and scale"),
    ],
)
def test_wrong_scales(options, message, tmp_path):
    path = write_raster(tmp_path / "scene.tif", noise(3, "uint8"))
    with pytest.raises(UserError, match=message):
        Raster(path, **options)


def test_coefficients_that_do_not_place_a_raster(tmp_path):
    rpc = RPC(
        **{f"{key}_off": 0 for key in ("lat", "long", "height", "line", "samp")},
        **{f"{key}_scale": 1 for key in ("lat", "long", "height", "line", "samp")},
        line_num_coeff=[0] * 20,
        line_den_coeff=[0] * 20,
        samp_num_coeff=[0] * 20,
        samp_den_coeff=[0] * 20,
    )

    def setup(file):
        file.rpcs = rpc

    path = write_raster(tmp_path / "rpc.tif", noise(1, "uint8"), setup, crs=None, transform=None)
    with pytest.raises(UserError, match=r"rpc\.tif cannot be warped by its RPC: "):
        Raster(path)

    def same_place(file):
        points = [GroundControlPoint(p.row, p.col, 500_000, 5_000_000) for p in corners]
        file.gcps = (points, UTM)

    corners = control_points(NORTH_UP)
    path = write_raster(
        tmp_path / "gcp.tif", noise(1, "uint8"), same_place, crs=None, transform=None
    )
    with pytest.raises(UserError, match=r"gcp\.tif cannot be warped by its 4 ground control"):
        Raster(path)


def test_complex_values_are_not_resampled(tmp_path):
    case = CASES["complex float"](tmp_path)
    with pytest.raises(UserError, match="complex values, which cannot be resampled"):
        Raster(case.path, scale=0.5)
    values = noise(1, "float32").astype(np.complex64)

    def setup(file):
        file.gcps = (control_points(NORTH_UP), UTM)

    path = write_raster(tmp_path / "gcp.tif", values, setup, crs=None, transform=None)
    with pytest.raises(UserError, match="complex values, and ground control points"):
        Raster(path)


def test_a_truncated_file_names_the_window(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (1, 128, 128), dtype=np.uint8)
    path = write_raster(
        tmp_path / "scene.tif", values, compress="deflate", tiled=True, blockxsize=64, blockysize=64
    )
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 5])
    with Raster(path) as raster:
        assert np.array_equal(raster.read((0, 0, 64, 64))[0], values[:, :64, :64])
        with pytest.raises(
            UserError, match=r"scene.tif: columns 70 to 99 of rows 64 to 127 cannot be read \(.+\)"
        ):
            raster.read((70, 64, 100, 128))


def test_a_missing_file_of_a_vrt(tmp_path):
    case = CASES["VRT"](tmp_path)
    (tmp_path / "b.tif").unlink()
    with Raster(case.path) as raster:
        assert raster.read((0, 0, 30, 20))[1].all()
        with pytest.raises(UserError, match=r"columns 30 to 69 of rows .*b\.tif"):
            raster.read((30, 0, 70, 20))
