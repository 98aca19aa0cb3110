"""Areas of interest on the grid of a scene."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest
import shapely
from rasters import (
    CRS,
    HEIGHT,
    NORTH_UP,
    ROTATED,
    SOUTH_UP,
    UTM,
    WIDTH,
    Affine,
    noise,
    rasterio,
    write_raster,
)

from facenet_d2.errors import UserError
from facenet_d2.scenes.area import Area
from facenet_d2.scenes.geo import known_crs, pyogrio
from facenet_d2.scenes.raster import Raster

WHOLE = (0, 0, WIDTH, HEIGHT)
# A triangle with a hole, and a square, in pixels; no edge meets the centre of a pixel.
SHAPE = shapely.MultiPolygon(
    [
        shapely.Polygon(
            [(5.1, 5.2), (60.3, 12.2), (20.1, 45.7)], [[(20.2, 15.1), (28.3, 15.3), (24.1, 22.7)]]
        ),
        shapely.box(55.6, 30.7, 62.4, 37.1),
    ]
)


def write_areas(path, geometries, crs="EPSG:32633", **options):
    """Write geometries to a vector file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided")
        pyogrio.raw.write(
            path,
            np.array([shapely.to_wkb(g) for g in geometries], object),
            field_data=[],
            fields=[],
            geometry_type="Unknown",
            crs=crs,
            **options,
        )
    return path


def on_map(geometry, transform):
    return shapely.transform(geometry, lambda points: np.transpose(transform @ tuple(points.T)))


def centres_within(geometry):
    """Return which pixels have their centres in a polygon in pixels, one by one."""
    shapely.prepare(geometry)
    return np.array(
        [
            [shapely.contains_xy(geometry, column + 0.5, row + 0.5) for column in range(WIDTH)]
            for row in range(HEIGHT)
        ]
    )


@pytest.mark.parametrize("transform", [NORTH_UP, ROTATED, SOUTH_UP])
@pytest.mark.parametrize("suffix", ["gpkg", "shp", "fgb"])
def test_pixels_within_the_area(transform, suffix, tmp_path):
    values = noise(2, "uint8")
    path = write_raster(tmp_path / "scene.tif", values, transform=transform)
    area = Area.from_file(
        write_areas(tmp_path / f"area.{suffix}", [on_map(part, transform) for part in SHAPE.geoms])
    )
    expected = centres_within(SHAPE)
    with Raster(path, area=area) as raster:
        read, valid = raster.read(WHOLE)
        assert np.array_equal(valid, expected)
        assert np.array_equal(read, np.where(expected, values, 0))
        for left in range(-9, WIDTH, 17):
            window = (left, 11, left + 17, 40)
            inner = slice(max(left, 0), left + 17)
            part = raster.read(window)[1][:, max(0, -left) :][:, : WIDTH - max(left, 0)]
            assert np.array_equal(part, expected[11:40, inner])
        assert raster.read(WHOLE, within_area=False)[1].all()
        assert raster.area.share == pytest.approx(1)


def test_windows_outside_of_the_area_are_not_read(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (1, 128, 128), dtype=np.uint8)
    path = write_raster(
        tmp_path / "scene.tif", values, compress="deflate", tiled=True, blockxsize=64, blockysize=64
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    area = write_areas(tmp_path / "area.gpkg", [on_map(shapely.box(0, 0, 50, 50), NORTH_UP)])
    with Raster(path, area=Area.from_file(area)) as raster:
        assert not raster.read((64, 64, 128, 128))[1].any()
        assert raster.read((0, 0, 64, 64))[1].any()
        with pytest.raises(UserError, match="cannot be read"):
            raster.read((64, 64, 128, 128), within_area=False)


def densified(geometry, source, target):
    """Convert a polygon with vertices so close that its edges stay straight."""
    return shapely.transform(
        shapely.segmentize(geometry, shapely.length(geometry) / 5000),
        lambda points: np.transpose(rasterio.warp.transform(source, target, *points.T)),
    )


# Wide scenes, where an edge that is straight in one system is curved in another.
@pytest.mark.parametrize(
    ("crs", "transform", "area_crs"),
    [
        (UTM, Affine(4000, 0, 300_000, 0, -4000, 7_900_000), "EPSG:4326"),
        (UTM, ROTATED @ Affine.scale(8000), "EPSG:3857"),
        (CRS.from_epsg(4326), Affine(0.1, 0, 12, 0, -0.1, 70), "EPSG:32633"),
        (CRS.from_epsg(3413), Affine(30_000, 0, -1_000_000, 0, -30_000, 800_000), "EPSG:4326"),
    ],
)
def test_areas_in_other_reference_systems(crs, transform, area_crs, tmp_path):
    path = write_raster(tmp_path / "scene.tif", noise(1, "uint8"), crs=crs, transform=transform)
    if crs == CRS.from_epsg(3413):
        # A parallel around the north pole, within a scene that contains the pole.
        columns, rows = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
        x, y = transform @ (columns.ravel(), rows.ravel())
        latitudes = np.array(rasterio.warp.transform(crs, area_crs, x, y))[1]
        expected = (latitudes > 85).reshape(HEIGHT, WIDTH)
        file = write_areas(tmp_path / "area.gpkg", [shapely.box(-180, 85, 180, 90)], area_crs)
    else:
        # Only the corners are converted; the edges are straight in the system of the area.
        corners = np.array([(8, 6), (62, 9), (49, 45)])
        points = np.transpose(transform @ tuple(corners.T))
        area = shapely.Polygon(
            np.transpose(rasterio.warp.transform(crs, CRS.from_string(area_crs), *points.T))
        )
        file = write_areas(tmp_path / "area.gpkg", [area], area_crs)
        expected = centres_within(
            on_map(densified(area, CRS.from_string(area_crs), crs), ~transform)
        )
    with Raster(path, area=Area.from_file(file)) as raster:
        valid = raster.read(WHOLE)[1]
    assert 100 < expected.sum() < HEIGHT * WIDTH
    # The centres of few pixels lie between the edge and its pieces.
    assert (valid != expected).sum() <= 2


@pytest.mark.parametrize("west", [179.9996, -180.0004])
@pytest.mark.parametrize("shift", [0, 360, -360])
def test_areas_at_the_dateline(west, shift, tmp_path):
    transform = Affine(1e-5, 0, west, 0, -1e-5, -17)
    path = write_raster(
        tmp_path / "scene.tif", noise(1, "uint8"), crs=CRS.from_epsg(4326), transform=transform
    )
    area = shapely.affinity.translate(on_map(SHAPE, transform), shift)
    file = write_areas(tmp_path / "area.gpkg", [area], "EPSG:4326")
    with Raster(path, area=Area.from_file(file)) as raster:
        assert np.array_equal(raster.read(WHOLE)[1], centres_within(SHAPE))
    # Cut at 180 degrees, as RFC 7946 asks for, and in UTM.
    halves = [shapely.box(179.9998, -17.0004, 180, -17.0001)]
    halves.append(shapely.box(-180, -17.0004, -179.9999, -17.0001))
    file = write_areas(tmp_path / "halves.geojson", halves, "EPSG:4326")
    expected = centres_within(shapely.box(20, 10, 50, 40))
    with Raster(path, area=Area.from_file(file)) as raster:
        assert np.array_equal(raster.read(WHOLE)[1], expected)
    zone = CRS.from_epsg(32701)
    box = shapely.segmentize(shapely.box(179.9998, -17.0004, 180.0001, -17.0001), 1e-5)
    file = write_areas(
        tmp_path / "utm.gpkg", [densified(box, CRS.from_epsg(4326), zone)], "EPSG:32701"
    )
    with Raster(path, area=Area.from_file(file)) as raster:
        assert (raster.read(WHOLE)[1] != expected).sum() <= 2


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:32633"])
def test_large_areas_contain_the_scene(crs, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = write_raster(tmp_path / "scene.tif", noise(1, "uint8"))
    size = 4e6 if crs == "EPSG:32633" else 2e7
    world = (
        shapely.box(-180, -90, 180, 90)
        if crs == "EPSG:4326"
        else shapely.box(-size, -size, size, size)
    )
    file = write_areas(tmp_path / "world.gpkg", [world], crs)
    if crs == "EPSG:32633":
        with pytest.raises(UserError, match="no part of it lies in"):
            Raster(path, area=Area.from_file(file))
        return
    with Raster(path, area=Area.from_file(file)) as raster:
        assert raster.read(WHOLE)[1].all()
        assert 0 < raster.area.share < 1e-6
    assert "of the area of interest" in caplog.text


def test_share_of_the_area_in_the_scene(tmp_path):
    path = write_raster(tmp_path / "scene.tif", noise(1, "uint8"))
    # A quarter of the square is in the scene's corner.
    area = on_map(shapely.box(-10, -10, 10, 10), NORTH_UP)
    for crs in ("EPSG:32633", "EPSG:25833", "EPSG:4326"):
        there = densified(area, UTM, CRS.from_string(crs))
        file = write_areas(tmp_path / "area.gpkg", [there], crs)
        with Raster(path, area=Area.from_file(file)) as raster:
            assert raster.area.share == pytest.approx(0.25, abs=1e-3)


def test_areas_of_scenes_without_a_reference_system(tmp_path):
    path = write_raster(tmp_path / "scene.tif", noise(1, "uint8"), crs=None, transform=None)
    file = write_areas(tmp_path / "pixels.gpkg", [SHAPE], None)
    with Raster(path, area=Area.from_file(file)) as raster:
        assert np.array_equal(raster.read(WHOLE)[1], centres_within(SHAPE))
    with pytest.raises(UserError, match="because the scene has no coordinate reference system"):
        Raster(path, area=Area.from_file(write_areas(tmp_path / "utm.gpkg", [SHAPE])))
    path = write_raster(tmp_path / "utm.tif", noise(1, "uint8"))
    with pytest.raises(UserError, match="because the area has no coordinate reference system"):
        Raster(path, area=Area.from_file(file))


@pytest.mark.parametrize("kind", ["geographic", "Cartesian"])
def test_undefined_reference_systems_of_geopackages(kind):
    wkt = {
        "geographic": 'GEOGCS["Undefined geographic SRS",DATUM["unknown",SPHEROID["unknown",'
        '6378137,298.257223563]],PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]]',
        "Cartesian": 'LOCAL_CS["Undefined Cartesian SRS",UNIT["metre",1]]',
    }
    assert known_crs(wkt[kind]) is None
    assert known_crs("EPSG:4326") == CRS.from_epsg(4326)
    assert known_crs(CRS()) is None
    assert known_crs(None) is None


def test_invalid_polygons_are_repaired(tmp_path):
    path = write_raster(tmp_path / "scene.tif", noise(1, "uint8"))
    bow_tie = shapely.Polygon([(10, 10), (30, 30), (30, 10), (10, 30)])
    overlapping = [shapely.box(40, 10, 55, 25), shapely.box(50, 20, 62, 32)]
    mixed = shapely.GeometryCollection(
        [shapely.Point(1, 1), shapely.LineString([(0, 0), (70, 52)]), overlapping[1]]
    )
    shapes = [bow_tie, overlapping[0], mixed]
    file = write_areas(tmp_path / "area.gpkg", [on_map(s, NORTH_UP) for s in shapes])
    triangles = [
        shapely.Polygon([(10, 10), (20, 20), (10, 30)]),
        shapely.Polygon([(30, 10), (20, 20), (30, 30)]),
    ]
    expected = centres_within(shapely.union_all(triangles + overlapping))
    with Raster(path, area=Area.from_file(file)) as raster:
        # Pixel centres on the diagonals belong to one side or the other.
        assert (raster.read(WHOLE)[1] != expected).sum() <= 40
        assert np.array_equal(raster.read(WHOLE)[1][:, 35:], expected[:, 35:])


@pytest.mark.parametrize(
    "geometries",
    [
        [],
        [shapely.Polygon()],
        [shapely.Point(500_010, 5_799_990)],
        [shapely.LineString([(500_010, 5_799_990), (500_020, 5_799_980)])],
        [shapely.Polygon([(500_010, 5_799_990), (500_020, 5_799_980), (500_015, 5_799_985)])],
    ],
)
def test_areas_without_an_area(geometries, tmp_path):
    file = write_areas(tmp_path / "area.gpkg", geometries)
    with pytest.raises(UserError, match=r"area\.gpkg: it contains no polygon with an area"):
        Area.from_file(file)


def test_areas_elsewhere(tmp_path):
    path = write_raster(tmp_path / "scene.tif", noise(1, "uint8"))
    # Longitude and latitude in a file that claims to be in metres, and the other way round.
    for crs, polygon in (
        ("EPSG:32633", shapely.box(14.9, 52.3, 15.1, 52.4)),
        ("EPSG:4326", shapely.box(-60, 10, -59, 11)),
    ):
        file = write_areas(tmp_path / "area.gpkg", [polygon], crs)
        with pytest.raises(
            UserError, match=rf"no part of it lies in .*scene\.tif; .* {crs} and EPSG:32633"
        ):
            Raster(path, area=Area.from_file(file))


def test_layers(tmp_path):
    path = write_raster(tmp_path / "scene.tif", noise(1, "uint8"))
    file = tmp_path / "area.gpkg"
    shapes = {"first": shapely.box(0, 0, 10, 10), "second": shapely.box(20, 20, 30, 30)}
    for name, shape in shapes.items():
        write_areas(file, [on_map(shape, NORTH_UP)], layer=name, append=file.exists())
    with pytest.raises(UserError, match=r"2 layers \(first, second\); name one: .*=first"):
        Area.from_file(file)
    with Raster(path, area=Area.from_file(f"{file}|layername=second")) as raster:
        assert np.array_equal(raster.read(WHOLE)[1], centres_within(shapes["second"]))
    with pytest.raises(UserError, match="third: it cannot be read"):
        Area.from_file(f"{file}|layername=third")


@pytest.mark.parametrize("content", [None, b"", b"text"])
def test_files_that_are_not_vectors(content, tmp_path):
    file = tmp_path / "area.geojson"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"^Area of interest .*area\.geojson: it cannot be read"):
        Area.from_file(file)


def test_fingerprints_tell_areas_apart(tmp_path):
    path = write_raster(tmp_path / "scene.tif", noise(1, "uint8"))
    digests = []
    for size in (10, 10, 11):
        file = write_areas(tmp_path / "area.gpkg", [on_map(shapely.box(0, 0, size, 10), NORTH_UP)])
        with Raster(path, area=Area.from_file(file)) as raster:
            digests.append(raster.fingerprint()["area"])
        file.unlink()
    with Raster(path) as raster:
        digests.append(raster.fingerprint()["area"])
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
