"""Polygons and measures of masks, against pixel counts and closed formulas."""

import cv2
import numpy as np
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.features import rasterize
from scene_masks import (
    ECCENTRICITY,
    EQUATOR,
    NORTH_UP,
    ROTATED,
    SHEARED,
    SOUTH_UP,
    authalic,
    describe,
    ellipse,
    noise,
    random_instances,
)

from facenet_d2.scenes.coordinates import is_true_to_scale
from facenet_d2.scenes.description import SceneDescription, SceneInstance
from facenet_d2.scenes.polygons import mask_polygons, simplified
from facenet_d2.scenes.vectors import Vectorizer, batches

TRANSFORMS = pytest.mark.parametrize(
    "transform",
    [NORTH_UP, SOUTH_UP, ROTATED, SHEARED],
    ids=["north", "south", "rotated", "sheared"],
)


def random_masks(count=60, seed=0):
    rng = np.random.default_rng(seed)
    return [noise(rng, *rng.integers(1, 25, 2)) for _ in range(count)]


def test_polygons_follow_the_edges_of_the_pixels():
    rng = np.random.default_rng(1)
    masks = [*random_masks(), ellipse(300, 400, hole=20)]
    origins = [tuple(map(int, rng.integers(0, 500, 2))) for _ in masks]
    polygons = mask_polygons(masks, origins)
    assert shapely.is_valid(polygons).all()
    for mask, (x, y), polygon in zip(masks, origins, polygons):
        assert polygon.area == mask.sum()
        height, width = mask.shape
        assert shapely.box(x, y, x + width, y + height).covers(polygon)
        burned = rasterize([polygon], mask.shape, transform=Affine.translation(x, y))
        assert (burned == mask).all()


def label_regions(mask):
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    return count - 1, labels


def test_parts_and_holes_are_the_4_connected_regions():
    masks = random_masks()
    for mask, polygon in zip(masks, mask_polygons(masks, [(0, 0)] * len(masks))):
        count, labels = label_regions(mask)
        assert len(polygon.geoms) == count
        # The outside of a part is one of the regions around it.
        backgrounds = [
            np.pad(labels != label, 1, constant_values=True) for label in range(1, count + 1)
        ]
        holes = sum(label_regions(background)[0] - 1 for background in backgrounds)
        assert sum(len(part.interiors) for part in polygon.geoms) == holes


def test_a_ring_has_one_hole_and_two_pixels_at_a_corner_are_two_parts():
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    corner = np.eye(2, dtype=bool)
    first, second = mask_polygons([ring, corner], [(10, 20), (0, 0)])
    assert first.equals(shapely.box(10, 20, 13, 23) - shapely.box(11, 21, 12, 22))
    assert len(second.geoms) == 2
    assert second.equals(shapely.box(0, 0, 1, 1) | shapely.box(1, 1, 2, 2))


def test_masks_that_do_not_fit_on_one_canvas_are_traced_alike():
    rng = np.random.default_rng(2)
    masks = [ellipse(*rng.integers(20, 250, 2)) for _ in range(400)]
    masks += [np.ones((1, 5_000), bool), np.ones((3000, 20), bool)]
    assert sum(mask.size for mask in masks) > 2048**2
    polygons = mask_polygons(masks, [(0, 0)] * len(masks))
    assert [polygon.area for polygon in polygons] == [mask.sum() for mask in masks]


@TRANSFORMS
def test_areas_in_utm_are_pixels_times_the_area_of_a_pixel(transform):
    scene = describe(transform, 32633)
    rng = np.random.default_rng(3)
    masks = [np.ones((2, 2), bool), np.ones((100, 100), bool), *random_masks(30)]
    instances = [
        SceneInstance(n, 0, 0.5, *map(int, rng.integers(0, 500, 2)), mask)
        for n, mask in enumerate(masks, start=1)
    ]
    features = Vectorizer(scene)(instances)
    expected = np.array([mask.sum() * 0.25 for mask in masks])
    np.testing.assert_allclose(features.attributes["area_m2"], expected, rtol=1e-9)
    np.testing.assert_allclose(shapely.area(features.polygons), expected, rtol=1e-6)
    assert shapely.is_valid(features.polygons).all()


@TRANSFORMS
def test_vertices_are_transformed_exactly(transform):
    scene = describe(transform, 32633)
    instance = SceneInstance(1, 0, 0.5, 17, 31, np.ones((2, 3), bool))
    polygon = Vectorizer(scene)([instance]).polygons[0]
    corners = {tuple(transform * corner)[:2] for corner in ((17, 31), (20, 31), (20, 33), (17, 33))}
    assert set(map(tuple, shapely.get_coordinates(polygon))) == corners


def test_feet_are_converted_to_metres():
    foot = 1200 / 3937
    scene = describe(Affine(2, 0, 1_000_000, 0, -2, 200_000), 2263)
    measures = Vectorizer(scene)([SceneInstance(1, 0, 0.5, 0, 0, np.ones((5, 10), bool))])
    attributes = measures.attributes
    assert attributes["area_m2"] == pytest.approx(50 * 4 * foot**2)
    assert attributes["length_m"] == pytest.approx(20 * foot)
    assert attributes["width_m"] == pytest.approx(10 * foot)
    assert attributes["perimeter_m"] == pytest.approx(60 * foot)


@pytest.mark.parametrize("code", [4326, 3857])
@pytest.mark.parametrize("latitude", [-33, 0.01, 52.5, 78])
def test_areas_on_the_ground_are_those_of_the_ellipsoid(code, latitude):
    if code == 4326:
        transform = Affine(3e-5, 0, 13.4, 0, -2e-5, latitude)
    else:
        # Web Mercator takes the latitude on the ellipsoid for that on a sphere.
        northing = EQUATOR * np.arctanh(np.sin(np.radians(latitude)))
        transform = Affine(2, 0, 1_500_000, 0, -2, northing)
    scene = describe(transform, code)
    instances = random_instances(np.random.default_rng(4), scene, 20, largest=100)
    attributes = Vectorizer(scene)(instances).attributes
    for instance, area in zip(instances, attributes["area_m2"]):
        rows = instance.y0 + np.arange(instance.mask.shape[0] + 1)
        y = transform.f + transform.e * rows
        latitudes, radians = y, np.radians(transform.a)
        if code == 3857:
            latitudes = np.degrees(np.arcsin(np.tanh(y / EQUATOR)))
            radians = transform.a / EQUATOR
        strips = -np.diff(authalic(latitudes)) * radians
        assert area == pytest.approx((instance.mask.sum(axis=1) * strips).sum(), rel=1e-6)


def test_lengths_on_the_ground_are_those_of_the_ellipsoid():
    latitude = 60
    scene = describe(Affine(1e-5, 0, 7.499, 0, -1e-5, latitude), 4326)
    tall, wide = np.ones((60, 10), bool), np.ones((10, 90), bool)
    attributes = Vectorizer(scene)(
        [SceneInstance(1, 0, 0.5, 50, 0, tall), SceneInstance(2, 0, 0.5, 400, 0, wide)]
    ).attributes
    w = (1 - (ECCENTRICITY * np.sin(np.radians(latitude))) ** 2) ** 0.5
    north = np.radians(1e-5) * EQUATOR * (1 - ECCENTRICITY**2) / w**3
    east = np.radians(1e-5) * EQUATOR / w * np.cos(np.radians(latitude))
    np.testing.assert_allclose(attributes["length_m"], [60 * north, 90 * east], rtol=1e-4)
    np.testing.assert_allclose(attributes["width_m"], [10 * east, 10 * north], rtol=1e-4)
    perimeters = [120 * north + 20 * east, 20 * north + 180 * east]
    np.testing.assert_allclose(attributes["perimeter_m"], perimeters, rtol=1e-4)
    # The y axis of the CRS points north, even where the cell of the projection is not centred.
    np.testing.assert_allclose(attributes["angle"], [0, 90], atol=0.01)


@pytest.mark.parametrize("degrees", [0, 20, 45, 90, 110, 179])
def test_the_angle_is_clockwise_from_north(degrees):
    """A mask that is 30 pixels long towards the top of a raster whose top points to an angle."""
    transform = (
        Affine.translation(400_000, 5_800_000) * Affine.rotation(-degrees) * Affine.scale(2, -2)
    )
    attributes = Vectorizer(describe(transform, 32633))(
        [SceneInstance(1, 0, 0.5, 100, 100, np.ones((30, 4), bool))]
    ).attributes
    assert attributes["length_m"] == pytest.approx(60)
    assert attributes["width_m"] == pytest.approx(8)
    assert attributes["angle"] == pytest.approx(degrees % 180, abs=1e-3)


def test_the_angle_of_a_square_is_the_smaller_one():
    transform = Affine.translation(0, 0) * Affine.rotation(-110) * Affine.scale(2, -2)
    square = SceneInstance(1, 0, 0.5, 100, 100, np.ones((9, 9), bool))
    assert Vectorizer(describe(transform, 32633))([square]).attributes["angle"] == (
        pytest.approx(20)
    )


def test_a_scene_without_crs_is_measured_in_pixels():
    scene = describe(Affine.identity(), None)
    mask = np.ones((3, 8), bool)
    features = Vectorizer(scene)([SceneInstance(1, 0, 0.5, 5, 9, mask)])
    assert features.polygons[0].equals(shapely.box(5, 9, 13, 12))
    measured = {k: v[0] for k, v in features.attributes.items() if k.endswith(("_px", "angle"))}
    assert measured == {
        "area_px": 24,
        "perimeter_px": 22,
        "length_px": 8,
        "width_px": 3,
        "angle": 90,
    }


def test_measures_in_pixels_do_not_depend_on_the_transform_without_crs():
    scene = describe(ROTATED, None)
    features = Vectorizer(scene)([SceneInstance(1, 0, 0.5, 5, 9, np.ones((3, 8), bool))])
    assert features.attributes["area_px"] == 24
    assert features.polygons[0].area == pytest.approx(6)


@pytest.mark.parametrize(
    ("code", "point", "expected"),
    [
        (32633, (500_000, 5_000_000), True),
        (32633, (167_000, 1_000), True),  # At the edge of the zone on the equator.
        (28992, (155_000, 463_000), True),
        (3413, (0, -2_200_000), True),  # The standard parallel.
        (3413, (0, 0), False),
        (3857, (0, 0), False),
        (6933, (0, 6_000_000), False),  # Equal-area, but not true to length.
        (4326, (13, 52), False),
    ],
)
def test_which_systems_are_true_to_scale(code, point, expected):
    assert is_true_to_scale(CRS.from_epsg(code), np.array([point], float)) is expected


def test_a_plan_and_a_planet_are_measured_without_the_earth():
    plan = CRS.from_wkt('LOCAL_CS["plan",UNIT["metre",1]]')
    mars = CRS.from_proj4("+proj=eqc +R=3396190 +units=m +no_defs")
    mask = np.ones((2, 5), bool)
    for crs, column, area in ((plan, "area_px", 10), (mars, "area_m2", 90)):
        scene = SceneDescription("s", 9, 9, Affine.scale(3, -3), crs, ("crater",))
        features = Vectorizer(scene)([SceneInstance(1, 0, 0.5, 0, 0, mask)])
        assert features.attributes[column] == pytest.approx(area)


def test_attributes_are_those_of_the_instances():
    scene = describe(NORTH_UP, 32633, class_ids=(10, 20, 30))
    instances = random_instances(np.random.default_rng(5), scene, 8)
    columns = Vectorizer(scene)(instances).attributes
    names = "id, class, class_id, score, area_m2, perimeter_m, length_m, width_m, angle, tiles, cut"
    assert ", ".join(columns) == f"{names}, scene"
    for number, instance in enumerate(instances):
        row = {name: column[number] for name, column in columns.items()}
        assert row["id"] == instance.id
        assert row["class"] == scene.class_names[instance.class_index]
        assert row["class_id"] == (10, 20, 30)[instance.class_index]
        assert (row["score"], row["tiles"]) == (instance.score, instance.tiles)
        assert (bool(row["cut"]), row["scene"]) == (instance.cut, "site 1")


@pytest.mark.parametrize("tolerance", [0.5, 1.0, 3.0])
def test_simplification_keeps_holes_parts_and_validity(tolerance):
    masks = [*random_masks(40), *(ellipse(80, 120, hole=h) for h in (0, 3, 30))]
    exact = mask_polygons(masks, [(0, 0)] * len(masks))
    simple = simplified(exact, tolerance)
    assert shapely.is_valid(simple).all()
    for before, after in zip(exact, simple):
        assert [len(g.interiors) for g in before.geoms] == [len(g.interiors) for g in after.geoms]
        assert shapely.hausdorff_distance(before.boundary, after.boundary) <= tolerance + 1e-9
    vertices = shapely.get_num_coordinates
    assert vertices(simple[-1]) < 0.8 * vertices(exact[-1])


def test_measures_are_those_of_the_masks_whatever_is_simplified():
    scene = describe(ROTATED, 32633)
    instances = random_instances(np.random.default_rng(6), scene, 10)
    exact, simple = (Vectorizer(scene, simplify=s)(instances) for s in (0, 2))
    assert shapely.get_num_coordinates(simple.polygons).sum() < (
        shapely.get_num_coordinates(exact.polygons).sum()
    )
    for name, column in exact.attributes.items():
        np.testing.assert_array_equal(column, simple.attributes[name])


def test_batches_are_bounded_in_number_and_in_pixels():
    scene = describe(NORTH_UP, 32633, size=(5000, 5000))
    small = [SceneInstance(n, 0, 0.5, 0, 0, np.ones((2, 2), bool)) for n in range(1, 26)]
    assert [len(batch) for batch in batches(scene, iter(small), size=10)] == [10, 10, 5]
    mask = np.ones((3000, 3000), bool)
    large = [SceneInstance(n, 0, 0.5, 0, 0, mask) for n in range(1, 6)]
    assert [len(batch) for batch in batches(scene, iter(large))] == [2, 2, 1]


def test_empty_masks_are_left_out():
    scene = describe(NORTH_UP, 32633)
    empty = SceneInstance(1, 0, 0.5, 0, 0, np.zeros((3, 3), bool))
    full = SceneInstance(2, 0, 0.5, 0, 0, np.ones((3, 3), bool))
    assert [[i.id for i in batch] for batch in batches(scene, [empty, full])] == [[2]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"x0": 699}, "not within the scene of 700x600 pixels"),
        ({"y0": -1}, "not within the scene"),
        ({"class_index": 3}, "no class 3"),
        ({"id": 0}, "ids are between 1"),
        ({"mask": np.ones((2, 2), np.uint8)}, "uint8, not bool"),
    ],
)
def test_instances_that_do_not_fit_the_scene_are_refused(fields, message):
    values = {"id": 1, "class_index": 0, "score": 0.5, "x0": 0, "y0": 0}
    values["mask"] = np.ones((2, 2), bool)
    instance = SceneInstance(**{**values, **fields})
    with pytest.raises(ValueError, match=message):
        list(batches(describe(NORTH_UP, 32633), [instance]))
