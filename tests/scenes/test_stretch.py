"""Contrast stretches, and the sample of a scene that their bounds come from."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from rasters import CASES, HEIGHT, WIDTH, noise, wedge, write_raster

from facenet_d2.errors import UserError
from facenet_d2.scenes.area import Area
from facenet_d2.scenes.raster import Raster
from facenet_d2.scenes.sampling import intervals, sample_pixels
from facenet_d2.scenes.stretch import Stretch, StretchRule, default_rule

WHOLE = (0, 0, WIDTH, HEIGHT)


def stretched_by_loop(values, valid, low, high):
    """Return 255 * (v - low) / (high - low), limited to 0 to 255, pixel by pixel."""
    result = np.zeros(values.shape)
    for band, row, column in np.ndindex(*values.shape):
        if valid[row, column]:
            share = (float(values[band, row, column]) - low[band]) / (high[band] - low[band])
            result[band, row, column] = min(max(255 * share, 0), 255)
    return result


def fit(text, *rasters):
    return StretchRule.parse(text).fit(rasters)


def test_8_bits_are_left_as_they_are(tmp_path, caplog):
    values = noise(3, "uint8")
    with Raster(write_raster(tmp_path / "scene.tif", values)) as raster:
        stretch = default_rule(raster).fit([raster])
        read, valid = raster.read(WHOLE)
    assert stretch == Stretch()
    assert stretch.apply(read, valid) is read
    assert np.array_equal(read, values)
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["16 bits", "NaN", "nodata -9999", "scales and offsets"])
def test_other_values_are_stretched_between_percentiles(name, tmp_path, caplog):
    case = CASES[name](tmp_path)
    values = case.values.astype(np.float64)
    low = [np.percentile(band[case.valid], 1) for band in values]
    high = [np.percentile(band[case.valid], 99) for band in values]
    with Raster(case.path, **case.options) as raster:
        rule = default_rule(raster)
        stretch = rule.fit([raster])
        result = stretch.apply(*raster.read((-2, 3, WIDTH - 2, HEIGHT)))
    assert str(rule) == "percentile 1 99"
    assert "scene.tif does not have 8 bits: its values are stretched" in caplog.text
    assert np.allclose(stretch.low, low, rtol=1e-6)
    assert np.allclose(stretch.high, high, rtol=1e-6)
    assert result.dtype == np.float32
    expected = stretched_by_loop(values, case.valid, low, high)
    assert np.allclose(result[:, :, 2:], expected[:, 3:, :-2], atol=1e-3)
    assert (result[:, :, :2] == 0).all()


def test_all_tiles_have_the_same_stretch(tmp_path):
    # Percentiles of the tiles would differ.
    values = (np.mgrid[:HEIGHT, :WIDTH][0:1] * 1000).astype(np.uint16)
    with Raster(write_raster(tmp_path / "scene.tif", values)) as raster:
        stretch = fit("percentile 0 100", raster)
        whole = stretch.apply(*raster.read(WHOLE))
        for left, top in ((0, 0), (13, 20), (30, 40)):
            tile = stretch.apply(*raster.read((left, top, left + 20, top + 12)))
            assert np.array_equal(tile, whole[:, top : top + 12, left : left + 20])
    assert whole.min() == 0
    assert whole.max() == 255


def test_range(tmp_path):
    values = noise(3, "uint16", 0, 3000)
    with Raster(write_raster(tmp_path / "scene.tif", values)) as raster:
        same = fit("range 100 2000.5", raster)
        each = fit("range 0,100,200 2000,2500,3000", raster)
        mixed = fit("range 0 2000,2500,3000", raster)
        read, valid = raster.read(WHOLE)
    for stretch, low, high in (
        (same, [100] * 3, [2000.5] * 3),
        (each, [0, 100, 200], [2000, 2500, 3000]),
        (mixed, [0] * 3, [2000, 2500, 3000]),
    ):
        expected = stretched_by_loop(values, valid, low, high)
        assert np.allclose(stretch.apply(read, valid), expected, atol=1e-3)
        assert np.allclose(stretch.apply(read), expected, atol=1e-3)
        assert stretch.low == tuple(low)


@pytest.mark.parametrize(("kind", "factor"), [("amplitude", 20), ("intensity", 10)])
def test_decibels(kind, factor, tmp_path):
    rng = np.random.default_rng(0)
    values = rng.exponential(0.1, (2, HEIGHT, WIDTH)).astype(np.float32)
    values[0, 5:9, 5:9] = 0
    values[1, 5, 6] = -1
    path = write_raster(tmp_path / "scene.tif", values)
    decibels = np.full(values.shape, -1000.0)
    for index in np.ndindex(*values.shape):
        if values[index] > 0:
            decibels[index] = factor * math.log10(values[index])
    valid = np.ones((HEIGHT, WIDTH), bool)
    with Raster(path) as raster:
        read, _ = raster.read(WHOLE)
        stretch = fit(f"db {kind} -25 2", raster)
        assert stretch == fit(f"db {kind} range -25 2", raster)
        expected = stretched_by_loop(decibels, valid, [-25] * 2, [2] * 2)
        assert np.allclose(stretch.apply(read, valid), expected, atol=1e-3)
        low, high = ([np.percentile(band[band > -1000], q) for band in decibels] for q in (2.5, 98))
        stretch = fit(f"db {kind} percentile 2.5 98", raster)
        assert np.allclose([stretch.low, stretch.high], [low, high], atol=1e-4)
        expected = stretched_by_loop(decibels, valid, low, high)
        assert np.allclose(stretch.apply(read, valid), expected, atol=2e-3)
        assert fit(f"db {kind}", raster).rule == f"db {kind} percentile 1 99"


def test_amplitudes_and_intensities_have_the_same_decibels():
    amplitudes = np.geomspace(0.01, 10, 50, dtype=np.float32).reshape(1, 5, 10)
    of_amplitudes = Stretch((-40.0,), (20.0,), "amplitude").apply(amplitudes)
    of_intensities = Stretch((-40.0,), (20.0,), "intensity").apply(amplitudes**2)
    assert np.allclose(of_amplitudes, of_intensities, atol=1e-3)
    assert np.allclose(of_amplitudes[0, 0, 0], 0, atol=1e-3)
    assert np.allclose(of_amplitudes[0, -1, -1], 255)


@pytest.mark.parametrize(("bits", "expected"), [(2, 85.0), (4, 17.0)])
def test_fewer_than_8_bits_use_the_whole_range(bits, expected, tmp_path, caplog):
    values = noise(1, "uint8", 0, 2**bits)
    with Raster(write_raster(tmp_path / "scene.tif", values, nbits=bits)) as raster:
        stretch = default_rule(raster).fit([raster])
        assert np.allclose(stretch.apply(*raster.read(WHOLE)), values * expected)
    assert caplog.text == ""


def test_palettes_have_8_bits(tmp_path):
    for name in ("palette", "1 bit"):
        case = CASES[name](tmp_path)
        with Raster(case.path) as raster:
            assert default_rule(raster) == StretchRule()


def test_one_stretch_for_several_scenes(tmp_path):
    first, second = noise(2, "uint16", 0, 1000), noise(2, "uint16", 5000, 60_000, seed=1)
    with (
        Raster(write_raster(tmp_path / "a.tif", first)) as a,
        Raster(write_raster(tmp_path / "b.tif", second)) as b,
        Raster(write_raster(tmp_path / "c.tif", first[:1])) as c,
    ):
        stretch = fit("percentile 3,5 97,90", a, b)
        both = np.stack([first, second]).swapaxes(0, 1).reshape(2, -1)
        assert np.allclose(stretch.low, [np.percentile(both[0], 3), np.percentile(both[1], 5)])
        assert np.allclose(stretch.high, [np.percentile(both[0], 97), np.percentile(both[1], 90)])
        with pytest.raises(UserError, match="different numbers of bands"):
            fit("percentile 1 99", a, c)


def test_constant_bands(tmp_path):
    values = np.full((1, HEIGHT, WIDTH), 700, np.uint16)
    with Raster(write_raster(tmp_path / "scene.tif", values)) as raster:
        stretch = fit("percentile 1 99", raster)
        assert (stretch.low, stretch.high) == ((700.0,), (701.0,))
        assert (stretch.apply(*raster.read(WHOLE)) == 0).all()


@pytest.mark.parametrize(
    "stretch",
    [
        Stretch(),
        Stretch((0.1, 1 / 3), (7.0, 1e30), rule="percentile 1 99"),
        Stretch((-25.5,), (3.0,), "amplitude", "db amplitude -25.5 3"),
    ],
)
def test_dictionaries(stretch):
    content = json.loads(json.dumps(stretch.to_dict()))
    copy = Stretch.from_dict(content)
    assert copy == stretch
    assert copy.rule == stretch.rule
    assert copy.to_dict() == stretch.to_dict()


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"kind": "range"},
        {"kind": "range", "low": [], "high": [], "decibels": "", "rule": ""},
        {"kind": "range", "low": [1], "high": [0], "decibels": "", "rule": ""},
        {"kind": "range", "low": [1, 2], "high": [3], "decibels": "", "rule": ""},
        {"kind": "range", "low": ["a"], "high": [1], "decibels": "", "rule": ""},
        {"kind": "range", "low": 1, "high": 2, "decibels": "", "rule": ""},
        {"kind": "range", "low": [0], "high": [math.inf], "decibels": "", "rule": ""},
        {"kind": "range", "low": [0], "high": [1], "decibels": "power", "rule": ""},
        {"kind": "none", "low": [0]},
    ],
)
def test_wrong_dictionaries(content):
    with pytest.raises(UserError):
        Stretch.from_dict(content)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", "none"),
        ("range 0 1", "range 0 1"),
        (" range  -0.5,1 2 ", "range -0.5,1 2,2"),
        ("percentile 0.5 99.5", "percentile 0.5 99.5"),
        ("db amplitude", "db amplitude percentile 1 99"),
        ("db intensity -20 5", "db intensity range -20 5"),
    ],
)
def test_rules_as_text(text, expected):
    rule = StretchRule.parse(text)
    assert str(rule) == expected
    assert StretchRule.parse(str(rule)) == rule


@pytest.mark.parametrize(
    "text",
    [
        "",
        "auto",
        "range",
        "range 1",
        "range 1 2 3",
        "range 0,0 1,1,1",
        "range a b",
        "range 0, 1",
        "none 1",
        "db",
        "db power",
        "db amplitude 1",
        "db none",
    ],
)
def test_texts_that_are_not_rules(text):
    with pytest.raises(UserError, match=rf'^"{text}" is not a stretch; it must be "none", "range'):
        StretchRule.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "range 2 1",
        "range 1 1",
        "range nan 1",
        "range 0 inf",
        "percentile -1 50",
        "percentile 1 101",
    ],
)
def test_bounds_in_the_wrong_order(text):
    with pytest.raises(UserError, match=f'^Stretch "{text}": '):
        StretchRule.parse(text)


def test_numbers_of_bands(tmp_path):
    with Raster(write_raster(tmp_path / "scene.tif", noise(3, "uint16"))) as raster:
        with pytest.raises(UserError, match=r"is for 2 bands, but .*scene\.tif is read with 3"):
            fit("range 0,1 2,3", raster)
        with pytest.raises(UserError, match="bounds for 2 bands, but 3 are read"):
            Stretch((0.0, 0.0), (1.0, 1.0)).apply(raster.read(WHOLE)[0])


def test_scenes_without_a_value(tmp_path):
    case = CASES["all nodata"](tmp_path)
    with (
        Raster(case.path) as raster,
        pytest.raises(UserError, match=r"scene\.tif has no valid pixels"),
    ):
        fit("percentile 1 99", raster)
    values = np.zeros((1, HEIGHT, WIDTH), np.float32)
    with (
        Raster(write_raster(tmp_path / "zeros.tif", values)) as raster,
        pytest.raises(UserError, match="without positive values has no decibels"),
    ):
        fit("db amplitude", raster)


def test_the_sample_of_a_small_scene_is_all_of_it(tmp_path):
    case = CASES["nodata 0"](tmp_path)
    with Raster(case.path, **case.options) as raster:
        sample = sample_pixels(raster)
    assert sample.dtype == np.float32
    for band, values in zip(sample, case.values):
        assert np.array_equal(np.sort(band), np.sort(values[case.valid]))


def test_the_area_of_interest_does_not_change_the_sample(tmp_path):
    import shapely

    path = write_raster(tmp_path / "scene.tif", noise(1, "uint16"))
    area = Area("corner", shapely.box(500_000, 5_799_990, 500_005, 5_800_000), None)
    with Raster(path) as raster:
        expected = sample_pixels(raster)
        area = Area(area.name, area.geometry, raster.crs)
    with Raster(path, area=area) as raster:
        assert raster.read(WHOLE)[1].sum() == 200
        assert np.array_equal(sample_pixels(raster), expected)


@pytest.mark.parametrize(
    ("height", "width", "count"),
    [(1, 1, 256), (64, 65, 256), (1000, 1000, 256), (1024, 1024, 256), (30_000, 30_000, 256)]
    + [(100, 100_000, 256), (100_000, 10, 256), (5000, 7000, 1024), (700, 900, 1 << 20)],
)
def test_windows_of_the_sample(height, width, count):
    rows, columns = intervals(height, width, count)
    for pieces, length in ((rows, height), (columns, width)):
        assert pieces[0][0] >= 0
        assert pieces[-1][1] <= length
        assert all(0 < end - start <= 64 for start, end in pieces)
        assert all(a[1] <= b[0] for a, b in pairwise(pieces))
        # Spread evenly: the spaces between the windows differ by a pixel or two.
        gaps = [b[0] - a[1] for a, b in pairwise(pieces)]
        assert not gaps or max(gaps) - min(gaps) <= 2
    total = -(-height // 64) * -(-width // 64)
    assert min(total, count) <= len(rows) * len(columns) <= max(2 * count, 1)
    if total <= count:
        covered = sum(b - a for a, b in rows) * sum(b - a for a, b in columns)
        assert covered == height * width


class SparseScene:
    """A scene of 30,000x30,000 pixels that are valid in one corner."""

    name = "sparse"
    height = width = 30_000
    corner = 27_000

    def __init__(self):
        self.reads = 0

    def read(self, window, *, within_area=True):
        assert not within_area
        self.reads += 1
        left, top, right, bottom = window
        rows, columns = np.mgrid[top:bottom, left:right]
        valid = (rows >= self.corner) & (columns >= self.corner)
        return (rows + columns)[None].astype(np.float32) * valid, valid


def test_a_sparse_scene_is_sampled_more_densely():
    scene = SparseScene()
    sample = sample_pixels(scene)
    assert (1 << 16) <= sample.shape[1] < (1 << 19)
    assert sample.min() >= 2 * scene.corner
    # The sums of two uniform numbers have this median.
    assert np.median(sample) == pytest.approx(57_000, abs=600)
    assert scene.reads <= 2 * (256 + 1024 + 4096)
    assert np.array_equal(sample_pixels(scene), sample)


def test_a_sample_represents_a_large_scene():
    scene = SparseScene()
    scene.corner = 0
    sample = sample_pixels(scene)[0]
    assert scene.reads == 256
    # A triangular distribution between 0 and 60,000.
    for percent in (1, 10, 50, 90, 99):
        share = percent / 100
        expected = 30_000 * (math.sqrt(2 * share) if share <= 0.5 else 2 - math.sqrt(2 - 2 * share))
        assert np.percentile(sample, percent) == pytest.approx(expected, abs=900)


def test_invalid_pixels_do_not_count(tmp_path):
    values = noise(1, "uint16", 1000, 2000)
    values[:, ~wedge()] = 0
    with Raster(write_raster(tmp_path / "scene.tif", values, nodata=0)) as raster:
        assert fit("percentile 0 100", raster).low == (float(values[:, wedge()].min()),)
