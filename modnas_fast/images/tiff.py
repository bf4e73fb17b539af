"""TIFF, every page a frame: 8 and 16 bit and float32, read and written by tifffile (Pillow has no 16-bit colour)."""

from __future__ import annotations

import logging
import math
import os
import struct
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from modnas_fast.images.exif import attach_exif, byte_order, extract_exif, take_metadata, upright
from modnas_fast.images.frames import Array, Frame, ImageError, ImageFile, check_pixels, to_float

if TYPE_CHECKING:
    import tifffile

# tifffile logs about damaged files; what matters becomes an ImageError, and nothing is printed on its own.
_SILENT = logging.NullHandler()

_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE = 0, 1, 2, 3  # photometric interpretations
_COLOURS = {_MIN_IS_WHITE: 1, _MIN_IS_BLACK: 1, _RGB: 3, _PALETTE: 1}
_ASSOCIATED_ALPHA = 1
_UNSIGNED, _FLOAT = 1, 3  # sample formats
_SAMPLE_KINDS = ((_UNSIGNED, 1), (_UNSIGNED, 8), (_UNSIGNED, 16), (_FLOAT, 16), (_FLOAT, 32), (_FLOAT, 64))  # with bits
_PHYSICAL_UNITS = (2, 3)  # inch, centimetre
_ICC_PROFILE, _ORIENTATION, _X_RESOLUTION = 34675, 274, 282
_CLASSIC_LIMIT = 2**32 - 2**25  # bytes of samples; above it, offsets need the 64 bits of a BigTIFF


def decode_tiff(stream: BinaryIO, max_pixels: int) -> ImageFile:
    """The pages of the TIFF in stream, each upright; the metadata are the first page's."""
    import tifffile

    logging.getLogger("tifffile").addHandler(_SILENT)
    with tifffile.TiffFile(stream) as tiff:
        pages = _find_pages(tiff, max_pixels)
        frames = tuple(Frame.from_samples(upright(_read_page(page), _orientation(page))) for page in pages)
        first = pages[0]
        physical = first.resolutionunit in _PHYSICAL_UNITS and _X_RESOLUTION in first.tags
        dpi = first.get_resolution("inch") if physical else None
        metadata, _ = take_metadata(first.tags.valueof(_ICC_PROFILE), extract_exif(stream), dpi, _orientation(first))
    return ImageFile(frames, metadata)


def encode_tiff(image: ImageFile, stream: BinaryIO) -> None:
    """Write each frame as a page, deflate-compressed after its predictor, with ICC profile, EXIF and resolution.

    A BigTIFF, which files of about 4 GiB and more become, has no EXIF.
    """
    import tifffile

    metadata = image.metadata
    pages = [frame.samples for frame in image.frames]
    order = byte_order(metadata.exif) if metadata.exif is not None else "<"
    big = sum(samples.nbytes for samples in pages) > _CLASSIC_LIMIT
    with tifffile.TiffWriter(stream, bigtiff=big, byteorder=order, shaped=False) as tiff:
        for frame, samples in zip(image.frames, pages, strict=True):
            tiff.write(
                samples,
                photometric="rgb" if frame.colour.shape[2] == 3 else "minisblack",
                planarconfig="contig" if samples.ndim == 3 else None,
                extrasamples=None if frame.alpha is None else ["unassalpha"],
                compression="zlib",
                predictor=True,
                iccprofile=metadata.icc_profile,
                resolution=metadata.dpi,
                resolutionunit=None if metadata.dpi is None else "inch",
                metadata=None,
                software=False,
                maxworkers=1,
            )
    if metadata.exif is not None and not big:
        attach_exif(stream, metadata.exif)


def _find_pages(tiff: tifffile.TiffFile, max_pixels: int) -> list[Any]:
    """Every page, checked from its header. tifffile leaves out what it cannot find, so the chain's end is checked."""
    pages: list[Any] = []
    page: Any
    offsets = set()
    pixels = 0
    for page in tiff.pages:
        sides = page.imagewidth, page.imagelength
        if not all(isinstance(side, int) for side in sides):  # a damaged tag makes a tuple
            raise ImageError("is damaged in its header; fetch it again")
        pixels += math.prod(sides)
        check_pixels(pixels, max_pixels)
        _check_page(page, tiff.filehandle.size)
        if page.offset in offsets:
            raise ImageError("is damaged: its pages form a circle; export it again")
        offsets.add(page.offset)
        pages.append(page)
    if not pages or _next_page(tiff, pages[-1]) != 0 or _stacked_planes(tiff) > len(pages):
        raise ImageError(
            "holds pages that cannot be found: it is cut off, or a stack without a directory for each page"
        )
    return pages


def _next_page(tiff: tifffile.TiffFile, page: Any) -> int:
    """The offset, written behind a page's directory, of the page that follows; 0 where there is none."""
    layout, file = tiff.tiff, tiff.filehandle
    file.seek(page.offset)
    (tags,) = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))
    file.seek(tags * layout.tagsize, os.SEEK_CUR)
    (following,) = struct.unpack(layout.offsetformat, file.read(layout.offsetsize))
    return int(following)


def _stacked_planes(tiff: tifffile.TiffFile) -> float:
    """The planes that ImageJ's or tifffile's own description promises; both may give the first alone a directory."""
    if tiff.is_imagej:
        return int((tiff.imagej_metadata or {}).get("images", 1))
    truncated = tiff.is_shaped and any(series.get("truncated") for series in tiff.shaped_metadata or ())
    return math.inf if truncated else 1


def _check_page(page: Any, file_size: int) -> None:
    """Refuse, before decoding, a page of another kind than a `Frame` holds, and one whose data are not all there."""
    photometric, extra = int(page.photometric), page.samplesperpixel - _COLOURS.get(int(page.photometric), 0)
    if photometric not in _COLOURS:
        raise ImageError(f"is a {getattr(page.photometric, 'name', photometric)} TIFF; convert it to gray or RGB")
    if extra != len(page.extrasamples) or extra > (photometric != _PALETTE) or page.imagedepth != 1:
        raise ImageError(
            f"has {page.samplesperpixel} samples a pixel; convert it to gray or RGB, with one alpha or none"
        )
    kind = (int(page.sampleformat), page.bitspersample)
    only_integers = photometric in (_MIN_IS_WHITE, _PALETTE)
    if kind not in _SAMPLE_KINDS or (only_integers and kind[0] == _FLOAT):
        raise ImageError(
            f"has samples of {page.bitspersample} bit, {page.dtype}; convert it to 8 or 16 bit, or float32"
        )
    if not _is_whole(page, file_size):
        raise ImageError("is cut off; fetch it again")


def _is_whole(page: Any, file_size: int) -> bool:
    """Whether every strip or tile is there; tifffile would fill a missing one, or leave it to chance."""
    offsets, sizes = page.dataoffsets, page.databytecounts
    if len(offsets) != len(sizes):
        return False
    if any(size == 0 or offset + size > file_size for offset, size in zip(offsets, sizes, strict=True)):
        return False
    return bool(sum(sizes) >= page.nbytes if page.is_contiguous else len(sizes) >= math.prod(page.chunked))


def _read_page(page: Any) -> Array:
    """Samples [H, W, n] of a page: black is 0, alpha not multiplied into colour, uint8, uint16 or float32."""
    planes = page.asarray(squeeze=False, maxworkers=1)[:, 0]  # [planes, H, W, n]: planar, or n samples a pixel
    samples: Array = np.moveaxis(planes, 0, -1).reshape(*planes.shape[1:3], -1)
    if page.photometric == _PALETTE:
        return _look_up(samples[..., 0], page.colormap)
    if samples.dtype == bool:
        samples = samples.astype(np.uint8) * np.uint8(255)
    elif samples.dtype.kind == "f":
        samples = to_float(samples)
    if page.photometric == _MIN_IS_WHITE:
        samples[..., 0] = np.iinfo(samples.dtype).max - samples[..., 0]
    return _unassociate(samples) if _ASSOCIATED_ALPHA in page.extrasamples else samples


def _look_up(indices: Array, palette: Array | None) -> Array:
    """RGB of 8 bit; palettes are uint16 [3, 2^bits], and indices of 1 bit come as bool."""
    if palette is None or palette.ndim != 2 or indices.max() >= palette.shape[1]:
        raise ImageError("has no palette, or one that is too short; export it again")
    colours: Array = (palette.T >> 8).astype(np.uint8)
    return colours[indices.astype(np.intp)]


def _unassociate(samples: Array) -> Array:
    """Colour that was multiplied by alpha, divided by it; black where alpha is 0."""
    top = 1.0 if samples.dtype.kind == "f" else float(np.iinfo(samples.dtype).max)
    colour, alpha = samples[..., :-1].astype(np.float64), samples[..., -1:].astype(np.float64)
    colour = np.divide(colour * top, alpha, out=np.zeros_like(colour), where=alpha > 0)
    if samples.dtype.kind == "u":
        colour = np.rint(np.minimum(colour, top))
    return np.concatenate([colour.astype(samples.dtype), samples[..., -1:]], axis=2)


def _orientation(page: Any) -> int:
    orientation = page.tags.valueof(_ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1
