"""What all operators with Triton kernels promise, each against its float64 reference: sizes, layouts, dtypes, no waste.

`test_<operator>.py` has what is particular to one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from modnas_fast import reference
from modnas_fast.errors import ModnasError
from modnas_fast.ops import channel_gate, dense_aggregate, mixed_aggregate, mixed_op, relax
from tests.cases import DEVICE, FEATURE_CASES, LAYOUTS, features, raw
from tests.parity import assert_parity

Function = Callable[..., Tensor]


class Operator(NamedTuple):
    """An operator as a function of feature maps first, then raw parameters."""

    count: int  # of feature maps
    parameters: Callable[[int], Sequence[tuple[int, ...]]]  # shapes of the raw parameters for C channels
    by_kernels: Function
    by_reference: Function


def on_lists(
    mix: Function, aggregate: Function, gather: Function, gate: Function, step: Function
) -> dict[str, Function]:
    """Two candidates, and a history of two."""
    return {
        "mixed_op": lambda o1, o2, alpha, beta: mix([o1, o2], alpha, beta),
        "mixed_aggregate": lambda o1, o2, h1, h2, *raw: aggregate([h1, h2], [o1, o2], *raw),
        "dense_aggregate": lambda z, h1, h2, gamma: gather([h1, h2], z, gamma),
        "channel_gate": gate,
        "relax": step,
    }


BY_KERNELS = on_lists(mixed_op, mixed_aggregate, dense_aggregate, channel_gate, relax)
BY_REFERENCE = on_lists(
    reference.mixed_op_ref,
    reference.mixed_aggregate_ref,
    reference.dense_aggregate_ref,
    reference.channel_gate_ref,
    reference.relax_ref,
)
SIGNATURES: dict[str, tuple[int, Callable[[int], Sequence[tuple[int, ...]]]]] = {
    "mixed_op": (2, lambda C: [(2,), (2, C)]),
    "mixed_aggregate": (4, lambda C: [(2,), (2, C), (3,)]),
    "dense_aggregate": (3, lambda C: [(3,)]),
    "channel_gate": (1, lambda C: [(C,)]),
    "relax": (2, lambda C: [()]),
}
OPERATORS = {name: Operator(*signature, BY_KERNELS[name], BY_REFERENCE[name]) for name, signature in SIGNATURES.items()}

every_operator = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def parameters(operator: Operator, C: int) -> list[Tensor]:
    return [raw(*shape) for shape in operator.parameters(C)]


def check(
    operator: Operator, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, layout: str = "contiguous"
) -> None:
    torch.manual_seed(0)
    N, C, H, W = shape
    inputs = *features(operator.count, shape, dtype, layout), *parameters(operator, C)
    assert_parity(operator.by_kernels, operator.by_reference, *inputs, reduction=4 * N * C * H * W, depth=3)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("shape", "layout"), FEATURE_CASES)
@every_operator
def test_any_size(operator: Operator, shape: tuple[int, ...], layout: str) -> None:
    check(operator, shape, layout=layout)


@pytest.mark.usefixtures("kernels")
@every_layout
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_operator
def test_half_precision(operator: Operator, dtype: torch.dtype, layout: str) -> None:
    check(operator, (2, 6, 5, 7), dtype, layout)


@every_layout
@every_operator
def test_programs_that_walk_over_many_tiles(few_programs: None, operator: Operator, layout: str) -> None:
    check(operator, (3, 5, 47, 29), layout=layout)


@hypothesis.settings(max_examples=12, deadline=None, derandomize=True)
@hypothesis.given(
    st.sampled_from([*OPERATORS.values()]),
    st.tuples(*(st.integers(1, n) for n in (3, 70, 12, 12))),
    st.sampled_from([*LAYOUTS]),
)
def test_any_drawn_size(operator: Operator, shape: tuple[int, ...], layout: str) -> None:
    pytest.importorskip("triton")
    check(operator, shape, layout=layout)


@pytest.mark.usefixtures("kernels")
@every_operator
def test_views_and_mixed_layouts(operator: Operator) -> None:
    """Strided, transposed, expanded; and a gradient of the result that is expanded from one number."""
    torch.manual_seed(0)
    wide = torch.randn(2, 9, 12, 10, device=DEVICE)
    views = [
        wide[:, ::2, 1::2, ::2],
        *(x.detach() for x in features(1, (2, 5, 6, 5), layout="channels_last")),
        wide[:1, :1, :6, :5].expand(2, 5, 6, 5),
        wide.transpose(2, 3)[:, 2:7, :6, :5],
    ]
    raws = [x.detach().expand(*x.shape[:-1], -1) if x.ndim else x.detach() for x in parameters(operator, 5)]
    raws = [torch.stack([x, x], dim=-1)[..., 0] for x in raws]  # every second number of memory
    inputs = [x.requires_grad_() for x in (*views[: operator.count], *raws)]
    assert_parity(operator.by_kernels, operator.by_reference, *inputs, reduction=4 * 2 * 5 * 30, depth=3)
    results = [function(*inputs).sum() for function in (operator.by_kernels, operator.by_reference)]
    gradients = [torch.autograd.grad(result, inputs) for result in results]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("kernels")
@every_layout
@every_operator
def test_results_and_gradients_keep_the_layout(operator: Operator, layout: str) -> None:
    maps, raws = features(operator.count, (2, 4, 3, 5), layout=layout), parameters(operator, 4)
    result = operator.by_kernels(*maps, *raws)
    gradients = torch.autograd.grad(result.sum(), maps)
    assert all(x.is_contiguous(memory_format=LAYOUTS[layout]) for x in (result, *gradients))


@pytest.mark.usefixtures("kernels")
@every_operator
def test_an_empty_batch(operator: Operator) -> None:
    maps, raws = features(operator.count, (0, 3, 8, 8)), parameters(operator, 3)
    result = operator.by_kernels(*maps, *raws)
    assert result.shape == (0, 3, 8, 8)
    gradients = torch.autograd.grad(result.sum(), [*maps, *raws])
    for tensor, gradient in zip([*maps, *raws], gradients, strict=True):
        assert torch.equal(gradient, torch.zeros_like(tensor))


@pytest.mark.usefixtures("kernels")
@every_operator
def test_half_precision_is_summed_in_float32(operator: Operator) -> None:
    """Raw parameters in float32 get gradients of that accuracy, from the features as they were rounded."""
    torch.manual_seed(0)
    maps, raws = features(operator.count, (2, 3, 23, 17), torch.float16), parameters(operator, 3)
    dy = torch.randn_like(maps[0])
    exact = [x.detach().double().requires_grad_() for x in (*maps, *raws)]
    expected = torch.autograd.grad(operator.by_reference(*exact), exact[operator.count :], dy.double())
    gradients = torch.autograd.grad(operator.by_kernels(*maps, *raws), raws, dy)
    for mine, theirs in zip(gradients, expected, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))
    halves = [x.detach().half().requires_grad_() for x in raws]
    gradients = torch.autograd.grad(operator.by_kernels(*maps, *halves), halves, dy)
    assert all(gradient.dtype == torch.float16 and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.usefixtures("kernels")
@every_operator
def test_dtypes_are_promoted_and_autocast_changes_nothing(operator: Operator) -> None:
    torch.manual_seed(0)
    dtypes = [torch.bfloat16] + (operator.count - 1) * [torch.float32]
    maps = [features(1, (1, 3, 4, 5), dtype)[0] for dtype in dtypes]
    raws = parameters(operator, 3)
    with torch.autocast(DEVICE, torch.bfloat16):
        result = operator.by_kernels(*maps, *raws)
        halves = operator.by_kernels(*(x.bfloat16() for x in maps), *raws)
    assert halves.dtype == torch.bfloat16
    assert result.dtype == dtypes[-1]
    expected = operator.by_reference(*(x.double() for x in maps), *(x.double() for x in raws))
    torch.testing.assert_close(result.double(), expected, rtol=2**-7 if operator.count == 1 else 1e-5, atol=1e-5)
    assert [d.dtype for d in torch.autograd.grad(result.sum(), maps)] == dtypes


class Gradients(TorchDispatchMode):
    """Counts what operators' backward passes compute."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        if func._schema.name.startswith("modnas_fast::") and func._schema.name.endswith("_backward"):
            self.count += len(results)
        return results


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("wanted", ["parameters", "one parameter", "features", "one feature map"])
@every_operator
def test_what_is_needed_is_computed_and_kept(operator: Operator, wanted: str) -> None:
    """By groups, for a kernel reads and writes the members of one at once: all features, or all parameters."""
    torch.manual_seed(0)
    maps, raws = features(operator.count, (2, 3, 4, 5)), parameters(operator, 3)
    leaves = {"parameters": raws, "one parameter": raws[:1], "features": maps, "one feature map": maps[-1:]}[wanted]
    expected = torch.autograd.grad(operator.by_kernels(*maps, *raws).square().sum(), leaves)
    for tensor in (*maps, *raws):
        tensor.requires_grad_(any(tensor is leaf for leaf in leaves))
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = operator.by_kernels(*maps, *raws)
    loss = result.square().sum()
    with Gradients() as gradients:
        loss.backward()
    if operator is OPERATORS["relax"]:  # its group is each tensor by itself; and it keeps both images, being small
        assert gradients.count == len(leaves)
    else:
        assert gradients.count == (len(raws) if "parameter" in wanted else len(maps))
        assert sum(x.ndim == 4 for x in kept) == (len(maps) if "parameter" in wanted else 0)
    for leaf, gradient in zip(leaves, expected, strict=True):
        assert torch.equal(leaf.grad, gradient)
    assert all(x.grad is None for x in (*maps, *raws) if not x.requires_grad)


@pytest.mark.usefixtures("kernels")
@every_operator
def test_equal_inputs_give_equal_bits(operator: Operator, few_programs: None) -> None:
    maps, raws = features(operator.count, (2, 3, 47, 29)), parameters(operator, 3)
    runs = []
    for _ in range(2):
        result = operator.by_kernels(*maps, *raws)
        runs.append([result, *torch.autograd.grad(result.square().sum(), [*maps, *raws])])
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("name", OPERATORS)
def test_registration(name: str) -> None:
    """Schema, autograd formula and fake implementation, eager, traced and with dynamic shapes."""
    maps = features(OPERATORS[name].count, (1, 3, 4, 5), layout="channels_last")
    grouped = {"mixed_op": [maps], "dense_aggregate": [maps], "mixed_aggregate": [maps[:2], maps[2:]]}.get(name, maps)
    torch.library.opcheck(getattr(torch.ops.modnas_fast, name).default, (*grouped, *parameters(OPERATORS[name], 3)))


@pytest.mark.usefixtures("kernels")
@every_operator
def test_inside_torch_compile(operator: Operator) -> None:
    compiled = torch.compile(operator.by_kernels, fullgraph=True, backend="aot_eager")
    inputs = *features(operator.count, (2, 3, 5, 4)), *parameters(operator, 3)
    assert_parity(compiled, operator.by_reference, *inputs, reduction=4 * 2 * 3 * 20, depth=3)


@pytest.mark.usefixtures("kernels")
@every_operator
def test_what_is_refused(operator: Operator) -> None:
    maps, raws = features(operator.count, (1, 3, 4, 5)), parameters(operator, 3)
    with pytest.raises(ModnasError, match="takes float32, float16 and bfloat16, got float64; the reference"):
        operator.by_kernels(*(x.double() for x in maps), *raws)
    with pytest.raises(ModnasError, match="takes float32, float16 and bfloat16, got float64; the reference"):
        operator.by_kernels(*maps, *(x.double() for x in raws))
    with pytest.raises(ModnasError, match=r"takes \[N, C, H, W\] of one shape, got \[\[3, 4, 5\]"):
        operator.by_kernels(*(x[0] for x in maps), *raws)
    with pytest.raises(ModnasError, match="cannot run on meta: its Triton kernels need a CUDA device"):
        operator.by_kernels(*(x.to("meta") for x in (*maps, *raws)))
    with pytest.raises(ModnasError, match=r"takes \w+ of shape"):
        operator.by_kernels(*maps, *(torch.stack([x, x, x, x]) for x in raws))
    if operator.count > 1:
        with pytest.raises(ModnasError, match="of one shape, got"):
            operator.by_kernels(maps[0][..., :2], *maps[1:], *raws)
        with pytest.raises(ModnasError, match="on one device"):
            operator.by_kernels(maps[0].to("meta"), *maps[1:], *raws)
    (d,) = torch.autograd.grad(operator.by_kernels(*maps, *raws).square().sum(), maps[0], create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        d.sum().backward()
