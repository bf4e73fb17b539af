"""The folded normal layer's own backward pass against autograd's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modnas_fast.ops import folded_normal
from modnas_fast.reference import folded_normal_ref
from modnas_fast.reference.fold import FoldedNormal
from tests.parity import assert_parity


def random_layer(C: int, dtype: torch.dtype) -> FoldedNormal:
    """Kernels of unit gain and biases that keep most units alive."""

    def kernel(channels_in: int, k: int) -> Tensor:
        return (torch.randn(C, channels_in, k, k) / (channels_in * k * k) ** 0.5).to(dtype).requires_grad_()

    def bias() -> Tensor:
        return (torch.randn(C) * 0.3 + 0.2).to(dtype).requires_grad_()

    shapes = {"dense": (C, 5), "depthwise3": (1, 3), "depthwise5": (1, 5), "residual": (C, 3), "point": (C, 1)}

    def field(name: str) -> Tensor:
        if "bias" in name:
            return bias()
        if "depthwise" in name:
            return kernel(*shapes["depthwise3" if name.startswith("sep3") else "depthwise5"])
        return kernel(*shapes["dense" if name == "dense" else "residual" if "residual" in name else "point"])

    return FoldedNormal(*(field(name) for name in FoldedNormal._fields))


def candidate(x, *tensors):
    return folded_normal(x, FoldedNormal(*tensors))


def reference(x, *tensors):
    return folded_normal_ref(x, FoldedNormal(*tensors))


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("shape", [(2, 4, 7, 5), (1, 1, 1, 1), (3, 8, 16, 2), (1, 3, 13, 24)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_parity(dtype: torch.dtype, shape: tuple[int, ...], layout) -> None:
    torch.manual_seed(2)
    layer = random_layer(shape[1], dtype)
    x = torch.randn(shape, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    N, C, H, W = shape
    assert_parity(candidate, reference, x, *layer, reduction=max(25 * C, N * H * W), depth=20)


def test_parity_in_bfloat16() -> None:
    torch.manual_seed(0)
    layer = random_layer(16, torch.bfloat16)
    x = torch.randn(4, 16, 24, 16).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    reason = "a thousandth of the ReLU masks flips in bfloat16, and gradients err by its root"
    assert_parity(candidate, reference, x, *layer, reduction=1, tolerance=0.12, reason=reason)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_wider_layer_computes_wider_and_keeps_what_x_is(autocast: bool) -> None:
    """bfloat16 in, out and kept; between them float32, autocast or not: the only errors are x's and y's rounding."""
    torch.manual_seed(0)
    layer = random_layer(8, torch.float32)
    x = torch.randn(6, 8, 12, 9).bfloat16().requires_grad_()  # more images than are computed at a time
    dtypes: list[torch.dtype] = []

    def pack(tensor: Tensor) -> Tensor:
        dtypes.append(tensor.dtype)
        return tensor

    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = folded_normal(x, layer)
        (dx, dpoint) = torch.autograd.grad(y.float().square().sum(), (x, layer.sep5_pointwise2))
    assert (y.dtype, dx.dtype, dpoint.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    assert dtypes.count(torch.bfloat16) == 2
    exact_x = x.detach().double().requires_grad_()
    exact_layer = FoldedNormal(*(tensor.detach().double().requires_grad_() for tensor in layer))
    exact = folded_normal_ref(exact_x, exact_layer)
    rounded = exact.detach().bfloat16().double()
    exact_dx, exact_dpoint = torch.autograd.grad(exact, (exact_x, exact_layer.sep5_pointwise2), 2 * rounded)
    unit_roundoff = 2**-8
    assert (y - exact).abs().max() <= 1.01 * unit_roundoff * exact.abs().max()
    assert (dx - exact_dx).norm() <= 2 * unit_roundoff * exact_dx.norm()
    assert (dpoint - exact_dpoint).norm() <= 2 * unit_roundoff * exact_dpoint.norm()


def test_gradcheck() -> None:
    torch.manual_seed(0)
    layer = random_layer(2, torch.float64)
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(candidate, (x, *layer))


@pytest.mark.parametrize("wanted", ["x", "dense", "bias", "residual_in_bias", "sep3_bias1", "sep5_depthwise1"])
def test_what_needs_no_gradient_gets_none_and_changes_no_other(wanted: str) -> None:
    torch.manual_seed(0)
    tensors = {"x": torch.randn(2, 4, 6, 5).requires_grad_(), **random_layer(4, torch.float32)._asdict()}
    expected = torch.autograd.grad(candidate(*tensors.values()).square().sum(), tensors[wanted])
    for name, tensor in tensors.items():
        tensor.requires_grad_(name == wanted)
    candidate(*tensors.values()).square().sum().backward()
    assert torch.equal(tensors[wanted].grad, *expected)
    assert all(tensor.grad is None for name, tensor in tensors.items() if name != wanted)


def test_it_keeps_two_activations() -> None:
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel() if tensor.shape[-1] == 32 else 0)
        return tensor

    x = torch.randn(1, 4, 32, 32).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        folded_normal(x, random_layer(4, torch.float32))
    assert sum(kept) == 2 * x.numel()


def test_it_is_differentiable_once_and_says_so() -> None:
    x = torch.randn(1, 2, 4, 4).requires_grad_()
    loss = folded_normal(x, random_layer(2, torch.float32)).square().sum()
    (dx,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()
