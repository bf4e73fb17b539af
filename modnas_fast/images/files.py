"""Image files: which there are, reading one, writing one.

The content decides how a file is read, its suffix how it is written. Files are written whole or not at all.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from modnas_fast.atomic import write_atomically
from modnas_fast.images.frames import Frame, ImageError, ImageFile, Metadata, from_float, to_float
from modnas_fast.images.npy import decode_npy, encode_npy
from modnas_fast.images.png import decode_png, encode_png
from modnas_fast.images.raster import decode_bmp, decode_jpeg, decode_webp, encode_bmp, encode_jpeg, encode_webp
from modnas_fast.images.tiff import decode_tiff, encode_tiff

__all__ = [
    "READABLE_SUFFIXES",
    "WRITABLE_SUFFIXES",
    "Frame",
    "ImageError",
    "ImageFile",
    "Metadata",
    "check_writable",
    "from_float",
    "list_images",
    "read_image",
    "to_float",
    "write_image",
]


@dataclass(frozen=True)
class _Format:
    """A format, and what it can hold: samples of so many bits, alpha, sides of so many pixels, more than one frame."""

    name: str
    suffixes: tuple[str, ...]
    signature: bytes  # a regular expression
    decode: Callable[[BinaryIO, int], ImageFile]
    encode: Callable[[ImageFile, BinaryIO], None]
    bits: int
    alpha: bool
    max_side: int = 2**31 - 1
    many_frames: bool = False


_FORMATS = (
    _Format("PNG", (".png",), rb"\x89PNG\r\n\x1a\n", decode_png, encode_png, bits=16, alpha=True),
    _Format("JPEG", (".jpg", ".jpeg"), rb"\xff\xd8\xff", decode_jpeg, encode_jpeg, 8, alpha=False, max_side=65500),
    _Format(
        "TIFF", (".tif", ".tiff"), rb"II[*+]\0|MM\0[*+]", decode_tiff, encode_tiff, 32, alpha=True, many_frames=True
    ),
    _Format("WebP", (".webp",), rb"(?s)RIFF....WEBP", decode_webp, encode_webp, bits=8, alpha=True, max_side=16383),
    _Format("BMP", (".bmp",), rb"BM", decode_bmp, encode_bmp, bits=8, alpha=False),
    _Format("NumPy", (".npy",), rb"\x93NUMPY", decode_npy, encode_npy, bits=32, alpha=True),
)

_EXISTS = "exists already; overwrite it (--overwrite, or overwrite=True), or choose another name"

READABLE_SUFFIXES: tuple[str, ...] = tuple(suffix for kind in _FORMATS for suffix in kind.suffixes)
WRITABLE_SUFFIXES: tuple[str, ...] = READABLE_SUFFIXES


def read_image(path: str | Path, *, max_pixels: int = 500_000_000) -> ImageFile:
    """The image in a PNG, JPEG, TIFF, WebP, BMP or .npy file, upright.

    8-bit samples become uint8, 16-bit ones uint16, floats float32; fewer than 8 bits, palettes and CMYK become 8-bit
    gray or RGB. The EXIF orientation is applied to the pixels and set to 1 in the metadata. Thread-safe.

    Args:
        path: the file; its content, not its suffix, decides the format.
        max_pixels: the most that all frames together may have; checked before anything is decoded.

    Raises:
        ImageError: where the file is missing, unreadable, no image, damaged, cut off, over max_pixels or of an
            unsupported kind. No partial picture is ever returned, and nothing is printed.
    """
    path = Path(path)
    with _errors_named(path, "read"):
        if path.is_dir():
            raise ImageError("is a folder; name an image file in it")
        if path.exists() and not path.is_file():
            raise ImageError("is not a regular file; name an image file")
        with path.open("rb") as stream:
            head = stream.read(16)
            stream.seek(0)
            kinds = [kind for kind in _FORMATS if re.match(kind.signature, head)]
            if not kinds:
                names = ", ".join(kind.name for kind in _FORMATS)
                raise ImageError(f"{'holds no image' if head else 'is empty'}; formats that can be read: {names}")
            return kinds[0].decode(stream, max_pixels)


def write_image(path: str | Path, image: ImageFile, *, overwrite: bool = False) -> None:
    """Write an image in the format of the path's suffix, with the metadata that the format can hold.

    Samples deeper than the format's are rounded: to 8 bit for JPEG, WebP and BMP, float32 (clipped to [0, 1]) to 16 bit
    for PNG. PNG, TIFF (deflate), WebP, BMP and .npy keep every other sample; JPEG has quality 95, 4:4:4. WebP stores
    gray as RGB. ICC profile and EXIF go into PNG, JPEG, TIFF and WebP, resolution into PNG, JPEG, TIFF and BMP. Parent
    folders are made.

    The file appears whole or not at all: on any failure an older one stays as it was, and nothing else is left behind.

    Raises:
        ImageError: where `check_writable` raises, or the file system fails.
    """
    path = Path(path)
    check_writable(path, overwrite, image)
    kind = _writable_format(path)
    ready = replace(image, frames=tuple(_at_most(kind.bits, frame) for frame in image.frames))
    with _errors_named(path, "written"):
        write_atomically(path, lambda stream: kind.encode(ready, stream), overwrite=overwrite)


def check_writable(path: str | Path, overwrite: bool = False, image: ImageFile | None = None) -> None:
    """Raise now what `write_image` would raise after the computing; nothing is written.

    Args:
        path: the output.
        overwrite: whether a file that is there may be replaced.
        image: the output's content, as far as it is known: any samples, but its frames, alpha and sizes are checked.

    Raises:
        ImageError: where the suffix is unknown, the file exists, its folder cannot be made or written to, or the format
            cannot hold the image.
    """
    path = Path(path)
    with _errors_named(path, "written"):
        kind = _writable_format(path)
        if path.is_dir():
            raise ImageError("is a folder; name a file")
        if not overwrite and os.path.lexists(path):
            raise ImageError(_EXISTS)
        folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise ImageError(f"cannot be written, as {folder} is no folder that you may write to; choose another place")
        if image is not None:
            _check_fits(kind, image)


def list_images(inputs: Sequence[str | Path], *, recursive: bool = False) -> list[tuple[Path, Path]]:
    """The images that files, folders and glob patterns name.

    Args:
        inputs: a file is taken whatever its suffix; of a folder, or what a pattern matches, only files with one of
            READABLE_SUFFIXES in any case, and none that is hidden. A pattern may hold "**".
        recursive: whether the folders in a folder are searched too.

    Returns:
        (path, path relative to its root) pairs, in the order of the inputs, by name within one, each file once. The
        root is the file's folder, the folder given, or the part of a pattern before its first wildcard: joined to an
        output folder, the relative path keeps the structure.

    Raises:
        ImageError: where an input does not exist, or names no image.
    """
    found: dict[Path, tuple[Path, Path]] = {}
    for given in inputs:
        for path, root in _expand(Path(given), recursive):
            found.setdefault(path.absolute(), (path, path.relative_to(root)))
    return list(found.values())


def _expand(given: Path, recursive: bool) -> list[tuple[Path, Path]]:
    """(path, root) of the images that one input names."""
    if given.is_dir():
        pattern, root = "**/*" if recursive else "*", given
        candidates = sorted(given.glob(pattern))
    elif given.exists():
        return [(given, given.parent)]
    elif glob.has_magic(str(given)):
        root = next(parent for parent in given.parents if not glob.has_magic(str(parent)))
        candidates = sorted(map(Path, glob.glob(str(given), recursive=True)))
    else:
        raise ImageError(f"{given}: does not exist; check its name")
    images = [(path, root) for path in candidates if _is_listed(path, root)]
    if not images:
        hint = "" if recursive or not given.is_dir() else ", or search its folders too (recursive)"
        raise ImageError(f"{given}: holds no image; name one that ends in {', '.join(READABLE_SUFFIXES)}{hint}")
    return images


def _is_listed(path: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return not hidden and path.suffix.lower() in READABLE_SUFFIXES and path.is_file()


@contextmanager
def _errors_named(path: Path, done: str) -> Iterator[None]:
    """Turn whatever a codec or the file system raises about the file into one ImageError of one line that names it."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise ImageError(f"{path}: does not exist; check its name") from error
    except PermissionError as error:
        raise ImageError(f"{path}: cannot be {done}, permission denied; change its permissions") from error
    except FileExistsError as error:
        raise ImageError(
            f"{path}: exists already; overwrite it (--overwrite, or overwrite=True), or choose another name"
        ) from error
    except Exception as error:  # codecs raise whatever their libraries do: struct.error, SyntaxError, RuntimeError, …
        cause = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())
        fix = "it is damaged or of an unsupported kind, export it again" if done == "read" else "choose another place"
        if isinstance(error, ImportError):
            fix = "install what this kind of file needs, or use .npy"
        raise ImageError(f"{path}: cannot be {done} ({cause or type(error).__name__}); {fix}") from error


def _writable_format(path: Path) -> _Format:
    for kind in _FORMATS:
        if path.suffix.lower() in kind.suffixes:
            return kind
    suffix = path.suffix or "a name without suffix"
    raise ImageError(f"cannot be written as {suffix}; choose from {', '.join(WRITABLE_SUFFIXES)}")


def _check_fits(kind: _Format, image: ImageFile) -> None:
    """Refuse what the format cannot hold; depth is not asked, since samples are rounded to it."""
    if not image.frames:
        raise ImageError("cannot be written without a frame; give at least one")
    if len(image.frames) > 1 and not kind.many_frames:
        raise ImageError(f"cannot hold {len(image.frames)} frames, as {kind.name} holds one; write a .tiff")
    if not kind.alpha and any(frame.alpha is not None for frame in image.frames):
        raise ImageError(f"cannot hold alpha, as {kind.name} has none; write a .png, .tiff or .webp, or drop the alpha")
    side = max(max(frame.colour.shape[:2]) for frame in image.frames)
    if side > kind.max_side:
        raise ImageError(f"cannot be {side} pixels long, as {kind.name} ends at {kind.max_side}; write a .png or .tiff")


def _at_most(bits: int, frame: Frame) -> Frame:
    """The frame with its samples rounded to so many bits, if they have more."""
    if frame.colour.dtype.itemsize * 8 <= bits:
        return frame
    dtype = {8: np.uint8, 16: np.uint16}[bits]
    alpha = None if frame.alpha is None else from_float(to_float(frame.alpha), dtype)
    return Frame(from_float(to_float(frame.colour), dtype), alpha)
