"""Weight files: bit-exact round trips, and one clear line for every file that is none."""

from __future__ import annotations

import json
import os
import pickle
import re
from functools import partial

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from modnas_fast.cli import main
from modnas_fast.engine.export import export_model
from modnas_fast.engine.onnx_graph import build_onnx
from modnas_fast.errors import ModnasError
from modnas_fast.genotype import Genotype
from modnas_fast.images.degradations import Degradation
from modnas_fast.networks import ConditionedNet, DerivedNet, WeightsError, load, save_weights, shipped_models
from modnas_fast.networks.weights import read_safetensors, write_safetensors
from tests.cases import random_genotype

GENOTYPE = random_genotype(4)


def small_net(stages=2, channels_in=1, seed=0) -> DerivedNet:
    torch.manual_seed(seed)
    net = DerivedNet(GENOTYPE, stages, channels_in)
    net.degradation = Degradation("awgn", (15, 25.5))
    return net


@pytest.fixture
def path(tmp_path):
    target = tmp_path / "net.safetensors"
    save_weights(target, small_net())
    return target


def parts(path):
    """(tensors, metadata) as safetensors itself reads them."""
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def refused(path, says):
    with pytest.raises(WeightsError, match=says) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize(("stages", "channels_in"), [(1, 1), (3, 1), (2, 3)])
def test_round_trip_is_bit_exact(tmp_path, stages, channels_in):
    net, path = small_net(stages, channels_in), tmp_path / "new" / "folder" / "net.safetensors"
    with torch.no_grad():  # values that a text or a half-precision format would lose
        net.stages[0].out.bias.fill_(1e-42)
        net.stages[0].delta.fill_(-0.0)
        net.stages[0].stem[0].bias[0] = 1 / 3
    save_weights(path, net)
    again = load(path)
    assert not again.training
    assert (again.genotype, again.genotype.name) == (GENOTYPE, GENOTYPE.name)
    assert (len(again.stages), again.channels_in) == (stages, channels_in)
    assert again.degradation == Degradation("awgn", (15.0, 25.5))
    state = net.state_dict()
    assert list(again.state_dict()) == list(state)
    for key, value in again.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value.view(torch.int32), state[key].view(torch.int32)), key
    y = torch.rand(1, channels_in, 11, 8)
    assert torch.equal(again(y), net(y))
    assert not torch.equal(again(y), torch.zeros_like(y))


def test_file_describes_itself(path):
    tensors, metadata = parts(path)
    assert set(metadata) == {"format", "version", "genotype", "stages", "channels_in", "degradation"}
    assert (metadata["format"], metadata["version"]) == ("modnas_fast.weights", "1")
    assert (metadata["stages"], metadata["channels_in"]) == ("2", "1")
    assert Genotype.from_json(metadata["genotype"]) == GENOTYPE
    assert set(tensors) == set(small_net().state_dict())


def test_degradation_is_optional(tmp_path):
    net = small_net()
    net.degradation = None
    save_weights(tmp_path / "plain.safetensors", net)
    assert load(tmp_path / "plain.safetensors").degradation is None


def test_saving_is_deterministic(tmp_path, path):
    save_weights(tmp_path / "again.safetensors", small_net())
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_other_tensors_in_the_nets_place(tmp_path):
    net, average = small_net(), {key: value * 0.5 for key, value in small_net(seed=1).state_dict().items()}
    save_weights(tmp_path / "average.safetensors", net, average)
    for key, value in load(tmp_path / "average.safetensors").state_dict().items():
        assert torch.equal(value, average[key])


def test_channels_last_nets_save_the_same_file(tmp_path, path):
    save_weights(tmp_path / "last.safetensors", small_net().to(memory_format=torch.channels_last))
    assert (tmp_path / "last.safetensors").read_bytes() == path.read_bytes()


def test_load_puts_the_net_on_the_device(path):
    assert all(parameter.device.type == "meta" for parameter in load(path, "meta").parameters())


def test_truncated_anywhere(path, tmp_path):
    whole = path.read_bytes()
    cut = tmp_path / "cut.safetensors"
    offsets = {0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 4, len(whole) - 1} | set(range(16, len(whole), 4999))
    for offset in sorted(offsets):
        cut.write_bytes(whole[:offset])
        refused(cut, r"not a readable safetensors file \(.*\); fetch or copy it again")
    cut.write_bytes(whole + b"\0")
    refused(cut, "not a readable safetensors file")
    cut.write_bytes(whole)
    load(cut)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 64, b"\x89PNG\r\n\x1a\n" + bytes(100), b"\xff" * 1000],
    ids=["empty", "zeros", "png", "ones"],
)
def test_other_files(tmp_path, content):
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    refused(path, "not a readable safetensors file")


def saved_by_torch(path, **settings):
    torch.save(small_net().state_dict(), path, **settings)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (saved_by_torch, "a PyTorch pickle, which is never opened; save .* by modnas_fast.networks.save_weights"),
        (partial(saved_by_torch, _use_new_zipfile_serialization=False), "a PyTorch pickle, which is never"),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "a PyTorch pickle"),
        (lambda path: export_model("modnas-b-t1-gray-s25", "torch", path), "a zip archive, as exported programs are;"),
        (lambda path: path.write_bytes(build_onnx(small_net(), {}).SerializeToString()), "an ONNX model; give"),
        (lambda path: GENOTYPE.save(path), r"JSON text; give the \.safetensors file that belongs to it"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1"), "Git LFS; fetch the file"),
    ],
    ids=["torch.save", "older torch.save", "pickle", "exported program", "ONNX", "genotype", "pointer"],
)
def test_files_that_are_taken_for_weights(tmp_path, write, says):
    path = tmp_path / "other.pt2"
    write(path)
    refused(path, says)


def test_a_folder_of_training_names_its_weights(path, tmp_path):
    path.rename(tmp_path / "weights.safetensors")
    refused(tmp_path, r"it is a folder; give the file in it, .*weights\.safetensors$")


@pytest.mark.parametrize("model", [None, 3, b"net"])
def test_what_names_no_model(model):
    with pytest.raises(WeightsError, match=r"model is a .*; give a shipped model's name or a weight file"):
        load(model)


def test_missing_file_and_unknown_name(tmp_path):
    known = ", ".join(shipped_models())
    assert known in refused(tmp_path / "none.safetensors", "no such file|No such file; give a weight file or one of: ")
    assert known in refused("modnas-z", "model 'modnas-z'")
    assert known in refused(tmp_path, "is a folder")


def test_safetensors_of_another_program(tmp_path, path):
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.ones(3)}, foreign)
    refused(foreign, r"not a modnas-fast weight file \(its metadata lacks format='modnas_fast.weights'\)")
    save_file(parts(path)[0], foreign, {"format": "pt"})
    refused(foreign, "not a modnas-fast weight file")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("version", "2", "weight file version 2; this release reads 1: upgrade"),
        ("version", None, "weight file version None"),
        ("genotype", None, "broken metadata: 'genotype'"),
        ("genotype", "{}", "broken metadata: the genotype lacks the field"),
        ("genotype", "", "broken metadata: the genotype is not valid JSON"),
        ("stages", None, "broken metadata: 'stages'"),
        ("stages", "two", "broken metadata: .*'two'"),
        ("stages", "0", "broken metadata: stages is 0"),
        ("stages", "3", "stages.2.*is missing"),
        ("stages", "1", "stages.1.*is unknown"),
        ("channels_in", "3", r"is \[\d+, 1, 3, 3\], not \[\d+, 3, 3, 3\]|is \[1, .*not \[3, |is \[1\], not \[3\]"),
        ("channels_in", "", "broken metadata"),
        ("degradation", "[]", "broken metadata"),
        ("degradation", "{", "broken metadata"),
        ("degradation", '{"kind": "blur", "levels": [1]}', "broken metadata: degradation is 'blur'"),
        ("degradation", '{"kind": "awgn"}', "broken metadata: 'levels'"),
        ("degradation", '{"kind": "awgn", "levels": []}', "broken metadata: levels is"),
    ],
)
def test_broken_metadata(path, key, value, says):
    tensors, metadata = parts(path)
    metadata = {k: v for k, v in (metadata | {key: value}).items() if v is not None}
    save_file(tensors, path, metadata)
    refused(path, says)


def broken(tensors, what):
    key = "stages.1.out.weight"
    if what == "missing":
        del tensors[key]
    elif what == "unknown":
        tensors["stages.1.extra"] = torch.ones(1)
    elif what == "shape":
        tensors[key] = tensors[key].flatten()
    elif what == "all":
        tensors.clear()
    elif what == "int":
        tensors[key] = tensors[key].int()
    else:
        tensors[key].view(-1)[-1] = float(what)
    return tensors


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("missing", "stages.1.out.weight is missing$"),
        ("unknown", "stages.1.extra is unknown$"),
        ("shape", r"stages.1.out.weight is \[\d+\], not \[1, \d+, 1, 1\]$"),
        ("all", r"is missing \(and \d+ more\)$"),
        ("int", "stages.1.out.weight is torch.int32, not floating point$"),
        ("nan", "stages.1.out.weight holds NaN or infinite values$"),
        ("-inf", "stages.1.out.weight holds NaN or infinite values$"),
    ],
)
def test_wrong_tensors(path, what, says):
    tensors, metadata = parts(path)
    save_file(broken(tensors, what), path, metadata)
    refused(path, "the tensors do not fit its genotype: .*" + says)


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_whole_or_not_at_all(path, monkeypatch, failing):
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, full_disk)
    with pytest.raises(OSError, match="No space"):
        save_weights(path, small_net(seed=9))
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
    save_weights(path, small_net(seed=9))
    assert path.read_bytes() != before


def test_any_tensors_and_text_survive(tmp_path):
    tensors = {
        "bytes": torch.arange(256, dtype=torch.uint8),
        "bf16": torch.randn(3, 5).bfloat16(),
        "strided": torch.randn(4, 6).t()[::2],
        "scalar": torch.tensor(-7, dtype=torch.int64),
    }
    metadata = {"text": 'σ = 25\n"quoted"', "empty": ""}
    write_safetensors(tmp_path / "t.safetensors", tensors, metadata)
    again, text = read_safetensors(tmp_path / "t.safetensors")
    assert text == metadata
    assert again.keys() == tensors.keys()
    for key, value in tensors.items():
        assert again[key].dtype == value.dtype
        assert torch.equal(again[key], value)


def test_a_damaged_shipped_model_is_noticed(tmp_path, monkeypatch):
    """Even where one bit of a number is wrong, and the file as such is whole."""
    (name, path), *_ = shipped_models().items()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    (tmp_path / path.name).write_bytes(content)
    (tmp_path / f"{name}.json").write_bytes(path.with_suffix(".json").read_bytes())
    monkeypatch.setattr("modnas_fast.networks.weights.shipped_models", lambda: {name: tmp_path / path.name})
    with pytest.raises(WeightsError, match="by their checksum; install modnas-fast again"):
        load(name)


@pytest.mark.parametrize(
    ("card", "says"),
    [
        (None, "No such file"),
        ("{", "Expecting|double quotes"),
        ("[]", "it lacks"),
        ("7", "not iterable"),
        ("{}", "it lacks channels_in"),
        ('{"degradation": {}}', "'kind'"),
    ],
)
def test_a_shipped_model_without_its_card(tmp_path, monkeypatch, card, says, capsys):
    """One line, from whatever reads cards."""
    (name, path), *_ = shipped_models().items()
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    if card == '{"degradation": {}}':
        card = json.dumps(json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) | json.loads(card))
    if card is not None:
        copy.with_suffix(".json").write_text(card)
    monkeypatch.setattr("modnas_fast.networks.weights.shipped_models", lambda: {name: copy})
    monkeypatch.setattr("modnas_fast.networks.shipped_models", lambda: {name: copy})
    pattern = rf"{name}.json: no card of a shipped model \(.*({says}).*\); install modnas-fast again"
    with pytest.raises(WeightsError, match=pattern):
        load(name)
    assert main(["models"]) == 2
    error = capsys.readouterr().err
    assert re.search(pattern, error)
    assert error.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize(
    ("device", "says"),
    [("cuda", "torch sees no CUDA device; choose auto or cpu"), ("gpu", "choose auto, cpu or cuda"), (None, "choose")],
)
def test_devices_that_are_not_there(path, device, says):
    with pytest.raises(ModnasError, match=f"device is '{device}'.*{says}"):
        load(path, device)


def test_auto_is_a_device(path):
    assert load(path, "auto").get_parameter("stages.0.delta").device.type == "cpu"


def test_shipped_models_load():
    assert list(shipped_models()) == sorted(shipped_models())
    for name in shipped_models():
        net = load(name)
        y = torch.rand(1, net.channels_in, 9, 8)
        assert (net(y, 25) if isinstance(net, ConditionedNet) else net(y)).isfinite().all()
        assert net.degradation is not None
