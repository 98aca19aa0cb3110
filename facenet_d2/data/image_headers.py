"""Bands, bits and pages of TIFF and JPEG 2000 files, read from their headers.

Pillow drops bands, bits and pages that do not fit its modes without an error, or refuses a file
without saying why.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from PIL import TiffImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ..errors import UserError
from ..wording import counted


class ImageError(UserError):
    """Raised for an image that cannot be used.

    Attributes:
        kind: kind of the fault, a key of ``FAULT_KINDS`` in ``facenet_d2.checking.fault_kinds``.
        reason: a clause that says what the image has and what to do, without the file's name.
        file: the file.
    """

    def __init__(self, kind: str, reason: str, file: str = "") -> None:
        super().__init__(kind, reason, file)
        self.kind, self.reason, self.file = kind, reason, file

    def __str__(self) -> str:
        return f"image {self.file} cannot be used: {self.reason}."


def depth_error(depth: str) -> ImageError:
    """Return the error for an image whose channels do not have 8 bits."""
    reason = f"it does not have 8 bits per channel ({depth}); scale its values to 0-255"
    return ImageError("image-depth", reason)


def _band_error(bands: int, layout: str) -> ImageError:
    remedy = (
        "extract one with gdal_translate -b 1"
        if bands < 3
        else "extract three with gdal_translate -b 1 -b 2 -b 3 -co PHOTOMETRIC=RGB"
    )
    return ImageError("image-bands", f"it has {counted(bands, 'band')} ({layout}); {remedy}")


TIFF_SIGNATURES = tuple(TiffImagePlugin.PREFIXES)
# TIFF tags without a name in Pillow, or in Pillow 9.
_NEW_SUBFILE_TYPE, _OLD_SUBFILE_TYPE, _GDAL_NODATA = 254, 255, 42113
# Values of NewSubfileType.
_REDUCED, _MASK = 1, 4
_RAW, _OLD_JPEG, _JPEG = 1, 6, 7
# Value of PhotometricInterpretation: name, and number of bands without alpha, or 0 if Pillow cannot
# convert it to RGB.
_PHOTOMETRICS = {
    0: ("MinIsWhite", 1),
    1: ("MinIsBlack", 1),
    2: ("RGB", 3),
    3: ("Palette", 1),
    4: ("Mask", 0),
    5: ("CMYK", 4),
    6: ("YCbCr", 3),
    8: ("CIELab", 0),
    9: ("ICCLab", 0),
    10: ("ITULab", 0),
    32803: ("CFA", 0),
    32844: ("LogL", 0),
    32845: ("LogLuv", 0),
    34892: ("LinearRaw", 0),
}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _PALETTE, _YCBCR = 0, 1, 3, 6
_WITH_ALPHA = (_BLACK_IS_ZERO, 2, _PALETTE)
_EXTRA_SAMPLES = {0: "unspecified", 1: "premultiplied alpha", 2: "alpha"}
_SAMPLE_FORMATS = {2: "signed integers", 3: "floating-point numbers"}


@dataclass(frozen=True)
class TiffHeader:
    """Properties of the first page of a TIFF that Pillow does not report.

    Attributes:
        size: (width, height) as stored, before the orientation is applied.
        has_alpha: whether the last band is alpha.
        nodata: value from 0 to 255 that pixels without data have in all bands; None if not stated.
    """

    size: tuple[int, int]
    has_alpha: bool
    nodata: int | None


def read_tiff_header(stream: IO[bytes]) -> TiffHeader:
    """Read the header of a TIFF, and check that Pillow decodes its pixels correctly.

    Previews and overviews after the first page are ignored.

    Args:
        stream: file that starts with one of :data:`TIFF_SIGNATURES`.

    Raises:
        ImageError: unless the file has one page, in grey, RGB, CMYK or YCbCr or with a palette, of
            8 bits per channel; grey and palette images may have fewer bits, and grey, RGB and
            palette images an alpha band.
    """
    pages = _tiff_pages(stream)
    first = next(pages)
    if _is_preview(first) or _is_mask(first):
        reason = "its first page is a preview or a mask; save the picture as a file of its own"
        raise ImageError("image-frames", reason)
    header = _check_first_page(first)
    for page in pages:
        if _is_mask(page):
            raise ImageError(
                "image-bands",
                "its transparent pixels are listed in a mask; make it an alpha channel with "
                "gdal_translate -b 1 -b 2 -b 3 -b mask -colorinterp_4 alpha",
            )
        if not _is_preview(page):
            reason = "it has several pages; save the page to be used as a file of its own"
            raise ImageError("image-frames", reason)
    return header


def _tiff_pages(stream: IO[bytes]) -> Iterator[ImageFileDirectory_v2]:
    stream.seek(0)
    start = stream.read(8)
    if start.startswith(b"MM\x00\x2b"):
        reason = (
            "Pillow does not read a BigTIFF in big-endian order; change it with gdal_translate "
            "-co ENDIANNESS=LITTLE"
        )
        raise ImageError("image-unreadable", reason)
    if start.startswith(b"II\x2b\x00"):
        start += stream.read(8)
    page = ImageFileDirectory_v2(start)
    seen: set[int] = set()
    while page.next and page.next not in seen:
        seen.add(page.next)
        stream.seek(page.next)
        page.load(stream)
        yield page
    if not seen:
        raise ImageError("image-unreadable", "it is a TIFF without a page")


def _numbers(
    tags: ImageFileDirectory_v2, tag: int, default: tuple[int, ...] = ()
) -> tuple[int, ...]:
    value = tags.get(tag, default)
    values = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(v, int) for v in values):
        raise ImageError("image-unreadable", f"its TIFF tag {tag} is {value!r}, not an integer")
    return values


def _number(tags: ImageFileDirectory_v2, tag: int, default: int) -> int:
    return next(iter(_numbers(tags, tag)), default)


def _is_preview(tags: ImageFileDirectory_v2) -> bool:
    return bool(_number(tags, _NEW_SUBFILE_TYPE, 0) & _REDUCED) or (
        _number(tags, _OLD_SUBFILE_TYPE, 0) == 2
    )


def _is_mask(tags: ImageFileDirectory_v2) -> bool:
    kind = _number(tags, _NEW_SUBFILE_TYPE, 0)
    return bool(kind & _MASK) and not kind & _REDUCED


def _check_first_page(tags: ImageFileDirectory_v2) -> TiffHeader:
    compression = _number(tags, TiffImagePlugin.COMPRESSION, _RAW)
    if compression not in TiffImagePlugin.COMPRESSION_INFO:
        raise ImageError(
            "image-unreadable",
            f"Pillow does not support its TIFF compression {compression}; change it with "
            "gdal_translate -co COMPRESS=DEFLATE",
        )
    photometric = _number(tags, TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, -1)
    if compression == _OLD_JPEG:
        photometric = _YCBCR
    bands = _number(tags, TiffImagePlugin.SAMPLESPERPIXEL, 3 if compression == _OLD_JPEG else 1)
    _check_depth(tags, photometric, bands)
    has_alpha = _check_bands(tags, photometric, bands)
    _check_decoding(tags, compression, photometric, bands)
    return TiffHeader(
        size=(
            _number(tags, TiffImagePlugin.IMAGEWIDTH, 0),
            _number(tags, TiffImagePlugin.IMAGELENGTH, 0),
        ),
        has_alpha=has_alpha,
        nodata=None if photometric in (_WHITE_IS_ZERO, _PALETTE) else _nodata(tags),
    )


def _check_depth(tags: ImageFileDirectory_v2, photometric: int, bands: int) -> None:
    bits = _numbers(tags, TiffImagePlugin.BITSPERSAMPLE, (1,))
    formats = _numbers(tags, TiffImagePlugin.SAMPLEFORMAT, (1,))
    number_format = max(formats, default=1)
    allowed = (1, 2, 4, 8) if bands == 1 and photometric in (0, 1, 3) else (8,)
    if number_format in _SAMPLE_FORMATS or any(b not in allowed for b in bits):
        text = f"{'/'.join(map(str, dict.fromkeys(bits)))} bits"
        if number_format in _SAMPLE_FORMATS:
            text += f", {_SAMPLE_FORMATS[number_format]}"
        raise depth_error(text)


def _check_bands(tags: ImageFileDirectory_v2, photometric: int, bands: int) -> bool:
    """Return whether the last band is alpha."""
    name, colors = _PHOTOMETRICS.get(
        photometric, ("not stated" if photometric < 0 else str(photometric), 0)
    )
    extra = _numbers(tags, TiffImagePlugin.EXTRASAMPLES)
    if colors and bands == colors and not extra:
        return False
    if colors and bands == colors + 1 and extra in ((1,), (2,)) and photometric in _WITH_ALPHA:
        return True
    layout = f"TIFF photometric interpretation {name}"
    if colors and bands > colors:
        extra = extra or (0,) * (bands - colors)
        kinds = dict.fromkeys(_EXTRA_SAMPLES.get(e, str(e)) for e in extra)
        layout += f", extra samples {', '.join(kinds)}"
    raise _band_error(bands, layout)


def _check_decoding(
    tags: ImageFileDirectory_v2, compression: int, photometric: int, bands: int
) -> None:
    """Refuse layouts that Pillow decodes to other values than those in the file, or not at all."""
    is_raw = compression == _RAW
    bits = max(_numbers(tags, TiffImagePlugin.BITSPERSAMPLE, (1,)), default=1)
    is_reversed = _number(tags, TiffImagePlugin.FILLORDER, 1) == 2
    is_planar = _number(tags, TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 2
    is_premultiplied = _numbers(tags, TiffImagePlugin.EXTRASAMPLES) == (1,)
    colors = _numbers(tags, TiffImagePlugin.COLORMAP)
    problem = ""
    if photometric == _PALETTE and 0 < max(colors, default=0) < 256:
        problem = "a colour map with values up to 255 instead of 65535"
    elif photometric == _YCBCR and (is_planar or compression not in (_OLD_JPEG, _JPEG)):
        problem = "YCbCr colours, but without JPEG compression or with planar configuration 2"
    elif is_planar and is_premultiplied and (is_raw or bands == 2):
        problem = "premultiplied alpha, uncompressed or of grey, with planar configuration 2"
    elif is_raw and is_reversed and (bits > 1 or photometric == _PALETTE):
        problem = "uncompressed pixels in FillOrder 2"
    elif is_raw and is_planar and bands == 1 and (photometric == _WHITE_IS_ZERO or bits < 8):
        problem = "a single band, uncompressed, with planar configuration 2"
    if problem:
        raise ImageError(
            "image-bands",
            f"it is a TIFF with {problem}, which Pillow misreads; save it as an ordinary RGB or "
            "grey TIFF",
        )


def _nodata(tags: ImageFileDirectory_v2) -> int | None:
    try:
        value = float(tags.get(_GDAL_NODATA, "nan"))
    except (TypeError, ValueError):
        return None
    return int(value) if value.is_integer() and 0 <= value <= 255 else None


JPEG2000_SIGNATURES = (b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  \x0d\x0a\x87\x0a")
_CMYK = 12


def check_jpeg2000_header(stream: IO[bytes]) -> None:
    """Check that a JPEG 2000 file has 8 bits per channel, and the bands of grey, RGB or CMYK.

    An alpha band is allowed if the file declares it as such.

    Args:
        stream: file that starts with one of :data:`JPEG2000_SIGNATURES`.

    Raises:
        ImageError: otherwise, or if the header is damaged.
    """
    stream.seek(0, 2)
    end = stream.tell()
    stream.seek(0)
    start, color_space = 0, 0
    channel_types: tuple[int, ...] = ()
    if stream.read(4) != JPEG2000_SIGNATURES[0]:
        boxes = dict(_boxes(stream, 0, end))
        if not {b"jp2h", b"jp2c"} <= set(boxes):
            raise ImageError("image-unreadable", "it is a JPEG 2000 file without a picture")
        header = dict(_boxes(stream, *boxes[b"jp2h"]))
        channel_types = _channel_types(stream, header)
        color_space = _color_space(stream, header)
        start = boxes[b"jp2c"][0]
    stream.seek(start + 40)
    (bands,) = struct.unpack(">H", stream.read(2))
    depths = stream.read(3 * bands)[::3]
    if any(depth != 7 for depth in depths):  # 7 is 8 bits, unsigned.
        bits = dict.fromkeys(f"{(d & 127) + 1}{' signed' * (d > 127)}" for d in depths)
        raise depth_error(f"{'/'.join(bits)} bits")
    colors = bands - channel_types.count(1)
    is_known = set(channel_types) <= {0, 1} and colors >= bands - 1
    if not is_known or colors not in ((4,) if color_space == _CMYK else (1, 3)):
        names = {0: "colour", 1: "alpha", 2: "premultiplied alpha"}
        declared = ", ".join(names.get(t, "other") for t in channel_types)
        raise _band_error(bands, f"JPEG 2000, declared as {declared or 'nothing'}")


def _boxes(stream: IO[bytes], start: int, end: int) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Yield the type, and the start and end of the contents, of the boxes in a range of a file."""
    while start + 8 <= end:
        stream.seek(start)
        length, kind = struct.unpack(">I4s", stream.read(8))
        content = start + 8
        if length == 1:
            (length,) = struct.unpack(">Q", stream.read(8))
            content += 8
        stop = start + length if length else end
        if not content <= stop <= end:
            raise ImageError("image-unreadable", "its JPEG 2000 boxes are damaged")
        yield kind, (content, stop)
        start = stop


def _channel_types(stream: IO[bytes], header: dict[bytes, tuple[int, int]]) -> tuple[int, ...]:
    """Return 0 for colour, 1 for alpha, 2 for premultiplied alpha for each declared channel."""
    if b"cdef" not in header:
        return ()
    start, stop = header[b"cdef"]
    stream.seek(start + 2)
    content = stream.read(stop - start - 2)
    return tuple(kind for _, kind, _ in struct.iter_unpack(">HHH", content))


def _color_space(stream: IO[bytes], header: dict[bytes, tuple[int, int]]) -> int:
    """Return the enumerated colour space, or 0 if there is none."""
    if b"colr" not in header:
        return 0
    stream.seek(header[b"colr"][0])
    content = stream.read(7)
    return int.from_bytes(content[3:7], "big") if content[:1] == b"\x01" else 0
