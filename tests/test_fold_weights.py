"""The kernels that fold normal layers, against `fold_normal_ref` layer by layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modnas_fast.errors import ModnasError
from modnas_fast.genotype import PRIMITIVES
from modnas_fast.layers import MixedOp
from modnas_fast.ops import fold_normal, fold_weights
from modnas_fast.reference import fold_normal_ref
from tests.cases import DEVICE
from tests.parity import assert_parity

NAMES = list(MixedOp("normal", 1).state_dict())
pytestmark = pytest.mark.usefixtures("kernels")


def arguments(M: int, C: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Random weights in the order of `NAMES`, then gates and carry."""
    torch.manual_seed(0)
    layer = MixedOp("normal", C).state_dict()
    shapes = [*((M, *layer[name].shape) for name in NAMES), (M, len(PRIMITIVES["normal"]), C), (M,)]
    return [torch.randn(shape).to(DEVICE, dtype).requires_grad_() for shape in shapes]


def by_kernels(*tensors: Tensor) -> tuple[Tensor, ...]:
    return fold_weights(dict(zip(NAMES, tensors, strict=False)), *tensors[-2:])


def by_reference(*tensors: Tensor) -> list[Tensor]:
    folds = []
    for m in range(len(tensors[-1])):
        *weights, gates, carry = (tensor[m] for tensor in tensors)
        folds.append(fold_normal_ref(dict(zip(NAMES, weights, strict=True)), gates, carry))
    return [torch.stack(same) for same in zip(*folds, strict=True)]


@pytest.mark.parametrize(("C", "M"), [(1, 1), (1, 5), (3, 2), (4, 1), (8, 1)])
def test_against_each_layer_s_fold(C: int, M: int) -> None:
    assert_parity(by_kernels, by_reference, *arguments(M, C), reduction=C * 25, depth=4)


def test_rows_longer_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modnas_fast.kernels.fold_weights._LARGEST_BLOCK", 32)
    assert_parity(by_kernels, by_reference, *arguments(1, 5), reduction=5 * 25, depth=4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    assert_parity(by_kernels, by_reference, *arguments(1, 3, dtype), reduction=3 * 25, depth=4)


def test_one_hot_gates_are_that_candidate_s_kernels() -> None:
    *weights, gates, carry = (x.detach() for x in arguments(1, 3))
    named = dict(zip(NAMES, weights, strict=True))
    dilated = torch.zeros(1, 3, 3, 5, 5, device=DEVICE)
    taps = named["dil_conv_3x3.depthwise.weight"].transpose(1, 2)
    dilated[..., ::2, ::2] = named["dil_conv_3x3.pointwise.weight"] * taps
    padded = torch.nn.functional.pad(named["conv_3x3.conv.weight"], (1, 1, 1, 1))
    dense = {"conv_3x3": padded, "conv_5x5": named["conv_5x5.conv.weight"], "dil_conv_3x3": dilated}
    for k, op in enumerate(PRIMITIVES["normal"]):
        gates.zero_()[:, k] = 1
        folded = fold_weights(named, gates, carry * 0)
        assert torch.equal(folded.dense, dense.get(op, torch.zeros_like(dilated)))
        shortcut = named["res_block_3x3.shortcut.weight"]
        assert torch.equal(folded.shortcut, shortcut if op == "res_block_3x3" else torch.zeros_like(shortcut))


@pytest.mark.parametrize("wanted", ["gates", "carry", "weights", "one weight", "a bias"])
def test_what_is_needed_is_computed_and_kept(wanted: str) -> None:
    tensors = arguments(1, 2)
    chosen = {
        "gates": [-2],
        "carry": [-1],
        "weights": [*range(len(NAMES))],
        "one weight": [NAMES.index("conv_5x5.conv.weight")],
        "a bias": [NAMES.index("sep_conv_5x5.depthwise1.bias")],
    }[wanted]
    leaves = [tensors[index] for index in chosen]
    expected = torch.autograd.grad(sum(x.square().sum() for x in by_kernels(*tensors)), leaves)
    for tensor in tensors:
        tensor.requires_grad_(any(tensor is leaf for leaf in leaves))
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        folded = by_kernels(*tensors)
    assert any(x.shape[-2:] == (5, 5) and x.shape[2] > 1 for x in kept) == (wanted in ("gates", "carry"))
    gradients = torch.autograd.grad(sum(x.square().sum() for x in folded), leaves)
    assert all(torch.equal(first, second) for first, second in zip(gradients, expected, strict=True))


def test_one_result_s_gradient() -> None:
    """The others get none: torch makes them zero."""
    tensors = arguments(1, 3)
    dense, expected = by_kernels(*tensors)[0], by_reference(*tensors)[0]
    mine, theirs = (
        torch.autograd.grad(x.square().sum(), tensors, materialize_grads=True, allow_unused=True)
        for x in (dense, expected)
    )
    for first, second in zip(mine, theirs, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


def test_views_and_expanded_gradients() -> None:
    """Every second number of memory, and results' gradients that are expanded from one number."""
    views = [torch.stack([x, x], dim=-1)[..., 0].detach().requires_grad_() for x in arguments(2, 2)]
    assert_parity(by_kernels, by_reference, *views, reduction=2 * 25, depth=4)
    sums = [sum(x.sum() for x in function(*views)) for function in (by_kernels, by_reference)]
    for mine, theirs in zip(*(torch.autograd.grad(x, views) for x in sums), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_equal_inputs_give_equal_bits() -> None:
    tensors = arguments(1, 3)
    runs = []
    for _ in range(2):
        folded = by_kernels(*tensors)
        runs.append([*folded, *torch.autograd.grad(sum(x.square().sum() for x in folded), tensors)])
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


def test_dtypes_are_promoted_and_autocast_changes_nothing() -> None:
    *weights, gates, carry = arguments(1, 3)
    halves = [x.bfloat16() for x in weights]
    folded = by_kernels(*halves, gates, carry)
    assert all(x.dtype == torch.float32 for x in folded)
    with torch.autocast(DEVICE, torch.bfloat16):
        again = by_kernels(*halves, gates, carry)
    assert all(x.dtype == torch.float32 and torch.equal(x, y) for x, y in zip(again, folded, strict=True))


def test_registration() -> None:
    """Schema, autograd formula and fake implementation, eager, traced and with dynamic shapes."""
    named = dict(zip([*NAMES, "gates", "carry"], arguments(1, 1), strict=True))
    seen: list[tuple[object, ...]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.ops.modnas_fast, "fold_weights", lambda *arguments: seen.append(arguments) or 9 * [None])
        fold_weights(named, named["gates"], named["carry"])
    torch.library.opcheck(torch.ops.modnas_fast.fold_weights.default, seen[0])


def test_inside_torch_compile() -> None:
    compiled = torch.compile(by_kernels, fullgraph=True, backend="aot_eager")
    assert_parity(compiled, by_reference, *arguments(1, 3), reduction=3 * 25, depth=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fold_normal_takes_the_kernels_on_a_gpu(dtype: torch.dtype) -> None:
    """And plain PyTorch where they do not run, or only under the interpreter."""
    tensors = arguments(1, 3, dtype)
    folded = fold_normal(dict(zip(NAMES, tensors, strict=False)), *tensors[-2:])
    assert ("modnas_fast" in folded.dense.grad_fn.name()) == (DEVICE == "cuda" and dtype == torch.float32)


def test_what_is_refused() -> None:
    tensors = arguments(2, 3)
    with pytest.raises(ModnasError, match="fold_weights takes float32, float16 and bfloat16, got float64"):
        by_kernels(*(x.double() for x in tensors))
    with pytest.raises(ModnasError, match=r"fold_weights takes carry of shape \[1\], got \[\]"):
        by_kernels(*tensors[:-1], tensors[-1][0])
    with pytest.raises(ModnasError, match=r"fold_weights takes gates of shape \[2, 7, 3\], got \[2, 6, 3\]"):
        by_kernels(*tensors[:-2], tensors[-2][:, 1:], tensors[-1])
    with pytest.raises(ModnasError, match=r"fold_weights takes conv_3x3.conv.weight of shape \[2, 3, 3, 3, 3\], got"):
        by_kernels(tensors[0][:1], *tensors[1:])
    with pytest.raises(ModnasError, match="fold_weights cannot run on meta"):
        by_kernels(*(x.to("meta") for x in tensors))
