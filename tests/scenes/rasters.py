"""Rasters of many kinds with known pixels, written for the tests."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("pyogrio")

from affine import Affine  # noqa: E402
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.crs import CRS  # noqa: E402
from rasterio.enums import ColorInterp  # noqa: E402

HEIGHT, WIDTH = 52, 70
UTM = CRS.from_epsg(32633)
NORTH_UP = Affine(0.5, 0, 500_000, 0, -0.5, 5_800_000)
ROTATED = Affine.translation(500_000, 5_800_000) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5)
SOUTH_UP = Affine(0.5, 0, 500_000, 0, 0.5, 5_800_000)
VRT = '<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{body}</VRTDataset>'


@dataclass
class Case:
    """A raster and what reading it must give."""

    path: Path
    values: np.ndarray
    valid: np.ndarray
    transform: Affine = NORTH_UP
    crs: CRS | None = UTM
    options: dict[str, Any] = field(default_factory=dict)


def noise(bands: int, dtype: str, low: int = 1, high: int = 250, seed: int = 0) -> np.ndarray:
    """Return random integers, ``(bands, HEIGHT, WIDTH)``."""
    rng = np.random.default_rng(seed)
    return rng.integers(low, high, (bands, HEIGHT, WIDTH)).astype(dtype)


def write_raster(
    path: Path, values: np.ndarray, setup: Callable[[Any], None] | None = None, **profile: Any
) -> Path:
    """Write a raster of known values.

    Args:
        path: file to write.
        values: ``(bands, height, width)``.
        setup: called with the open dataset.
        profile: options of ``rasterio.open``; by default, a GeoTIFF in UTM.
    """
    settings = {
        "driver": "GTiff",
        "dtype": values.dtype.name,
        "crs": UTM,
        "transform": NORTH_UP,
        **profile,
    }
    bands, height, width = values.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        file = rasterio.open(path, "w", count=bands, height=height, width=width, **settings)
    with file:
        file.write(values)
        if setup:
            setup(file)
    return path


def wedge() -> np.ndarray:
    """Return ``(HEIGHT, WIDTH)`` bool that is False in the upper left triangle."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return rows + columns > 30


def all_valid() -> np.ndarray:
    """Return ``(HEIGHT, WIDTH)`` bool, all True."""
    return np.ones((HEIGHT, WIDTH), bool)


def _plain(dtype: str, bands: int = 3, **profile: Any) -> Callable[[Path], Case]:
    def make(folder: Path) -> Case:
        values = noise(bands, dtype)
        path = write_raster(folder / "scene.tif", values, **profile)
        transform = profile.get("transform", NORTH_UP)
        return Case(path, values, all_valid(), transform, profile.get("crs", UTM))

    return make


def _alpha(dtype: str, opaque: int) -> Callable[[Path], Case]:
    def make(folder: Path) -> Case:
        values = noise(4, dtype)
        values[3] = np.where(wedge(), opaque, 0)

        def setup(file: Any) -> None:
            names = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
            file.colorinterp = names

        path = write_raster(folder / "scene.tif", values, setup, photometric="RGB", alpha="YES")
        return Case(path, values[:3], wedge())

    return make


def _masked(internal: bool) -> Callable[[Path], Case]:
    def make(folder: Path) -> Case:
        values = noise(3, "uint8")
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
            path = write_raster(folder / "scene.tif", values, lambda file: file.write_mask(wedge()))
        assert Path(f"{path}.msk").exists() != internal
        return Case(path, values, wedge())

    return make


def _nodata_zero(folder: Path) -> Case:
    values = noise(3, "uint8") * wedge().astype(np.uint8)
    # Pure red, green and blue are colours; black is not one.
    values[1:, 40, 40:50] = 0
    values[:2, 41, 40:50] = 0
    values[:, 42, 40:50] = 0
    valid = wedge()
    valid[42, 40:50] = False
    # The first two bands alone cannot tell row 41 from black.
    return Case(
        write_raster(folder / "scene.tif", values, nodata=0),
        values[:2],
        valid,
        options={"bands": (1, 2)},
    )


def _nodata_sentinel(folder: Path) -> Case:
    values = noise(3, "float32")
    values[:, ~wedge()] = -9999
    values[0, 40, 40:50] = -9999
    values[2, 41, 40:50] = -9999
    valid = wedge()
    valid[40, 40:50] = False
    path = write_raster(folder / "scene.tif", values, nodata=-9999)
    return Case(path, values[:2], valid, options={"bands": [1, 2]})


def _nan(declared: bool) -> Callable[[Path], Case]:
    def make(folder: Path) -> Case:
        values = noise(2, "float32") / np.float32(7)
        values[:, ~wedge()] = np.nan
        values[1, 45, 5] = np.nan
        values[0, 46, 5] = np.inf
        valid = wedge()
        valid[45:47, 5] = False
        profile = {"nodata": np.nan} if declared else {}
        return Case(write_raster(folder / "scene.tif", values, **profile), values, valid)

    return make


def _scaled(folder: Path) -> Case:
    stored = noise(2, "int16", -500, 9000)
    stored[:, ~wedge()] = -32768

    def setup(file: Any) -> None:
        file.scales = (0.0001, 0.5)
        file.offsets = (-0.1, 20.0)

    path = write_raster(folder / "scene.tif", stored, setup, nodata=-32768)
    values = np.stack([stored[0] * 0.0001 - 0.1, stored[1] * 0.5 + 20])
    return Case(path, values, wedge())


def _complex(dtype: str) -> Callable[[Path], Case]:
    def make(folder: Path) -> Case:
        values = noise(1, "float32") + 1j * noise(1, "float32", seed=1)
        path = write_raster(folder / "scene.tif", values.astype(np.complex64), dtype=dtype)
        return Case(path, np.sqrt(values.real**2 + values.imag**2), all_valid())

    return make


def _palette(folder: Path) -> Case:
    indices = noise(1, "uint8", 0, 200)
    colours = {i: (i, 255 - i, i // 2, 0 if i == 7 else 255) for i in range(256)}
    path = write_raster(
        folder / "scene.png",
        indices,
        lambda file: file.write_colormap(1, colours),
        driver="PNG",
        crs=None,
        transform=None,
    )
    values = np.stack([indices[0], 255 - indices[0], indices[0] // 2])
    return Case(path, values, indices[0] != 7, Affine.identity(), None)


def _palette_and_alpha(folder: Path) -> Case:
    indices = noise(2, "uint8", 0, 200)
    indices[1] = np.where(wedge(), 255, 0)
    colours = {i: (i, 255 - i, i // 2, 255) for i in range(256)}

    def setup(file: Any) -> None:
        file.write_colormap(1, colours)
        file.colorinterp = (ColorInterp.palette, ColorInterp.alpha)

    path = write_raster(folder / "scene.tif", indices, setup, photometric="PALETTE", alpha="YES")
    values = np.stack([indices[0], 255 - indices[0], indices[0] // 2])
    return Case(path, values, wedge())


def _one_bit(folder: Path) -> Case:
    # GDAL reports a palette of black and white.
    values = noise(1, "uint8", 0, 2)
    path = write_raster(folder / "scene.tif", values, nbits=1)
    return Case(path, np.repeat(values * 255, 3, axis=0), all_valid())


def _vrt(folder: Path) -> Case:
    # A mosaic of two files with a gap of 10 columns, which is nodata.
    values = noise(1, "uint16", 1, 60_000)
    write_raster(folder / "a.tif", values[:, :, :30])
    write_raster(folder / "b.tif", values[:, :, 40:])
    sources = "".join(
        f'<SimpleSource><SourceFilename relativeToVRT="1">{name}.tif</SourceFilename>'
        f'<SourceBand>1</SourceBand><SrcRect xOff="0" yOff="0" xSize="30" ySize="{HEIGHT}"/>'
        f'<DstRect xOff="{left}" yOff="0" xSize="30" ySize="{HEIGHT}"/></SimpleSource>'
        for name, left in (("a", 0), ("b", 40))
    )
    body = (
        f"<SRS>EPSG:32633</SRS><GeoTransform>{_gdal(NORTH_UP)}</GeoTransform>"
        f'<VRTRasterBand dataType="UInt16" band="1"><NoDataValue>0</NoDataValue>{sources}'
        "</VRTRasterBand>"
    )
    path = folder / "scene.vrt"
    path.write_text(VRT.format(width=WIDTH, height=HEIGHT, body=body))
    valid = all_valid()
    valid[:, 30:40] = False
    return Case(path, values, valid)


def _mixed_types(folder: Path) -> Case:
    eight, sixteen = noise(1, "uint8"), noise(1, "uint16", 1, 60_000)
    write_raster(folder / "a.tif", eight)
    write_raster(folder / "b.tif", sixteen)
    bands = "".join(
        f'<VRTRasterBand dataType="{dtype}" band="{band}"><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">{name}.tif</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand>"
        for band, (name, dtype) in enumerate((("a", "Byte"), ("b", "UInt16")), 1)
    )
    path = folder / "scene.vrt"
    body = f"<SRS>EPSG:32633</SRS><GeoTransform>{_gdal(NORTH_UP)}</GeoTransform>{bands}"
    path.write_text(VRT.format(width=WIDTH, height=HEIGHT, body=body))
    return Case(path, np.concatenate([eight.astype("uint16"), sixteen]), all_valid())


def _jp2(folder: Path) -> Case:
    values = noise(3, "uint16", 1, 4000)
    path = write_raster(
        folder / "scene.jp2", values, driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES"
    )
    return Case(path, values, all_valid())


def _chosen_bands(folder: Path) -> Case:
    values = noise(7, "uint16", 1, 60_000)
    path = write_raster(folder / "scene.tif", values)
    return Case(path, values[[6, 0, 0, 3]], all_valid(), options={"bands": (7, 1, 1, 4)})


def _all_nodata(folder: Path) -> Case:
    values = np.zeros((3, HEIGHT, WIDTH), np.uint16)
    path = write_raster(folder / "scene.tif", values, nodata=0)
    return Case(path, values, ~all_valid())


def _gdal(transform: Affine) -> str:
    return ", ".join(map(repr, transform.to_gdal()))


CASES: dict[str, Callable[[Path], Case]] = {
    "8 bits": _plain("uint8"),
    "rotated": _plain("uint8", transform=ROTATED),
    "south-up": _plain("uint8", transform=SOUTH_UP),
    "degrees": _plain(
        "uint8", crs=CRS.from_epsg(4326), transform=Affine(1e-5, 0, 13, 0, -1e-5, 52)
    ),
    "dateline": _plain(
        "uint8", crs=CRS.from_epsg(4326), transform=Affine(1e-5, 0, 179.9996, 0, -1e-5, -17)
    ),
    "no CRS": _plain("uint8", crs=None),
    "16 bits": _plain("uint16"),
    "16 bits, signed": _plain("int16"),
    "64-bit float": _plain("float64"),
    "seven bands": _plain("uint16", 7),
    "one band": _plain("uint8", 1),
    "striped": _plain("uint8", compress="deflate", blockysize=3),
    "tiled": _plain("uint8", compress="deflate", tiled=True, blockxsize=16, blockysize=32),
    "by bands": _plain("uint8", compress="lzw", interleave="band"),
    "COG": _plain("uint8", driver="COG", blocksize=128),
    "chosen bands": _chosen_bands,
    "alpha": _alpha("uint8", 255),
    "alpha of 1 in 16 bits": _alpha("uint16", 1),
    "alpha, signed": _alpha("int16", 255),
    "alpha, float": _alpha("float32", 1),
    "internal mask": _masked(True),
    "sidecar mask": _masked(False),
    "nodata 0": _nodata_zero,
    "nodata -9999": _nodata_sentinel,
    "NaN": _nan(False),
    "nodata NaN": _nan(True),
    "scales and offsets": _scaled,
    "complex float": _complex("complex64"),
    "complex integer": _complex("complex_int16"),
    "palette": _palette,
    "palette and alpha": _palette_and_alpha,
    "1 bit": _one_bit,
    "VRT": _vrt,
    "mixed types": _mixed_types,
    "JPEG 2000": _jp2,
    "all nodata": _all_nodata,
}


def control_points(transform: Affine) -> list[GroundControlPoint]:
    """Return the corners of a raster of HEIGHT x WIDTH with their places."""
    corners = [(row, column) for row in (0, HEIGHT) for column in (0, WIDTH)]
    return [GroundControlPoint(r, c, *(transform @ (c, r))) for r, c in corners]
