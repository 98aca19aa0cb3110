"""Files of a scene's instances, read back by other programs than the writers."""

import json
import os
import sqlite3
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pycocotools.mask as mask_util
import pyogrio
import pyogrio.raw
import pytest
import rasterio
import rfc7946
import shapely
from affine import Affine
from PIL import Image
from scene_masks import (
    NORTH_UP,
    ROTATED,
    SOUTH_UP,
    authalic,
    describe,
    ellipse,
    noise,
    random_instances,
    whole_mask,
)

from facenet_d2 import UserError
from facenet_d2.scenes.description import SceneInstance
from facenet_d2.scenes.mask_writers import scene_rle
from facenet_d2.scenes.vectors import Vectorizer
from facenet_d2.scenes.writers import FORMATS, check_outputs, write_scene

VECTORS = (".gpkg", ".fgb", ".geojson")
PICTURE = np.full((60, 70, 3), 120, np.uint8)


@pytest.fixture(scope="module")
def scene():
    return describe(ROTATED, 32633, scene_id=7, class_ids=(3, 1, 2), metadata={"model": "é"})


@pytest.fixture(scope="module")
def instances(scene):
    return random_instances(np.random.default_rng(0), scene, 120)


@pytest.fixture(scope="module")
def features(scene, instances):
    return Vectorizer(scene)(instances)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, scene, instances):
    """All formats that need no further package, from one stream."""
    folder = tmp_path_factory.mktemp("scene")
    files = [folder / f"a{suffix}" for suffix in FORMATS if suffix != ".parquet"]
    written = write_scene(files, scene, iter(instances), picture=PICTURE)
    assert (written.files, written.instances) == (tuple(files), 120)
    counts = np.bincount([i.class_index for i in instances])
    assert written.classes == dict(zip(scene.class_names, counts))
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in files)
    return folder


def assert_equal_columns(columns, expected):
    assert list(columns) == list(expected)
    for name, column in expected.items():
        if column.dtype == float:
            np.testing.assert_array_equal(np.asarray(columns[name], float), column)
        else:
            assert list(columns[name]) == list(column)


def rings_of(polygons):
    return [sorted(map(shapely.to_wkt, shapely.normalize(p.boundary).geoms)) for p in polygons]


def parse_wkb(data):
    """Parse a MultiPolygon in little-endian WKB by hand into parts, rings and points."""
    position = 0

    def read(form):
        nonlocal position
        values = struct.unpack_from("<" + form, data, position)
        position += struct.calcsize("<" + form)
        return values

    order, kind, num_parts = read("BII")
    assert (order, kind) == (1, 6)
    parts = []
    for _ in range(num_parts):
        order, kind, num_rings = read("BII")
        assert (order, kind) == (1, 3)
        parts.append([])
        for _ in range(num_rings):
            (num_points,) = read("I")
            points = np.array(read(f"{2 * num_points}d")).reshape(-1, 2)
            assert (points[0] == points[-1]).all()
            parts[-1].append(points)
    assert position == len(data)
    return parts


def shoelace(points):
    x, y = (points - points[0]).T
    return abs((x[:-1] * y[1:] - x[1:] * y[:-1]).sum()) / 2


def test_geopackage_is_read_by_sqlite_alone(folder, scene, instances, features):
    database = sqlite3.connect(folder / "a.gpkg")
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert database.execute("PRAGMA application_id").fetchone() == (0x47504B47,)
    assert database.execute(
        "SELECT column_name, geometry_type_name, srs_id FROM gpkg_geometry_columns "
        "WHERE table_name = 'instances'"
    ).fetchall() == [("geom", "MULTIPOLYGON", 32633)]
    names = list(features.attributes)
    listed = ", ".join(f'"{name}"' for name in names)
    rows = database.execute(f"SELECT geom, {listed} FROM instances ORDER BY fid").fetchall()
    assert len(rows) == len(instances)
    columns = dict(zip(names, zip(*(row[1:] for row in rows))))
    assert_equal_columns(columns, features.attributes)
    for (blob, *_), instance in zip(rows, instances):
        magic, version, flags, srs = struct.unpack_from("<2sBBi", blob)
        assert (magic, version, srs) == (b"GP", 0, 32633)
        assert flags & 1
        envelope = {0: 0, 1: 32, 2: 48, 3: 48, 4: 64}[flags >> 1 & 7]
        parts = parse_wkb(blob[8 + envelope :])
        area = sum(shoelace(shell) - sum(map(shoelace, holes)) for shell, *holes in parts)
        assert area == pytest.approx(instance.mask.sum() * 0.25, rel=1e-6)
    assert database.execute("SELECT count(*) FROM rtree_instances_geom").fetchone() == (120,)
    database.close()


def test_geopackage_has_a_qgis_style_that_colours_each_class(folder, scene):
    database = sqlite3.connect(folder / "a.gpkg")
    (table, column, default, style, time), *others = database.execute(
        "SELECT f_table_name, f_geometry_column, useAsDefault, styleQML, update_time "
        "FROM layer_styles"
    ).fetchall()
    assert (table, column, default, others) == ("instances", "geom", 1, [])
    # GDAL reports times in another form as damage.
    assert time.endswith("Z")
    assert time[10] == "T"
    assert database.execute(
        "SELECT data_type FROM gpkg_contents WHERE table_name = 'layer_styles'"
    ).fetchall() == [("attributes",)]
    database.close()
    root = ElementTree.fromstring(style.partition("\n")[2])
    renderer = root.find("renderer-v2")
    assert (renderer.get("type"), renderer.get("attr")) == ("categorizedSymbol", "class")
    colors = {}
    for category in renderer.find("categories"):
        (symbol,) = (s for s in renderer.find("symbols") if s.get("name") == category.get("symbol"))
        options = {o.get("name"): o.get("value") for o in symbol.iter("Option") if o.get("name")}
        colors[category.get("value")] = tuple(map(int, options["outline_color"].split(",")[:3]))
    assert colors == dict(zip(scene.class_names, scene.class_colors))
    assert len(set(colors.values())) == 3


def test_class_names_with_markup_are_quoted_in_the_style(tmp_path):
    names = ('"a" & <b>', "c'd", "ë")
    scene = describe(NORTH_UP, 32633, names=names)
    write_scene([tmp_path / "a.gpkg"], scene, [])
    database = sqlite3.connect(tmp_path / "a.gpkg")
    ((style,),) = database.execute("SELECT styleQML FROM layer_styles").fetchall()
    database.close()
    categories = ElementTree.fromstring(style.partition("\n")[2]).iter("category")
    assert tuple(category.get("value") for category in categories) == names


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb"])
def test_vectors_are_read_back_equal(folder, features, suffix):
    path = folder / f"a{suffix}"
    meta, _, geometries, columns = pyogrio.raw.read(path, layer="instances")
    assert meta["crs"] == "EPSG:32633"
    order = np.argsort(columns[0])  # FlatGeobuf is in the order of its index.
    assert_equal_columns(
        dict(zip(meta["fields"], (column[order] for column in columns))), features.attributes
    )
    polygons = shapely.from_wkb(geometries)[order]
    assert shapely.is_valid(polygons).all()
    assert rings_of(polygons) == rings_of(features.polygons)


def test_files_contain_the_metadata_of_the_scene(folder):
    package = pyogrio.read_info(folder / "a.gpkg", layer="instances")["layer_metadata"]
    flatgeobuf = pyogrio.read_info(folder / "a.fgb")["layer_metadata"]
    with rasterio.open(folder / "a.tif") as raster:
        tags = raster.tags()
    contents = [package["facenet_d2"], flatgeobuf["DESCRIPTION"], tags["FACENET_D2"]]
    contents = [json.loads(text) for text in contents]
    contents.append(json.loads((folder / "a.geojson").read_text())["metadata"])
    contents.append(json.loads(Image.open(folder / "a.png").text["facenet_d2"]))
    for content in contents:
        assert content["scene"] == "site 1"
        assert content["crs"] == "EPSG:32633"
        assert content["transform"] == list(ROTATED)[:6]
        assert content["size"] == [700, 600]
        assert content["measures"].startswith("metres")
        assert content["model"] == "é"


def test_geojson_is_strict(folder, instances, features):
    content = rfc7946.check_file(folder / "a.geojson")
    assert [feature["id"] for feature in content["features"]] == [i.id for i in instances]
    geometries = shapely.from_geojson(
        [json.dumps(feature["geometry"]) for feature in content["features"]]
    )
    assert shapely.is_valid(geometries).all()
    for feature, number in zip(content["features"], range(len(instances))):
        for name, column in features.attributes.items():
            value = column[number]
            assert feature["properties"][name] == (
                pytest.approx(value, rel=1e-8) if column.dtype == float else value
            )


def geodesic_area(geometry):
    """Area on the ellipsoid of a geometry in longitude and latitude."""

    def equal_area(points):
        return np.stack([np.radians(points[:, 0]), authalic(points[:, 1])], axis=1)

    return shapely.transform(shapely.segmentize(geometry, 0.01), equal_area).area


PLACES = {
    "utm": (32633, ROTATED),
    "south up": (32633, SOUTH_UP),
    "degrees": (4326, Affine(1e-4, 0, 13, 0, -1e-4, 48)),
    "mercator": (3857, Affine(5, 0, 1_500_000, 0, -5, 7_000_000)),
    "over the dateline in UTM": (32660, Affine(10, 0, 833_978 - 3500, 0, -10, 3000)),
    "over 180 degrees": (4326, Affine(1e-3, 0, 179.7, 0, -1e-3, 10)),
    "from 0 to 360 degrees": (4326, Affine(1e-3, 0, 200, 0, -1e-3, 10)),
    "below -180 degrees": (4326, Affine(1e-3, 0, -180.2, 0, -1e-3, 10)),
}


@pytest.mark.parametrize(("code", "transform"), PLACES.values(), ids=PLACES)
def test_geojson_is_strict_anywhere(tmp_path, code, transform):
    scene = describe(transform, code)
    instances = random_instances(np.random.default_rng(1), scene, 40)
    instances.append(SceneInstance(41, 0, 0.5, 5, 5, ellipse(500, 680, hole=40)))
    path = tmp_path / "a.geojson"
    write_scene([path], scene, instances)
    content = rfc7946.check_file(path)
    geometries = shapely.from_geojson([json.dumps(f["geometry"]) for f in content["features"]])
    assert shapely.is_valid(geometries).all()
    for feature, geometry in zip(content["features"], geometries):
        area = feature["properties"]["area_m2"]
        # Rounding moves vertices by up to 8 mm; areas in the plane of UTM differ by 0.2 %.
        rounding = 0.008 * feature["properties"]["perimeter_m"]
        assert abs(geodesic_area(geometry) - area) < 0.0025 * area + rounding


def test_geojson_cuts_at_the_antimeridian(tmp_path):
    scene = describe(Affine(0.5, 0, 179, 0, -0.5, 10), 4326, size=(20, 20))
    path = tmp_path / "a.geojson"
    write_scene([path], scene, [SceneInstance(1, 0, 0.5, 0, 0, np.ones((2, 6), bool))])
    geometry = rfc7946.check_file(path)["features"][0]["geometry"]
    assert shapely.from_geojson(json.dumps(geometry)).equals(
        shapely.box(179, 9, 180, 10) | shapely.box(-180, 9, -178, 10)
    )


@pytest.mark.parametrize("shift", [0, 0.3, 0.5])
def test_geojson_ends_at_the_pole(tmp_path, shift):
    """Polygons around, over and beside the pole, whose position may be that of a vertex."""
    size = 20_000
    transform = Affine(1000, 0, -size / 2 + shift * 1000, 0, -1000, size / 2)
    scene = describe(transform, 3413, size=(20, 20))
    ring = np.ones((12, 12), bool)
    ring[3:9, 3:9] = False
    rng = np.random.default_rng(2)
    masks = [(4, 4, ring), (4, 4, np.ones((12, 12), bool)), (9, 9, np.ones((1, 1), bool))]
    masks += [(10, 10, np.ones((3, 3), bool)), (9, 9, ~np.eye(2, dtype=bool))]
    masks += [(8, 8, np.array([[0, 1, 1], [1, 1, 1], [1, 1, 0]], bool))]
    masks += [(4, 4, noise(rng, 11, 11)), (0, 9, np.ones((2, 20), bool))]
    instances = [SceneInstance(n, 0, 0.5, x, y, m) for n, (x, y, m) in enumerate(masks, start=1)]
    path = tmp_path / "a.geojson"
    write_scene([path], scene, instances)
    content = rfc7946.check_file(path)
    for feature in content["features"]:
        geometry = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert geometry.is_valid
        area = feature["properties"]["area_m2"]
        assert geodesic_area(geometry) == pytest.approx(area, rel=0.03)


def test_small_pixels_have_more_decimals(tmp_path):
    scene = describe(Affine(0.01, 0, 400_000, 0, -0.01, 5_800_000), 32633)
    path = tmp_path / "a.geojson"
    write_scene([path], scene, [SceneInstance(1, 0, 0.5, 5, 5, ellipse(30, 40, hole=3))])
    with pytest.raises(rfc7946.Violation, match=r"11\.2"):
        rfc7946.check_file(path)
    (feature,) = rfc7946.check_file(path, max_decimals=8)["features"]
    geometry = shapely.from_geojson(json.dumps(feature["geometry"]))
    assert len(geometry.interiors) == 1
    area = feature["properties"]["area_m2"]
    assert geodesic_area(geometry) == pytest.approx(area, rel=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(crs={}), "4: member crs"),
        (lambda c: c["features"][0]["geometry"]["coordinates"][0].reverse(), "wrong direction"),
        (lambda c: c["features"][0]["geometry"]["coordinates"][0].pop(), "not closed"),
        (lambda c: c["features"][0]["geometry"]["coordinates"][0][1].__setitem__(0, 181), "4: 181"),
        (lambda c: c["features"][0].pop("properties"), "members are missing"),
    ],
)
def test_the_check_of_geojson_finds_faults(tmp_path, change, message):
    path = tmp_path / "a.geojson"
    square = SceneInstance(1, 0, 0.5, 5, 5, np.ones((2, 2), bool))
    write_scene([path], describe(NORTH_UP, 32633), [square])
    content = rfc7946.check_file(path)
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(rfc7946.Violation, match=message):
        rfc7946.check_file(path)


def test_coco_results_are_the_masks(folder, scene, instances):
    results = json.loads((folder / "a.json").read_text())
    assert len(results) == len(instances)
    for result, instance in zip(results, instances):
        mask = whole_mask(instance, scene)
        assert (mask_util.decode(result["segmentation"]) == mask).all()
        assert result["bbox"] == mask_util.toBbox(result["segmentation"]).tolist()
        assert result["image_id"] == 7
        assert result["category_id"] == (3, 1, 2)[instance.class_index]
        assert (result["score"], result["id"]) == (instance.score, instance.id)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5), (5, 1), (1, 5)])
def test_rle_equals_that_of_the_whole_mask(height, width):
    rng = np.random.default_rng(3)
    for _ in range(30):
        h, w = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        mask = noise(rng, h, w)
        whole = np.zeros((height, width), np.uint8, order="F")
        whole[y : y + h, x : x + w] = mask
        expected = mask_util.encode(whole)
        rle = scene_rle(mask, x, y, height, width)
        assert rle["counts"].encode() == expected["counts"]
        assert rle["size"] == expected["size"]


@pytest.mark.parametrize("transform", [NORTH_UP, SOUTH_UP, ROTATED])
def test_the_raster_has_the_ids_of_the_best_instances(tmp_path, transform):
    scene = describe(transform, 32633)
    instances = random_instances(np.random.default_rng(4), scene, 90, largest=300)
    path = tmp_path / "a.tif"
    write_scene([path], scene, instances)
    expected = np.zeros((scene.height, scene.width), np.uint32)
    for instance in sorted(instances, key=lambda i: (i.score, -i.id)):
        expected[whole_mask(instance, scene)] = instance.id
    with rasterio.open(path) as raster:
        assert (raster.read(1) == expected).all()
        assert raster.crs == scene.crs
        assert raster.transform == transform
        assert raster.nodata == 0
        assert raster.profile["tiled"]
        assert raster.compression.name == "deflate"
        assert raster.dtypes == ("uint32",)


def test_ids_beyond_16_bits_and_masks_over_many_strips(tmp_path):
    scene = describe(NORTH_UP, 32633, size=(1100, 300))
    instance = SceneInstance(4_000_000_000, 0, 0.5, 10, 3, ellipse(1090, 200, hole=50))
    write_scene([tmp_path / "a.tif"], scene, [instance])
    with rasterio.open(tmp_path / "a.tif") as raster:
        assert ((raster.read(1) == 4_000_000_000) == whole_mask(instance, scene)).all()


def test_the_overview_has_instances_and_a_legend(tmp_path, scene):
    instance = SceneInstance(1, 1, 0.5, 200, 100, np.ones((200, 300), bool))
    picture = np.full((300, 350, 3), 120, np.uint8)
    write_scene([tmp_path / "a.png"], scene, [instance], picture=picture)
    drawing = np.asarray(Image.open(tmp_path / "a.png"))
    assert drawing.shape[0] > 300
    inside = np.zeros((300, 350), bool)
    inside[51:149, 101:249] = True
    mixed = 0.6 * 120 + 0.4 * np.array(scene.class_colors[1])
    np.testing.assert_allclose(drawing[:300][inside], np.tile(mixed, (inside.sum(), 1)), atol=1)
    outside = np.ones((300, 350), bool)
    outside[49:151, 99:251] = False
    assert (drawing[:300][outside] == 120).all()
    legend = drawing[300:].reshape(-1, 3).tolist()
    assert all(list(color) in legend for color in scene.class_colors)


def test_the_overview_leaves_holes_open(tmp_path):
    scene = describe(NORTH_UP, 32633, size=(100, 100))
    ring = np.ones((80, 80), bool)
    ring[30:50, 30:50] = False
    picture = np.full((100, 100, 3), 120, np.uint8)
    write_scene(
        [tmp_path / "a.png"], scene, [SceneInstance(1, 0, 0.5, 10, 10, ring)], picture=picture
    )
    drawing = np.asarray(Image.open(tmp_path / "a.png"))
    assert (drawing[45:55, 45:55] == 120).all()
    assert (drawing[20:30, 20:30] != 120).all()


def test_parquet_is_geoparquet(tmp_path, scene, instances, features):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    write_scene([path], scene, instances)
    metadata = parquet.read_metadata(path).metadata
    geo = json.loads(metadata[b"geo"])
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    column = geo["columns"]["geometry"]
    assert column["encoding"] == "WKB"
    assert set(column["geometry_types"]) == {"Polygon", "MultiPolygon"}
    assert column["crs"]["id"] == {"authority": "EPSG", "code": 32633}
    assert column["bbox"] == shapely.total_bounds(features.polygons).tolist()
    table = parquet.read_table(path)
    polygons = shapely.from_wkb(table["geometry"].to_pylist())
    assert shapely.equals(polygons, features.polygons).all()
    attributes = {name: table[name].to_pylist() for name in features.attributes}
    assert_equal_columns(attributes, features.attributes)
    bounds = [list(bbox.values()) for bbox in table["bbox"].to_pylist()]
    np.testing.assert_array_equal(bounds, shapely.bounds(polygons))
    assert json.loads(metadata[b"facenet_d2"])["model"] == "é"


def test_parquet_without_pyarrow_is_refused_in_a_sentence(tmp_path, scene, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"a\.parquet: GeoParquet needs pyarrow.*pip install"):
        write_scene([tmp_path / "a.parquet"], scene, [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".geojson", ".json", ".tif", ".png"])
def test_equal_results_are_equal_files_alone_or_together(
    tmp_path, scene, instances, folder, suffix
):
    path = tmp_path / f"a{suffix}"
    write_scene([path], scene, instances, picture=PICTURE)
    assert path.read_bytes() == (folder / path.name).read_bytes()


def test_a_scene_without_instances_makes_empty_files(tmp_path, scene):
    files = [tmp_path / f"a{suffix}" for suffix in FORMATS if suffix != ".parquet"]
    write_scene(files, scene, [], picture=PICTURE)
    for suffix in (".gpkg", ".fgb"):
        meta, _, geometries, _ = pyogrio.raw.read(tmp_path / f"a{suffix}", layer="instances")
        assert (len(geometries), meta["fields"][4]) == (0, "area_m2")
    assert rfc7946.check_file(tmp_path / "a.geojson")["features"] == []
    assert json.loads((tmp_path / "a.json").read_text()) == []
    with rasterio.open(tmp_path / "a.tif") as raster:
        assert not raster.read(1).any()


def test_a_scene_without_crs_says_so(tmp_path):
    scene = describe(Affine.identity(), None)
    mask = np.ones((3, 8), bool)
    files = [tmp_path / f"a{suffix}" for suffix in FORMATS if suffix != ".parquet"]
    write_scene(files, scene, [SceneInstance(1, 0, 0.5, 5, 9, mask)], picture=PICTURE)
    square = shapely.box(5, 9, 13, 12)
    for suffix in VECTORS:
        path = tmp_path / f"a{suffix}"
        layer = "instances" if suffix == ".gpkg" else None
        meta, _, geometries, columns = pyogrio.raw.read(path, layer=layer)
        assert meta["crs"] == ("EPSG:4326" if suffix == ".geojson" else None)
        assert shapely.from_wkb(geometries)[0].equals(square)
        assert dict(zip(meta["fields"], columns))["area_px"] == 24
    metadata = json.loads((tmp_path / "a.geojson").read_text())["metadata"]
    assert metadata["crs"] is None
    assert metadata["coordinates"].startswith("pixels")
    assert metadata["measures"].startswith("pixels")


def test_parts_of_a_mask_are_one_feature(tmp_path):
    parts = np.array([[1, 0, 1]], bool)
    scene = describe(NORTH_UP, 32633)
    write_scene([tmp_path / f"a{s}" for s in VECTORS], scene, [SceneInstance(1, 0, 1, 0, 0, parts)])
    (feature,) = rfc7946.check_file(tmp_path / "a.geojson")["features"]
    assert feature["geometry"]["type"] == "MultiPolygon"
    for suffix in (".gpkg", ".fgb"):
        _, _, geometries, _ = pyogrio.raw.read(tmp_path / f"a{suffix}", layer="instances")
        assert [len(polygon.geoms) for polygon in shapely.from_wkb(geometries)] == [2]


def test_an_error_leaves_old_files_and_nothing_else(tmp_path, scene, instances):
    files = [tmp_path / f"a{suffix}" for suffix in FORMATS if suffix != ".parquet"]
    for path in files:
        path.write_text("old")

    def interrupted():
        yield from instances
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scene(files, scene, interrupted(), picture=PICTURE)
    assert {path.read_text() for path in files} == {"old"}
    assert len(list(tmp_path.iterdir())) == len(files)


def test_files_of_killed_processes_are_removed(tmp_path, scene, instances):
    ended = subprocess.Popen(["true"])
    ended.wait()
    for suffix in (".gpkg", ".gpkg-journal"):
        (tmp_path / f".out.{ended.pid}.tmp{suffix}").touch()
    others = {f".other.{ended.pid}.tmp.gpkg", f".out.{os.getppid()}.tmp.gpkg"}
    for name in others:
        (tmp_path / name).touch()
    write_scene([tmp_path / "out.gpkg"], scene, instances)
    assert {path.name for path in tmp_path.iterdir()} == {"out.gpkg", *others}


def test_simplification_reaches_the_files(tmp_path, scene, instances):
    for simplify in (0.0, 2.0):
        write_scene([tmp_path / f"{simplify}.gpkg"], scene, instances, simplify=simplify)
    exact, simple = (
        shapely.from_wkb(pyogrio.raw.read(tmp_path / f"{s}.gpkg", layer="instances")[2])
        for s in (0.0, 2.0)
    )
    assert shapely.is_valid(simple).all()
    vertices = shapely.get_num_coordinates
    assert vertices(simple).sum() < 0.9 * vertices(exact).sum()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.shp"], r"a\.shp: '\.shp' is not a known format; use one of \.gpkg"),
        (["a"], r"'' is not a known format"),
        (["a.gpkg", "a.gpkg"], "given twice"),
        (["none/a.gpkg"], r"the folder .*none does not exist"),
        (["a.png"], "an overview needs a picture"),
        (["folder.gpkg"], "is a folder"),
    ],
)
def test_impossible_outputs_are_refused_before_the_work(tmp_path, scene, names, message):
    (tmp_path / "folder.gpkg").mkdir()

    def never():
        raise AssertionError
        yield

    with pytest.raises(UserError, match=message):
        write_scene([tmp_path / name for name in names], scene, never())
    assert [path.name for path in tmp_path.iterdir()] == ["folder.gpkg"]


def test_rle_of_too_large_a_scene_is_refused_in_a_sentence(tmp_path, scene):
    large = replace(scene, height=1 << 16, width=1 << 16)
    with pytest.raises(UserError, match=r"counts at most 4,294,967,295 pixels.*4,294,967,296"):
        check_outputs([tmp_path / "a.json"], large)
    check_outputs([tmp_path / "a.json"], replace(large, width=(1 << 16) - 1))
    check_outputs([tmp_path / "a.gpkg"], large)


def test_rle_at_the_end_of_the_largest_scene():
    height, width = 1 << 16, (1 << 16) - 1
    rle = scene_rle(np.ones((2, 3), bool), width - 3, height - 2, height, width)
    assert mask_util.area({**rle, "counts": rle["counts"].encode()}) == 6
    assert mask_util.toBbox(rle).tolist() == [width - 3, height - 2, 3, 2]


def test_geojson_of_another_planet_is_refused_in_a_sentence(tmp_path):
    mars = rasterio.crs.CRS.from_proj4("+proj=eqc +R=3396190 +units=m +no_defs")
    scene = replace(describe(NORTH_UP, 32633), crs=mars)
    with pytest.raises(UserError, match=r"a\.geojson: GeoJSON has longitudes and latitudes"):
        write_scene([tmp_path / "a.geojson"], scene, [])
    write_scene([tmp_path / "a.gpkg"], scene, [])
