"""Muon: its steps by singular values in float64, beside torch's own, and who gets which parameters."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from modnas_fast import DerivedNet, Genotype
from modnas_fast.networks import ConditionedNet
from modnas_fast.training import muon
from modnas_fast.training.muon import Muon, build_muon, orthogonalize

KERNELS = [(48, 40, 3, 3), (40, 32, 5, 5), (40, 48, 1, 1), (48, 8, 1, 1), (8, 40, 3, 3), (40, 40, 3, 3), (2, 2, 1, 1)]


def exact_step(direction: Tensor) -> Tensor:
    """A kernel's step for a rate of 1, in float64: the rounds act on singular values alone."""
    u, s, vh = torch.linalg.svd(direction.double().flatten(1), full_matrices=False)
    s = s / s.norm()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (0.2 * math.sqrt(max(u.shape[0], vh.shape[1])) * (u * s) @ vh).view(direction.shape)


def kernels_and_gradients() -> tuple[list[nn.Parameter], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    kernels = [nn.Parameter(torch.randn(size, generator=generator)) for size in KERNELS]
    for index, kernel in enumerate(kernels):
        if index % 2:
            kernel.data = kernel.data.contiguous(memory_format=torch.channels_last)
    return kernels, [torch.randn(size, generator=generator) * 10**-index for index, size in enumerate(KERNELS)]


@pytest.mark.parametrize("padded", [False, True], ids=["by size", "all in one, padded"])
def test_steps_are_those_of_singular_values(monkeypatch: pytest.MonkeyPatch, padded: bool) -> None:
    if padded:
        monkeypatch.setattr(muon, "_together", lambda matrix: ())
    kernels, gradients = kernels_and_gradients()
    optimizer = Muon(kernels, 0.5)
    momenta = [torch.zeros_like(gradient) for gradient in gradients]
    for scale in (1.0, -0.3, 0.7):
        before = [kernel.detach().clone() for kernel in kernels]
        for kernel, gradient in zip(kernels, gradients, strict=True):
            kernel.grad = scale * gradient
        optimizer.step()
        for kernel, old, momentum in zip(kernels, before, momenta, strict=True):
            momentum += 0.05 * (kernel.grad - momentum)
            expected = -0.5 * exact_step(0.05 * kernel.grad + 0.95 * momentum)
            assert (kernel.detach() - old - expected).norm() < 1e-3 * expected.norm()


def test_steps_are_torchs_up_to_its_bfloat16() -> None:
    kernels, gradients = kernels_and_gradients()
    matrices = [nn.Parameter(kernel.detach().flatten(1).clone()) for kernel in kernels]
    theirs = torch.optim.Muon(matrices, 0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    ours = Muon(kernels, 0.1)
    start = [kernel.detach().clone() for kernel in kernels]
    for kernel, matrix, gradient in zip(kernels, matrices, gradients, strict=True):
        kernel.grad, matrix.grad = gradient, gradient.flatten(1)
    ours.step()
    theirs.step()
    for kernel, matrix, old in zip(kernels, matrices, start, strict=True):
        step, expected = kernel.detach() - old, matrix.detach().view(old.shape) - old
        assert (step - expected).norm() < 0.03 * expected.norm()


def test_singular_values_become_alike() -> None:
    """From the largest that a matrix can have down to 1/500 of its norm."""
    smaller = torch.logspace(-2.69, 0, 40, dtype=torch.float64)
    diagonals = torch.stack([torch.stack([s, (1 - s.square()).clamp(min=0).sqrt(), 0 * s]) for s in smaller])
    ours = orthogonalize(torch.diag_embed(7 * diagonals)).diagonal(dim1=1, dim2=2)
    assert ours[diagonals > 0].min() > 0.68
    assert ours.max() < 1.21
    assert not ours[diagonals == 0].any()


def test_zero_gradients_move_nothing() -> None:
    assert not orthogonalize(torch.zeros(2, 3, 5)).any()
    kernels, _ = kernels_and_gradients()
    before = [kernel.detach().clone() for kernel in kernels]
    for kernel in kernels[1:]:
        kernel.grad = torch.zeros_like(kernel)  # the first has none
    Muon(kernels, 1.0).step()
    assert all(torch.equal(kernel, old) for kernel, old in zip(kernels, before, strict=True))


@pytest.mark.parametrize(
    "net",
    [DerivedNet(Genotype.load("modnas-b"), 2), ConditionedNet(Genotype.load("modnas-ar"), 1, 3)],
    ids=["two stages", "told σ, RGB"],
)
def test_every_parameter_has_one_optimizer_and_only_inner_kernels_have_muon(net: DerivedNet) -> None:
    first, rest = build_muon(net, 1e-3, captured=False)
    assert isinstance(first, Muon)
    assert isinstance(rest, torch.optim.Adam)
    names = {parameter: name for name, parameter in net.named_parameters()}
    ours, theirs = ([names[p] for p in optimizer.param_groups[0]["params"]] for optimizer in (first, rest))
    assert sorted(ours + theirs) == sorted(names.values())
    assert set(ours) == {
        f"{name}.weight"
        for name, layer in net.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) and layer.groups == 1
        if not name.endswith((".stem.0", ".out"))
    }
    assert sum(net.get_parameter(name).numel() for name in ours) > 0.9 * sum(p.numel() for p in net.parameters())


def test_a_rate_in_a_tensor_is_read_anew_every_step() -> None:
    kernels, gradients = kernels_and_gradients()
    rate = torch.tensor(0.0)
    optimizer = Muon(kernels, rate)
    before = [kernel.detach().clone() for kernel in kernels]
    for kernel, gradient in zip(kernels, gradients, strict=True):
        kernel.grad = gradient
    optimizer.step()
    assert all(torch.equal(kernel, old) for kernel, old in zip(kernels, before, strict=True))
    rate.fill_(1.0)
    optimizer.step()
    assert not any(torch.equal(kernel, old) for kernel, old in zip(kernels, before, strict=True))
