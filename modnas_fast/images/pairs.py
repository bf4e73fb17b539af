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

    Images with neither part in their path are left out.

    Raises:
        ModnasError: names that tell nothing apart, no clean photo, or a photo whose partner is missing.
    """
    clean_part, noisy_part = names
    if not clean_part or not noisy_part or clean_part == noisy_part:
        raise ModnasError(
            f"the names of pairs are {clean_part!r} and {noisy_part!r}; give what only the clean ones have, then what "
            "the noisy ones have in its place"
        )
    pairs, noisy_ones = [], {}
    for path, relative in list_images(folders, recursive=True):
        root = Path(str(path)[: -len(str(relative))])
        if clean_part in str(relative):
            noisy = root / str(relative).replace(clean_part, noisy_part)
            if not noisy.exists():
                raise ModnasError(f"{path}: its noisy partner {noisy} is missing; add it, or take this one away")
            pairs.append((path, noisy, relative))
        elif noisy_part in str(relative):
            noisy_ones[path] = root / str(relative).replace(noisy_part, clean_part)
    if not pairs:
        places = ", ".join(map(str, folders))
        raise ModnasError(f"{places}: no image has {clean_part!r} in its name; say what tells clean from noisy")
    alone = sorted(noisy_ones.keys() - {noisy for _, noisy, _ in pairs})
    if alone:
        more = f" (and {len(alone) - 1} more)" * (len(alone) > 1)
        missing = noisy_ones[alone[0]]
        raise ModnasError(f"{alone[0]}: its clean partner {missing} is missing{more}; add it, or take this one away")
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
