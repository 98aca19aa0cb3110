"""Readers of images: any bands and bits, and the mapper and the checker on top of them."""

import json
import logging

import cv2
import numpy as np
import pytest
from band_images import BANDS, COLOURS, HIGH, LOW, STRETCH, write_band_config, write_band_dataset
from detectron2.data import get_detection_dataset_dicts
from scenes.rasters import CASES, rasterio, write_raster

from facenet_d2 import UserError
from facenet_d2.data import SceneMapper, read_image
from facenet_d2.data.coco_json import read_size
from facenet_d2.data.images import ImageError
from facenet_d2.data.readers import PillowReader, RasterReader, build_reader
from facenet_d2.engine import load_config, read_config


@pytest.fixture(scope="module")
def band_scenes(tmp_path_factory, scenes):
    return write_band_dataset(tmp_path_factory.mktemp("bands") / "scenes", scenes)


@pytest.fixture
def band_config(tmp_path, band_scenes):
    return write_band_config(tmp_path, band_scenes)


def test_bands_and_stretch_give_back_the_colours(band_scenes, scenes):
    """The bands are a linear transform of the colours; the stretch undoes it up to rounding."""
    reader = RasterReader(bands=BANDS, stretch=STRETCH, pixel_mean=(115.0,) * 7)
    image = reader(band_scenes / "images" / "00002.tif")
    rgb = read_image(scenes / "images" / "00002.png", "RGB")
    expected = np.stack([rgb[..., COLOURS[band - 1]] for band in BANDS], axis=2)
    assert image.dtype == np.float32
    assert image.flags["C_CONTIGUOUS"]
    steps = [(h - lo) / 255 for lo, h in zip(LOW, HIGH)]
    assert np.abs(image - expected).max() <= 0.5 / min(steps) + 1e-3
    assert np.array_equal(reader.picture(image), rgb)


def test_invalid_pixels_have_the_mean_of_their_band(tmp_path):
    values = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    values[1, 0, 0] = np.nan
    values[:, 2, 3] = -9999
    file = write_raster(tmp_path / "a.tif", values, nodata=-9999)
    image = RasterReader(stretch="range 0,10 51,20", pixel_mean=(7.0, 9.0))(file)
    for row, column in np.ndindex(3, 4):
        expected = [
            min(max(255 * (float(values[b, row, column]) - low) / (high - low), 0), 255)
            for b, (low, high) in enumerate(((0, 51), (10, 20)))
        ]
        if (row, column) in ((0, 0), (2, 3)):
            expected = [7.0, 9.0]
        assert image[row, column].tolist() == pytest.approx(expected, abs=1e-4)


def test_sar_amplitudes_in_decibels(tmp_path):
    """One band, from -25 to 0 dB, with zeros outside of the swath that are no decibels."""
    values = np.array([[[1.0, 0.1, 0.01, 10.0, 0.0]]], np.float32)
    file = write_raster(tmp_path / "sar.tif", values)
    image = RasterReader(stretch="db amplitude -25 0", pixel_mean=(5.0,))(file)
    # 20 log10(v): 0, -20, -40 and 20 dB.
    assert image[0, :, 0].tolist() == pytest.approx([255, 51, 0, 255, 0], abs=1e-3)
    intensity = RasterReader(stretch="db intensity -25 0", pixel_mean=(5.0,))(file)
    assert intensity[0, :, 0].tolist() == pytest.approx([255, 153, 51, 255, 0], abs=1e-3)


@pytest.mark.parametrize("name", sorted(CASES))
def test_images_have_the_pixels_of_the_file(name, tmp_path):
    """Also rotated ones, and those with ground control points: annotations are in pixels."""
    path = CASES[name](tmp_path).path
    try:
        with rasterio.open(path) as file:
            size, count = file.shape, len([c for c in file.colorinterp if c.name != "alpha"])
            count = 3 if file.colorinterp[0].name == "palette" else count
    except rasterio.errors.RasterioError:
        pytest.skip("this case is not a file")
    image = RasterReader(stretch="range 0 100", pixel_mean=(1.0,) * count)(path)
    assert image.shape == (*size, count)
    assert image.min() >= 0
    assert image.max() <= 255


@pytest.mark.parametrize(
    ("settings", "count", "dtype", "words"),
    [
        ({}, 3, "uint16", "not of 8 bits; set INPUT.STRETCH"),
        ({}, 5, "uint8", "it has 5 bands, but MODEL.PIXEL_MEAN has 3 values"),
        ({"bands": (1, 2, 9)}, 3, "uint8", "has no band 9"),
        ({"bands": (1,), "stretch": "none"}, 3, "uint8", "it has 1 band, but"),
    ],
)
def test_unsuited_images_are_refused(tmp_path, settings, count, dtype, words):
    file = write_raster(tmp_path / "a.tif", np.ones((count, 4, 4), dtype))
    with pytest.raises(ImageError, match=words):
        RasterReader(pixel_mean=(1.0, 2.0, 3.0), **settings)(file)


def test_missing_and_damaged_files(tmp_path):
    reader = RasterReader(stretch="range 0 9", pixel_mean=(1.0,))
    with pytest.raises(ImageError, match="it does not exist") as raised:
        reader(tmp_path / "none.tif")
    assert raised.value.kind == "image-missing"
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(ImageError, match="is not a raster that GDAL can read") as raised:
        reader(tmp_path / "text.tif")
    assert str(raised.value).count("text.tif") == 1
    file = write_raster(tmp_path / "cut.tif", np.ones((1, 99, 99), np.float32))
    file.write_bytes(file.read_bytes()[:9000])
    with pytest.raises(ImageError, match="damaged or incomplete"):
        reader(file)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["INPUT.STRETCH", "bright"], "is not a stretch"),
        (["INPUT.STRETCH", "percentile 1 99"], "tools/compute_statistics.py --stretch"),
        (["INPUT.STRETCH", "range 0,0 1,1"], "is for 2 bands, but MODEL.PIXEL_MEAN has 3"),
        (["INPUT.BANDS", "[1, 2]"], "have 3 values, but INPUT.BANDS 2 bands"),
        (["INPUT.BANDS", "[0, 1, 2]"], "INPUT.BANDS is"),
        (["INPUT.BANDS", "[1, 2, 3]", "VIS_PERIOD", "5"], "VIS_PERIOD is 5"),
    ],
)
def test_wrong_keys_give_one_sentence(tiny_config, overrides, words):
    with pytest.raises(UserError, match=words.replace("(", r"\(")):
        load_config(tiny_config, overrides)


def test_the_reader_of_a_config(tiny_config, scenes):
    """8-bit colours are read by Pillow to the bit, or by GDAL with the same values."""
    file = scenes / "images" / "00000.png"
    plain = build_reader(read_config(tiny_config))
    assert isinstance(plain, PillowReader)
    image = plain(file)
    assert np.array_equal(image, read_image(file))
    assert np.array_equal(plain.picture(image), image[..., ::-1])
    bands = build_reader(read_config(tiny_config, ["INPUT.BANDS", "[3, 2, 1]"]))
    assert np.array_equal(bands(file), image.astype(np.float32))


def test_the_mapper_reads_bands(band_config, scenes, tmp_path):
    """Images of seven bands are augmented as those of three colours are."""
    moves = ["INPUT.RANDOM_FLIP", "both", "INPUT.RANDOM_QUARTER_TURN", "True"]
    moves += ["INPUT.CROP.ENABLED", "True", "INPUT.RAND_AUGMENT.ENABLED", "True"]
    moves += ["INPUT.RAND_AUGMENT.OPERATIONS", "['Rotate', 'ShearX', 'TranslateY']"]
    cfg = load_config(band_config, moves, train=True)
    plain = load_config(
        band_config,
        [*moves, "INPUT.BANDS", "[]", "INPUT.STRETCH", ""]
        + ["MODEL.PIXEL_MEAN", "[115.0, 115.0, 115.0]", "MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]"],
        train=True,
    )
    (record, *_) = get_detection_dataset_dicts(cfg.DATASETS.TRAIN)
    as_colours = {**record, "file_name": str(scenes / "images" / "00000.png")}
    for seed in range(5):
        np.random.seed(seed)
        ours = SceneMapper(cfg, is_train=True)(record)
        np.random.seed(seed)
        theirs = SceneMapper(plain, is_train=True)(as_colours)
        assert ours["image"].dtype.is_floating_point
        assert len(ours["image"]) == 7
        difference = (ours["image"][:3] - theirs["image"].float()).abs()
        # Pillow and OpenCV round to whole values, after the crop, the resizing and each warp.
        assert difference.max() < 3
        assert difference.mean() < 0.6
        a, b = ours["instances"], theirs["instances"]
        assert a.gt_stride4_masks.equal(b.gt_stride4_masks)
        assert a.gt_boxes.tensor.equal(b.gt_boxes.tensor)


def test_operations_for_8_bit_colours_are_left_out(band_config, caplog):
    enabled = ["INPUT.RAND_AUGMENT.ENABLED", "True"]
    with caplog.at_level(logging.INFO):
        mapper = SceneMapper(load_config(band_config, enabled, train=True), is_train=True)
    assert "RandAugment leaves out Equalize, Posterize, Color" in caplog.text
    names = mapper.augmentations.augs[-1].operations
    assert {"Brightness", "Rotate", "Solarize"} < {*names}
    listed = [*enabled, "INPUT.RAND_AUGMENT.OPERATIONS", "['Rotate', 'Color']"]
    with pytest.raises(UserError, match="OPERATIONS has Color"):
        SceneMapper(load_config(band_config, listed, train=True), is_train=True)
    raw = [*enabled, "INPUT.STRETCH", "none"]
    mapper = SceneMapper(load_config(band_config, raw, train=True), is_train=True)
    assert "Brightness" not in mapper.augmentations.augs[-1].operations


def test_sizes_that_the_annotations_lack(band_scenes):
    assert read_size(band_scenes / "images" / "00001.tif") == (128, 128)


def test_the_checker_reads_bands(band_config, band_scenes, monkeypatch, capsys, tmp_path):
    import check_dataset

    def check(*arguments):
        content = ["--annotations", str(band_scenes / "annotations.json")]
        content += ["--images", str(band_scenes / "images"), "--workers", "1", "--json"]
        monkeypatch.setattr("sys.argv", ["check_dataset.py", *content, *map(str, arguments)])
        check_dataset.main()
        return json.loads(capsys.readouterr().out)["counts"]

    page = tmp_path / "page.html"
    assert check("--config-file", band_config, "--html", page) == {}
    assert page.stat().st_size > 10_000
    assert sum(v for k, v in check().items() if k.startswith("image-")) == 6


def test_statistics_of_bands(band_scenes, monkeypatch, capsys):
    import compute_statistics
    import yaml

    def compute(*arguments):
        content = ["--annotations", str(band_scenes / "annotations.json")]
        content += ["--images", str(band_scenes / "images"), "--workers", "1"]
        monkeypatch.setattr("sys.argv", ["compute_statistics.py", *content, *arguments])
        compute_statistics.main()
        return yaml.safe_load(capsys.readouterr().out)

    files = sorted((band_scenes / "images").iterdir())
    stored = []
    for file in files:
        with rasterio.open(file) as raster:
            stored.append(raster.read([7, 2]).reshape(2, -1).astype(np.float64))
    values = np.concatenate(stored, axis=1)
    low, high = np.percentile(values, [2, 98], axis=1)
    stretched = (255 * (values.T - low) / (high - low)).clip(0, 255)
    result = compute("--bands", "7", "2", "--stretch", "percentile 2 98")
    assert result["INPUT"]["BANDS"] == [7, 2]
    bounds = [
        [float(v) for v in text.split(",")] for text in result["INPUT"]["STRETCH"].split()[1:]
    ]
    assert np.allclose(bounds, [low, high], rtol=1e-3)
    assert np.allclose(result["MODEL"]["PIXEL_MEAN"], stretched.mean(axis=0), rtol=1e-3)
    assert np.allclose(result["MODEL"]["PIXEL_STD"], stretched.std(axis=0), rtol=1e-3)
    fixed = compute("--bands", "7", "2", "--stretch", result["INPUT"]["STRETCH"])
    assert fixed == result


def test_statistics_leave_invalid_pixels_out_and_take_colours_as_they_are(
    tmp_path, scenes, monkeypatch, capsys
):
    import compute_statistics
    import yaml

    from facenet_d2.data.statistics import measure_bands

    rng = np.random.default_rng(0)
    parts = [rng.normal(1e6, 1, (1, 20, 30)).astype(np.float32) for _ in range(3)]
    files = [write_raster(tmp_path / f"{i}.tif", p, nodata=-1) for i, p in enumerate(parts)]
    parts[1][0, :10] = -1
    parts.append(np.full((1, 5, 5), -1, np.float32))
    files[1] = write_raster(files[1], parts[1], nodata=-1)
    files.append(write_raster(tmp_path / "empty.tif", parts[3], nodata=-1))
    values = np.concatenate([p[p != -1] for p in parts]).astype(np.float64)
    found = measure_bands(files, RasterReader(stretch="none", pixel_mean=(0.0,)))
    assert found.count == len(values)
    assert found.mean == pytest.approx(values.mean(), abs=1e-6)
    assert found.std == pytest.approx(values.std(), rel=1e-6)
    with pytest.raises(UserError, match="no valid pixels"):
        measure_bands(files[3:], RasterReader(stretch="none", pixel_mean=(0.0,)))

    monkeypatch.setattr(
        "sys.argv",
        ["compute_statistics.py", "--annotations", str(scenes / "annotations.json")]
        + ["--images", str(scenes / "images"), "--workers", "1"],
    )
    compute_statistics.main()
    result = yaml.safe_load(capsys.readouterr().out)
    pixels = np.concatenate(
        [cv2.imread(str(f)).reshape(-1, 3) for f in (scenes / "images").iterdir()]
    )
    assert "INPUT" not in result
    assert np.allclose(result["MODEL"]["PIXEL_MEAN"], pixels.mean(axis=0), atol=2e-3)
    assert np.allclose(result["MODEL"]["PIXEL_STD"], pixels.std(axis=0), atol=2e-3)
