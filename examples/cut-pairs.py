"""Cut pairs of photos, a noisy one and its clean reference, into square crops for training.

Usage: python examples/cut-pairs.py FOLDER OUTPUT [--names GT NOISY] [--size 512] [--crops K] [--overwrite]
"""

import argparse
from pathlib import Path

import numpy as np

from modnas_fast.cli.progress import ProgressLine
from modnas_fast.errors import ModnasError
from modnas_fast.images.files import Frame, ImageFile, check_writable, write_image
from modnas_fast.images.pairs import PairedSet

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", help="searched with the folders in it")
parser.add_argument("output", type=Path, help="where 1/a_GT.png becomes 1/a_GT_0_0.png, 1/a_GT_0_512.png, …")
parser.add_argument("--names", nargs=2, default=("GT", "NOISY"), metavar=("CLEAN", "NOISY"), help="as of `evaluate`")
parser.add_argument("--size", type=int, default=512, help="side of a crop in pixels (512)")
parser.add_argument("--crops", type=int, help="take so many of each photo, evenly spread; default: all")
parser.add_argument("--overwrite", action="store_true", help="replace existing crops")


def places(height: int, width: int, size: int, crops: int | None) -> list[tuple[int, int]]:
    """(top, left) of the crops of a photo, side by side; what is left at the right and bottom is not used."""
    whole = [(top, left) for top in range(0, height - size + 1, size) for left in range(0, width - size + 1, size)]
    if crops is None or crops >= len(whole):
        return whole
    return [whole[round(index)] for index in np.linspace(0, len(whole) - 1, crops)]


def main(arguments: argparse.Namespace) -> None:
    if arguments.size < 1 or (arguments.crops is not None and arguments.crops < 1):
        raise ModnasError("--size and --crops have to be at least 1")
    progress, pairs, count = ProgressLine(), PairedSet([arguments.folder], 3, arguments.names), 0
    for done, (name, *photos) in enumerate(pairs, 1):
        for top, left in places(*photos[0].shape[:2], arguments.size, arguments.crops):
            inside = np.s_[top : top + arguments.size, left : left + arguments.size]
            clean = Path(name).with_name(f"{Path(name).stem}_{top}_{left}.png")
            files = [arguments.output / part for part in (clean, str(clean).replace(*arguments.names))]
            for path in files:
                check_writable(path, arguments.overwrite)
            for path, photo in zip(files, photos, strict=True):
                write_image(path, ImageFile((Frame(photo[inside]),)), overwrite=arguments.overwrite)
            count += 1
        progress.update(done / len(pairs), name)
    progress.clear()
    if not count:
        raise ModnasError(f"{arguments.folder}: no photo has {arguments.size}×{arguments.size} pixels; lower --size")
    print(f"{count} pairs of crops of {len(pairs)} pairs in {arguments.output}")


if __name__ == "__main__":
    try:
        main(parser.parse_args())
    except ModnasError as error:
        parser.exit(2, f"{Path(__file__).name}: {error}\n")
