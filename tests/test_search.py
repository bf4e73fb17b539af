"""The search loop: what each step trains, exact resume, several processes, rollback, ablations."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from modnas_fast.cli import main
from modnas_fast.errors import ModnasError
from modnas_fast.networks.weights import read_safetensors, write_safetensors
from modnas_fast.runs.config import ConfigError, config_from_mapping
from modnas_fast.runs.graphed import GraphedStep, build_adam
from modnas_fast.runs.processes import Processes, processes
from modnas_fast.search import checkpoint as checkpoint_module
from modnas_fast.search.config import SearchConfig
from modnas_fast.search.cost import expected_cost
from modnas_fast.search.history import read_history
from modnas_fast.search.latency import LATENCY_FILE, LatencyTable, penalty_table
from modnas_fast.search.loop import HISTORY, _Search, search, split_in_halves
from modnas_fast.search.steps import Step
from modnas_fast.search.supernet import SuperNet
from modnas_fast.search.weights import SUPERNET_FILE, load_supernet
from tests.test_latency import law, table_of

ALONE = Processes(0, 1, torch.device("cpu"))

Settings = dict[str, Any]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    data = tmp_path / "data"
    data.mkdir()
    rows, columns = np.mgrid[0:24, 0:28]
    for index in range(6):
        picture = 128 + 90 * np.sin(rows / (2 + index)) * np.cos(columns / (3 + index))
        np.save(data / f"{index}.npy", picture.astype(np.uint8))
    return {
        "output": str(tmp_path / "run"),
        "data": [str(data)],
        "stages": 1,
        "channels": 4,
        "patch": 8,
        "batch": 2,
        "epochs": 3,
        "warmup_epochs": 1,
        "steps": 2,
        "precision": "fp32",
        "device": "cpu",
    }


def run(settings: Settings, **changes: Any) -> Path:
    return search(config_from_mapping(SearchConfig, {**settings, **changes}), say=lambda line: None)


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return read_safetensors(folder / checkpoint_module.CHECKPOINT)[0]


def assert_same_tensors(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def architecture_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_supernet(folder / SUPERNET_FILE).architecture.state_dict()


def test_warm_up_leaves_the_architecture_alone(settings: Settings) -> None:
    folder = run(settings, epochs=1, warmup_epochs=1)
    for name, value in architecture_of(folder).items():
        expected = torch.ones_like(value) if name.endswith("beta") else torch.zeros_like(value)
        assert torch.equal(value, expected), name
    assert [record["phase"] for record in read_history(folder / HISTORY)] == ["weights"]


def test_alternation_trains_both(settings: Settings) -> None:
    folder = run(settings, epochs=2, warmup_epochs=1)
    for name, value in architecture_of(folder).items():
        start = torch.ones_like(value) if name.endswith("beta") else torch.zeros_like(value)
        assert not torch.equal(value, start), name
    history = read_history(folder / HISTORY)
    assert [record["phase"] for record in history] == ["weights", "alternate"]
    assert [record["epoch"] for record in history] == [1, 2]


def test_a_step_moves_its_parameters_only_and_is_adam_on_the_mse() -> None:
    torch.manual_seed(0)
    net = SuperNet(1, 4)
    noisy, clean = torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16)
    for parameters in (list(net.weight_parameters()), list(net.architecture_parameters())):
        before = {name: value.clone() for name, value in net.state_dict().items()}
        mse = torch.nn.functional.mse_loss(net(noisy), clean)
        gradients = torch.autograd.grad(mse, parameters)
        loss = Step(net, parameters, torch.optim.Adam(parameters, lr=1e-3), "fp32", ALONE)(noisy, clean)
        assert float(loss) == pytest.approx(mse.item(), rel=1e-6)
        moved = {id(parameter) for parameter in parameters}
        for name, parameter in net.named_parameters():
            if id(parameter) not in moved:
                assert torch.equal(parameter, before[name]), name
        for parameter, gradient in zip(parameters, gradients, strict=True):
            name = next(n for n, p in net.named_parameters() if p is parameter)
            # Adam's first step is -lr·g / (|g| + ε): the sign of the gradient wherever it is not tiny.
            large = gradient.abs() > 1e-6
            torch.testing.assert_close(
                (parameter.detach() - before[name])[large], -1e-3 * gradient.sign()[large], rtol=0.02, atol=1e-6
            )
        net.requires_grad_(True)


def test_a_penalty_is_added_to_the_loss_but_not_to_the_report() -> None:
    torch.manual_seed(0)
    net = SuperNet(1, 4)
    parameters = list(net.architecture_parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    gates = [parameter for name, parameter in net.named_parameters() if name.endswith("beta")]
    step = Step(
        net, parameters, optimizer, False, ALONE, penalty=lambda: 1e6 * sum((g.sum() for g in gates), torch.zeros(()))
    )
    y = torch.rand(1, 1, 16, 16)
    assert float(step(y, y)) < 10
    assert all(bool((gate < 1).all()) for gate in gates)


def test_halves_are_disjoint_complete_and_seeded() -> None:
    images = list(range(11))
    one, other = split_in_halves(images, seed=3)
    assert sorted(one + other) == images
    assert (len(one), len(other)) == (6, 5)
    assert split_in_halves(images, seed=3) == (one, other)
    assert split_in_halves(images, seed=4) != (one, other)
    with pytest.raises(ModnasError, match="at least 2 training images"):
        split_in_halves([0], seed=0)


def test_resumed_equals_uninterrupted(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(settings, output=str(tmp_path / "whole"), epochs=4)
    original, calls = _Search._step_both, []

    def interrupt(self: _Search, epoch: int) -> torch.Tensor:
        calls.append(epoch)
        if len(calls) == 5:  # the first step of the third epoch's two
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, epoch)

    monkeypatch.setattr(_Search, "_step_both", interrupt)
    parts = str(tmp_path / "parts")
    with pytest.raises(BaseException) as caught:
        run(settings, output=parts, epochs=4)
    assert type(caught.value).__name__ == "Interrupted"
    resumed = run(settings, output=parts, epochs=4)
    assert_same_tensors(tensors_of(whole), tensors_of(resumed))
    assert (whole / SUPERNET_FILE).read_bytes() == (resumed / SUPERNET_FILE).read_bytes()
    timeless = [
        [{k: v for k, v in record.items() if k != "seconds"} for record in read_history(folder / HISTORY)]
        for folder in (whole, resumed)
    ]
    assert timeless[0] == timeless[1]


def test_killed_search_goes_on_bit_for_bit(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump({**settings, "epochs": 5, "checkpoint_every": 0.0}))
    command = [sys.executable, "-m", "modnas_fast", "search", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    history = tmp_path / "run" / HISTORY
    deadline = time.monotonic() + 120
    while not (history.exists() and history.read_text().count("\n") >= 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (tmp_path / "run" / SUPERNET_FILE).exists() or len(read_history(history)) < 5
    subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
    whole = subprocess.run([*command, f"output={tmp_path / 'whole'}"], env=environment, stderr=subprocess.DEVNULL)
    assert whole.returncode == 0
    assert_same_tensors(tensors_of(tmp_path / "run"), tensors_of(tmp_path / "whole"))
    assert [record["epoch"] for record in read_history(history)] == list(range(1, 6))


def test_two_processes_follow_the_path_of_one(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(settings))
    alone = run(settings, output=str(tmp_path / "alone"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "modnas_fast", "search", str(path), f"output={tmp_path / 'two'}"]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    one, two = (load_supernet(folder / SUPERNET_FILE).state_dict() for folder in (alone, tmp_path / "two"))
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("call", "scale", "says"),
    [
        (6, float("nan"), "the weights became NaN or infinite by step 4"),  # an A-step
        (5, 1e6, r"the loss became \d\S*e\+1\d by step 4"),  # a W-step
    ],
)
def test_a_broken_step_sends_the_search_back_with_half_the_rate(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, call: int, scale: float, says: str
) -> None:
    original, calls, said = Step.__call__, itertools.count(1), []

    def poison(self: Step, noisy: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        return original(self, noisy, clean * scale if next(calls) == call else clean)

    monkeypatch.setattr(Step, "__call__", poison)
    search(config_from_mapping(SearchConfig, settings), say=said.append)
    assert any(re.match(f"{says}: back to step 2 with half the rate", line) for line in said), said
    folder = Path(settings["output"])
    assert all(bool(value.isfinite().all()) for value in tensors_of(folder).values() if value.is_floating_point())
    counters = json.loads(read_safetensors(folder / checkpoint_module.CHECKPOINT)[1]["counters"])
    assert (counters["rollbacks"], counters["rate_scale"], counters["step"]) == (1, 0.5, 6)
    assert [record["epoch"] for record in read_history(folder / HISTORY)] == [1, 2, 3]


def test_endless_nans_end_in_an_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    run(settings, epochs=1, warmup_epochs=1)
    original = Step.__call__
    monkeypatch.setattr(Step, "__call__", lambda self, noisy, clean: original(self, noisy, clean * float("nan")))
    settings["epochs"] = 1
    with pytest.raises(ModnasError, match="before the first checkpoint"):
        run(settings, output=settings["output"] + "2", warmup_epochs=1)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(settings: Settings, tmp_path: Path) -> None:
    folder = run(settings)
    damaged = folder / checkpoint_module.CHECKPOINT
    damaged.write_bytes(damaged.read_bytes()[:1000])
    expected = run(settings, output=str(tmp_path / "whole"))
    resumed = run(settings)
    assert_same_tensors(tensors_of(expected), tensors_of(resumed))
    for name in (checkpoint_module.CHECKPOINT, checkpoint_module.PREVIOUS):
        (folder / name).write_bytes(b"x")
    with pytest.raises(ModnasError, match="not a readable safetensors file"):
        run(settings)


def test_another_configuration_is_not_resumed(settings: Settings) -> None:
    run(settings, epochs=1)
    with pytest.raises(ModnasError, match="started with another seed"):
        run(settings, epochs=1, seed=7)


def test_without_model_guide_the_stage_is_the_denoiser(settings: Settings) -> None:
    folder = run(settings, model_guide=False)
    net = load_supernet(folder / SUPERNET_FILE, backend="reference")
    assert net.stages[0].delta.sigmoid().item() == 0.0
    plain = SuperNet(1, 4, backend="reference")
    plain.load_state_dict(net.state_dict())
    with torch.no_grad():
        plain.stages[0].delta.fill_(float("-inf"))
        y = torch.rand(1, 1, 16, 16)
        assert torch.equal(net(y), plain(y))


def test_the_architecture_has_a_rate_of_its_own(settings: Settings, tmp_path: Path) -> None:
    """Adam's first step is its rate wherever the gradient is not tiny."""
    rates = {0.0: 1e-3, 5e-3: 5e-3}
    folders = {}
    for given, rate in rates.items():
        one = {"epochs": 1, "warmup_epochs": 0, "steps": 1, "lr": 1e-3, "lr_architecture": given}
        folders[given] = run(settings, output=str(tmp_path / str(given)), **one)
        alphas = [x for name, x in architecture_of(folders[given]).items() if name.endswith("alpha")]
        assert float(torch.cat(alphas).abs().max()) == pytest.approx(rate, rel=0.01)
        assert read_history(folders[given] / HISTORY)[0]["rate"] == 1e-5
    states = [load_supernet(folder / SUPERNET_FILE).state_dict() for folder in folders.values()]
    assert_same_tensors(*({name: x for name, x in state.items() if name.startswith("stages.")} for state in states))


def test_fixed_width_holds_beta(settings: Settings) -> None:
    architecture = architecture_of(run(settings, width_search=False))
    for name, value in architecture.items():
        assert torch.equal(value, torch.ones_like(value)) == name.endswith("beta"), name


def test_a_penalty_makes_the_architecture_cheaper(settings: Settings, tmp_path: Path) -> None:
    costs = {}
    for weight in (0.0, 100.0):
        changes = {"penalty": "macs", "penalty_weight": weight} if weight else {}
        folder = run(settings, output=str(tmp_path / str(weight)), warmup_epochs=0, steps=8, lr=1e-2, **changes)
        architecture = load_supernet(folder / SUPERNET_FILE).architecture
        table = penalty_table(config_from_mapping(SearchConfig, {**settings, "penalty": "macs", "penalty_weight": 1.0}))
        assert table is not None
        costs[weight] = float(expected_cost(architecture, table).detach())
    assert costs[100.0] < costs[0.0] - 0.05


def test_a_latency_penalty_leaves_its_table_with_the_run(settings: Settings, tmp_path: Path) -> None:
    table = table_of(law)
    table.save(tmp_path / "table.json")
    of_latency = {"latency_table": str(tmp_path / "table.json"), "epochs": 1, "warmup_epochs": 0}
    folder = run(settings, penalty="latency", penalty_weight=1e-3, **of_latency)
    assert LatencyTable.load(folder / LATENCY_FILE) == table
    with pytest.raises(ModnasError, match="ends at 48 channels"):
        run(settings, channels=56, output=str(tmp_path / "wide"), **of_latency)


def test_validation_history_and_log(settings: Settings) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run(settings, validation=settings["data"][0])
    history = read_history(folder / HISTORY)
    assert all(record["validation_psnr"] > 5 for record in history)
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    logged = [event.value for event in events.Scalars("search/validation_psnr")]
    assert logged == pytest.approx([record["validation_psnr"] for record in history], rel=1e-6)
    assert json.loads((folder / "config.json").read_text())["channels"] == 4


def test_collapse_can_stop_the_search(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "modnas_fast.search.loop.collapse_warnings", lambda history: {"skips": "all layers are skipped"}
    )
    said: list[str] = []
    search(config_from_mapping(SearchConfig, {**settings, "stop_on_collapse": True}), say=said.append)
    assert "warning: all layers are skipped" in said
    assert len(read_history(Path(settings["output"]) / HISTORY)) == 1


def test_a_warning_is_said_once_while_it_holds(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {2: {"skips": "skips at 2"}, 3: {"skips": "skips at 3", "psnr": "drop at 3"}, 5: {"skips": "skips at 5"}}
    monkeypatch.setattr("modnas_fast.search.loop.collapse_warnings", lambda history: seen.get(len(history), {}))
    said: list[str] = []
    search(config_from_mapping(SearchConfig, {**settings, "epochs": 5, "steps": 1}), say=said.append)
    warned = [line for line in said if line.startswith("warning")]
    assert warned == ["warning: skips at 2", "warning: drop at 3", "warning: skips at 5"]


def test_progress_counts_the_work_left(settings: Settings) -> None:
    """An alternating epoch has two steps for a warm-up epoch's one; a resumed search goes by its own pace alone."""
    config = config_from_mapping(SearchConfig, {**settings, "epochs": 4, "warmup_epochs": 2, "steps": 2})
    with processes("cpu") as here:
        run = _Search(config, here, lambda line: None)
        run.started = time.perf_counter() - 8
        run.state.counters.step = 4
        share, psnr, left = run._progress(30.0)
        assert (share, psnr) == (4 / 12, 30.0)
        assert left == pytest.approx(16, rel=0.01)
        run.work_at_start = 3
        assert run._progress(30.0)[2] == pytest.approx(64, rel=0.01)


def test_a_search_learns(settings: Settings) -> None:
    folder = run(settings, stages=1, epochs=4, warmup_epochs=2, steps=25, lr=5e-3, validation=settings["data"][0])
    history = read_history(folder / HISTORY)
    assert history[-1]["validation_psnr"] > history[0]["validation_psnr"] + 0.5
    assert history[-1]["alpha_entropy"] < history[1]["alpha_entropy"] - 1e-6


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"chanels": 4}, "did you mean 'channels'"),
        ({"warmup_epochs": 9}, "between 0 and epochs"),
        ({"model_guide": False, "stages": 2}, "set stages to 1"),
        ({"backend": "fast"}, "choose from auto"),
        ({"batch": 0}, "at least 1"),
        ({"model_guide": "no"}, "true or false"),
        ({"depth_search": "none"}, "choose dense or skip"),
    ],
)
def test_bad_configurations(settings: Settings, changes: Settings, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        config_from_mapping(SearchConfig, {**settings, **changes})


def test_command_line(settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(settings))
    assert main(["search", str(path), "epochs=1", "warmup_epochs=0"]) == 0
    assert f"modnas-fast report {settings['output']}" in capsys.readouterr().err
    assert main(["search", str(path), "epochs=1", "warmup_epochs=0", "lr=1"]) == 2


def test_a_checkpoint_of_another_device_is_refused(settings: Settings) -> None:
    """A CUDA generator's state has 16 bytes, and draws other numbers."""
    path = run(settings, epochs=1, warmup_epochs=0) / checkpoint_module.CHECKPOINT
    tensors, metadata = read_safetensors(path)
    tensors["generator.weights"] = torch.zeros(16, dtype=torch.uint8)
    write_safetensors(path, tensors, metadata)
    with pytest.raises(ModnasError, match="started on another device than cpu"):
        run(settings, epochs=1, warmup_epochs=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_step_equals_an_eager_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same kernels: of a gradient near zero, whose sign rounding decides, Adam's first steps are whole ones."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)

    def trained(graphed: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        net = SuperNet(1, 8).cuda()
        parameters = list(net.weight_parameters())
        eager = Step(net, parameters, build_adam(parameters, 1e-3, captured=graphed), "fp32", ALONE)
        step = GraphedStep(eager) if graphed else eager
        for _ in range(8):
            clean = torch.rand(2, 1, 32, 32, device="cuda")
            step(clean + 0.1 * torch.randn_like(clean), clean)
        return net.state_dict()

    eager, graphed = trained(False), trained(True)
    for name, value in eager.items():
        torch.testing.assert_close(value, graphed[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_search_resumes_and_rolls_back(settings: Settings, tmp_path: Path) -> None:
    """What a graph holds on to is replaced by a checkpoint's tensors, so it is captured anew."""
    config = config_from_mapping(SearchConfig, {**settings, "device": "cuda", "epochs": 4, "steps": 6})
    search(config, say=lambda line: None)
    said: list[str] = []
    with processes("cuda") as here:
        run = _Search(config, here, said.append)
        assert run.captured
        before = {name: value.clone() for name, value in run.net.state_dict().items()}
        run.state.counters.step = 12
        for _ in range(5):
            run._step_both(2)
        run.state.counters.epoch_loss = float("nan")
        assert run._roll_back_if_broken()
        assert all(torch.equal(value, before[name]) for name, value in run.net.state_dict().items())
        for _ in range(5):
            run._step_both(2)
        moved = [name for name, value in run.net.state_dict().items() if not torch.equal(value, before[name])]
        assert len(moved) > len(before) / 2
