"""Convolutions and their gradients, the engine's and PyTorch's, against autograd in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modnas_fast.ops import convolution, native
from modnas_fast.ops.convolution import convolution_fwd
from modnas_fast.ops.folded_up import folded_up
from modnas_fast.reference.fold import FoldedUp
from modnas_fast.reference.folded_resample import folded_up_ref
from tests.parity import assert_parity

needs_engine = pytest.mark.skipif(not native.BUILT, reason="the engine is not built")
LAYOUTS = [torch.channels_last, torch.contiguous_format]
# [N, C_in, H, W], C_out: one pixel; one tile; odd; runs of tiles that end within a row; several vectors; parts of
# vectors; PyTorch's
CASES = [
    ((1, 16, 1, 1), 16),
    ((1, 16, 4, 4), 16),
    ((2, 24, 5, 7), 40),
    ((3, 16, 13, 4), 24),
    ((1, 96, 9, 35), 48),
    ((2, 16, 33, 12), 72),
    ((5, 48, 8, 8), 56),
    ((2, 36, 9, 14), 20),
    ((1, 20, 7, 37), 36),
    ((2, 5, 6, 7), 3),
]


PASSES = 7  # rounded one after another: both operands along two axes, the product, and the result along two axes


def operands(shape: tuple[int, ...], channels_out: int, kernel: int, layout, dtype=torch.float32) -> list[Tensor]:
    torch.manual_seed(0)
    channels_in = shape[1]
    x = torch.randn(shape).to(dtype).contiguous(memory_format=layout)
    weight = torch.randn(channels_out, channels_in, kernel, kernel) / (channels_in * kernel**2) ** 0.5
    return [x.requires_grad_(), weight.requires_grad_(), torch.randn(channels_out).requires_grad_()]


def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


def after_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return convolution(x, weight, bias, F.relu(x).detach())


def after_relu_ref(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return reference(F.relu(x), weight, bias)


@pytest.mark.parametrize(("function", "function_ref"), [(convolution, reference), (after_relu, after_relu_ref)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize(("shape", "channels_out"), CASES)
def test_forward_and_every_gradient(shape, channels_out: int, kernel: int, layout, function, function_ref) -> None:
    N, C, H, W = shape
    reduction = max(kernel**2 * max(C, channels_out), N * H * W)
    assert_parity(
        function, function_ref, *operands(shape, channels_out, kernel, layout), reduction=reduction, depth=PASSES
    )


def bits(x: Tensor):
    """As the engine takes images: [N, H, W, C], bfloat16 by its bits."""
    x = x.permute(0, 2, 3, 1)
    return x.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else x.numpy()


@needs_engine
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", ["avx512_bf16", "avx512", "avx2", "portable"])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize(("threads", "channels", "channels_out"), [(1, 24, 40), (3, 24, 40), (2, 36, 44), (1, 72, 20)])
def test_every_variant(dtype, variant: str, kernel: int, threads: int, channels: int, channels_out: int) -> None:
    """Images of either dtype; weights, biases and the gradients of weights are float32."""
    from modnas_fast import _engine

    if variant not in _engine.variants():
        pytest.skip(f"this processor has no {variant}")
    x, weight, bias = (
        tensor.detach() for tensor in operands((2, channels, 11, 13), channels_out, kernel, torch.channels_last, dtype)
    )

    dy = torch.randn(2, channels_out, 11, 13).to(dtype).contiguous(memory_format=torch.channels_last)
    rectified = F.relu(torch.randn(2, channels_out, 11, 13)).to(dy.dtype).contiguous(memory_format=torch.channels_last)
    each = torch.randn(channels, 1, kernel, kernel) / kernel

    def images(x: Tensor, weight: Tensor, bias: Tensor, each: Tensor, dilation: int):
        y, part, z = torch.full_like(dy, torch.nan), torch.full_like(dy, torch.nan), torch.full_like(x, torch.nan)
        kernels, channelwise = weight.permute(2, 3, 1, 0).contiguous().numpy(), each[:, 0].permute(1, 2, 0)
        for mask, result in ((None, y), (bits(rectified), part)):
            _engine.convolution(bits(x), kernels, bias.numpy(), mask, bits(result), threads, variant)
        _engine.depthwise(bits(x), channelwise.contiguous().numpy(), dilation, bits(z), threads, variant)
        return y, part, z

    def images_ref(x: Tensor, weight: Tensor, bias: Tensor, each: Tensor, dilation: int):
        y = F.conv2d(x, weight, bias, padding=kernel // 2)
        z = F.conv2d(x, each, padding=dilation * (kernel // 2), dilation=dilation, groups=channels)
        return y, torch.where(rectified > 0, y, 0), z

    def gradients(x: Tensor, dy: Tensor, weight: Tensor, each: Tensor, dilation: int):
        dweight = torch.full((kernel, kernel, channels, channels_out), torch.nan)
        dbias = torch.full((channels_out,), torch.nan)
        deach = torch.full((kernel, kernel, channels), torch.nan)
        _engine.convolution_dweight(bits(x), bits(dy), dweight.numpy(), dbias.numpy(), threads, variant)
        _engine.depthwise_dweight(bits(x), bits(x), dilation, deach.numpy(), threads, variant)
        return dweight.permute(3, 2, 0, 1), dbias, deach.permute(2, 0, 1)

    def gradients_ref(x: Tensor, dy: Tensor, weight: Tensor, each: Tensor, dilation: int):
        operands = weight.detach(), weight.new_zeros(channels_out), each.detach()
        weight, bias, each = (tensor.requires_grad_() for tensor in operands)
        y, _, z = images_ref(x, weight, bias, each, dilation)
        dweight, dbias, deach = torch.autograd.grad((y, z), (weight, bias, each), (dy, x))
        return dweight, dbias, deach[:, 0]

    for dilation in (1, 2):
        sums = {"reduction": kernel**2 * channels, "depth": PASSES, "gradients": False}
        assert_parity(images, images_ref, x, weight, bias, each, dilation, **sums)
        exact = {"precision": torch.float32, "output_dtype": torch.float32}
        assert_parity(gradients, gradients_ref, x, dy, weight, each, dilation, **sums, **exact)


@needs_engine
def test_the_engine_is_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the sizes that it takes, and nothing else."""
    calls = []
    for name in ("convolution", "convolution_dweight"):
        plain = getattr(native, name)
        monkeypatch.setattr(native, name, lambda *a, plain=plain, name=name: calls.append(name) or plain(*a))
    for shape, channels_out, kernel in [((1, 16, 4, 4), 24, 3), ((1, 16, 4, 4), 18, 3), ((1, 16, 4, 4), 16, 1)]:
        x, weight, bias = operands(shape, channels_out, kernel, torch.channels_last)
        convolution(x, weight, bias).sum().backward()
    convolution_fwd(x.detach().double(), weight.detach().double())
    assert calls == ["convolution", "convolution", "convolution_dweight"]


@needs_engine
@pytest.mark.parametrize("kernel", [3, 5])
def test_registered_operators(kernel: int) -> None:
    x = torch.randn(2, 16, 6, 5)
    weight, each = torch.randn(kernel, kernel, 16, 24), torch.randn(kernel, kernel, 16)
    dy = torch.randn(2, 24, 6, 5).contiguous(memory_format=torch.channels_last)
    for bias in (torch.randn(24), None):
        torch.library.opcheck(native.convolution.operator, (x, weight, bias, None))
    for dtype in (torch.float32, torch.bfloat16):
        x, dy = x.to(dtype), dy.to(dtype)
        torch.library.opcheck(native.convolution.operator, (x, weight, None, dy))
        torch.library.opcheck(native.convolution_dweight.operator, (x, dy, kernel))
        torch.library.opcheck(native.depthwise.operator, (x, each, 2))
        torch.library.opcheck(native.depthwise_dweight.operator, (x, x.clone(), kernel, 1))


def test_a_wider_weight_is_the_precision() -> None:
    x, weight, bias = operands((2, 16, 9, 6), 24, 3, torch.channels_last, torch.bfloat16)
    y = convolution(x, weight, bias)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == torch.bfloat16
    assert weight.grad.dtype == torch.float32
    torch.testing.assert_close(y, reference(x.float(), weight, bias).bfloat16(), rtol=0, atol=0.04)


@needs_engine
def test_wrong_arrays_are_refused() -> None:
    from modnas_fast import _engine

    x, weight = torch.zeros(1, 4, 4, 16).numpy(), torch.zeros(3, 3, 16, 16).numpy()
    for image, kernel, bias, y in itertools.chain(
        [(x[:, :2], weight, None, x)],
        [(x, weight[:, :, :8], None, x), (x, weight[:2, :2], None, x), (x, weight, weight[0, 0, 0, :8], x)],
        [(x[..., :10], weight[:, :, :10], None, x), (x, weight, None, x[:, ::-1]), (x.astype("f8"), weight, None, x)],
        [(x.astype("u2"), weight, None, x), (x, weight, None, x.astype("u2")), (x, weight.astype("u2"), None, x)],
    ):
        with pytest.raises((TypeError, ValueError)):
            _engine.convolution(image, kernel, bias, None, y, 1)
    for mask in (x[:, :2], x.astype("u2"), x[0], x[:, ::-1]):
        with pytest.raises(ValueError, match=r"rectified|without gaps"):
            _engine.convolution(x, weight, None, mask, x.copy(), 1)
    with pytest.raises(ValueError, match="bias's gradient"):
        _engine.convolution_dweight(x, x, weight, weight[0, 0, 0, :8].copy(), 1)


def test_folded_up() -> None:
    """The up-sampling layer that `convolution` is part of, against the reference."""
    torch.manual_seed(0)
    shapes = ((64, 16, 3, 3), (16, 16, 1, 1), (16, 16, 1, 1))
    kernels = [(torch.randn(shape) / (shape[1] * shape[2] ** 2) ** 0.5).requires_grad_() for shape in shapes]
    bias = torch.randn(64).requires_grad_()
    x = torch.randn(2, 16, 6, 9).contiguous(memory_format=torch.channels_last).requires_grad_()

    def with_layer(function):
        return lambda x, *tensors: function(x, FoldedUp(*tensors))

    tensors = (x, *kernels, bias)
    assert_parity(with_layer(folded_up), with_layer(folded_up_ref), *tensors, reduction=9 * 64, depth=4)
