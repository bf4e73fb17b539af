"""Damaged, foreign and oversized image files: one clear error each, never other pixels."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from modnas_fast.errors import ModnasError
from modnas_fast.images import files
from modnas_fast.images.files import (
    READABLE_SUFFIXES,
    Frame,
    ImageError,
    read_image,
    write_image,
)
from tests.image_samples import (
    H,
    W,
    assert_error,
    assert_error_or_same,
    exif_block,
    image_of,
    pillow_bytes,
    png_bytes,
    read_or_none,
    read_samples,
    same,
    samples,
)

pytestmark = pytest.mark.usefixtures("nothing_printed")


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
    indices = np.full((H, W), 200, np.uint8)
    tifffile.imwrite(tmp_path / "b.tif", indices, photometric="palette", colormap=np.zeros((3, 256), "u2"))
    data = (tmp_path / "b.tif").read_bytes()
    entry = struct.pack("<HHI", 320, 3, 3 * 256)
    assert data.count(entry) == 1
    (tmp_path / "b.tif").write_bytes(data.replace(entry, struct.pack("<HHI", 320, 3, 3 * 128)))
    assert_error(tmp_path / "b.tif", "palette")
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


def test_nothing_is_printed_where_no_one_set_up_logging(tmp_path):
    (tmp_path / "a.tif").write_bytes(CUT_CASES["plain.tiff"].replace(b"\x0e\x01\x02\0", b"\x0e\x01\xff\0"))
    code = "import sys, modnas_fast.images.files as files; files.read_image(sys.argv[1])"
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.tif"], capture_output=True, text=True, check=True
    )
    assert (result.stdout, result.stderr) == ("", "")
