"""Training runs: exact resume, several processes, guards, schedule, averages and logs."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open

from modnas_fast.cli import main
from modnas_fast.errors import ModnasError
from modnas_fast.genotype import Block, Genotype, Layer, Skip
from modnas_fast.images.degradations import Degradation
from modnas_fast.images.patches import PairSampler
from modnas_fast.networks import DerivedNet, load
from modnas_fast.networks.weights import read_safetensors, write_safetensors
from modnas_fast.runs.config import config_from_mapping
from modnas_fast.runs.processes import Interrupted
from modnas_fast.training import TrainConfig
from modnas_fast.training import loop as training_loop
from modnas_fast.training.loop import train

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread():
    """Runs here and in subprocesses must split no sum differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


TINY = Genotype(
    4,
    (
        Block((Layer("conv_3x3", 4), Skip(1), Skip(2)), Layer("area", 4)),
        Block((Layer("sep_conv_3x3", 4), Skip(1), Skip(2)), Layer("conv_3x3", 4)),
        Block((Skip(0), Skip(1), Skip(2)), Layer("nearest", 4)),
    ),
    (
        Block((Skip(0), Layer("dil_conv_3x3", 4), Skip(2)), Layer("bilinear", 4)),
        Block((Skip(0), Skip(1), Skip(2)), Layer("nearest", 4)),
        Block((Skip(0), Skip(1), Skip(2)), Layer("deconv_3x3", 4)),
        Block((Layer("res_block_3x3", 4), Skip(1), Skip(2))),
    ),
    "tiny",
)


def synthetic_image(index, height=24, width=20):
    """A smooth gray picture with one edge, which a small net can learn to denoise."""
    rows, columns = np.mgrid[:height, :width] / 9.0
    values = 128 + 60 * np.sin(rows + index) * np.cos(columns - index) + 40 * (rows + 0.3 * index > columns)
    return np.clip(values, 0, 255).astype(np.uint8)


@pytest.fixture
def settings(tmp_path):
    """A configuration that names everything but the output; its images need no codec, which GPU machines may lack."""
    for folder, count in (("train", 8), ("validation", 2)):
        (tmp_path / folder).mkdir()
        for index in range(count):
            np.save(tmp_path / folder / f"{index}.npy", synthetic_image(index + 10 * (folder == "validation")))
    TINY.save(tmp_path / "tiny.json")
    return {
        "data": [str(tmp_path / "train")],
        "genotype": str(tmp_path / "tiny.json"),
        "patch": 16,
        "batch": 2,
        "steps": 40,
        "lr": 1e-2,
        "lr_final": 1e-4,
        "precision": "fp32",
        "device": "cpu",
    }


def run(settings, output, **changes):
    """The run's output folder, after training in this process."""
    train(config_from_mapping(TrainConfig, settings | changes | {"output": str(output)}), say=lambda line: None)
    return Path(output)


def tensors_of(path):
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def step_of(folder):
    with safe_open(folder / "checkpoint.safetensors", "pt") as file:
        return json.loads(file.metadata()["state"])["step"]


def assert_same_end(folder, whole):
    """Weights files equal byte for byte, and every tensor of the checkpoints bit for bit."""
    assert (folder / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    ours, theirs = (tensors_of(path / "checkpoint.safetensors") for path in (folder, whole))
    assert ours.keys() == theirs.keys()
    for key in theirs:
        assert torch.equal(ours[key].view(-1).view(torch.uint8), theirs[key].view(-1).view(torch.uint8)), key
    kinds = {key.split(".")[0] for key in theirs}
    assert kinds == {"net", "ema", "optimizer", "generator"}
    assert step_of(folder) == step_of(whole)


def stop_after(monkeypatch, steps, number=signal.SIGINT):
    """Let this process get a signal in the middle of its `steps`-th step from now."""
    original = training_loop._Run._step
    count = itertools.count(1)

    def step(self, share):
        if next(count) == steps:
            signal.raise_signal(number)
        return original(self, share)

    monkeypatch.setattr(training_loop._Run, "_step", step)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16"},
        {"degradation": "jpeg", "levels": [10, 50]},
        {"stages": 2, "levels": [15, 50]},
        {"conditioned": True, "levels": [0, 55]},
        {"patch_growth": [8]},
        {"optimizer": "muon"},
    ],
    ids=["fp32", "bf16", "jpeg", "two stages", "conditioned", "growing patches", "muon"],
)
def test_resume_is_bit_exact(settings, tmp_path, monkeypatch, changes, number):
    changes = changes | {"steps": 16}
    whole = run(settings, tmp_path / "whole", **changes)
    with monkeypatch.context() as patch:
        stop_after(patch, 7, number)
        handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        with pytest.raises(Interrupted):
            run(settings, tmp_path / "parts", **changes)
        assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    assert step_of(tmp_path / "parts") == 7
    started = load(tmp_path / "parts" / "weights.safetensors").state_dict()
    parts = run(settings, tmp_path / "parts", **changes)
    assert_same_end(parts, whole)
    assert any(not torch.equal(value, started[key]) for key, value in tensors_of(parts / "weights.safetensors").items())


def start(config_path, *command):
    """`modnas-fast train` in a process of its own, one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    root = Path(__file__).parent.parent
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, *(command or ("-m", "modnas_fast")), "train", str(config_path)],
        env=environment,
        cwd=config_path.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def written(tmp_path, settings, **changes):
    path = tmp_path / f"{Path(changes['output']).name}.yaml"
    path.write_text(yaml.safe_dump(settings | changes))
    return path


def wait_for_checkpoint(process, folder, seconds=120):
    deadline = time.monotonic() + seconds
    while not (folder / "checkpoint.safetensors").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "precision"), [(signal.SIGINT, "fp32"), (signal.SIGKILL, "bf16")], ids=["SIGINT-fp32", "SIGKILL-bf16"]
)
def test_killed_process_goes_on_bit_for_bit(settings, tmp_path, number, precision):
    folder = tmp_path / "killed"
    changes = {"precision": precision, "steps": 150, "checkpoint_every": 0.05}
    process = start(written(tmp_path, settings, output=str(folder), **changes))
    wait_for_checkpoint(process, folder)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert 0 < step_of(folder) < 150
    if number == signal.SIGINT:
        assert (process.returncode, out) == (130, "")
        assert err.endswith("interrupted; the checkpoint is written, and the same command goes on from it\n")
        assert "Traceback" not in err
    else:
        assert process.returncode == -signal.SIGKILL
    run(settings, folder, **changes)
    assert_same_end(folder, run(settings, tmp_path / "whole", **changes))


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_two_processes_follow_the_path_of_one(settings, tmp_path, optimizer):
    changes = {"steps": 12, "batch": 4, "optimizer": optimizer}
    folder = tmp_path / "two"
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "modnas_fast")
    process = start(written(tmp_path, settings, output=str(folder), **changes), *torchrun)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert out.strip() == str(folder / "weights.safetensors")  # by the first process alone
    assert err.count("2 processes") == 1
    whole = tensors_of(run(settings, tmp_path / "one", **changes) / "checkpoint.safetensors")
    for key, value in tensors_of(folder / "checkpoint.safetensors").items():
        if key.startswith(("net.", "ema.")):
            torch.testing.assert_close(value, whole[key], rtol=1e-5, atol=1e-5, msg=key)
    first = tensors_of(run(settings, tmp_path / "start", **changes | {"steps": 1}) / "checkpoint.safetensors")
    assert max((whole[key] - first[key]).abs().max() for key in whole if key.startswith("net.")) > 1e-2


def test_finished_run_changes_nothing(settings, tmp_path):
    folder = run(settings, tmp_path / "run", steps=5)
    before = (folder / "weights.safetensors").read_bytes()
    config = config_from_mapping(TrainConfig, settings | {"steps": 5, "output": str(folder)})
    train(config, lambda *_: pytest.fail("there is no progress to report"), say=lambda line: None)
    assert (folder / "weights.safetensors").read_bytes() == before
    assert step_of(folder) == 5


def test_longer_budget_goes_on(settings, tmp_path):
    folder = run(settings, tmp_path / "run", steps=5)
    run(settings, folder, steps=8)
    assert step_of(folder) == 8


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lr": 2e-2}, "started with another lr; restore the value or choose another output"),
        ({"batch": 4, "seed": 1}, "started with another batch, seed;"),
        ({"levels": [25, 50]}, "another levels"),
        ({"loss": "l1"}, "another loss"),
        ({"optimizer": "muon"}, "another optimizer"),
        ({"precision": "bf16"}, "another precision"),
        ({"genotype": "modnas-b"}, "another genotype"),
        ({"stages": 2}, "another stages"),
    ],
)
def test_changed_config_does_not_resume(settings, tmp_path, changes, says):
    folder = run(settings, tmp_path / "run", steps=2)
    before = (folder / "checkpoint.safetensors").read_bytes()
    with pytest.raises(ModnasError, match=says):
        run(settings, folder, **{"steps": 4} | changes)
    assert (folder / "checkpoint.safetensors").read_bytes() == before


def test_checkpoint_of_another_device_does_not_resume(settings, tmp_path):
    path = run(settings, tmp_path / "run", steps=1) / training_loop.CHECKPOINT
    tensors, metadata = read_safetensors(path)
    tensors["generator"] = torch.zeros(16, dtype=torch.uint8)
    write_safetensors(path, tensors, metadata)
    with pytest.raises(ModnasError, match="started on another device than cpu"):
        run(settings, tmp_path / "run", steps=1)


def test_changed_genotype_file_does_not_resume(settings, tmp_path):
    folder = run(settings, tmp_path / "run", steps=2)
    dataclasses.replace(TINY, channels=5).save(tmp_path / "tiny.json")
    with pytest.raises(ModnasError, match="does not fit the network: restore the genotype file"):
        run(settings, folder, steps=4)


@pytest.mark.parametrize("slot", ["step", "exp_avg", "exp_avg_sq"])
def test_checkpoint_that_lacks_a_moment_does_not_resume(settings, tmp_path, slot):
    path = run(settings, tmp_path / "run", steps=2) / training_loop.CHECKPOINT
    tensors, metadata = read_safetensors(path)
    del tensors[next(key for key in tensors if key.startswith(f"optimizer.{slot}."))]
    write_safetensors(path, tensors, metadata)
    with pytest.raises(ModnasError, match="does not fit the network"):
        run(settings, tmp_path / "run", steps=4)


def test_broken_checkpoint_is_named(settings, tmp_path):
    folder = run(settings, tmp_path / "run", steps=2)
    checkpoint = folder / "checkpoint.safetensors"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModnasError, match=r"checkpoint.safetensors: not a readable safetensors file"):
        run(settings, folder, steps=4)
    checkpoint.write_bytes((folder / "weights.safetensors").read_bytes())
    with pytest.raises(ModnasError, match="not a training checkpoint"):
        run(settings, folder, steps=4)


def test_bad_data_is_named(settings, tmp_path):
    def refused(says, **changes):
        with pytest.raises(ModnasError, match=says) as caught:
            run(settings, tmp_path / "run", **changes)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()

    refused("none: does not exist", data=[str(tmp_path / "none")])
    (tmp_path / "empty").mkdir()
    refused("holds no image", data=[str(tmp_path / "empty")])
    refused(r"none of 8 training images is at least 32×32 pixels; lower `patch`", patch=32)
    refused("a gray image; this model works on RGB", channels_in=3)
    (tmp_path / "train" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n no image")
    refused(r"0.png: ")
    Image.fromarray(np.zeros((24, 24), np.uint16)).save(tmp_path / "train" / "0.png")
    refused(r"0.png: uint16 pixels; training and test images must have 8 bit")
    (tmp_path / "train" / "0.png").unlink()
    refused("genotype 'modnas-z'", genotype="modnas-z")
    refused("model 'nowhere'", init="nowhere")


def break_after(monkeypatch, steps, breaking):
    """Call `breaking(run)` after the `steps`-th step."""
    original = training_loop._Run._step
    count = itertools.count(1)

    def step(self, share):
        loss = original(self, share)
        return breaking(self, loss) if next(count) == steps else loss

    monkeypatch.setattr(training_loop._Run, "_step", step)


def nan_loss(run, loss):
    return loss * float("nan")


def large_loss(run, loss):
    return loss + 1e8


def nan_weight(run, loss):
    """What a gradient that overflowed does to the step: the loss before it was finite."""
    run.net.stages[0].out.weight.data.fill_(float("nan"))
    return loss


@pytest.mark.parametrize(
    ("breaking", "says"),
    [
        (nan_loss, "the loss became nan"),
        (large_loss, r"the loss became 1e\+06"),
        (nan_weight, "the weights became NaN or infinite"),
    ],
)
def test_nan_stops_the_run_and_spares_the_checkpoint(settings, tmp_path, monkeypatch, breaking, says):
    break_after(monkeypatch, 4, breaking)
    folder = tmp_path / "run"
    with pytest.raises(ModnasError, match=f"{says} near step 4; lower lr.*init=.*weights.safetensors"):
        run(settings, folder, checkpoint_every=0.0)
    assert step_of(folder) == 3
    tensors = tensors_of(folder / "checkpoint.safetensors")
    assert all(value.isfinite().all() for value in tensors.values())
    assert load(folder / "weights.safetensors").degradation == Degradation("awgn", (25,))


@pytest.mark.parametrize("changes", [{"checkpoint_every": 1e9}, {"validate_every": 4}])
def test_nan_before_any_checkpoint_writes_none(settings, tmp_path, monkeypatch, changes):
    break_after(monkeypatch, 4, nan_weight)
    changes["validation"] = str(tmp_path / "validation")
    with pytest.raises(
        ModnasError, match=r"the (weights|loss) became nan|NaN .*near step \d+; lower lr, or train in fp32$"
    ):
        run(settings, tmp_path / "run", **changes)
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_absurd_learning_rate_diverges_with_words(settings, tmp_path):
    with pytest.raises(ModnasError, match="became"):
        run(settings, tmp_path / "run", lr=1e36, lr_final=1e36)


@pytest.mark.parametrize("steps", [1, 7, 40])
def test_cosine_schedule_by_steps(settings, tmp_path, monkeypatch, steps):
    rates = []
    original = torch.optim.Adam.step

    def step(self, *arguments, **options):
        rates.append(self.param_groups[0]["lr"])
        return original(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    run(settings, tmp_path / "run", steps=steps)
    expected = [1e-4 + (1e-2 - 1e-4) * (1 + math.cos(math.pi * i / steps)) / 2 for i in range(steps)]
    assert rates == pytest.approx(expected, rel=1e-12)


def test_minutes_budget_follows_the_clock():
    config = TrainConfig("out", ("a",), minutes=2.0)
    run_in_progress = SimpleNamespace(config=config, state=SimpleNamespace(step=7, elapsed=30.0))
    assert training_loop._Run._budget_share(run_in_progress) == 0.25


def test_average_is_that_of_its_definition(settings, tmp_path, monkeypatch):
    seen = []
    original = training_loop._Run._step

    def step(self, share):
        if not seen:
            seen.append({key: value.detach().clone() for key, value in self.net.named_parameters()})
        loss = original(self, share)
        seen.append({key: value.detach().clone() for key, value in self.net.named_parameters()})
        return loss

    monkeypatch.setattr(training_loop._Run, "_step", step)
    folder = run(settings, tmp_path / "run", steps=6, ema=0.3)
    average = {key: value.double() for key, value in seen[0].items()}
    for index, weights in enumerate(seen[1:]):
        decay = (0.1, 2 / 11, 0.25, 0.3, 0.3, 0.3)[index]
        average = {key: decay * value + (1 - decay) * weights[key].double() for key, value in average.items()}
    for key, value in tensors_of(folder / "weights.safetensors").items():
        torch.testing.assert_close(value.double(), average[key], rtol=1e-5, atol=1e-7)


def scalars(folder, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


def test_learns_and_logs(settings, tmp_path):
    folder, lines, reports = tmp_path / "run", [], []
    config = config_from_mapping(
        TrainConfig,
        settings
        | {
            "output": str(folder),
            "validation": str(tmp_path / "validation"),
            "steps": 300,
            "batch": 4,
            "ema": 0.9,
            "validate_every": 150,
        },
    )
    weights = train(config, lambda *report: reports.append(report), lines.append)
    assert weights == folder / "weights.safetensors"
    trained = scalars(folder, "train/psnr")
    assert list(trained) == [100, 200, 300]
    assert trained[300] > trained[100] + 3
    validated = scalars(folder, "validation/psnr")
    assert list(validated) == [150, 300]
    assert all(0 < value <= 1 for value in scalars(folder, "validation/ssim").values())
    assert scalars(folder, "train/lr")[300] == pytest.approx(1e-4, rel=0.01)
    assert lines[0].endswith("parameters, 8 images, cpu, fp32, 1 process")
    assert any(
        line.startswith("step 300: ") and line.endswith(f"SSIM {scalars(folder, 'validation/ssim')[300]:.4f}")
        for line in lines
    )
    assert reports[-1][:2] == (300, 1.0)

    net = load(weights)
    fresh = DerivedNet(TINY)
    sampler = PairSampler([synthetic_image(i)[..., None] for i in range(20, 28)], 16, "awgn", (25,), CPU, seed=5)
    noisy, clean, _ = sampler.sample(64)
    with torch.inference_mode():
        losses = [float((output - clean).square().mean()) for output in (net(noisy), noisy, fresh(noisy))]
    assert losses[0] < 0.6 * losses[1]  # it denoises …
    assert losses[0] < 0.6 * losses[2]  # … which it did not from the start
    assert validated[300] > 23  # the noisy images have 20.2 dB


def test_interrupted_log_is_whole(settings, tmp_path, monkeypatch):
    changes = {"steps": 300, "batch": 1}
    with monkeypatch.context() as patch:
        stop_after(patch, 150)
        with pytest.raises(Interrupted):
            run(settings, tmp_path / "run", **changes)
        assert list(scalars(tmp_path / "run", "train/psnr")) == [100]
    folder = run(settings, tmp_path / "run", **changes)
    assert list(scalars(folder, "train/psnr")) == [100, 200, 300]


def test_a_full_disk_is_named_with_its_file(settings, tmp_path, capsys, monkeypatch):
    path = written(tmp_path, settings, output=str(tmp_path / "run"))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert main(["train", str(path), "steps=3"]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message == f"modnas-fast train: {tmp_path / 'run' / 'config.json'}: No space left on device"


def test_command_line(settings, tmp_path, capsys):
    path = written(tmp_path, settings, output=str(tmp_path / "run"))
    assert main(["train", str(path), "steps=3"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'run' / 'weights.safetensors'}\n"
    assert "parameters, 8 images, cpu, fp32, 1 process" in err
    assert main(["train", str(path), "steps=3", "lr=0.5"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("modnas-fast train: ")
    assert "another lr" in err
    assert err.count("\n") == 1
