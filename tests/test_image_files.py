"""Image files: every kind survives bit for bit, and every failure is one clear error that leaves nothing behind."""

from __future__ import annotations

import io
import itertools
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageCms, ImageOps

from modnas_fast.errors import ModnasError
from modnas_fast.images import files, tiff
from modnas_fast.images.files import (
    READABLE_SUFFIXES,
    WRITABLE_SUFFIXES,
    Frame,
    ImageError,
    ImageFile,
    Metadata,
    check_writable,
    from_float,
    list_images,
    read_image,
    to_float,
    write_image,
)

H, W = 13, 11
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
KINDS = list(itertools.product(("uint8", "uint16", "float32"), (1, 2, 3, 4)))


@pytest.fixture(autouse=True)
def _nothing_printed(capfd):
    """No test may print a warning, from Python, logging or a C library; only the message of the error counts."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert capfd.readouterr() == ("", "")


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


# Round trips


LOSSLESS = [
    (suffix, dtype, channels)
    for suffix, depths in {".png": 2, ".tiff": 3, ".TIF": 3, ".npy": 3, ".webp": 1, ".bmp": 1}.items()
    for dtype, channels in KINDS[: 4 * depths]
]


@pytest.mark.parametrize(("suffix", "dtype", "channels"), LOSSLESS)
def test_lossless_formats_keep_every_sample(tmp_path, suffix, dtype, channels):
    array = samples(dtype, channels)
    path = tmp_path / f"image{suffix}"
    if suffix == ".bmp" and channels in (2, 4):
        with pytest.raises(ImageError, match=r"image\.bmp: cannot hold alpha.*\.png"):
            write_image(path, image_of(array))
        return
    write_image(path, image_of(array))
    expected = array
    if suffix == ".webp" and channels < 3:  # WebP has no gray
        expected = np.dstack(
            [array[..., 0] if channels == 2 else array] * 3 + ([array[..., 1]] if channels == 2 else [])
        )
    assert same(read_samples(path), expected)
    assert same(independent_read(path), expected)


def independent_read(path):
    kind = path.suffix.lower()
    if kind == ".npy":
        return np.load(path, allow_pickle=False)
    if kind == ".png":
        return png_reference(path.read_bytes())
    if kind in (".tif", ".tiff"):
        return imagecodecs.tiff_decode(path.read_bytes())  # libtiff; the package writes with tifffile
    return np.asarray(Image.open(path))


@pytest.mark.parametrize(("dtype", "channels"), [kind for kind in KINDS if kind[0] == "uint8"])
def test_pillow_reads_png_and_tiff_the_same(tmp_path, dtype, channels):
    array = samples(dtype, channels)
    for suffix in (".png", ".tiff"):
        write_image(tmp_path / f"a{suffix}", image_of(array))
        assert same(np.asarray(Image.open(tmp_path / f"a{suffix}")), array)


@pytest.mark.parametrize("suffix", [s for s in WRITABLE_SUFFIXES if s not in (".jpg", ".jpeg")])
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 1), (4, 3), (64, 65)])
def test_small_and_odd_sizes(tmp_path, suffix, size):
    for channels in (1, 3):
        array = samples("uint8", channels, *size)
        write_image(tmp_path / f"a{suffix}", image_of(array), overwrite=True)
        got = read_samples(tmp_path / f"a{suffix}")
        assert same(got if got.ndim == array.ndim else got[..., 0], array)


def test_non_contiguous_frames(tmp_path):
    array = samples("uint16", 4, 2 * H, 2 * W)[::2, ::-2]
    frame = Frame(array[..., :3], array[..., 3])
    for suffix in (".png", ".tiff", ".npy"):
        write_image(tmp_path / f"a{suffix}", ImageFile((frame,)))
        assert same(read_samples(tmp_path / f"a{suffix}"), np.ascontiguousarray(array))


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [(".png", "float32"), *itertools.product((".webp", ".bmp", ".jpg"), ("uint16", "float32"))],
)
def test_deeper_samples_are_rounded(tmp_path, suffix, dtype):
    array = samples(dtype, 3, 64, 64)
    if dtype == "float32":
        array = array * 1.5 - 0.25  # beyond black and white: clipped
    unit = array / 65535 if dtype == "uint16" else array
    top = 65535 if suffix == ".png" else 255
    expected = np.rint(unit.clip(0, 1) * top).astype("uint16" if suffix == ".png" else "uint8")
    path = tmp_path / f"a{suffix}"
    write_image(path, image_of(array))
    if suffix == ".jpg":
        assert path.read_bytes() == pillow_bytes(Image.fromarray(expected), "JPEG", quality=95, subsampling=0)
    else:
        assert same(read_samples(path), expected)


def test_alpha_is_rounded_with_the_colour(tmp_path):
    array = samples("uint16", 4)
    write_image(tmp_path / "a.webp", image_of(array))
    assert same(read_samples(tmp_path / "a.webp"), np.rint(array / 257).astype(np.uint8))


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_quality_95_without_subsampling(tmp_path, channels):
    array = samples("uint8", channels)
    write_image(tmp_path / "a.jpg", image_of(array))
    expected = pillow_bytes(Image.fromarray(array), "JPEG", quality=95, subsampling=0)
    assert (tmp_path / "a.jpg").read_bytes() == expected
    assert same(read_samples(tmp_path / "a.jpg"), np.asarray(Image.open(io.BytesIO(expected))))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_float_conversion_is_exact_both_ways(dtype):
    every = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
    as_float = to_float(every)
    assert as_float.dtype == np.float32
    assert as_float[0] == 0
    assert as_float[-1] == 1
    assert same(from_float(as_float, dtype), every)
    assert same(from_float(np.array([-1, 2, np.inf, -np.inf], np.float32), dtype), every[[0, -1, -1, 0]])


def test_from_float_rounds_half_to_even_and_leaves_float32_alone():
    halves = np.array([0.5, 1.5, 2.5, 3.5, 126.5, 253.5]) / 255
    assert from_float(halves, np.uint8).tolist() == [0, 2, 2, 4, 126, 254]
    wide = np.array([-1.0, 0.3, 7.0], np.float32)
    assert same(from_float(wide, np.float32), wide)
    with pytest.raises(ImageError, match="NaN"):
        from_float(np.array([np.nan], np.float32), np.uint8)
    with pytest.raises(ImageError, match="int32"):
        from_float(wide, np.int32)


# Kinds of PNG


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(H, W), (1, 1), (2, 5), (8, 8)])
def test_interlaced_png(tmp_path, dtype, channels, size):
    array = samples(dtype, channels, *size)
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = b"".join(png_rows(array[y::dy, x::dx]) for x, y, dx, dy in passes if array[y::dy, x::dx].size)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    data = png_bytes(size[1], size[0], 8 * array.itemsize, kind, rows, interlaced=1)
    (tmp_path / "a.png").write_bytes(data)
    assert same(read_samples(tmp_path / "a.png"), array)
    for end in range(33, len(data), 7):
        assert_error_or_same(tmp_path / "cut.png", data[:end], (array,))


def test_palette_png(tmp_path):
    palette = Image.fromarray(samples()).quantize(16)
    (tmp_path / "a.png").write_bytes(pillow_bytes(palette, "PNG"))
    assert same(read_samples(tmp_path / "a.png"), np.asarray(palette.convert("RGB")))
    data = pillow_bytes(palette, "PNG", transparency=bytes(range(0, 160, 10)))
    (tmp_path / "b.png").write_bytes(data)
    assert same(read_samples(tmp_path / "b.png"), np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")))
    assert read_image(tmp_path / "b.png").frames[0].alpha is not None


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_of_few_bits(tmp_path, bits):
    rows = b"\0" + bytes([0b00011011] * bits)
    levels = np.unpackbits(np.frombuffer(rows[1:], np.uint8)).reshape(8, bits) @ (1 << np.arange(bits)[::-1])
    expected = (levels * (255 // (2**bits - 1))).astype(np.uint8)[None]
    (tmp_path / "a.png").write_bytes(png_bytes(8, 1, bits, 0, rows))
    assert same(read_samples(tmp_path / "a.png"), expected)
    (tmp_path / "b.png").write_bytes(png_bytes(8, 1, bits, 0, rows, png_chunk(b"tRNS", b"\0\1")))
    assert same(
        read_samples(tmp_path / "b.png"), np.dstack([expected, np.where(levels == 1, 0, 255)[None]]).astype(np.uint8)
    )


def test_transparent_colour_of_a_16_bit_png(tmp_path):
    array = samples("uint16", 3)
    key = array[2, 3]
    data = png_bytes(W, H, 16, 2, png_rows(array), png_chunk(b"tRNS", key.astype(">u2").tobytes()))
    (tmp_path / "a.png").write_bytes(data)
    frame = read_image(tmp_path / "a.png").frames[0]
    assert same(frame.colour, array)
    assert same(frame.alpha, np.where((array == key).all(2), 0, 65535).astype(np.uint16))


def test_one_bit_and_palette_bmp(tmp_path):
    for picture in (Image.fromarray(samples("uint8", 1)).convert("1"), Image.fromarray(samples()).quantize(16)):
        picture.save(tmp_path / "a.bmp")
        expected = np.asarray(picture.convert("L" if picture.mode == "1" else "RGB"))
        assert same(read_samples(tmp_path / "a.bmp"), expected)


def test_cmyk_jpeg_becomes_rgb_without_its_profile(tmp_path):
    picture = Image.merge("CMYK", [Image.fromarray(samples("uint8", 1, seed=seed)) for seed in range(4)])
    (tmp_path / "a.jpg").write_bytes(pillow_bytes(picture, "JPEG", icc_profile=ICC, exif=b"Exif\0\0" + exif_block()))
    image = read_image(tmp_path / "a.jpg")
    assert same(image.frames[0].samples, np.asarray(Image.open(tmp_path / "a.jpg").convert("RGB")))
    assert image.metadata.icc_profile is None
    assert image.metadata.exif is not None


def test_progressive_jpeg_and_mpo(tmp_path):
    picture, other = (Image.fromarray(samples(seed=seed)) for seed in (0, 1))
    for data in (
        pillow_bytes(picture, "JPEG", progressive=True),
        pillow_bytes(picture, "MPO", save_all=True, append_images=[other]),
    ):
        (tmp_path / "a.jpg").write_bytes(data)
        assert same(read_samples(tmp_path / "a.jpg"), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_content_decides_the_format(tmp_path):
    for suffix in (".png", ".tiff", ".webp", ".bmp", ".npy"):
        write_image(tmp_path / f"a{suffix}", image_of(samples()))
        disguised = tmp_path / f"{suffix[1:]}.jpg"
        disguised.write_bytes((tmp_path / f"a{suffix}").read_bytes())
        assert same(read_samples(disguised), samples())


# Kinds of TIFF


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize(("dtype", "channels"), [kind for kind in KINDS if kind[1] != 2])
def test_tiff_layouts(tmp_path, compression, planar, dtype, channels):
    array = samples(dtype, channels)
    separate = planar == "separate" and channels > 1
    options = {"compression": compression, "predictor": compression in ("lzw", "zlib"), "rowsperstrip": 4}
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.moveaxis(array, 2, 0) if separate else array,
        photometric="minisblack" if channels == 1 else "rgb",
        planarconfig=planar if channels > 1 else None,
        extrasamples=["unassalpha"] if channels == 4 else None,
        byteorder=">" if separate else "<",
        bigtiff=compression == "packbits",
        **options,
    )
    assert same(read_samples(tmp_path / "a.tif"), array)


def test_tiled_tiff(tmp_path):
    array = samples("uint16", 3, 50, 70)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", tile=(16, 32), compression="lzw")
    assert same(read_samples(tmp_path / "a.tif"), array)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_min_is_white_tiff_is_turned(tmp_path, dtype):
    array = samples(dtype, 1)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="miniswhite")
    assert same(read_samples(tmp_path / "a.tif"), np.iinfo(dtype).max - array)


def test_one_bit_tiff(tmp_path):
    picture = Image.fromarray(samples("uint8", 1)).convert("1")
    picture.save(tmp_path / "a.tif", compression="group4")
    assert same(read_samples(tmp_path / "a.tif"), np.asarray(picture.convert("L")))


def test_associated_alpha_is_divided_out(tmp_path):
    array = samples("uint8", 4)
    array[..., :3] = np.minimum(array[..., :3], array[..., 3:])
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", extrasamples=["assocalpha"])
    frame = read_image(tmp_path / "a.tif").frames[0]
    expected = np.where(array[..., 3:] > 0, array[..., :3] * 255.0 / np.maximum(array[..., 3:], 1), 0)
    assert same(frame.colour, np.rint(expected).astype(np.uint8))
    assert same(frame.alpha, array[..., 3])


@pytest.mark.parametrize("pages", [2, 3, 4])
def test_gray_stacks_stay_frames(tmp_path, pages):
    stack = np.stack([samples("uint16", 1, seed=seed) for seed in range(pages)])
    tifffile.imwrite(tmp_path / "in.tif", stack, photometric="minisblack")
    image = read_image(tmp_path / "in.tif")
    write_image(tmp_path / "out.tif", image)
    for again in (image, read_image(tmp_path / "out.tif")):
        assert [frame.colour.shape for frame in again.frames] == [(H, W, 1)] * pages
        assert all(same(frame.samples, page) for frame, page in zip(again.frames, stack, strict=True))
    assert same(
        np.stack([imagecodecs.tiff_decode((tmp_path / "out.tif").read_bytes(), index=i) for i in range(pages)]), stack
    )


def test_pages_may_differ(tmp_path):
    pages = [samples("uint8", 3), samples("uint16", 1, 5, 6), samples("float32", 4, 7, 8)]
    write_image(tmp_path / "a.tiff", image_of(*pages, icc_profile=ICC, exif=exif_block()))
    image = read_image(tmp_path / "a.tiff")
    assert all(same(frame.samples, page) for frame, page in zip(image.frames, pages, strict=True))
    assert_same_exif(image.metadata.exif, exif_block())
    data = (tmp_path / "a.tiff").read_bytes()
    assert all(same(imagecodecs.tiff_decode(data, index=index), page) for index, page in enumerate(pages))
    for suffix in (".png", ".jpg", ".webp", ".bmp", ".npy"):
        with pytest.raises(ImageError, match=r"cannot hold 3 frames.*\.tiff"):
            write_image(tmp_path / f"a{suffix}", image)


def test_big_tiff_has_no_exif(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff, "_CLASSIC_LIMIT", 0)
    write_image(
        tmp_path / "a.tiff", image_of(samples("uint16"), samples("uint8", 4), icc_profile=ICC, exif=exif_block())
    )
    assert (tmp_path / "a.tiff").read_bytes()[2:4] in (b"+\0", b"\0+")
    image = read_image(tmp_path / "a.tiff")
    assert [frame.samples.dtype for frame in image.frames] == [np.uint16, np.uint8]
    assert same(image.frames[0].samples, samples("uint16"))
    assert image.metadata == Metadata(icc_profile=ICC)


@pytest.mark.parametrize("kind", ["imagej", "shaped"])
def test_stack_with_one_directory_is_refused(tmp_path, kind):
    stack = samples("uint8", 3)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", truncate=True, imagej=kind == "imagej")
    assert_error(tmp_path / "a.tif", "without a directory for each page")


# Metadata


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff"])
def test_orientation_is_applied_and_reset(tmp_path, suffix, orientation):
    picture = Image.fromarray(samples())
    if suffix == ".tiff":
        exif = Image.Exif()
        exif.load(b"Exif\0\0" + exif_block(orientation))
        picture.save(tmp_path / "in.tiff", exif=exif, dpi=(72, 144))
    else:
        options = {".webp": {"lossless": True}}.get(suffix, {"dpi": (72, 144)})
        picture.save(tmp_path / f"in{suffix}", exif=b"Exif\0\0" + exif_block(orientation), **options)
    with Image.open(tmp_path / f"in{suffix}") as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    image = read_image(tmp_path / f"in{suffix}")
    assert same(image.frames[0].samples, expected)
    if suffix != ".webp":
        assert image.metadata.dpi == pytest.approx((72, 144) if orientation < 5 else (144, 72), abs=0.02)
    for out in (".png", ".jpg", ".webp", ".tiff"):
        write_image(tmp_path / f"out{out}", image, overwrite=True)
        with Image.open(tmp_path / f"out{out}") as opened:
            assert opened.getexif()[ExifTags.Base.Orientation] == 1
            assert opened.size == expected.shape[1::-1]


def test_orientation_of_a_16_bit_png(tmp_path):
    array = samples("uint16", 4)
    (tmp_path / "a.png").write_bytes(png_bytes(W, H, 16, 6, png_rows(array), png_chunk(b"eXIf", exif_block(6))))
    assert same(read_samples(tmp_path / "a.png"), np.ascontiguousarray(np.rot90(array, -1)))


def assert_same_exif(block, expected):
    """The tags, as Pillow understands them; the bytes may lie elsewhere."""

    def tags(data):
        exif = Image.Exif()
        exif.load(data)
        picture = {tag: value for tag, value in exif.items() if tag not in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)}
        return picture, *map(exif.get_ifd, (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, ExifTags.IFD.Interop))

    assert tags(block) == tags(expected)
    assert all(tags(block))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("first", [".png", ".jpg", ".webp", ".tiff"])
def test_metadata_survive_every_format(tmp_path, first, dtype, order):
    exif = Image.Exif()
    exif.load(exif_block(1))
    exif.endian = order
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    assert block[:2] == (b"II" if order == "<" else b"MM")
    write_image(tmp_path / f"a{first}", image_of(samples(dtype), icc_profile=ICC, exif=block, dpi=(300.0, 150.0)))
    for second in (".png", ".jpg", ".webp", ".tiff"):
        write_image(tmp_path / f"b{second}", read_image(tmp_path / f"a{first}"), overwrite=True)
        metadata = read_image(tmp_path / f"b{second}").metadata
        assert metadata.icc_profile == ICC
        assert_same_exif(metadata.exif, block)
        with Image.open(tmp_path / f"b{second}") as opened:
            assert opened.info["icc_profile"] == ICC
            assert opened.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.LensModel] == "a long lens name"
            assert opened.getexif().get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] == (45, 44, 30)
            if ".webp" not in (first, second):
                assert metadata.dpi == pytest.approx((300, 150), abs=0.02)
                assert opened.info["dpi"] == pytest.approx((300, 150), abs=0.02)
    if first != ".tiff":
        assert read_image(tmp_path / f"a{first}").metadata.exif == block


def test_large_profiles_and_resolution_of_bmp(tmp_path):
    large = np.random.default_rng(0).bytes(200_000)  # several APP2 segments in a JPEG
    for suffix in (".png", ".jpg", ".webp", ".tiff"):
        write_image(tmp_path / f"a{suffix}", image_of(samples(), icc_profile=large))
        assert read_image(tmp_path / f"a{suffix}").metadata.icc_profile == large
    write_image(tmp_path / "a.bmp", image_of(samples(), dpi=(300.0, 150.0)))
    assert read_image(tmp_path / "a.bmp").metadata.dpi == pytest.approx((300, 150), abs=0.02)


def test_damaged_metadata_neither_fail_nor_print(tmp_path):
    damaged = exif_block()[:-20]
    for block in (
        b"",
        b"II*\0",
        b"nonsense" * 9,
        damaged,
        b"II*\0\xff\xff\xff\xff",
        struct.pack("<4sIH", b"II*\0", 8, 9),
    ):
        stream = io.BytesIO()
        Image.fromarray(samples()).save(stream, "JPEG", exif=b"Exif\0\0" + block)
        (tmp_path / "a.jpg").write_bytes(stream.getvalue())
        image = read_image(tmp_path / "a.jpg")
        assert image.metadata.exif == (block if block == damaged else None)
        for suffix in (".png", ".jpg", ".webp", ".tiff"):
            write_image(tmp_path / f"b{suffix}", image, overwrite=True)
            read_image(tmp_path / f"b{suffix}")
    bad_profile = png_chunk(b"iCCP", b"name\0\0not zlib")
    (tmp_path / "a.png").write_bytes(png_bytes(W, H, 16, 2, png_rows(samples("uint16")), bad_profile))
    assert read_image(tmp_path / "a.png").metadata.icc_profile is None


# Failures


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


def cut_cases():
    """name, bytes"""
    gray, colour, deep = samples("uint8", 1), samples(), samples("uint16", 4)
    for name, array in {"gray": gray, "colour": colour, "deep": deep}.items():
        for suffix in (".png", ".tiff", ".npy"):
            yield f"{name}{suffix}", encoded(suffix, image_of(array, exif=exif_block()))
    yield "stack.tiff", encoded(".tiff", image_of(gray, gray, gray))
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.stack([gray] * 3), photometric="minisblack", rowsperstrip=4)
    yield "plain.tiff", stream.getvalue()
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.stack([gray] * 3), photometric="minisblack", bigtiff=True, compression="lzw")
    yield "lzw.tiff", stream.getvalue()
    picture = Image.fromarray(samples("uint8", 3, 40, 40))
    yield "a.jpg", pillow_bytes(picture, "JPEG", quality=50)
    yield "progressive.jpg", pillow_bytes(picture, "JPEG", quality=50, progressive=True)
    yield "gray.jpg", pillow_bytes(picture.convert("L"), "JPEG", quality=50, optimize=True, restart_marker_rows=1)
    yield "a.webp", encoded(".webp", image_of(colour, exif=exif_block()))
    yield "lossy.webp", pillow_bytes(picture.convert("RGBA"), "WEBP", quality=50)
    yield "a.bmp", encoded(".bmp", image_of(colour))
    yield "palette.bmp", pillow_bytes(Image.fromarray(colour).quantize(8), "BMP")


def encoded(suffix, image):
    stream = io.BytesIO()
    files._writable_format(Path(f"a{suffix}")).encode(image, stream)
    return stream.getvalue()


CUT_CASES = dict(cut_cases())


@pytest.mark.parametrize("name", CUT_CASES)
def test_cut_off_files_are_errors_never_other_pixels(tmp_path, name):
    data, path = CUT_CASES[name], tmp_path / name
    path.write_bytes(data)
    arrays = [frame.samples for frame in read_image(path).frames]
    step = 1 + len(data) // 400
    ends = {*range(0, len(data), step), *range(max(0, len(data) - 40), len(data))}
    whole = [end for end in sorted(ends) if assert_error_or_same(path, data[:end], arrays)]
    assert all(end > len(data) // 2 for end in whole)  # only bytes after the pixels can be missing


@pytest.mark.parametrize("name", CUT_CASES)
def test_damaged_files_never_raise_anything_else(tmp_path, name):
    data, path = CUT_CASES[name], tmp_path / name
    generator = np.random.default_rng(1)
    for _ in range(60):
        damaged = bytearray(data)
        for at in generator.integers(0, min(len(data), 300 if generator.random() < 0.5 else len(data)), 3):
            damaged[at] = generator.integers(0, 256)
        path.write_bytes(damaged)
        read_or_none(path)


def test_not_an_image(tmp_path):
    for suffix in READABLE_SUFFIXES:
        path = tmp_path / f"a{suffix}"
        path.write_bytes(b"")
        assert_error(path, "is empty")
        path.write_text("no image at all, but a text of some length\n" * 9)
        assert_error(path, "holds no image", "PNG, JPEG, TIFF")
    assert_error(tmp_path, "is a folder")
    assert_error(tmp_path / "missing.png", "does not exist")
    assert_error(tmp_path / "a.png" / "b.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert_error(tmp_path / "pipe.png", "not a regular file")
    assert issubclass(ImageError, ModnasError)


def test_unreadable_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_image(path, image_of(samples()))

    def denied(self, *_):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", denied)  # the tests may run as root, whom no mode stops
    assert_error(path, "permission denied")


def bombs():
    """name, the head of a file of 100,000 × 60,000 pixels (16,000 × 16,000 for WebP) without its pixels, its pixels"""
    width, height = 100_000, 60_000
    pixels = "6,000,000,000"
    for bits in (1, 8, 16):
        yield f"{bits}.png", png_bytes(width, height, bits, 2 if bits > 1 else 0, b"\0"), pixels
    yield (
        "a.bmp",
        b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6),
        pixels,
    )
    small = pillow_bytes(Image.fromarray(samples()), "JPEG")
    sized = small.replace(struct.pack(">HH", H, W), struct.pack(">HH", 60_000, 60_000), 1)
    yield "a.jpg", sized, "3,600,000,000"
    head = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (99_999).to_bytes(3, "little") + (59_999).to_bytes(3, "little")
    yield "x.webp", b"RIFF" + struct.pack("<I", 4 + len(head)) + b"WEBP" + head, pixels
    head = b"VP8L" + struct.pack("<IBI", 5, 0x2F, 15_999 | 15_999 << 14) + b"\0"
    yield "l.webp", b"RIFF" + struct.pack("<I", 4 + len(head)) + b"WEBP" + head, "256,000,000"
    head = b"VP8 " + struct.pack("<I", 10) + b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16_000, 16_000)
    yield "v.webp", b"RIFF" + struct.pack("<I", 4 + len(head)) + b"WEBP" + head, "256,000,000"
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (height, width)})
    yield "a.npy", stream.getvalue(), pixels
    stream = io.BytesIO()
    tifffile.imwrite(stream, samples("uint16", 1), compression="zlib")
    tags = struct.pack("<HHII", 256, 4, 1, width) + struct.pack("<HHII", 257, 4, 1, height)
    plain = struct.pack("<HHII", 256, 4, 1, W) + struct.pack("<HHII", 257, 4, 1, H)
    assert plain in stream.getvalue()
    yield "a.tif", stream.getvalue().replace(plain, tags), pixels


@pytest.mark.parametrize(("name", "data", "pixels"), [pytest.param(*bomb, id=bomb[0]) for bomb in bombs()])
def test_bombs_are_refused_from_their_header(tmp_path, monkeypatch, name, data, pixels):
    for module, decoder in ((imagecodecs, "png_decode"), (imagecodecs, "webp_decode"), (tifffile.TiffPage, "asarray")):
        monkeypatch.setattr(module, decoder, lambda *_, **__: pytest.fail("decoded"))
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    (tmp_path / name).write_bytes(data)
    assert_error(tmp_path / name, pixels, "200,000,000", "max_pixels", max_pixels=200_000_000)


def test_limit_counts_all_frames_and_ignores_pillow_s(tmp_path, monkeypatch):
    write_image(tmp_path / "a.tiff", image_of(*[samples()] * 3))
    assert len(read_image(tmp_path / "a.tiff", max_pixels=3 * H * W).frames) == 3
    assert_error(tmp_path / "a.tiff", f"{3 * H * W} pixels", max_pixels=3 * H * W - 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for suffix in (".png", ".jpg", ".webp", ".bmp", ".npy"):
        write_image(tmp_path / f"a{suffix}", image_of(samples()))
        assert read_image(tmp_path / f"a{suffix}", max_pixels=H * W).frames
        assert_error(tmp_path / f"a{suffix}", "143 pixels", max_pixels=H * W - 1)


def test_pages_lost_from_a_chain_and_circles(tmp_path):
    gray = samples("uint8", 1)
    tifffile.imwrite(tmp_path / "a.tif", np.stack([gray] * 2), photometric="minisblack")
    with tifffile.TiffFile(tmp_path / "a.tif") as opened:
        first, second = (page.offset for page in opened.pages)
    data = (tmp_path / "a.tif").read_bytes()
    link = data.index(struct.pack("<I", second))
    for target in (first, second, len(data) - 1, 2**32 - 2):
        at = link if target != first else data.rindex(struct.pack("<I", 0))
        (tmp_path / "b.tif").write_bytes(data[:at] + struct.pack("<I", target) + data[at + 4 :])
        assert_error_or_same(tmp_path / "b.tif", (tmp_path / "b.tif").read_bytes(), (gray, gray))
    (tmp_path / "c.tif").write_bytes(data[:link] + struct.pack("<I", first) + data[link + 4 :])
    assert_error(tmp_path / "c.tif", "circle")


def test_missing_strips(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", samples("uint8", 1), rowsperstrip=4, compression="zlib")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as opened:
        opened.pages[0].tags["ImageLength"].overwrite(20)
    assert_error(tmp_path / "a.tif", "cut off")
    tifffile.imwrite(tmp_path / "b.tif", samples("uint8", 1), rowsperstrip=4, compression="zlib")
    with tifffile.TiffFile(tmp_path / "b.tif", mode="r+") as opened:
        counts = opened.pages[0].databytecounts
        opened.pages[0].tags["StripByteCounts"].overwrite((counts[0], 0, *counts[2:]))
    assert_error(tmp_path / "b.tif", "cut off")
    tifffile.imwrite(tmp_path / "c.tif", np.stack([samples("uint8", 1)] * 2), photometric="minisblack")
    with tifffile.TiffFile(tmp_path / "c.tif", mode="r+") as opened:
        opened.pages[0].tags["StripByteCounts"].overwrite(H * W - 1)  # the next page's bytes would follow
    assert_error(tmp_path / "c.tif", "cut off")


def test_damaged_size_of_a_tiff_costs_no_time(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", samples("uint8", 1))
    width = struct.pack("<HHI", 256, 4, 1)
    data = (tmp_path / "a.tif").read_bytes() + bytes([255] * 400)
    (tmp_path / "a.tif").write_bytes(data.replace(width, struct.pack("<HHI", 256, 4, 110)))
    assert_error(tmp_path / "a.tif", "damaged in its header")


def test_webp_without_its_last_chunk_is_cut_off(tmp_path):
    data = encoded(".webp", image_of(samples(), exif=exif_block()))
    (tmp_path / "a.webp").write_bytes(data[: data.index(b"EXIF")])
    assert_error(tmp_path / "a.webp", "cut off")


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int16", "complex64"])
def test_unsupported_depths(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((H, W), dtype), photometric="minisblack")
    assert_error(tmp_path / "a.tif", "8 or 16 bit")
    np.save(tmp_path / "a.npy", np.ones((H, W), dtype))
    assert_error(tmp_path / "a.npy", dtype, "uint8, uint16 or float32")


def test_unsupported_kinds(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", samples("uint8", 4), photometric="separated")
    assert_error(tmp_path / "a.tif", "SEPARATED", "convert it to gray or RGB")
    tifffile.imwrite(tmp_path / "b.tif", samples("uint8", 1), photometric="palette", colormap=np.zeros((3, 256), "u2"))
    assert_error(tmp_path / "b.tif", "PALETTE")
    many = samples("uint8", 6)
    tifffile.imwrite(tmp_path / "c.tif", many, photometric="rgb", extrasamples=[0, 0, 0])
    assert_error(tmp_path / "c.tif", "6 samples a pixel")
    tifffile.imwrite(tmp_path / "d.tif", samples("uint16", 1) >> 4, bitspersample=12)
    assert_error(tmp_path / "d.tif", "12 bit")
    frames = [Image.fromarray(samples(seed=seed)) for seed in range(3)]
    for suffix in (".webp", ".png"):
        frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
        assert_error(tmp_path / f"a{suffix}", "animated")


def test_npy_kinds(tmp_path):
    path = tmp_path / "a.npy"
    for dtype in ("float16", "float64", ">f4", ">u2", "<f8"):
        array = samples("float32", 3).astype(dtype) if "f" in dtype else samples("uint16", 3).astype(dtype)
        np.save(path, np.asfortranarray(array))
        expected = array.astype(np.float32) if "f" in dtype else array.astype(np.uint16)
        assert same(read_samples(path), expected)
    np.save(path, samples("uint8", 1)[..., None])
    assert same(read_samples(path), samples("uint8", 1))
    for shape in ((7,), (H, W, 5), (2, H, W, 3), (0, W), ()):
        np.save(path, np.zeros(shape, np.uint8))
        assert_error(path, str(list(shape)), "[H, W]")
    for value in (np.nan, np.inf, -np.inf, 1e300):
        np.save(path, np.array([[0.5, value]]))
        assert_error(path, "NaN or Inf")
    np.save(path, np.array([[object()]]), allow_pickle=True)
    assert_error(path, "object")
    np.save(path, np.zeros((3, 3), [("a", "u1")]))
    assert_error(path, "convert it")


def test_nan_in_a_tiff(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.full((H, W), np.nan, np.float32))
    assert_error(tmp_path / "a.tif", "NaN or Inf")


def test_frames_check_themselves():
    for colour in (np.zeros((4, 5), "u1"), np.zeros((4, 5, 2), "u1"), np.zeros((0, 5, 1), "u1")):
        with pytest.raises(ImageError, match="colour is"):
            Frame(colour)
    with pytest.raises(ImageError, match="float64"):
        Frame(np.zeros((4, 5, 1)))
    for alpha in (np.zeros((4, 4), "u1"), np.zeros((4, 5), "u2")):
        with pytest.raises(ImageError, match="alpha is"):
            Frame(np.zeros((4, 5, 1), "u1"), alpha)


# Writing


def test_refusals_before_and_at_writing(tmp_path):
    plain, clear = image_of(samples()), image_of(samples("uint8", 4))
    (tmp_path / "there.png").write_bytes(b"old")
    (tmp_path / "folder.png").mkdir()
    for name, image, part in (
        ("a.gif", plain, "choose from .png"),
        ("a", plain, "choose from .png"),
        ("there.png", plain, "exists already"),
        ("folder.png", plain, "is a folder"),
        ("there.png/a.png", plain, "is no folder"),
        ("a.jpg", clear, "cannot hold alpha"),
        ("a.bmp", clear, "cannot hold alpha"),
        ("a.png", ImageFile(()), "at least one"),
        ("a.webp", image_of(np.zeros((1, 16384), np.uint8)), "16383"),
    ):
        for attempt in (
            lambda name=name, image=image: write_image(tmp_path / name, image),
            lambda name=name, image=image: check_writable(tmp_path / name, False, image),
        ):
            with pytest.raises(ImageError) as caught:
                attempt()
            assert str(caught.value).startswith(f"{tmp_path / name}: ")
            assert part in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.png", "there.png"]
    assert (tmp_path / "there.png").read_bytes() == b"old"
    check_writable(tmp_path / "there.png", overwrite=True)
    check_writable(tmp_path / "new" / "deep" / "a.TIFF")
    assert not (tmp_path / "new").exists()
    write_image(tmp_path / "new" / "deep" / "a.TIFF", plain)
    assert same(read_samples(tmp_path / "new" / "deep" / "a.TIFF"), samples())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError("boom")])
@pytest.mark.parametrize("step", ["fsync", "replace", "link", "encode"])
def test_failed_writes_leave_nothing(tmp_path, monkeypatch, step, error):
    path = tmp_path / "a.png"
    if step != "link":
        path.write_bytes(b"old")

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(*((imagecodecs, "png_encode") if step == "encode" else (os, step)), fail)
        if step == "link":
            patch.setattr(os, "replace", fail)  # what stands in for a link
        with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else ImageError) as caught:
            write_image(path, image_of(samples()), overwrite=step != "link")
    if isinstance(error, OSError):
        assert str(caught.value).startswith(f"{path}: cannot be written (No space left")
    assert [found.name for found in tmp_path.iterdir()] == ([] if step == "link" else ["a.png"])
    assert step == "link" or path.read_bytes() == b"old"


def test_writes_are_flushed_and_named_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_image(path, image_of(samples()))
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (steps.append("fsync"), fsync(handle)))

    def watched(source, target):
        steps.append("replace")
        assert same(read_samples(source), samples(seed=1))  # whole before it has its name
        assert same(read_samples(target), samples())
        assert Path(source).parent == Path(target).parent
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    write_image(path, image_of(samples(seed=1)), overwrite=True)
    assert steps == ["fsync", "replace"]
    assert same(read_samples(path), samples(seed=1))
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask  # a plain file's, not a private temporary's


def test_a_file_that_appears_meanwhile_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    fsync = os.fsync

    def slow(handle):
        path.write_bytes(b"another writer's")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", slow)
    with pytest.raises(ImageError, match="exists already"):
        write_image(path, image_of(samples()))
    assert path.read_bytes() == b"another writer's"
    assert len(list(tmp_path.iterdir())) == 1


def test_without_hard_links(tmp_path, monkeypatch):
    def unsupported(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", unsupported)
    write_image(tmp_path / "a.png", image_of(samples()))
    assert same(read_samples(tmp_path / "a.png"), samples())
    assert len(list(tmp_path.iterdir())) == 1


def test_threads_read_and_write_side_by_side(tmp_path):
    failures = []

    def work(number):
        try:
            for turn in range(5):
                for suffix in (".png", ".tiff", ".webp"):
                    array = samples("uint8", 3, seed=number * 10 + turn)
                    write_image(tmp_path / f"{number}{suffix}", image_of(array, exif=exif_block()), overwrite=True)
                    assert same(read_samples(tmp_path / f"{number}{suffix}"), array)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# Listing


@pytest.fixture
def tree(tmp_path):
    for name in (
        "b.PNG",
        "a.jpg",
        "notes.txt",
        ".hidden.png",
        "sub/c.TIFF",
        "sub/deep/d.npy",
        ".secret/e.png",
        "x[1].png",
    ):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "in" / "folder.png").mkdir()
    return tmp_path


def listed(*inputs, **options):
    return [relative.as_posix() for _, relative in list_images(inputs, **options)]


def test_listing(tree, monkeypatch):
    root = tree / "in"
    assert listed(root) == ["a.jpg", "b.PNG", "x[1].png"]
    assert listed(root, recursive=True) == ["a.jpg", "b.PNG", "sub/c.TIFF", "sub/deep/d.npy", "x[1].png"]
    assert listed(f"{root}/*.jpg") == ["a.jpg"]
    assert listed(f"{tree}/*/sub/*.TIFF") == ["in/sub/c.TIFF"]
    assert listed(f"{root}/**/*") == ["a.jpg", "b.PNG", "sub/c.TIFF", "sub/deep/d.npy", "x[1].png"]
    assert listed(root / "x[1].png") == ["x[1].png"]  # a name before it is a pattern
    assert listed(root / "notes.txt", root / "a.jpg", root) == ["notes.txt", "a.jpg", "b.PNG", "x[1].png"]
    for path, relative in list_images([root], recursive=True):
        assert path == root / relative
    monkeypatch.chdir(root)
    assert listed("*.jpg", "./a.jpg", ".") == ["a.jpg", "b.PNG", "x[1].png"]


def test_listing_errors(tree):
    for given, part in (
        ("missing.png", "does not exist"),
        ("empty", "holds no image"),
        ("in/*.webp", "holds no image"),
        ("in/missing/*.png", "holds no image"),
    ):
        with pytest.raises(ImageError, match=part) as caught:
            list_images([tree / "in" / "a.jpg", tree / given])
        assert str(caught.value).startswith(str(tree / given))


# Laws


def test_importing_loads_neither_codecs_nor_torch():
    code = "import sys, modnas_fast.images.files; print({'torch', 'imagecodecs', 'tifffile'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_nothing_is_printed_where_no_one_set_up_logging(tmp_path):
    (tmp_path / "a.tif").write_bytes(CUT_CASES["plain.tiff"].replace(b"\x0e\x01\x02\0", b"\x0e\x01\xff\0"))
    code = "import sys, modnas_fast.images.files as files; files.read_image(sys.argv[1])"
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.tif"], capture_output=True, text=True, check=True
    )
    assert (result.stdout, result.stderr) == ("", "")
