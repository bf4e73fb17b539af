"""The mixture of candidates: the reference against another composition and one-hot; the kernels against it."""

from __future__ import annotations

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from modnas_fast.errors import ModnasError
from modnas_fast.genotype import PRIMITIVES
from modnas_fast.layers import MixedOp
from modnas_fast.ops import mixed_op
from modnas_fast.reference import mixed_op_ref
from tests.cases import DEVICE, FEATURE_SHAPES, LAYOUTS, features, raw
from tests.parity import assert_parity
from tests.test_operations import DEFINITIONS


def by_einsum(alpha, beta, *candidates):
    omega = alpha.exp() / alpha.exp().sum()
    return torch.einsum("k,kc,knchw->nchw", omega, beta, torch.stack(candidates))


def mixture(alpha, beta, *candidates):
    return mixed_op_ref(candidates, alpha, beta)


@pytest.mark.parametrize(("K", "C", "size"), [(7, 3, (5, 4)), (4, 1, (1, 1)), (1, 2, (3, 7))])
def test_mixture_against_einsum(K: int, C: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    alpha, beta = torch.randn(K).requires_grad_(), torch.randn(K, C).requires_grad_()
    candidates = [torch.randn(2, C, *size).requires_grad_() for _ in range(K)]
    assert_parity(mixture, by_einsum, alpha, beta, *candidates, reduction=2 * C * size[0] * size[1] * K, depth=3)


def test_mixture_gradcheck() -> None:
    torch.manual_seed(0)
    shapes = [(3,), (3, 2)] + 3 * [(1, 2, 2, 3)]
    assert torch.autograd.gradcheck(mixture, [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes])


@pytest.mark.parametrize("kind", PRIMITIVES)
def test_one_hot_alpha_is_that_primitive_alone(kind: str) -> None:
    torch.manual_seed(0)
    C = 3
    layer = MixedOp(kind, C).double()
    assert tuple(layer) == PRIMITIVES[kind]
    x = torch.randn(2, C, 6, 8, dtype=torch.float64)
    for k, op in enumerate(PRIMITIVES[kind]):
        alpha = torch.full((len(layer),), -torch.inf, dtype=torch.float64)
        alpha[k] = 0
        z = mixed_op_ref(layer(x), alpha, torch.ones(len(layer), C, dtype=torch.float64))
        torch.testing.assert_close(z, DEFINITIONS[kind, op](layer[op].state_dict(), x), rtol=1e-12, atol=1e-12)


def test_half_precision_candidates_stay_half_precision() -> None:
    candidates = [torch.randn(1, 2, 3, 3).bfloat16() for _ in range(2)]
    assert mixed_op_ref(candidates, torch.zeros(2), torch.ones(2, 2)).dtype == torch.bfloat16


def by_kernels(alpha, beta, *candidates):
    return mixed_op(candidates, alpha, beta)


def check(K: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, layout: str = "contiguous") -> None:
    torch.manual_seed(0)
    inputs = raw(K), raw(K, shape[1]), *features(K, shape, dtype, layout)
    N, C, H, W = shape
    assert_parity(
        by_kernels, mixture, *inputs, reduction=N * C * H * W * K, depth=3, precision=dtype, output_dtype=dtype
    )


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("K", "dtype"),
    [(7, torch.float32), (7, torch.float16), (7, torch.bfloat16), (5, torch.float32), (4, torch.bfloat16)],
)
def test_kernels(K: int, dtype: torch.dtype, layout: str) -> None:
    check(K, (2, 6, 5, 7), dtype, layout)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", FEATURE_SHAPES)
def test_kernels_take_any_size(shape: tuple[int, ...], layout: str) -> None:
    check(2, shape, layout=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_kernels_walk_over_many_tiles(two_programs: None, layout: str) -> None:
    check(2, (3, 5, 47, 29), layout=layout)


@hypothesis.settings(max_examples=5, deadline=None, derandomize=True)
@hypothesis.given(
    st.integers(1, 8), st.tuples(*(st.integers(1, n) for n in (3, 70, 12, 12))), st.sampled_from([*LAYOUTS])
)
def test_kernels_take_any_shape(K: int, shape: tuple[int, ...], layout: str) -> None:
    pytest.importorskip("triton")
    check(K, shape, layout=layout)


@pytest.mark.usefixtures("kernels")
def test_kernels_one_hot() -> None:
    """α's gradient and all but one candidate's vanish exactly, and the chosen candidate is there to the bit."""
    alpha, beta, candidates = raw(5), raw(5, 3), features(5, (2, 3, 4, 5))
    with torch.no_grad():
        alpha.fill_(-1e4)[2] = 1e4
        beta.fill_(1)
    z = mixed_op(candidates, alpha, beta)
    assert torch.equal(z, candidates[2])
    dz = torch.randn_like(z)
    dalpha, dbeta, *dcandidates = torch.autograd.grad(z, [alpha, beta, *candidates], dz)
    assert not dalpha.any()
    assert [k for k in range(5) if dbeta[k].any()] == [k for k in range(5) if dcandidates[k].any()] == [2]
    assert torch.equal(dcandidates[2], dz)


@pytest.mark.usefixtures("kernels")
def test_kernels_take_views_and_mixed_layouts() -> None:
    torch.manual_seed(0)
    wide = torch.randn(2, 9, 12, 10, device=DEVICE)
    views = [wide[:, ::2, 1::2, ::2], wide[:, :5, :6, :5], wide[:1, :1, :6, :5].expand(2, 5, 6, 5)]
    views += [x.detach() for x in features(1, (2, 5, 6, 5), layout="channels_last")]
    inputs = raw(4), raw(5, 4).t(), *(view.requires_grad_() for view in views)
    assert_parity(by_kernels, mixture, *inputs, reduction=2 * 5 * 30 * 4, depth=3)
    assert mixed_op(views, *inputs[:2]).is_contiguous()
    assert mixed_op(views[::-1], *inputs[:2]).is_contiguous(memory_format=torch.channels_last)
    loss, exact = (mix(views, *inputs[:2]).sum() for mix in (mixed_op, mixed_op_ref))  # whose gradient has no strides
    for mine, theirs in zip(*(torch.autograd.grad(x, inputs) for x in (loss, exact)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("kernels")
def test_kernels_take_an_empty_batch() -> None:
    inputs = raw(4), raw(4, 3), *features(4, (0, 3, 8, 8))
    z = by_kernels(*inputs)
    assert z.shape == (0, 3, 8, 8)
    dalpha, dbeta, *dcandidates = torch.autograd.grad(z.sum(), inputs)
    assert torch.equal(dalpha, torch.zeros_like(dalpha))
    assert torch.equal(dbeta, torch.zeros_like(dbeta))
    assert all(d.shape == z.shape for d in dcandidates)


@pytest.mark.usefixtures("kernels")
def test_kernels_sum_half_precision_in_float32() -> None:
    """α and β in float32 get gradients of that accuracy, from the candidates as they were rounded."""
    torch.manual_seed(0)
    alpha, beta, candidates = raw(4), raw(4, 3), features(4, (2, 3, 13, 11), torch.float16)
    dz = torch.randn_like(candidates[0])
    exact = [x.detach().double().requires_grad_() for x in (alpha, beta, *candidates)]
    expected = torch.autograd.grad(mixture(*exact), exact[:2], dz.double())
    for mine, theirs in zip(
        torch.autograd.grad(by_kernels(alpha, beta, *candidates), (alpha, beta), dz), expected, strict=True
    ):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        halves = [x.half() for x in (alpha, beta)]
    assert [
        d.dtype for d in torch.autograd.grad(mixed_op(candidates, *(h.requires_grad_() for h in halves)), halves, dz)
    ] == 2 * [torch.float16]


@pytest.mark.usefixtures("kernels")
def test_kernels_promote_dtypes_and_ignore_autocast() -> None:
    torch.manual_seed(0)
    half, whole = features(1, (1, 3, 4, 5), torch.bfloat16), features(1, (1, 3, 4, 5))
    alpha, beta = raw(2), raw(2, 3)
    with torch.autocast(DEVICE, torch.bfloat16):
        z = mixed_op([*half, *whole], alpha, beta)
        assert mixed_op(half, alpha[:1], beta[:1]).dtype == torch.bfloat16
    assert z.dtype == torch.float32
    torch.testing.assert_close(z, mixed_op_ref([half[0].float(), whole[0]], alpha, beta))
    gradients = torch.autograd.grad(z.sum(), [*half, *whole])
    assert [d.dtype for d in gradients] == [torch.bfloat16, torch.float32]


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("wanted", ["parameters", "alpha", "candidates", "one candidate"])
def test_kernels_compute_and_keep_what_is_needed(wanted: str) -> None:
    torch.manual_seed(0)
    alpha, beta, candidates = raw(4), raw(4, 3), features(4, (2, 3, 4, 5))
    groups = {"parameters": [alpha, beta], "alpha": [alpha], "candidates": candidates, "one candidate": candidates[1:2]}
    leaves = groups[wanted]
    expected = torch.autograd.grad(mixed_op(candidates, alpha, beta).square().sum(), leaves)
    for tensor in (alpha, beta, *candidates):
        tensor.requires_grad_(any(tensor is leaf for leaf in leaves))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        z = mixed_op(candidates, alpha, beta)
    assert sum(x.ndim == 4 for x in kept) == (0 if "candidate" in wanted else 4)
    z.square().sum().backward()
    for leaf, gradient in zip(leaves, expected, strict=True):
        assert torch.equal(leaf.grad, gradient)
    assert all(x.grad is None for x in (alpha, beta, *candidates) if not x.requires_grad)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_kernels_as_a_registered_operator(layout: str) -> None:
    torch.library.opcheck(
        torch.ops.modnas_fast.mixed_op.default, (features(2, (1, 3, 4, 5), layout=layout), raw(2), raw(2, 3))
    )


@pytest.mark.usefixtures("kernels")
def test_kernels_inside_torch_compile() -> None:
    compiled = torch.compile(by_kernels, fullgraph=True, backend="aot_eager")
    assert_parity(compiled, mixture, raw(2), raw(2, 3), *features(2, (2, 3, 5, 4)), reduction=2 * 3 * 20 * 2, depth=3)


def test_what_the_kernels_refuse(kernels: None) -> None:
    alpha, beta, candidates = raw(2), raw(2, 3), features(2, (1, 3, 4, 5))
    for wrong, message in (
        (([], alpha, beta), "mixed_op needs at least one tensor"),
        (
            ([candidates[0], candidates[1][..., :2]], alpha, beta),
            r"of one shape, got \[\[1, 3, 4, 5\], \[1, 3, 4, 2\]\]",
        ),
        (([x[0] for x in candidates], alpha, beta), r"takes \[N, C, H, W\]"),
        (([x.double() for x in candidates], alpha, beta), "takes float32, float16 and bfloat16, got float64"),
        ((candidates, alpha.double(), beta), "got float64"),
        ((candidates, raw(3), beta), r"takes alpha of shape \[2\], got \[3\]"),
        ((candidates, alpha, raw(2, 4)), r"takes beta of shape \[2, 3\], got \[2, 4\]"),
        (([x.to("meta") for x in candidates], alpha.to("meta"), beta.to("meta")), "cannot run on meta: its Triton"),
    ):
        with pytest.raises(ModnasError, match=message):
            mixed_op(*wrong)
    z = mixed_op(candidates, alpha, beta)
    (d,) = torch.autograd.grad(z.square().sum(), candidates[0], create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        d.sum().backward()
