"""TIFF and PNG files written byte by byte, with layouts that Pillow does not write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SHORT, LONG, ASCII = 3, 4, 2
NEW_SUBFILE_TYPE, PHOTOMETRIC, ORIENTATION, EXTRA, NODATA = 254, 262, 274, 338, 42113


def pack(samples: np.ndarray, bits: int) -> bytes:
    """Return rows of samples ``(rows, n)`` with 1 to 8 bits each, every row padded to a byte."""
    planes = samples[..., None] >> np.arange(bits - 1, -1, -1) & 1
    return np.packbits(planes.reshape(len(samples), -1).astype(np.uint8), axis=1).tobytes()


def reverse_bits(data: bytes) -> bytes:
    bits = np.unpackbits(np.frombuffer(data, np.uint8).reshape(-1, 1), axis=1)
    return np.packbits(bits[:, ::-1], axis=1).tobytes()


def tiff_page(
    samples: np.ndarray,
    *,
    photometric: int | None,
    bits: int = 8,
    extra: Sequence[int] = (),
    planar: int = 1,
    tile: int = 0,
    rows_per_strip: int = 0,
    compression: int = 1,
    fill_order: int = 1,
    tags: Mapping[int, Any] | None = None,
) -> tuple[dict[int, Any], list[bytes]]:
    """Return the tags of a page, and its strips or tiles.

    Args:
        samples: ``(H, W, C)`` of unsigned integers; other types than uint8 are written as they are.
        photometric: value of the tag, or None to leave it out.
        bits: bits per sample of uint8 samples.
        extra: value of ExtraSamples.
        planar: planar configuration.
        tile: side of the tiles, a multiple of 16; 0 for strips.
        rows_per_strip: 0 for a single strip.
        compression: 1 for none, 8 for Deflate.
        fill_order: 2 to reverse the bits of each byte.
        tags: further tags.
    """
    height, width, bands = samples.shape
    if samples.dtype != np.uint8:
        bits = 8 * samples.dtype.itemsize
    page: dict[int, Any] = {256: width, 257: height, 258: [bits] * bands, 259: compression}
    page |= {266: fill_order, 277: bands, 284: planar}
    if photometric is not None:
        page[PHOTOMETRIC] = photometric
    if extra:
        page[EXTRA] = list(extra)
    layers = [samples[..., i : i + 1] for i in range(bands)] if planar == 2 else [samples]
    parts = []
    if tile:
        page |= {322: tile, 323: tile}
    else:
        page[278] = rows_per_strip or height
    for layer in layers:
        if tile:
            layer = np.pad(layer, ((0, -height % tile), (0, -width % tile), (0, 0)))
            rows, columns = (range(0, side, tile) for side in layer.shape[:2])
            parts += [layer[y : y + tile, x : x + tile] for y in rows for x in columns]
        else:
            parts += [layer[y : y + page[278]] for y in range(0, height, page[278])]
    encoded = []
    for part in parts:
        rows = part.reshape(len(part), -1)
        data = pack(rows, bits) if part.dtype == np.uint8 else rows.tobytes()
        data = zlib.compress(data) if compression == 8 else data
        encoded.append(reverse_bits(data) if fill_order == 2 else data)
    return page | dict(tags or {}), encoded


def write_tiff(
    pages: Sequence[tuple[dict[int, Any], list[bytes]]], order: str = "<", big: bool = False
) -> bytes:
    """Return a TIFF with these pages, in byte order "<" or ">", as BigTIFF if ``big``."""
    offset_type, offset_code, inline = ("Q", 16, 8) if big else ("I", LONG, 4)
    out = bytearray(b"II" if order == "<" else b"MM")
    out += struct.pack(f"{order}HHH", 43, 8, 0) if big else struct.pack(f"{order}H", 42)
    link = len(out)
    out += bytes(inline)
    for tags, parts in pages:
        offsets = []
        for part in parts:
            out += bytes(len(out) % 2)
            offsets.append(len(out))
            out += part
        places = (324, 325) if 322 in tags else (273, 279)
        entries = {**tags, places[0]: offsets, places[1]: [len(part) for part in parts]}
        rows = []
        for tag, value in sorted(entries.items()):
            if isinstance(value, str):
                code, data, count = ASCII, value.encode() + b"\0", len(value) + 1
            else:
                values = value if isinstance(value, list) else [value]
                wide = tag in places
                code, letter = (offset_code, offset_type) if wide else (SHORT, "H")
                if not wide and max(values) > 65535:
                    code, letter = LONG, "I"
                data, count = struct.pack(f"{order}{len(values)}{letter}", *values), len(values)
            if len(data) > inline:
                out += bytes(len(out) % 2)
                place = struct.pack(f"{order}{offset_type}", len(out))
                out += data
                data = place
            head = struct.pack(f"{order}HH{offset_type}", tag, code, count)
            rows.append(head + data.ljust(inline, b"\0"))
        out += bytes(len(out) % 2)
        out[link : link + inline] = struct.pack(f"{order}{offset_type}", len(out))
        out += struct.pack(f"{order}{'Q' if big else 'H'}", len(rows)) + b"".join(rows)
        link = len(out)
        out += bytes(inline)
    return bytes(out)


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2))
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def write_png(
    samples: np.ndarray,
    color_type: int,
    *,
    bits: int = 8,
    interlaced: bool = False,
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """Return a PNG.

    Args:
        samples: ``(H, W, C)`` uint8, or uint16 for 16 bits.
        color_type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha.
        bits: bits per sample.
        interlaced: whether to use Adam7.
        before: chunks before the pixels, such as the palette.
        after: chunks after the pixels.
    """
    height, width = samples.shape[:2]
    passes = [samples]
    if interlaced:
        passes = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7] + [samples[1::2]]
    data = b""
    for part in passes:
        if part.size == 0:
            continue
        rows = part.reshape(len(part), -1)
        size = (rows.shape[1] * bits + 7) // 8
        packed = rows.astype(">u2").tobytes() if bits == 16 else pack(rows, bits)
        data += b"".join(b"\0" + packed[i : i + size] for i in range(0, len(packed), size))
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + before
        + chunk(b"IDAT", zlib.compress(data, 1))
        + after
        + chunk(b"IEND", b"")
    )


def exif(orientation: int) -> bytes:
    """Return an EXIF block, a TIFF without pixels."""
    tag = struct.pack(">HHIHH", ORIENTATION, SHORT, 1, orientation, 0)
    return b"MM\0\x2a\0\0\0\x08" + struct.pack(">H", 1) + tag + bytes(4)


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return how an upright picture is stored with an EXIF orientation, pixel by pixel.

    The first row and column of the stored picture are at these sides of the upright one (EXIF 2.3,
    tag 274): 1 top left, 2 top right, 3 bottom right, 4 bottom left, 5 left top, 6 right top,
    7 right bottom, 8 left bottom.
    """
    height, width = pixels.shape[:2]
    shape = (width, height) if orientation > 4 else (height, width)
    stored = np.empty((*shape, *pixels.shape[2:]), pixels.dtype)
    for y in range(stored.shape[0]):
        for x in range(stored.shape[1]):
            row, column = {
                1: (y, x),
                2: (y, width - 1 - x),
                3: (height - 1 - y, width - 1 - x),
                4: (height - 1 - y, x),
                5: (x, y),
                6: (x, width - 1 - y),
                7: (height - 1 - x, width - 1 - y),
                8: (height - 1 - x, y),
            }[orientation]
            stored[y, x] = pixels[row, column]
    return stored
