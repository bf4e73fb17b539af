"""The engine as an operator: its registration, torch.compile without breaks, torch.export, zero copies."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from modnas_fast import ModnasError
from modnas_fast.engine.custom_op import EngineModule, denoise_op
from modnas_fast.engine.engine import Engine, engine_obstacle
from modnas_fast.networks.weights import weights_to_bytes
from tests.cases import random_genotype
from tests.test_tiling import random_net

pytestmark = pytest.mark.skipif(bool(engine_obstacle()), reason=f"no compiled engine: {engine_obstacle()}")


@pytest.fixture(scope="module")
def module() -> EngineModule:
    return EngineModule(random_net(random_genotype(5)), threads=2)


def engine_result(y: Tensor, seed: int = 5) -> Tensor:
    """The engine's, itself proven in test_engine."""
    net = random_net(random_genotype(seed))
    return torch.from_numpy(Engine(net.genotype, net.state_dict(), threads=1)(y.numpy()))


def test_equals_the_engine(module: EngineModule) -> None:
    for shape in ((1, 1, 1, 1), (2, 1, 19, 33)):
        y = torch.rand(shape)
        torch.testing.assert_close(module(y), engine_result(y), rtol=0, atol=0)
    strided = torch.rand(2, 19, 33, 1).permute(0, 3, 1, 2)
    assert module(strided).is_contiguous()
    torch.testing.assert_close(module(strided), module(strided.contiguous()), rtol=0, atol=0)


def test_the_registration(module: EngineModule) -> None:
    for y in (torch.rand(2, 1, 9, 17), torch.rand(9, 17, 1, 2).permute(3, 2, 0, 1)):
        torch.library.opcheck(denoise_op, (y, module.model, 1, "float32"))


def test_compiles_into_one_graph(module: EngineModule) -> None:
    pipeline = torch.compile(lambda y: (module(y * 2) / 2).clamp(0, 1), fullgraph=True, dynamic=True)
    for shape in ((1, 1, 24, 32), (2, 1, 7, 33)):
        y = torch.rand(shape)
        torch.testing.assert_close(pipeline(y), (module(y * 2) / 2).clamp(0, 1))


def test_an_exported_program_holds_its_network(module: EngineModule, tmp_path: Path) -> None:
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(module, (torch.rand(2, 1, 21, 35),), dynamic_shapes={"y": sizes})
    torch.export.save(program, tmp_path / "program.pt2")
    y = torch.rand(3, 1, 5, 1)
    torch.save(y, tmp_path / "y.pt")
    code = (
        "import torch, modnas_fast.engine.custom_op\n"
        "program = torch.export.load('program.pt2').module()\n"
        "torch.save(program(torch.load('y.pt')), 'x.pt')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert torch.equal(torch.load(tmp_path / "x.pt"), module(y))


def test_new_weights_are_noticed(module: EngineModule) -> None:
    y = torch.rand(1, 1, 16, 16)
    other = copy.deepcopy(module)
    assert torch.equal(other(y), module(y))
    better = random_net(random_genotype(5))
    with torch.no_grad():
        better.stages[0].out.bias += 1
    other.load_state_dict(EngineModule(better).state_dict())
    assert (other(y) - module(y)).abs().max() > 0.01


def test_more_models_than_are_kept() -> None:
    modules = [EngineModule(random_net(random_genotype(seed))) for seed in range(10)]
    y = torch.rand(1, 1, 9, 12)
    for _ in range(2):
        for seed, module in enumerate(modules):
            torch.testing.assert_close(module(y), engine_result(y, seed), rtol=0, atol=0)


def test_errors_are_clear(module: EngineModule) -> None:
    with pytest.raises(ModnasError, match="one channel at a time"):
        module(torch.rand(1, 3, 8, 8))
    with pytest.raises(ModnasError, match="not the content of a safetensors file"):
        denoise_op(torch.rand(1, 1, 8, 8), torch.zeros(100, dtype=torch.uint8), 1, "float32")
    with pytest.raises(ModnasError, match="float64; give"):
        denoise_op(torch.rand(1, 1, 8, 8), torch.zeros(100, dtype=torch.float64), 1, "float32")
    with pytest.raises(RuntimeError, match="autograd"):
        module(torch.rand(1, 1, 8, 8, requires_grad=True)).sum().backward()


def test_images_are_not_copied(module: EngineModule, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    call = Engine.__call__

    def spy(engine: Engine, x: Tensor, out: Tensor) -> object:
        seen.append((x.data_ptr(), out.data_ptr()))
        return call(engine, x, out)

    monkeypatch.setattr(Engine, "__call__", spy)
    y = torch.rand(2, 9, 17, 1).permute(0, 3, 1, 2)
    result = module(y)
    assert seen == [(y.data_ptr(), result.data_ptr())]


def test_the_buffer_is_a_weight_file(module: EngineModule) -> None:
    buffer = io.BytesIO(module.model.numpy().tobytes())
    assert buffer.getvalue() == weights_to_bytes(random_net(random_genotype(5)))
