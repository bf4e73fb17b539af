"""Bytes that the Triton kernels load and store, against the least: every input read once, every output written once.

python -m benchmarks.kernel_bytes

Counted from the launches' grids, which needs no GPU; `tests/test_kernel_bytes.py` counts loads and stores one by one
and finds the same. Caches are left out: gates and partial sums, all that is above the least, seldom leave them.
"""

from __future__ import annotations

from itertools import product

import torch

from benchmarks.kernel_launches import Launch, launches
from modnas_fast.kernels.tiles import ELEMENTS, cover, share

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


def main() -> None:
    for shape, (layout, memory_format) in product(SHAPES, LAYOUTS.items()):
        print(f"\n{shape} bfloat16 {layout:46} {'MB':>9} {'least':>9}  ratio")
        x = torch.empty(shape, dtype=torch.bfloat16, device="meta").contiguous(memory_format=memory_format)
        for launch in launches(candidates=(7, 4), depths=(3, 1)):
            moved, least = moved_bytes(launch, x), least_bytes(launch, x)
            print(f"{launch!s:72} {moved / 1e6:9.2f} {least / 1e6:9.2f}  {moved / least:.4f}")


if __name__ == "__main__":
    main()
