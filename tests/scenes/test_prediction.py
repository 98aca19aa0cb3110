"""The pipeline from a raster to instances, with a detector of connected components."""

import numpy as np
import pytest
import rasterio
import stub
from affine import Affine

from facenet_d2 import UserError
from facenet_d2.scenes.area import Area
from facenet_d2.scenes.merge import MergeSettings
from facenet_d2.scenes.prediction import (
    InstanceStream,
    Scene,
    TileInstances,
    detect_tiles,
    tile_batches,
)
from facenet_d2.scenes.raster import Raster
from facenet_d2.scenes.stretch import Stretch
from facenet_d2.scenes.tile_store import FolderStore, MemoryStore
from facenet_d2.scenes.tiles import TileGrid

CLASSES = 3


def detect(images):
    """Return the connected components of each colour, which stands for a class."""
    results = []
    for image in images:
        picture = np.where(image.valid, image.values[0], 0)
        classes, scores, boxes, crops = stub.detect(picture)
        results.append(TileInstances(np.array(classes), np.array(scores), np.array(boxes), crops))
    return results


@pytest.fixture
def labels():
    return stub.random_scene(np.random.default_rng(5), 330, 470, 150, largest=40)


@pytest.fixture
def raster(tmp_path, labels):
    file = tmp_path / "scene.tif"
    profile = {"height": labels.shape[0], "width": labels.shape[1], "count": 1, "dtype": "uint8"}
    with rasterio.open(
        file,
        "w",
        driver="GTiff",
        crs="EPSG:32633",
        transform=Affine(0.5, 0, 500000, 0, -0.5, 4649776),
        **profile,
    ) as dataset:
        dataset.write(stub.colour(labels, CLASSES)[None])
    return file


def run(raster, grid, store, batch_size=4, shards=1, detector=detect):
    for shard in range(shards):
        batches = tile_batches(grid, batch_size, shard, shards)
        detect_tiles(Scene(raster, Stretch(), grid), batches, detector, store)
    return list(InstanceStream(grid, store, MergeSettings(tolerance=0)))


def as_set(instances):
    return {(i.class_index, i.x0, i.y0, i.mask.shape, i.mask.tobytes()) for i in instances}


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
@pytest.mark.parametrize("shards", [1, 2, 7])
def test_tiles_give_the_objects_of_the_scene(raster, labels, batch_size, shards):
    with Raster(raster) as scene:
        grid = TileGrid(scene.height, scene.width, 128, 48)
        instances = run(scene, grid, MemoryStore(), batch_size, shards)
    expected = set()
    for label in range(1, labels.max() + 1):
        rows, columns = np.nonzero(labels == label)
        if len(rows):
            y, x = rows.min(), columns.min()
            crop = labels[y : rows.max() + 1, x : columns.max() + 1] == label
            expected.add((stub.class_of(label, CLASSES), x, y, crop.shape, crop.tobytes()))
    assert as_set(instances) == expected
    assert [i.id for i in instances] == list(range(1, len(instances) + 1))
    for i in instances:
        right, bottom = i.x0 + i.mask.shape[1], i.y0 + i.mask.shape[0]
        assert i.cut == (i.x0 == 0 or i.y0 == 0 or right == 470 or bottom == 330)


def test_only_valid_pixels_belong_to_instances(raster, labels, tmp_path):
    area = Area.from_file(_write_area(tmp_path, 500040.25, 4649640.25, 500120.25, 4649740.25))
    with Raster(raster, area=area) as scene:
        instances = run(scene, TileGrid(scene.height, scene.width, 128, 48), MemoryStore())
    found = np.zeros(labels.shape, bool)
    for i in instances:
        h, w = i.mask.shape
        found[i.y0 : i.y0 + h, i.x0 : i.x0 + w] |= i.mask
    inside = np.zeros(labels.shape, bool)
    inside[72:272, 81:241] = True  # Centres of pixels at 0.25 m within 40.25 to 120.25 m.
    assert (found == ((labels > 0) & inside))[1:-1, 1:-1].mean() > 0.999
    assert not found[:70].any()
    assert not found[:, 243:].any()


def _write_area(folder, *bounds):
    import shapely
    from pyogrio.raw import write

    file = folder / "area.gpkg"
    geometry = np.array([shapely.to_wkb(shapely.box(*bounds))], object)
    write(file, geometry, [], [], geometry_type="Polygon", crs="EPSG:32633", driver="GPKG")
    return file


def test_resumed_tiles_are_not_detected_again(raster, tmp_path):
    calls = []

    def counting(images):
        calls.append(len(images))
        return detect(images)

    def failing(images):
        if len(calls) == 2:
            raise KeyboardInterrupt
        return counting(images)

    store = FolderStore(tmp_path, "scene", {"a": 1})
    store.open()
    with Raster(raster) as scene:
        grid = TileGrid(scene.height, scene.width, 128, 48)
        with pytest.raises(KeyboardInterrupt):
            run(scene, grid, store, detector=failing)
        assert sum(tile in store for tile in grid) == 8
        calls.clear()
        resumed = run(scene, grid, store, detector=counting)
        assert sum(calls) == len(grid) - 8
        calls.clear()
        assert as_set(run(scene, grid, store, detector=counting)) == as_set(resumed)
        assert calls == []
        assert as_set(run(scene, grid, MemoryStore())) == as_set(resumed)


def test_a_batch_always_has_the_same_tiles(raster, tmp_path):
    """Rounding in a network can depend on the other images of a batch."""
    grid = TileGrid(330, 470, 128, 48)
    whole = [[t.name for t in batch] for batch in tile_batches(grid, 4)]
    for shards in (1, 2, 3, 100):
        parts = [
            [t.name for t in batch]
            for shard in range(shards)
            for batch in tile_batches(grid, 4, shard, shards)
        ]
        assert parts == whole
    assert [name for batch in whole for name in batch] == [tile.name for tile in grid]
    # A batch of which a tile is missing is detected as a whole.
    store = MemoryStore()
    sizes = []

    def counting(images):
        sizes.append(len(images))
        return detect(images)

    with Raster(raster) as scene:
        run(scene, grid, store)
        del store._tiles[whole[1][2]]
        run(scene, grid, store, detector=counting)
    assert sizes == [len(whole[1])]


def test_empty_tiles_are_skipped(tmp_path):
    file = tmp_path / "wedge.tif"
    values = np.zeros((1, 300, 300), np.uint8)
    values[:, :100, :100] = 7
    with rasterio.open(
        file, "w", driver="GTiff", height=300, width=300, count=1, dtype="uint8", nodata=0
    ) as dataset:
        dataset.write(values)
    seen = []

    def counting(images):
        seen.extend(image.valid.any() for image in images)
        return detect(images)

    with Raster(file) as scene:
        instances = run(scene, TileGrid(300, 300, 100, 0), MemoryStore(), detector=counting)
    assert seen == [True]
    assert [(i.x0, i.y0, i.mask.shape) for i in instances] == [(0, 0, (100, 100))]


def test_tiles_of_other_settings_are_kept_apart(tmp_path):
    stores = [FolderStore(tmp_path, "scene", {"overlap": o}) for o in (1, 2)]
    for store in stores:
        store.open()
    assert stores[0].folder != stores[1].folder
    (stores[0].folder / "fingerprint.json").write_text('{"overlap": 2}')
    with pytest.raises(UserError, match="other settings"):
        stores[0].open()
    stores[1].delete()
    assert not stores[1].folder.exists()
