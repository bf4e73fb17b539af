"""Real noise: pairs of photos, a noisy one and its clean reference, that their names join."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modnas_fast.errors import ModnasError
from modnas_fast.images.evaluation import read_clean_image
from modnas_fast.images.files import list_images

Array = np.ndarray[Any, np.dtype[Any]]


def list_pairs(folders: Sequence[str | Path], names: Sequence[str]) -> list[tuple[Path, Path, Path]]:
    """The pairs in folders and the folders in them.

    Args:
        folders: where they are.
        names: what tells the two apart, in the path below the folder: the clean photo's part and the noisy one's. SIDD
            has GT and NOISY (0001_GT_SRGB_010.PNG, 0001_NOISY_SRGB_010.PNG); two folders gt/ and lq/ are gt and lq.

    Returns:
        (clean file, noisy file, the clean one's path below its folder), sorted by the last.

    Raises:
        ModnasError: no clean photo, or one whose noisy partner is missing.
    """
    clean_part, noisy_part = names
    pairs = []
    for path, relative in list_images(folders, recursive=True):
        if clean_part not in str(relative):
            continue
        root = Path(str(path)[: -len(str(relative))])
        noisy = root / str(relative).replace(clean_part, noisy_part)
        if not noisy.exists():
            raise ModnasError(f"{path}: its noisy partner {noisy} is missing")
        pairs.append((path, noisy, relative))
    if not pairs:
        places = ", ".join(map(str, folders))
        raise ModnasError(f"{places}: no image has {clean_part!r} in its name; say what tells clean from noisy")
    return pairs


class PairedSet:
    """The pairs of folders, read one at a time; see `list_pairs`.

    Args:
        folders, names: as `list_pairs`'.
        channels: 1 (luma) or 3.

    Raises:
        ModnasError: as `list_pairs`; when iterated, an image that cannot be used, or two of different sizes.
    """

    def __init__(self, folders: Sequence[str | Path], channels: int, names: Sequence[str]) -> None:
        self._pairs = list_pairs(folders, names)
        self._channels = channels

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[tuple[str, Array, Array]]:
        """(name, clean, noisy) of each pair, uint8 [H, W, channels]."""
        for clean_file, noisy_file, relative in self._pairs:
            clean, noisy = (read_clean_image(path, self._channels, "pairs") for path in (clean_file, noisy_file))
            if clean.shape != noisy.shape:
                sizes = " and ".join(f"{image.shape[1]}×{image.shape[0]}" for image in (clean, noisy))
                raise ModnasError(f"{clean_file} and {noisy_file} differ in size: {sizes} pixels")
            yield str(relative), clean, noisy
