"""Pictures and encoded files that the tests of image files share."""

from __future__ import annotations

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from modnas_fast.images.files import Frame, ImageError, ImageFile, Metadata, read_image

H, W = 13, 11
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
KINDS = list(itertools.product(("uint8", "uint16", "float32"), (1, 2, 3, 4)))


def samples(dtype="uint8", channels=3, height=H, width=W, seed=0):
    generator = np.random.default_rng(seed)
    shape = (height, width) if channels == 1 else (height, width, channels)
    if dtype == "float32":
        return generator.random(shape, dtype=np.float32)
    return generator.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def image_of(*arrays, **metadata):
    return ImageFile(tuple(Frame.from_samples(array) for array in arrays), Metadata(**metadata))


def read_samples(path):
    (frame,) = read_image(path).frames
    return frame.samples


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)


def exif_block(orientation=None):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Lumière"[:5]
    exif[ExifTags.Base.DateTime] = "1895:12:28 21:00:00"
    exif.get_ifd(ExifTags.IFD.Exif).update(
        {ExifTags.Base.ExposureTime: 0.125, ExifTags.Base.LensModel: "a long lens name"}
    )
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(
        {ExifTags.GPS.GPSLatitudeRef: "N", ExifTags.GPS.GPSLatitude: (45.0, 44.0, 30.0)}
    )
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.IFD.Interop] = {1: "R98"}
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    return exif.tobytes().removeprefix(b"Exif\0\0")


def pillow_bytes(picture, kind, **options):
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_bytes(width, height, bits, colour_type, rows, *extra, interlaced=0):
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, interlaced)
    chunks = [png_chunk(b"IHDR", header), *extra, png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def png_rows(array):
    """Unfiltered rows of 8 or 16 bit samples."""
    return b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in array)


def png_reference(data):
    """An independent PNG decoder: chunks, zlib and the five filters, by the standard."""
    width, height, bits, colour_type = struct.unpack(">IIBB", data[16:26])
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour_type]
    at, stream = 8, b""
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        stream += data[at + 8 : at + 8 + size] if data[at + 4 : at + 8] == b"IDAT" else b""
        at += 12 + size
    step, length = channels * bits // 8, width * channels * bits // 8
    rows = np.frombuffer(zlib.decompress(stream), np.uint8).reshape(height, 1 + length).astype(int)
    out = np.zeros((height + 1, length + step), int)  # a row above and a pixel to the left of zeros
    for y, (kind, *row) in enumerate(rows, 1):
        for x, value in enumerate(row, step):
            a, b, c = out[y, x - step], out[y - 1, x], out[y - 1, x - step]
            paeth = min((a, b, c), key=lambda p, q=a + b - c: abs(q - p))
            out[y, x] = (value + (0, a, b, (a + b) // 2, paeth)[kind]) % 256
    array = out[1:, step:].astype(np.uint8).reshape(-1).view(f">u{bits // 8}").astype(f"u{bits // 8}")
    return array.reshape((height, width) if channels == 1 else (height, width, channels))


def assert_error(path, *parts, **options):
    """One ImageError, of one line, that names the file and holds the parts."""
    with pytest.raises(ImageError) as caught:
        read_image(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    assert message.count(str(path)) == 1
    for part in parts:
        assert part in message
    return message


def read_or_none(path):
    """None after an ImageError; anything else fails the test."""
    try:
        return read_image(path, max_pixels=10_000)
    except ImageError:
        return None


def assert_error_or_same(path, data, arrays):
    path.write_bytes(data)
    image = read_or_none(path)
    if image is None:
        return False
    assert [frame.samples.shape for frame in image.frames] == [array.shape for array in arrays]
    assert all(same(frame.samples, array) for frame, array in zip(image.frames, arrays, strict=True))
    return True
