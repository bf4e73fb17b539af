"""JPEG, WebP and BMP: the formats of 8 bit.

As with PNG, decoders see the parts that make the pixels and no other: metadata are read here, so that a damaged one
neither fails the file nor prints a warning.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile

from modnas_fast.images.exif import take_metadata, upright
from modnas_fast.images.frames import Array, Frame, ImageError, ImageFile, Metadata, check_pixels

_APP0, _APP1, _APP2, _APP14, _COMMENT, _START_OF_SCAN = 0xE0, 0xE1, 0xE2, 0xEE, 0xFE, 0xDA
_UNNEEDED = {*range(_APP0, _APP0 + 16), _COMMENT} - {_APP0, _APP14}  # JFIF and Adobe's say what the colours are
_DENSITY_UNITS = {1: 1.0, 2: 2.54}  # JFIF: dots an inch, dots a centimetre
_ANIMATED = 0x02  # flag in WebP's VP8X chunk


def decode_jpeg(stream: BinaryIO, max_pixels: int) -> ImageFile:
    """The JPEG in stream, of several pictures the first; CMYK becomes RGB without its profile, which describes inks."""
    data = stream.read()
    segments, scan = _jpeg_segments(data)
    exif = b"".join(_bodies(segments, _APP1, b"Exif\0\0"))
    profile = b"".join(part[2:] for part in sorted(_bodies(segments, _APP2, b"ICC_PROFILE\0")))  # part: number, of, …
    density = _bodies(segments, _APP0, b"JFIF\0")
    header = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments if marker not in _UNNEEDED
    )
    # Made directly, not by Image.open, whose own limit of pixels is global and prints a warning.
    picture: Image.Image = JpegImageFile(io.BytesIO(data[:2] + header + data[scan:]))
    check_pixels(picture.width * picture.height, max_pixels)
    if picture.mode == "CMYK":
        picture, profile = picture.convert("RGB"), b""
    metadata, orientation = take_metadata(profile or None, exif or None, _density(density[0]) if density else None)
    return ImageFile((Frame.from_samples(upright(_samples(picture), orientation)),), metadata)


def encode_jpeg(image: ImageFile, stream: BinaryIO) -> None:
    """Write the only frame, uint8, at quality 95, colour not subsampled, with ICC profile, EXIF and resolution."""
    metadata = image.metadata
    _pillow(image).save(
        stream,
        "JPEG",
        quality=95,
        subsampling="4:4:4",
        icc_profile=metadata.icc_profile,
        exif=b"Exif\0\0" + metadata.exif if metadata.exif else b"",
        dpi=metadata.dpi or (0, 0),
    )


def decode_webp(stream: BinaryIO, max_pixels: int) -> ImageFile:
    """The WebP in stream, RGB or RGBA."""
    import imagecodecs

    data = stream.read()
    if len(data) < 20 or len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise ImageError("is cut off; fetch it again")
    chunks: dict[bytes, bytes] = {}
    for kind, body in _riff_chunks(data):
        chunks.setdefault(kind, body)
    width, height = _webp_size(chunks)
    check_pixels(width * height, max_pixels)
    if chunks.get(b"VP8X", b"\0")[0] & _ANIMATED:
        raise ImageError("is an animated WebP; extract its frames to files of their own first")
    metadata, orientation = take_metadata(chunks.get(b"ICCP"), chunks.get(b"EXIF"))
    return ImageFile((Frame.from_samples(upright(imagecodecs.webp_decode(data), orientation)),), metadata)


def encode_webp(image: ImageFile, stream: BinaryIO) -> None:
    """Write the only frame, uint8, without loss, with ICC profile and EXIF; gray as RGB, which is all WebP knows."""
    metadata = image.metadata
    _pillow(image).save(
        stream,
        "WEBP",
        lossless=True,
        exact=True,  # keeps the colour of transparent pixels
        icc_profile=metadata.icc_profile,
        exif=metadata.exif or b"",
    )


def decode_bmp(stream: BinaryIO, max_pixels: int) -> ImageFile:
    """The BMP in stream, gray, RGB or RGBA."""
    picture = BmpImageFile(stream)
    check_pixels(picture.width * picture.height, max_pixels)
    metadata = Metadata(dpi=picture.info.get("dpi"))
    return ImageFile((Frame.from_samples(_samples(picture)),), metadata)


def encode_bmp(image: ImageFile, stream: BinaryIO) -> None:
    """Write the only frame, uint8 without alpha, with its resolution."""
    _pillow(image).save(stream, "BMP", dpi=image.metadata.dpi or (0, 0))


def _samples(picture: Image.Image) -> Array:
    """Samples of a Pillow image, [H, W] or [H, W, n], uint8; decodes it."""
    modes = {"1": "L", "P": "RGB", "L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA"}
    if picture.mode not in modes:
        raise ImageError(f"is of the kind {picture.mode}; convert it to gray or RGB")
    return np.asarray(picture.convert(modes[picture.mode]))


def _pillow(image: ImageFile) -> Image.Image:
    return Image.fromarray(image.frames[0].samples)


def _jpeg_segments(data: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """Marker and body of each segment before the first scan, and the offset of that scan."""
    segments: list[tuple[int, bytes]] = []
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise ImageError("is damaged in its header; fetch it again")
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == _START_OF_SCAN:
            return segments, at
        (size,) = struct.unpack_from(">H", data, at + 2)
        if size < 2 or at + 2 + size > len(data):
            break
        segments.append((marker, data[at + 4 : at + 2 + size]))
        at += 2 + size
    raise ImageError("is cut off within its header; fetch it again")


def _bodies(segments: list[tuple[int, bytes]], marker: int, prefix: bytes) -> list[bytes]:
    """What follows the prefix in each segment of the marker that starts with it."""
    return [body[len(prefix) :] for kind, body in segments if kind == marker and body.startswith(prefix)]


def _density(jfif: bytes) -> tuple[float, float] | None:
    """Resolution in a JFIF segment (version, unit, x, y); None where it is only an aspect ratio."""
    unit, x, y = struct.unpack_from(">BHH", jfif, 2) if len(jfif) >= 7 else (0, 0, 0)
    scale = _DENSITY_UNITS.get(unit)
    return (x * scale, y * scale) if scale and x and y else None


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of each of a WebP's chunks."""
    at = 12
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        yield kind, data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _webp_size(chunks: dict[bytes, bytes]) -> tuple[int, int]:
    """Width and height, from the header of the canvas, or of the lossless or lossy picture that stands alone."""
    if b"VP8X" in chunks:
        canvas = chunks[b"VP8X"]
        return 1 + int.from_bytes(canvas[4:7], "little"), 1 + int.from_bytes(canvas[7:10], "little")
    if b"VP8L" in chunks:
        bits = int.from_bytes(chunks[b"VP8L"][1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if b"VP8 " in chunks:
        width, height = struct.unpack_from("<HH", chunks[b"VP8 "], 6)
        return width & 0x3FFF, height & 0x3FFF
    raise ImageError("holds no picture; fetch it again")
