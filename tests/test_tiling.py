"""Tiled equals whole: no seam, whatever the size, the tile, the stages and the genotype."""

import pytest
import torch

from modnas_fast import DerivedNet, Genotype, ModnasError
from modnas_fast.engine import tiling
from modnas_fast.engine.tiling import run_tiled
from modnas_fast.engine.windows import windows
from modnas_fast.networks.receptive_field import receptive_field_radius
from tests.cases import random_genotype

SEEDS = range(8)


def random_net(genotype: Genotype, stages: int = 1, channels_in: int = 1) -> DerivedNet:
    torch.manual_seed(1)
    net = DerivedNet(genotype, stages, channels_in).eval()
    for parameter in net.parameters():
        # Default initialisation fades over depth, and a seam with it: keep the signal's size through every layer.
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    return net


@pytest.mark.parametrize("seed", SEEDS)
def test_tiled_equals_whole_for_random_genotypes(seed: int) -> None:
    net = random_net(random_genotype(seed)).double()
    y = torch.rand(1, 1, 331, 277, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(run_tiled(net, y, 64), net(y), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("stages", "channels_in", "height", "width"), [(1, 1, 170, 333), (2, 3, 61, 325)])
def test_tiled_equals_whole_for_the_published_network(stages: int, channels_in: int, height: int, width: int) -> None:
    net = random_net(Genotype.load("modnas-b"), stages, channels_in)
    y = torch.rand(1, channels_in, height, width)
    with torch.inference_mode():
        whole = net(y)
        assert (run_tiled(net, y, 168) - whole).abs().max() <= 1e-5 * max(1.0, float(whole.abs().max()))


def test_a_halo_that_is_too_small_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above would notice it."""
    net = random_net(random_genotype(0)).double()
    y = torch.rand(1, 1, 256, 264, dtype=torch.float64)
    radius = receptive_field_radius(net.genotype)
    with torch.inference_mode():
        whole = net(y)
        monkeypatch.setattr(tiling, "receptive_field_radius", lambda genotype: radius // 2)
        assert (run_tiled(net, y, 64) - whole).abs().max() > 1e-9


def test_windows_cover_every_pixel_once_on_multiples_of_eight() -> None:
    for height, width, tile in ((8, 8, 8), (8, 800, 64), (1000, 344, 128), (968, 1208, 96)):
        count = torch.zeros(height, width, dtype=torch.int64)
        for rows, columns, outer_rows, outer_columns in windows(height, width, tile, 16):
            count[rows, columns] += 1
            for inner, outer, length in ((rows, outer_rows, height), (columns, outer_columns, width)):
                assert inner.start % 8 == outer.start % 8 == outer.stop % 8 == 0
                assert inner.stop - inner.start <= tile
                assert outer.start == max(0, inner.start - 16)
                assert outer.stop == min(length, inner.stop + 16)
        assert (count == 1).all()


def test_progress_reaches_one() -> None:
    shares: list[float] = []
    run_tiled(random_net(random_genotype(0), stages=2), torch.rand(1, 1, 40, 40), 16, shares.append)
    assert shares == sorted(shares)
    assert len(shares) == 2 * 9
    assert shares[-1] == 1.0


def test_bad_batches_are_refused() -> None:
    with pytest.raises(ModnasError, match="one channel at a time"):
        run_tiled(random_net(random_genotype(0)), torch.rand(1, 3, 16, 16), 16)
