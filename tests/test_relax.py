"""The model-guided step."""

from __future__ import annotations

import pytest
import torch

from modnas_fast.errors import ModnasError
from modnas_fast.ops import relax
from modnas_fast.reference import relax_ref
from tests.cases import DEVICE, features, raw
from tests.parity import assert_parity


def by_definition(v, y, delta):
    weight = 1 / (1 + torch.exp(-delta))
    return weight * y + (1 - weight) * v


def test_relax_against_its_definition() -> None:
    torch.manual_seed(0)
    v, y, delta = torch.rand(2, 3, 5, 4), torch.rand(2, 3, 5, 4), torch.tensor(0.7)
    assert_parity(relax_ref, by_definition, *(x.requires_grad_() for x in (v, y, delta)), reduction=120, depth=4)


def test_the_image_keeps_its_precision() -> None:
    assert relax_ref(torch.rand(1, 1, 2, 2).bfloat16(), torch.rand(1, 1, 2, 2), torch.zeros(())).dtype == torch.float32


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.float32), (torch.float32, torch.float16)])
def test_kernels_read_and_write_each_in_its_dtype(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    torch.manual_seed(0)
    inputs = *(features(1, (2, 1, 13, 11), dtype)[0] for dtype in dtypes), raw()
    precision = next(dtype for dtype in dtypes if dtype != torch.float32)
    assert_parity(
        relax, relax_ref, *inputs, reduction=2 * 13 * 11, depth=4, precision=precision, output_dtype=torch.float32
    )


@pytest.mark.usefixtures("kernels")
def test_kernels_write_where_they_are_told() -> None:
    torch.manual_seed(0)
    v, y, delta = (x.detach() for x in (*features(2, (2, 3, 5, 4)), raw()))
    x = relax(v, y, delta)
    strided = torch.empty(2, 5, 3, 8, device=DEVICE)[..., ::2].transpose(1, 2)
    for out in (torch.empty_like(v), torch.empty_like(v, memory_format=torch.channels_last), strided):
        assert relax(v, y, delta, out=out) is out
        assert torch.equal(out, x)
    for place in (0, 1):
        inputs = [v.clone(), y.clone()]
        assert torch.equal(relax(*inputs, delta, out=inputs[place]), x)
        assert torch.equal(inputs[1 - place], (v, y)[1 - place])
    torch.library.opcheck(torch.ops.modnas_fast.relax_out.default, (v, y, delta, torch.empty_like(v)))


@pytest.mark.usefixtures("kernels")
def test_kernels_refuse_an_out_that_does_not_fit() -> None:
    v, y, delta = *features(2, (2, 3, 5, 4)), raw()
    for out in (torch.empty(2, 3, 5, 5), torch.empty_like(v, dtype=torch.float16), torch.empty_like(v, device="meta")):
        with pytest.raises(ModnasError, match=r"relax writes \[2, 3, 5, 4\] in torch.float32 on"):
            relax(v, y, delta, out=out)
    with pytest.raises(ModnasError, match="relax has no gradient through out="):
        relax(v, y, delta, out=torch.empty_like(v))
    with torch.no_grad():
        relax(v, y, delta, out=torch.empty_like(v))
