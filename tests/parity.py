"""The one judge of correctness: a candidate against a float64 reference, forward and every gradient.

Error model. Let ε be the spacing at 1 of the candidate's precision, ε_sum that of the type in which it accumulates. A
sum of `reduction` terms of random sign errs by ε_sum·√reduction relative to its size, storing it by ε, and `depth`
results computed one from another add their errors in quadrature:

    tolerance = (ε + ε_sum·√reduction)·√depth·(1 + 3/√numel)

bounds the relative L2 error; the last factor is for tensors of few elements, whose sums may happen to cancel. A single
element may err by 6·tolerance·RMS(reference) + tolerance·|element|, the extremes of such noise over 10⁸ elements.
Outside this model: gradients of chains of ReLUs in half precision, where a share s of the masks flips, err by √s.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

EPSILON = {torch.float64: 2.0**-52, torch.float32: 2.0**-23, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
_LARGEST = 0.3  # no tolerance may come nearer to 1, the relative L2 error of an all-zero answer


@dataclass(frozen=True)
class Row:
    """One tensor's max |error| / RMS(reference), relative L2 error, its bound, what is wrong; `note`: exactly zero."""

    name: str
    shape: tuple[int, ...]
    max_error: float
    rel_l2: float
    allowed: float
    problem: str = ""
    note: str = ""


@dataclass(frozen=True)
class Report:
    """All rows; `str` is the table that a failure prints."""

    rows: tuple[Row, ...]
    reason: str = ""

    def __str__(self) -> str:
        width = max(len(row.name) for row in self.rows)
        lines = [f"{'tensor':{width}}  {'shape':18} {'max/RMS':>9} {'rel L2':>9} {'allowed':>9}  verdict"]
        for row in self.rows:
            errors = f"{row.max_error:9.2e} {row.rel_l2:9.2e} {row.allowed:9.2e}"
            lines.append(f"{row.name:{width}}  {list(row.shape)!s:18} {errors}  {row.problem or row.note or 'ok'}")
        return "\n".join(lines + ([f"tolerance overridden: {self.reason}"] if self.reason else []))


def assert_parity(
    candidate: Callable[..., Any],
    reference: Callable[..., Any],
    *inputs: Any,
    reduction: int,
    depth: int = 1,
    precision: torch.dtype | None = None,
    output_dtype: torch.dtype | None = None,
    autocast: torch.dtype | None = None,
    gradients: bool = True,
    seed: int = 0,
    tolerance: float | None = None,
    reason: str = "",
) -> Report:
    """Compare candidate(*inputs) with reference(*inputs in float64): outputs, and gradients under a random cotangent.

    Args:
        candidate, reference: both functions of tensors that return one tensor or several, or both modules with equal
            state dicts, up to the candidate's rounding; the reference's float64 copy gets the candidate's values.
        inputs: in the candidate's dtype, layout and device; what is no tensor passes through. Gradients are compared
            for every floating input that requires grad and, between modules, for every parameter that does.
        reduction: terms of the longest sum, gradients included: 9·C for a 3×3 convolution, N·H·W for its dweight.
        depth: how many results are computed one from another.
        precision: that the candidate computes in; by default `autocast` or the first floating input's dtype.
        output_dtype: that the outputs must have; by default the first floating input's.
        autocast: run the candidate under this autocast.
        gradients: False compares outputs only.
        tolerance, reason: a bound instead of the model's, and why, in words.

    Raises:
        AssertionError: with the report's table, on an error beyond tolerance, NaN or Inf, another shape or dtype, a
            missing gradient, a changed input; and where an all-zero answer would pass, for then nothing is shown.
        ValueError, TypeError: an override without a reason, nothing that requires grad, a module against a function.
    """
    floating = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.is_floating_point()]
    first = inputs[floating[0]] if floating else torch.empty(0)
    epsilon = EPSILON[precision or autocast or first.dtype]
    epsilon_sum = min(epsilon, EPSILON[torch.float32])  # half precisions accumulate in float32
    if (tolerance is None) == bool(reason.strip()):
        raise ValueError("tolerance and reason go together: an override says why")
    if tolerance is not None and not 0 <= tolerance < _LARGEST:
        raise ValueError(f"tolerance is {tolerance}; at {_LARGEST} or more an all-zero answer might pass")
    bound = (epsilon + epsilon_sum * reduction**0.5) * depth**0.5 if tolerance is None else tolerance

    candidate_net = getattr(candidate, "_orig_mod", candidate)  # torch.compile's wrapper prefixes every name
    twin = _float64_twin(reference, candidate_net)
    ours, theirs = list(inputs), list(inputs)
    for i in floating:
        ours[i] = inputs[i].detach().requires_grad_(inputs[i].requires_grad)
        theirs[i] = inputs[i].detach().to(torch.float64, copy=True).requires_grad_(inputs[i].requires_grad)
    with torch.autocast(first.device.type, autocast) if autocast else nullcontext():
        got = candidate(*ours)
    changed = [f"input {i} was changed" for i in floating if not torch.equal(theirs[i], inputs[i].double())]
    want = twin(*theirs)
    got, want = ((x,) if isinstance(x, Tensor) else tuple(x) for x in (got, want))
    assert len(got) == len(want), f"{len(got)} outputs, where the reference has {len(want)}"

    rows = []
    for i, (output, exact) in enumerate(zip(got, want, strict=True)):
        dtype = (output_dtype or first.dtype) if exact.is_floating_point() else exact.dtype
        rows.append(_judge(f"output {i}", output, exact, dtype, bound))
    vacuous = ["every reference output is exactly zero, which shows nothing"] if all(row.note for row in rows) else []
    if gradients and not any(row.problem.startswith("shape") for row in rows):
        leaves = {f"d input {i}": (ours[i], theirs[i]) for i in floating if ours[i].requires_grad}
        if isinstance(candidate_net, nn.Module):
            named = dict(twin.named_parameters())
            leaves |= {f"d {k}": (p, named[k]) for k, p in candidate_net.named_parameters() if p.requires_grad}
        if not leaves:
            raise ValueError("nothing requires grad; say gradients=False where only outputs are to be judged")
        mine, exact = zip(*leaves.values(), strict=True)
        mine_grads, exact_grads = _gradients(got, mine, got, seed), _gradients(want, exact, got, seed)
        for name, leaf, grad, target in zip(leaves, mine, mine_grads, exact_grads, strict=True):
            rows.append(_judge(name, grad, torch.zeros_like(leaf) if target is None else target, leaf.dtype, bound))
    report = Report(tuple(rows), reason)
    if changed or vacuous or any(row.problem for row in rows):
        raise AssertionError("\n".join(["the candidate departs from its reference", *changed, *vacuous, str(report)]))
    return report


def _judge(name: str, got: Tensor | None, want: Tensor, dtype: torch.dtype, bound: float) -> Row:
    """One tensor's row. The same rule, put to an all-zero answer, has to refuse it."""
    shape, zero = tuple(want.shape), not want.any()
    allowed = min(bound * (1 + 3 / max(want.numel(), 1) ** 0.5), _LARGEST) if want.is_floating_point() else 0.0
    wrong, max_error, rel_l2 = "", float("inf"), float("inf")
    if not want.isfinite().all():
        wrong = "the reference holds NaN or Inf"
    elif got is None:
        wrong = "" if zero else "missing gradient"
    elif got.shape != want.shape:
        wrong = f"shape is {list(got.shape)}, not {list(shape)}"
    elif got.dtype != dtype:
        wrong = f"dtype is {got.dtype}, not {dtype}"
    elif not got.isfinite().all():
        wrong = "NaN or Inf"
    elif zero and got.any():
        wrong = "must be exactly zero, as the reference is"
    elif not zero:
        exact = want.detach().to("cpu", torch.float64)
        max_error, rel_l2, good = _errors(got.detach().to(exact), exact, allowed)
        wrong = "" if good else "beyond tolerance"
        if _errors(torch.zeros_like(exact), exact, allowed)[2]:
            wrong = "an all-zero answer would pass"
    if zero and not wrong:
        return Row(name, shape, 0.0, 0.0, 0.0, note="exactly zero, as the reference is")
    return Row(name, shape, max_error, rel_l2, allowed, wrong)


def _errors(answer: Tensor, exact: Tensor, allowed: float) -> tuple[float, float, bool]:
    """(max |error| / RMS, relative L2 error, whether both are within bounds)."""
    scale = exact.abs().max()  # keeps the squares of tiny and huge values in range
    error, size = (answer - exact).abs() / scale, exact.abs() / scale
    rms = size.square().mean().sqrt()
    rel_l2 = float(error.square().mean().sqrt() / rms)
    inside = bool((error <= allowed * (6 * rms + size)).all())
    return float(error.max() / rms), rel_l2, inside and rel_l2 <= allowed


def _float64_twin(reference: Callable[..., Any], candidate: Callable[..., Any]) -> Callable[..., Any]:
    """A float64 copy of a reference module, with the candidate's values; a function is its own twin."""
    if not isinstance(reference, nn.Module) and not isinstance(candidate, nn.Module):
        return reference
    if not isinstance(reference, nn.Module) or not isinstance(candidate, nn.Module):
        raise TypeError("candidate and reference must be both modules or both functions; wrap one of them")
    state, own = candidate.state_dict(), reference.state_dict()
    assert state.keys() == own.keys(), f"state dicts differ in {sorted(state.keys() ^ own.keys())}"
    for key, value in state.items():
        assert torch.equal(own[key].to(value), value), f"state dicts differ in the value of {key}"
    twin = copy.deepcopy(reference).double()
    twin.load_state_dict(state)
    return twin


def _gradients(outputs: Any, leaves: Sequence[Tensor], like: Any, seed: int) -> Sequence[Tensor | None]:
    """Gradients under the seed's cotangent, rounded to the dtypes of the candidate's outputs, `like`."""
    generator = torch.Generator().manual_seed(seed)
    cotangents = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in like]
    live = [(x, c.to(x)) for x, c in zip(outputs, cotangents, strict=True) if x.requires_grad]
    columns = [list(column) for column in zip(*live, strict=True)]
    return torch.autograd.grad(columns[0], leaves, columns[1], allow_unused=True) if live else [None] * len(leaves)
