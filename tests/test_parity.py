"""The judge judged: honest rounding passes, and every kind of wrong answer is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.parity import EPSILON, assert_parity

N, C, H, W = 2, 8, 9, 7
REDUCTION = max(9 * C, N * H * W)


def inputs(dtype=torch.float32, requires_grad=True):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, C, H, W, generator=generator).to(dtype)
    weight = (torch.randn(C, C, 3, 3, generator=generator) / (9 * C) ** 0.5).to(dtype)
    return x.requires_grad_(requires_grad), weight.requires_grad_(requires_grad)


def conv(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(F.relu(x), weight, padding=1)


class Backward(torch.autograd.Function):
    """Identity whose gradient is multiplied by a factor, or replaced."""

    @staticmethod
    def forward(ctx, x, change):
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return ctx.change(grad), None


def with_element(x: Tensor, value: float) -> Tensor:
    mask = torch.zeros_like(x, dtype=torch.bool)
    mask.view(-1)[x.numel() // 2] = True
    return torch.where(mask, torch.tensor(value, dtype=x.dtype), x)


@pytest.mark.parametrize("dtype", list(EPSILON), ids=str)
def test_accepts_honest_rounding(dtype):
    report = assert_parity(conv, conv, *inputs(dtype), reduction=REDUCTION, depth=2)
    assert [row.name for row in report.rows] == ["output 0", "d input 0", "d input 1"]
    assert all(0 <= row.rel_l2 <= row.allowed for row in report.rows)
    assert dtype == torch.float64 or all(row.rel_l2 > 0 for row in report.rows)


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.repeat_interleave(2, -1)[..., ::2],
    ],
    ids=["channels_last", "strided"],
)
def test_accepts_layouts(layout):
    x, weight = inputs(requires_grad=False)
    assert_parity(
        lambda x, weight: conv(x.contiguous(), weight),
        conv,
        layout(x).requires_grad_(),
        weight.requires_grad_(),
        reduction=REDUCTION,
    )


WRONG = {
    "zeros": lambda x, w: conv(x, w) * 0,
    "scaled": lambda x, w: conv(x, w) * 1.01,
    "one element": lambda x, w: with_element(conv(x, w), 1.0),
    "one element zero": lambda x, w: with_element(conv(x, w), 0.0),
    "one channel zero": lambda x, w: conv(x, w) * (torch.arange(C) > 0).view(-1, 1, 1).to(x),
    "border": lambda x, w: F.pad(conv(x, w)[..., :-1], (0, 1, 0, 0), mode="replicate"),
    "NaN": lambda x, w: with_element(conv(x, w), float("nan")),
    "Inf": lambda x, w: with_element(conv(x, w), float("inf")),
    "all NaN": lambda x, w: conv(x, w) * float("nan"),
    "detached": lambda x, w: conv(x, w).detach(),
    "no gradient of x": lambda x, w: conv(x.detach(), w),
    "no gradient of the weight": lambda x, w: conv(x, w.detach()),
    "gradient of zeros": lambda x, w: conv(Backward.apply(x, torch.zeros_like), w),
    "scaled gradient": lambda x, w: conv(x, Backward.apply(w, lambda g: g * 1.01)),
    "negated gradient": lambda x, w: conv(Backward.apply(x, torch.neg), w),
    "flipped gradient": lambda x, w: conv(x, Backward.apply(w, lambda g: g.flip(-1))),
    "one wrong element of a gradient": lambda x, w: conv(Backward.apply(x, lambda g: with_element(g, 1.0)), w),
    "NaN in a gradient": lambda x, w: conv(x, Backward.apply(w, lambda g: with_element(g, float("nan")))),
    "shape": lambda x, w: conv(x, w)[:1],
    "broadcastable shape": lambda x, w: conv(x, w).mean(0, keepdim=True),
    "extra output": lambda x, w: (conv(x, w), x),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", WRONG)
def test_refuses(name, dtype):
    with pytest.raises(AssertionError, match=r"departs from its reference|2 outputs"):
        assert_parity(WRONG[name], conv, *inputs(dtype), reduction=REDUCTION)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("zeros", r"output 0 .* 1\.00e\+00 .*beyond tolerance"),
        ("scaled", r"output 0 .* 1\.00e-02 .*beyond tolerance"),
        ("NaN", r"output 0 .*NaN or Inf"),
        ("shape", r"output 0 .*shape is \[1, 8, 9, 7\], not \[2, 8, 9, 7\]"),
        ("no gradient of x", r"d input 0 .*missing gradient"),
        ("negated gradient", r"output 0 .*ok\n(.*\n)*.*d input 0 .*beyond tolerance\n(.*\n)*d input 1 .*ok"),
    ],
)
def test_failure_shows_the_table(name, says):
    with pytest.raises(AssertionError, match=says):
        assert_parity(WRONG[name], conv, *inputs(), reduction=REDUCTION)


def test_output_dtype_must_be_the_expected_one():
    with pytest.raises(AssertionError, match=r"dtype is torch.float64, not torch.float32"):
        assert_parity(lambda x, w: conv(x, w).double(), conv, *inputs(), reduction=REDUCTION)
    with pytest.raises(AssertionError, match=r"dtype is torch.float32, not torch.bfloat16"):
        assert_parity(conv, conv, *inputs(), reduction=REDUCTION, output_dtype=torch.bfloat16)
    assert_parity(
        lambda x, w: conv(x, w).bfloat16(),
        conv,
        *inputs(),
        reduction=REDUCTION,
        precision=torch.bfloat16,
        output_dtype=torch.bfloat16,
    )


def test_bf16_arithmetic_is_no_float32():
    with pytest.raises(AssertionError, match="beyond tolerance"):
        assert_parity(lambda x, w: conv(x.bfloat16(), w.bfloat16()).float(), conv, *inputs(), reduction=REDUCTION)


def test_zero_reference_needs_exact_zeros_and_is_named():
    x = torch.randn(3, 5).requires_grad_()

    def double(x: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * x, x * 0

    report = assert_parity(double, double, x, reduction=1)
    assert [row.name for row in report.rows if row.note] == ["output 1"]
    assert "exactly zero" in str(report)
    with pytest.raises(AssertionError, match="must be exactly zero"):
        assert_parity(lambda x: (2 * x, x * 1e-30), double, x, reduction=1)


def test_all_zero_reference_shows_nothing():
    with pytest.raises(AssertionError, match="shows nothing"):
        assert_parity(lambda x: x * 0, lambda x: x * 0, torch.ones(3).requires_grad_(), reduction=1)


def test_unused_input_may_lack_a_gradient_on_both_sides_only():
    x, y = torch.randn(2, 3).requires_grad_(), torch.randn(2, 3).requires_grad_()
    report = assert_parity(lambda x, y: 2 * x, lambda x, y: 2 * x, x, y, reduction=1)
    assert [row.name for row in report.rows if row.note] == ["d input 1"]
    with pytest.raises(AssertionError, match="must be exactly zero"):
        assert_parity(lambda x, y: 2 * x + 1e-12 * y, lambda x, y: 2 * x, x, y, reduction=1)


def test_tiny_and_huge_values_are_judged_by_their_own_scale():
    for scale in (1e-30, 1e30):
        x = (torch.randn(4, 5) * scale).requires_grad_()
        assert_parity(lambda x: x * 3, lambda x: x * 3, x, reduction=1)
        with pytest.raises(AssertionError, match="beyond tolerance"):
            assert_parity(lambda x: x * 3 * 1.01, lambda x: x * 3, x, reduction=1)


def test_integer_outputs_must_be_equal():
    x = torch.tensor([3.0, -1.0, 2.0])
    assert_parity(lambda x: x.argmax(), lambda x: x.argmax() * 1, x * -1, reduction=1, gradients=False)
    assert_parity(lambda x: (x, x.argsort()), lambda x: (x, x.argsort()), x, reduction=1, gradients=False)
    with pytest.raises(AssertionError, match="beyond tolerance"):
        assert_parity(lambda x: x.argsort(), lambda x: x.argsort(descending=True), x, reduction=1, gradients=False)


def test_changed_input_is_refused():
    with pytest.raises(AssertionError, match="input 0 was changed"):
        assert_parity(lambda x: x.mul_(2), lambda x: x * 2, torch.ones(3), reduction=1, gradients=False)


def test_nan_in_the_reference_is_no_judgement():
    with pytest.raises(AssertionError, match="the reference holds NaN"):
        assert_parity(lambda x: x.sqrt(), lambda x: x.sqrt(), -torch.ones(3), reduction=1, gradients=False)


def test_something_must_require_grad():
    with pytest.raises(ValueError, match="gradients=False"):
        assert_parity(conv, conv, *inputs(requires_grad=False), reduction=REDUCTION)
    assert_parity(conv, conv, *inputs(requires_grad=False), reduction=REDUCTION, gradients=False)


def test_an_override_carries_its_reason():
    rough = torch.float32, lambda x, w: conv(x, w) * 1.001
    with pytest.raises(ValueError, match="reason"):
        assert_parity(rough[1], conv, *inputs(), reduction=REDUCTION, tolerance=2e-3)
    with pytest.raises(ValueError, match="reason"):
        assert_parity(rough[1], conv, *inputs(), reduction=REDUCTION, reason="no number")
    with pytest.raises(ValueError, match="all-zero"):
        assert_parity(rough[1], conv, *inputs(), reduction=REDUCTION, tolerance=1.0, reason="anything goes")
    report = assert_parity(rough[1], conv, *inputs(), reduction=REDUCTION, tolerance=2e-3, reason="a rough constant")
    assert "tolerance overridden: a rough constant" in str(report)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 2, 1))


def image(dtype=torch.float32) -> Tensor:
    return torch.randn(2, 3, 8, 7, generator=torch.Generator().manual_seed(2)).to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", list(EPSILON), ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_modules(dtype, memory_format):
    candidate = net().to(dtype, memory_format=memory_format)
    report = assert_parity(candidate, net(), image(dtype), reduction=128, depth=4)
    assert [row.name for row in report.rows] == [
        "output 0", "d input 0", "d 0.weight", "d 0.bias", "d 2.weight", "d 2.bias",
    ]  # fmt: skip
    assert all(parameter.grad is None for parameter in candidate.parameters())


def test_modules_under_autocast():
    candidate = net()
    with pytest.raises(AssertionError, match=r"dtype is torch.bfloat16"):
        assert_parity(candidate, net(), image(), reduction=128, depth=4, autocast=torch.bfloat16)
    options = {"reduction": 128, "depth": 4, "output_dtype": torch.bfloat16}
    assert_parity(candidate, net(), image(), autocast=torch.bfloat16, **options)


def test_module_with_one_wrong_gradient():
    class Frozen(nn.Sequential):
        def forward(self, x):
            weight, bias = self[2].weight.detach(), self[2].bias
            return F.conv2d(self[1](self[0](x)), weight, bias)

    candidate = Frozen(*net())
    with pytest.raises(AssertionError, match=r"d 2.weight .*missing gradient"):
        assert_parity(candidate, net(), image(), reduction=128, depth=4)


def test_modules_must_share_their_state():
    other = copy.deepcopy(net())
    with torch.no_grad():
        other[2].bias[0] += 1e-3
    with pytest.raises(AssertionError, match=r"value of 2.bias"):
        assert_parity(other, net(), image(), reduction=128)
    with pytest.raises(AssertionError, match=r"differ in \['2.bias'"):
        assert_parity(net()[:2], net(), image(), reduction=128)
    with pytest.raises(TypeError, match="both"):
        assert_parity(net(), lambda x: x, image(), reduction=128)
