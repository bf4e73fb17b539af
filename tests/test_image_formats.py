"""Image files of every kind survive bit for bit, with their metadata."""

from __future__ import annotations

import io
import itertools
import struct

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageOps

from modnas_fast.images import tiff
from modnas_fast.images.files import (
    WRITABLE_SUFFIXES,
    Frame,
    ImageError,
    ImageFile,
    Metadata,
    from_float,
    read_image,
    to_float,
    write_image,
)
from tests.image_samples import (
    ICC,
    KINDS,
    H,
    W,
    assert_error,
    assert_error_or_same,
    exif_block,
    image_of,
    pillow_bytes,
    png_bytes,
    png_chunk,
    png_reference,
    png_rows,
    read_samples,
    same,
    samples,
)

pytestmark = pytest.mark.usefixtures("nothing_printed")


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


def test_palette_tiff(tmp_path):
    indices, palette = samples("uint8", 1, seed=1), samples("uint16", 1, height=3, width=256, seed=3)
    tifffile.imwrite(tmp_path / "a.tif", indices, photometric="palette", colormap=palette)
    assert same(read_samples(tmp_path / "a.tif"), (palette >> 8).astype(np.uint8).T[indices])
    tifffile.imwrite(  # of 1 bit, by the tags of a gray one and a palette beside them
        tmp_path / "b.tif", indices > 99, extratags=[(320, 3, 6, palette[:, :2].ravel().tolist(), True)]
    )
    data, entry = (tmp_path / "b.tif").read_bytes(), struct.pack("<HHI", 262, 3, 1)
    place = data.index(entry) + len(entry)
    (tmp_path / "b.tif").write_bytes(data[:place] + struct.pack("<H", 3) + data[place + 2 :])
    assert same(read_samples(tmp_path / "b.tif"), (palette >> 8).astype(np.uint8).T[(indices > 99).astype(int)])


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


@pytest.mark.parametrize(
    "compression",
    [
        "packbits",
        pytest.param("group4", marks=pytest.mark.skipif(not hasattr(imagecodecs, "CCITTFAX4"), reason="new in 2026")),
    ],
)
def test_one_bit_tiff(tmp_path, compression):
    picture = Image.fromarray(samples("uint8", 1)).convert("1")
    picture.save(tmp_path / "a.tif", compression=compression)
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
