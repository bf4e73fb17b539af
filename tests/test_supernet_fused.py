"""The supernet as GPUs run it: on its Triton kernels, or with folded layers in channels_last."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modnas_fast.errors import ModnasError
from modnas_fast.ops import native, pixel_shuffle
from modnas_fast.search import SuperNet, backends
from modnas_fast.search.architecture import DEPTH_SEARCHES
from tests.cases import DEVICE, random_genotype
from tests.parity import assert_parity
from tests.test_supernet import image, inherit, lively, of_width, one_hot

pytestmark = pytest.mark.usefixtures("kernels")


def net(backend: str = "fused", channels_in: int = 1, depth_search: str = "dense", channels: int = 4) -> SuperNet:
    """One stage, channels_last as in training."""
    supernet = lively(SuperNet(1, channels, channels_in, backend, depth_search))
    return supernet.to(DEVICE, memory_format=torch.channels_last)


@pytest.mark.parametrize("depth_search", DEPTH_SEARCHES)
def test_fused_equals_reference_in_every_parameter(depth_search: str) -> None:
    y = image(2, 1, 16, 21, dtype=torch.float32).to(DEVICE).requires_grad_()
    nets = (net(backend, depth_search=depth_search) for backend in ("fused", "reference"))
    report = assert_parity(*nets, y, reduction=25 * 4, depth=60)
    assert not [row.name for row in report.rows if row.note], "a gradient that is exactly zero shows nothing"


def test_folded_equals_reference_in_every_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    """With kernels laid out as on a GPU, and without the engine."""
    monkeypatch.setattr(native, "runs", lambda *arguments, **settings: False)
    monkeypatch.setattr(backends, "_laid_out", backends._channels_last)
    y = image(2, 1, 16, 24, dtype=torch.float32).to(DEVICE).requires_grad_()
    report = assert_parity(net("folded"), net("reference"), y, reduction=25 * 4, depth=60)
    assert not [row.name for row in report.rows if row.note], "a gradient that is exactly zero shows nothing"


def test_folded_layers_keep_one_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what larger convolutions and their gradients take and give: cuDNN has slow ways for mixtures, or copies.

    At 16 channels, since PyTorch's bilinear interpolation on a GPU gives contiguous results for fewer.
    """
    monkeypatch.setattr(native, "runs", lambda *arguments, **settings: False)
    monkeypatch.setattr(backends, "_laid_out", backends._channels_last)
    monkeypatch.setattr(F, "pixel_shuffle", pixel_shuffle._channels_last)
    watched, mixed = 0, list[str]()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, types: Any, arguments: tuple[Any, ...] = (), settings: Any = None
        ) -> Any:
            nonlocal watched
            result = function(*arguments, **(settings or {}))
            seen = [x for x in tree_leaves((arguments, result)) if isinstance(x, torch.Tensor) and x.ndim == 4]
            layouts = {x.is_contiguous() for x in seen if len(x) == 2 and min(x.shape[1:]) > 1}
            pointwise = any(x.shape[2:] == (1, 1) for x in seen)
            watched += "convolution" in str(function) and bool(layouts) and not pointwise
            if len(layouts) > 1 and not pointwise:
                mixed.append(f"{function} of {[(tuple(x.shape), x.stride()) for x in seen]}")
            return result

    y = image(2, 1, 32, 32, dtype=torch.float32).to(DEVICE)
    supernet = net("folded", channels=16)
    with Watch():
        supernet(y).square().mean().backward()
    assert watched > 100, "convolutions of feature maps and their gradients"
    found = [line for line in mixed if "convolution" in line or "add_" in line]
    assert not found, "\n".join(found)


def test_fused_under_autocast() -> None:
    fused, y = net(), image(1, 1, 8, 8, dtype=torch.float32).to(DEVICE)
    with torch.autocast(DEVICE, torch.bfloat16):
        x = fused(y)
    expected = net("reference")(y)
    assert x.dtype == torch.float32
    assert 0 < (x - expected).norm() < 0.02 * expected.norm()
    fused.architecture.requires_grad_(False)
    x.square().mean().backward()
    for name, parameter in fused.named_parameters():
        gradient = parameter.grad
        assert (gradient is None) == (not parameter.requires_grad), name
        assert gradient is None or (gradient.isfinite().all() and gradient.dtype == torch.float32)


def test_fused_one_hot_equals_the_derived_network() -> None:
    fused, genotype = net(channels_in=3), of_width(random_genotype(5), 4)
    one_hot(fused, genotype)
    y = image(1, 3, 8, 16, dtype=torch.float32).to(DEVICE)
    with torch.no_grad():
        torch.testing.assert_close(fused(y), inherit(fused, genotype).to(DEVICE)(y), rtol=1e-4, atol=1e-5)


def test_fused_has_no_float64() -> None:
    with pytest.raises(ModnasError, match="got float64; the reference backend takes all"):
        net().double()(image(1, 1, 8, 8).to(DEVICE))
