"""EXIF blocks, byte for byte: the orientation that is applied to the pixels, and the way into and out of a TIFF.

An EXIF block is a small TIFF: a header, then a directory (IFD) whose entries hold a value or point at one. In a TIFF
file the same entries stand among those of the first page. They are moved as raw bytes, so nothing is re-interpreted.
"""

from __future__ import annotations

import io
import os
import struct
from dataclasses import dataclass
from typing import BinaryIO, Literal

from modnas_fast.images.frames import Array, Metadata

_ORIENTATION, _EXIF, _GPS, _INTEROPERABILITY = 0x0112, 0x8769, 0x8825, 0xA005
_CHILDREN = {None: (_EXIF, _GPS), _EXIF: (_INTEROPERABILITY,)}
_SHORT = 3
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}  # bytes a value, by type
_LARGEST_VALUE = 1 << 24  # bytes; a damaged count must not fill the memory

# Make, Model, Orientation, Software, DateTime, Artist, Copyright: what describes the picture. The first directory's
# other entries describe the file, and ImageDescription is where stack software keeps the layout of that file.
_FROM_TIFF = (0x010F, 0x0110, _ORIENTATION, 0x0131, 0x0132, 0x013B, 0x8298, _EXIF, _GPS)
_INTO_TIFF = (0x010E, *_FROM_TIFF)


@dataclass(frozen=True)
class _Entry:
    kind: int
    count: int
    value: bytes
    children: dict[int, _Entry] | None = None


_Directory = dict[int, _Entry]


def upright(samples: Array, orientation: int) -> Array:
    """The picture [H, W, ...] turned and mirrored as the EXIF orientation, 1 to 8, asks; 5 to 8 swap H and W."""
    if orientation >= 5:
        samples = samples.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return samples


def take_metadata(
    icc_profile: bytes | None,
    exif: bytes | None = None,
    dpi: tuple[float, float] | None = None,
    orientation: int | None = None,
) -> tuple[Metadata, int]:
    """A file's metadata as they describe the upright picture, and the orientation by which `upright` makes it that.

    An orientation given, because the format has a place of its own for it, stands above that of the EXIF block.
    """
    exif, exif_orientation = _take_orientation(exif)
    orientation = orientation or exif_orientation
    if dpi is not None and orientation >= 5:
        dpi = dpi[::-1]
    return Metadata(icc_profile, exif, dpi), orientation


def _take_orientation(block: bytes | None) -> tuple[bytes | None, int]:
    """The block with its orientation tag set to 1, and the orientation it had: 1 where it says nothing valid.

    The block may start with "Exif\\0\\0"; one that cannot be parsed is dropped, since no other format could carry it.
    """
    if block is None:
        return None, 1
    block = block.removeprefix(b"Exif\0\0")
    try:
        order = byte_order(block)
        (start,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, orientation = struct.unpack_from(order + "HHIH", block, at)
            if (tag, kind) == (_ORIENTATION, _SHORT):
                block = block[: at + 8] + struct.pack(order + "H", 1) + block[at + 10 :]
                return block, orientation if 1 <= orientation <= 8 else 1
    except (KeyError, struct.error):
        return None, 1
    return block, 1


def byte_order(block: bytes) -> Literal["<", ">"]:
    """The byte order, as `struct` writes it, of an EXIF block or a TIFF; KeyError where it is neither, or a BigTIFF."""
    orders: dict[bytes, Literal["<", ">"]] = {b"II*\0": "<", b"MM\0*": ">"}
    return orders[block[:4]]


def extract_exif(tiff: BinaryIO) -> bytes | None:
    """The EXIF block of a TIFF's first page, or None where it has none; a BigTIFF's is not looked for."""
    tiff.seek(0)
    header = tiff.read(8)
    try:
        order = byte_order(header)
        directory, _ = _read_directory(tiff, order, *struct.unpack(order + "I", header[4:]))
    except (KeyError, struct.error):
        return None
    directory = {tag: entry for tag, entry in directory.items() if tag in _FROM_TIFF}
    if not directory.keys() - {_ORIENTATION}:
        return None
    return header[:4] + struct.pack(order + "I", 8) + _pack_directory(directory, order, 8)


def attach_exif(tiff: BinaryIO, block: bytes) -> None:
    """Give the first page of a finished TIFF, of the block's byte order, the entries of an EXIF block.

    The page's directory is written anew at the end of the file, and the header points to it.
    """
    order = byte_order(block)
    tiff.seek(4)
    directory, following = _read_directory(tiff, order, *struct.unpack(order + "I", tiff.read(4)))
    described, _ = _read_directory(io.BytesIO(block), order, *struct.unpack_from(order + "I", block, 4))
    directory |= {tag: entry for tag, entry in described.items() if tag in _INTO_TIFF}
    end = tiff.seek(0, os.SEEK_END)
    offset = end + end % 2  # directories start on even offsets
    tiff.write(bytes(offset - end) + _pack_directory(directory, order, offset, following))
    tiff.seek(4)
    tiff.write(struct.pack(order + "I", offset))


def _read_directory(stream: BinaryIO, order: str, offset: int, parent: int | None = None) -> tuple[_Directory, int]:
    """The undamaged entries of the directory at offset, and the offset of the directory that follows it."""
    stream.seek(offset)
    (count,) = struct.unpack(order + "H", stream.read(2))
    records, following = stream.read(12 * count), stream.read(4)
    directory: _Directory = {}
    for tag, kind, number, inline in struct.iter_unpack(order + "HHI4s", records):
        size = _SIZES.get(kind, 0) * number
        if not 0 < size <= _LARGEST_VALUE:
            continue
        (pointer,) = struct.unpack(order + "I", inline)
        value = inline[:size]
        if size > 4:
            stream.seek(pointer)
            value = stream.read(size)
        if len(value) < size:
            continue
        if tag not in _CHILDREN.get(parent, ()):
            directory[tag] = _Entry(kind, number, value)
            continue
        try:
            directory[tag] = _Entry(kind, number, value, _read_directory(stream, order, pointer, tag)[0])
        except struct.error:
            continue
    return directory, struct.unpack(order + "I", following)[0]


def _pack_directory(directory: _Directory, order: str, offset: int, following: int = 0) -> bytes:
    """The directory's bytes, values and child directories behind its records, to be placed at offset."""
    records = struct.pack(order + "H", len(directory))
    values = b""
    values_at = offset + 2 + 12 * len(directory) + 4
    for tag, entry in sorted(directory.items()):
        inline, end = entry.value, values_at + len(values)
        if entry.children is not None:
            inline = struct.pack(order + "I", end)
            values += _pack_directory(entry.children, order, end)
        elif len(entry.value) > 4:
            inline = struct.pack(order + "I", end)
            values += entry.value + bytes(len(entry.value) % 2)
        records += struct.pack(order + "HHI4s", tag, entry.kind, entry.count, inline)
    return records + struct.pack(order + "I", following) + values
