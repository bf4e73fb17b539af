"""Bytes that the Triton kernels load and store, against the least: every input read once, every output written once.

python -m benchmarks.kernel_bytes

Counted from the launches' grids, which needs no GPU; `tests/test_kernel_bytes.py` counts loads and stores one by one
and finds the same. Caches are left out: gates and partial sums, all that is above the least of feature maps, seldom
leave them. Nor does most of what folding repeats: the dilated taps' 1×1 weights, nine times by one program, and rows of
depthwise parameters, by the programs of one layer.
"""

from __future__ import annotations

from itertools import product

import torch

from benchmarks.kernel_launches import FOLDS, Fold, Launch, launches
from modnas_fast.kernels.fold_weights import blocks_of
from modnas_fast.kernels.tiles import ELEMENTS, cover, share

LAYERS, CHANNELS = 42, 48  # normal layers of a supernet of two stages
SHAPES = ((12, 48, 64, 64), (4, 48, 512, 512))
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def least_bytes(launch: Launch, x: torch.Tensor) -> int:
    """For feature maps like x and raw parameters in float32."""
    maps = (launch.loads + launch.stores) * x.numel() * x.element_size()
    return maps + 4 * _parameters(launch, x.shape[1]) * (1 + launch.parameters)


def moved_bytes(launch: Launch, x: torch.Tensor) -> int:
    """What the kernels of this launch load and store."""
    C, K, depth = x.shape[1], launch.K, launch.depth
    maps = (launch.loads + launch.stores) * x.numel() * x.element_size()
    if launch.op in ("dense_aggregate", "relax"):
        programs = share(-(-x.numel() // ELEMENTS), x.device, launch.loads, launch.stores)
        raw = _parameters(launch, C)
        # Every program reads the parameters and leaves one sum for each; one program reads both and writes gradients.
        numbers = programs * raw + launch.parameters * (2 * programs * raw + 2 * raw)
    else:
        tiles = cover(x, launch.loads, launch.stores)
        splits, programs = tiles.splits, tiles.splits * tiles.chunks
        gates = max(K, 1) * C
        dots = K + depth if K else 0
        shared = K + (depth + 1 if depth else 0)  # α and γ, which every program reads, as its own channels of β
        numbers = programs * shared + splits * gates
        if launch.parameters:
            # The sums for β, and for α and γ the dots, for which β is read once more: written, then read.
            numbers += splits * gates * (2 if K else 1) + programs * dots
            numbers += max(K, 1) * (shared + programs * dots) + splits * gates
            numbers += _parameters(launch, C)
    return maps + 4 * numbers


def _parameters(launch: Launch, C: int) -> int:
    """Numbers in the raw parameters."""
    return {
        "mixed_op": launch.K * (1 + C),
        "mixed_aggregate": launch.K * (1 + C) + launch.depth + 1,
        "dense_aggregate": launch.depth + 1,
        "channel_gate": C,
        "relax": 1,
    }[launch.op]


def least_fold_bytes(fold: Fold, M: int, C: int, size: int) -> int:
    """For numbers of `size` bytes."""
    kernels, pointwises, biases, depthwise = 9 + 25 + 9 + 1, 6, 4 + 2 * 6, 9  # of C², C², C and C numbers a layer
    folded = (25 + 9 + 1 + 3) * C * C + 3 * C
    parameters = (kernels + pointwises) * C * C + (biases + depthwise) * C
    if fold.forward:
        return size * M * (parameters + 7 * C + 1 + folded)
    # The kernels that gates multiply, and their biases, are read for the gates' gradients alone; of the gradients of
    # biases, those that are the same are written once, and two are results' gradients themselves.
    read = folded + (pointwises * C * C + (depthwise + 6) * C) + 7 * C
    read += fold.gates * (kernels * C * C + 8 * C)
    written = fold.gates * (7 * C + 1) + fold.weights * ((kernels + pointwises) * C * C + (7 + depthwise + 6) * C)
    return size * M * (read + written)


def moved_fold_bytes(fold: Fold, M: int, C: int, size: int) -> int:
    """What the kernels of this pass load and store, by what a program of them does."""
    if fold.forward:
        row = 7 + (25 + 9 + 9 + 9) * C + 9 * C + 1 + C + 4 + 6 * (1 + 2 * C)
        row += (25 + 9 + 1 + 3) * C + 3
        return size * M * C * row
    blocks = -(-C // blocks_of(C)["BLOCK_C"])
    row = 1 + 7 + (25 + 9 + 1) * C + (9 + 9 + 3 + 4) * C
    row += fold.gates * ((9 + 25 + 9 + 1 + 4) * C + 1 + 8 + 7)  # one C in all is carry's
    row += fold.weights * ((9 + 25 + 9 + 1 + 2 * 2 + 4) * C + 2 * blocks + 7)
    columns = (6 + 4 + 6 + 9) * C + 6 + 9
    return size * M * (C * (row + fold.weights * columns) + fold.gates)


def main() -> None:
    for shape, (layout, memory_format) in product(SHAPES, LAYOUTS.items()):
        print(f"\n{shape} bfloat16 {layout:46} {'MB':>9} {'least':>9}  ratio")
        x = torch.empty(shape, dtype=torch.bfloat16, device="meta").contiguous(memory_format=memory_format)
        for launch in launches(candidates=(7, 4), depths=(3, 1)):
            moved, least = moved_bytes(launch, x), least_bytes(launch, x)
            print(f"{launch!s:72} {moved / 1e6:9.2f} {least / 1e6:9.2f}  {moved / least:.4f}")
    print(f"\n{LAYERS} layers of {CHANNELS} channels, float32 {'':37} {'MB':>9} {'least':>9}  ratio")
    for fold in FOLDS:
        moved, least = (count(fold, LAYERS, CHANNELS, 4) for count in (moved_fold_bytes, least_fold_bytes))
        print(f"{fold!s:72} {moved / 1e6:9.2f} {least / 1e6:9.2f}  {moved / least:.4f}")


if __name__ == "__main__":
    main()
