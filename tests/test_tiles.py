"""How the kernels walk over a tensor: every element once, by 64-bit addresses, in as many programs as fit."""

from __future__ import annotations

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

triton = pytest.importorskip("triton")
tl = triton.language

from modnas_fast.kernels import tiles  # noqa: E402
from tests.cases import DEVICE, FEATURE_CASES, LAYOUTS  # noqa: E402

locate, channels_of_chunk, softmax, sum_rows = tiles.locate, tiles.channels_of_chunk, tiles.softmax, tiles.sum_rows


@triton.jit
def _count_kernel(
    counts,
    channels,
    tiles,
    positions,
    tiles_per_image,
    C: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """counts += 1 at every element, channels = its channel as the kernels see it."""
    c = channels_of_chunk(BLOCK_C)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        offsets, inside = locate(tile, c, positions, tiles_per_image, C, CHANNELS_LAST, BLOCK_P)
        tl.store(counts + offsets, tl.load(counts + offsets, mask=inside) + 1, mask=inside)
        tl.store(channels + offsets, c + tl.zeros([BLOCK_C, BLOCK_P], tl.int32), mask=inside)


def check_cover(shape: tuple[int, ...], layout: str) -> None:
    counts, channels = (
        torch.zeros(shape, dtype=torch.int32, device=DEVICE).contiguous(memory_format=LAYOUTS[layout]) for _ in range(2)
    )
    cover = tiles.cover(counts, loads=8, stores=7)
    _count_kernel[cover.grid](counts, channels, cover.count, **cover.arguments)
    assert (counts == 1).all()
    assert torch.equal(channels, torch.arange(shape[1], device=DEVICE)[:, None, None].int().expand(shape))


@pytest.mark.parametrize(("shape", "layout"), FEATURE_CASES)
def test_every_element_is_visited_once_with_its_channel(shape: tuple[int, ...], layout: str) -> None:
    check_cover(shape, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_programs_share_many_tiles(few_programs: None, layout: str) -> None:
    check_cover((3, 5, 61, 43), layout)


@hypothesis.settings(max_examples=10, deadline=None, derandomize=True)
@hypothesis.given(st.tuples(*(st.integers(1, n) for n in (3, 70, 30, 30))), st.sampled_from(sorted(LAYOUTS)))
def test_any_shape_is_covered(shape: tuple[int, ...], layout: str) -> None:
    check_cover(shape, layout)


@triton.jit
def _address_kernel(addresses, tile, positions, tiles_per_image, C: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    offsets, _ = locate(tile, tl.arange(0, 2)[:, None], positions, tiles_per_image, C, CHANNELS_LAST, 4)
    tl.store(addresses + 4 * tl.arange(0, 2)[:, None] + tl.arange(0, 4)[None, :], offsets)


@pytest.mark.parametrize("channels_last", [False, True])
def test_addresses_pass_2_to_the_31(channels_last: bool) -> None:
    """Images of 2³⁰ positions and 2 channels; the last tile of the third, of which channels_last makes one image."""
    images, positions, C = 3, 2**30, 2
    addresses = torch.zeros(2, 4, dtype=torch.int64, device=DEVICE)
    last, of_image = images * positions // 4 - 1, images * positions if channels_last else positions
    _address_kernel[(1,)](addresses, last, of_image, of_image // 4, C, channels_last)
    c, p = torch.arange(2)[:, None], positions - 4 + torch.arange(4)[None, :]
    start = (images - 1) * positions * C
    expected = start + (p * C + c if channels_last else c * positions + p)
    assert torch.equal(addresses.cpu(), expected)


def test_as_many_programs_as_hide_the_latency_and_no_idle_ones() -> None:
    """K = 7 on 132 multiprocessors: two programs each forward, one backward, and all with the same share, or nearly."""
    x = torch.empty(12, 48, 64, 64, device="meta")
    y = x.contiguous(memory_format=torch.channels_last)
    forward, backward = {"loads": 7, "stores": 1}, {"loads": 8, "stores": 7}
    assert (tiles.cover(x, **forward).block_c, tiles.cover(x, **forward).block_p) == (4, 512)
    assert (tiles.cover(y, **forward).block_c, tiles.cover(y, **forward).block_p) == (64, 32)
    assert [tiles.cover(x, **passes).grid for passes in (forward, backward)] == [(20, 12), (11, 12)]
    assert [tiles.cover(y, **passes).grid for passes in (forward, backward)] == [(256, 1), (128, 1)]
    pooled = torch.empty(264, 64, 1, 1, device="meta")  # both layouts at once; side by side are the channels
    assert (tiles.cover(pooled, **forward).block_c, tiles.cover(pooled, **forward).grid) == (64, (9, 1))
    assert tiles.share(10**6, x.device, loads=1, stores=1) == 5 * 132
    assert tiles.share(5, x.device, loads=10, stores=10) == 5
    assert tiles.share(5, x.device, loads=1, stores=1, chunks=10**6) == 1
    assert tiles.share(0, x.device, loads=1, stores=1) == 0


@triton.jit
def _softmax_kernel(raw, weights, K: tl.constexpr, BLOCK_K: tl.constexpr):
    k = tl.arange(0, BLOCK_K)
    tl.store(weights + k, softmax(raw, K, BLOCK_K))


@pytest.mark.parametrize("raw", [[0.3], [1e4, 0, -1e4], [float("-inf"), 2, 2, float("-inf"), 1], [-300, -301, -300.5]])
def test_softmax(raw: list[float]) -> None:
    weights = torch.full((8,), torch.nan, device=DEVICE)
    _softmax_kernel[(1,)](torch.tensor(raw, device=DEVICE), weights, len(raw), 8)
    torch.testing.assert_close(weights[: len(raw)].cpu(), torch.tensor(raw).softmax(0), rtol=1e-6, atol=0)
    assert not weights[len(raw) :].any()


@triton.jit
def _sum_kernel(partials, sums, rows, stride, columns):
    c = tl.arange(0, 4)
    tl.store(sums + c, sum_rows(partials, rows, stride, c, c < columns, 8, 4), mask=c < columns)


@pytest.mark.parametrize("rows", [0, 1, 8, 21])
def test_sums_of_rows(rows: int) -> None:
    partials, sums = torch.randn(rows, 7, device=DEVICE), torch.full((3,), torch.nan, device=DEVICE)
    _sum_kernel[(1,)](partials, sums, rows, 7, 3)
    torch.testing.assert_close(sums, partials[:, :3].sum(0))
