"""PNG of every kind, 8 and 16 bit; Pillow would halve 16-bit colour to 8 bit without a word, so libpng decodes.

Chunks are taken apart and put together here: libpng sees those that make the pixels and no other, so nothing else in
the file can make it fail or complain.
"""

from __future__ import annotations

import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from modnas_fast.images.exif import take_metadata, upright
from modnas_fast.images.frames import Array, Frame, ImageError, ImageFile, check_pixels

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LARGEST_PROFILE = 1 << 24  # bytes; a profile is compressed, and must not unpack without end
_INCH = 0.0254  # metres
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # x, y, dx, dy
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # a pixel, by colour type


def decode_png(stream: BinaryIO, max_pixels: int) -> ImageFile:
    """The PNG in stream: a palette becomes RGB, a transparent colour alpha, and 1, 2 and 4 bit become 8."""
    header = stream.read(33)
    if len(header) < 33 or header[12:16] != b"IHDR":
        raise ImageError("is cut off within its header; fetch it again")
    width, height = struct.unpack(">II", header[16:24])
    check_pixels(width * height, max_pixels)

    bodies: dict[bytes, list[bytes]] = defaultdict(list)
    for kind, body in _read_chunks(header + stream.read()):
        bodies[kind].append(body)
    chunks = {kind: b"".join(parts) for kind, parts in bodies.items()}
    if b"IDAT" not in chunks:
        raise ImageError("holds no pixels; fetch it again")
    if int.from_bytes(chunks.get(b"acTL", b"")[:4], "big") > 1:
        raise ImageError("is an animated PNG; extract its frames to files of their own first")

    metadata, orientation = take_metadata(
        _unpack_profile(chunks.get(b"iCCP")), chunks.get(b"eXIf"), _unpack_dpi(chunks.get(b"pHYs"))
    )
    interlaced = chunks[b"IHDR"][12] != 0
    samples = _decode_interlaced(chunks) if interlaced else _decode_plain(chunks)
    return ImageFile((Frame.from_samples(upright(samples, orientation)),), metadata)


def encode_png(image: ImageFile, stream: BinaryIO) -> None:
    """Write the only frame, uint8 or uint16, with ICC profile, EXIF and resolution."""
    import imagecodecs

    metadata = image.metadata
    encoded = imagecodecs.png_encode(np.ascontiguousarray(image.frames[0].samples))
    carried = b""
    if metadata.icc_profile is not None:
        carried += _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc_profile))
    if metadata.dpi is not None:
        x, y = (round(value / _INCH) for value in metadata.dpi)
        carried += _chunk(b"pHYs", struct.pack(">IIB", x, y, 1))
    if metadata.exif is not None:
        carried += _chunk(b"eXIf", metadata.exif)
    header = len(_SIGNATURE) + 25  # the carried chunks stand between IHDR and the rest
    stream.write(encoded[:header] + carried)
    stream.write(memoryview(encoded)[header:])


def _read_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of each chunk, in order, up to IEND, which must be there."""
    at = len(_SIGNATURE)
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        if at + 12 + size > len(data):
            break
        (checksum,) = struct.unpack_from(">I", data, at + 8 + size)
        if zlib.crc32(body, zlib.crc32(kind)) != checksum:
            raise ImageError(f"is damaged: its {kind!r} chunk fails its checksum; fetch it again")
        yield kind, body
        if kind == b"IEND":
            return
        at += 12 + size
    raise ImageError("is cut off; fetch it again")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _decode_plain(chunks: dict[bytes, bytes]) -> Array:
    """Samples of a PNG that is not interlaced, [H, W] or [H, W, n]."""
    import imagecodecs

    needed = [kind for kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT") if kind in chunks]
    decoded: Array = imagecodecs.png_decode(
        _SIGNATURE + b"".join(_chunk(kind, chunks[kind]) for kind in needed) + _chunk(b"IEND", b"")
    )
    return decoded


def _decode_interlaced(chunks: dict[bytes, bytes]) -> Array:
    """Samples of an interlaced PNG: its seven passes are seven small PNGs, one behind the other in the same stream."""
    width, height, bits, colour_type = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    pixel_bits = bits * _SAMPLES[colour_type]
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in _ADAM7]
    lengths = [h * (1 + -(-w * pixel_bits // 8)) if w > 0 and h > 0 else 0 for w, h in sizes]
    rows = zlib.decompressobj().decompress(chunks[b"IDAT"], sum(lengths))

    samples = None
    at = 0
    for (x, y, dx, dy), (w, h), length in zip(_ADAM7, sizes, lengths, strict=True):
        if not length:
            continue
        header = struct.pack(">IIBB", w, h, bits, colour_type) + bytes(3)
        passed = _decode_plain(chunks | {b"IHDR": header, b"IDAT": zlib.compress(rows[at : at + length], 0)})
        if samples is None:
            samples = np.empty((height, width, *passed.shape[2:]), passed.dtype)
        samples[y::dy, x::dx] = passed
        at += length
    assert samples is not None  # the first pass holds the first pixel
    return samples


def _unpack_profile(body: bytes | None) -> bytes | None:
    """The profile of an iCCP chunk: a name, a zero, a method, then the compressed profile; None if it is damaged."""
    if body is None:
        return None
    inflate = zlib.decompressobj()
    try:
        profile = inflate.decompress(body[body.index(b"\0") + 2 :], _LARGEST_PROFILE)
    except (ValueError, zlib.error):
        return None
    return profile if inflate.eof else None


def _unpack_dpi(body: bytes | None) -> tuple[float, float] | None:
    if body is None or len(body) != 9 or body[8] != 1:  # 1: pixels a metre
        return None
    x, y = struct.unpack(">II", body[:8])
    return x * _INCH, y * _INCH
