"""What only a GPU shows of the operators with Triton kernels: capture in a CUDA graph, more than 2³¹ elements."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.cases import features
from tests.test_kernels import Operator, every_operator, parameters

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.usefixtures("kernels"),
]


@every_operator
def test_in_a_cuda_graph(operator: Operator) -> None:
    """Forward and backward are captured once, and replayed on other numbers to the bit."""
    inputs = [*features(operator.count, (2, 6, 9, 7)), *parameters(operator, 6)]

    def step() -> list[Tensor]:
        result = operator.by_kernels(*inputs)
        # Detached: a graph of autograd that is kept keeps its leaves' accumulation on the stream where it was made.
        return [result.detach(), *torch.autograd.grad(result.square().sum(), inputs)]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # compiles the kernels, which a capture must not
        first = step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        for tensor in inputs:
            tensor.copy_(torch.randn_like(tensor))
    graph.replay()
    assert not torch.equal(captured[0], first[0])
    for replayed, eager in zip(captured, step(), strict=True):
        assert torch.equal(replayed, eager)


@every_operator
def test_more_elements_than_32_bits_count(operator: Operator) -> None:
    """The last rows of images of 2³¹ and more elements are those of the rows by themselves."""
    shape = (1, 8, 16392, 16384)
    if torch.cuda.mem_get_info()[0] < (operator.count + 2) * 2 * 8 * shape[2] * shape[3]:
        pytest.skip("the device has too little free memory")
    maps = [torch.empty(shape, dtype=torch.bfloat16, device="cuda").normal_() for _ in range(operator.count)]
    raws = parameters(operator, 8)
    with torch.no_grad():
        whole = operator.by_kernels(*maps, *raws)
        rows = operator.by_kernels(*(x[:, :, -4:].contiguous() for x in maps), *raws)
    assert rows.abs().max() > 0
    assert torch.equal(whole[:, :, -4:], rows)
