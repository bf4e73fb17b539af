"""Supernet files: what they hold, and which are refused."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from modnas_fast.errors import ModnasError
from modnas_fast.images.degradations import Degradation
from modnas_fast.networks import WeightsError
from modnas_fast.networks.weights import read_safetensors, write_safetensors
from modnas_fast.search import SuperNet
from modnas_fast.search.weights import load_supernet, read_supernet, save_supernet


def small_supernet(stages=2, channels=8, channels_in=1):
    torch.manual_seed(stages + channels_in)
    net = SuperNet(stages, channels, channels_in)
    with torch.no_grad():
        for parameter in net.architecture_parameters():
            parameter.copy_(torch.randn_like(parameter))
    return net


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("supernet") / "supernet.safetensors"
    save_supernet(path, small_supernet(1, 4))
    return path


@pytest.mark.parametrize(("stages", "channels_in"), [(1, 1), (2, 3)])
def test_supernet_round_trip_is_bit_exact(tmp_path, stages, channels_in):
    net, path = small_supernet(stages, 4, channels_in), tmp_path / "run" / "supernet.safetensors"
    save_supernet(path, net, Degradation("awgn", (25,)))
    random_state = torch.get_rng_state()
    again, degradation = read_supernet(path, "reference")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert degradation == Degradation("awgn", (25,))
    assert (len(again.stages), again.channels_in, again.backend) == (stages, channels_in, "reference")
    assert load_supernet(path).backend == "auto"
    state = net.state_dict()
    assert list(again.state_dict()) == list(state)
    for key, value in again.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[key]), key
    assert all(parameter.requires_grad for parameter in again.parameters())
    y = torch.rand(1, channels_in, 9, 8)
    assert torch.equal(load_supernet(path)(y), net(y))
    metadata = read_safetensors(path)[1]
    assert set(metadata) == {"format", "version", "stages", "channels", "channels_in", "depth_search", "degradation"}
    save_supernet(path, net.double())
    assert read_supernet(path)[1] is None
    assert load_supernet(path).get_parameter("stages.0.delta").dtype == torch.float32


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"format": "modnas_fast.weights"}, "not a modnas-fast supernet"),
        ({"version": "2"}, "supernet version 2; this release reads 1: upgrade"),
        ({"stages": "x"}, "broken metadata: invalid literal"),
        ({"stages": "0"}, "broken metadata: stages is 0"),
        ({"stages": "1000000000"}, "broken metadata: 1000000000 stages in"),
        ({"stages": "2"}, r"do not fit its metadata: stages.1.decoder.0.layers.0.conv_3x3.conv.bias is missing \(and"),
        ({"channels": "5"}, "do not fit its metadata: .* not "),
        ({"channels": "99999999999"}, "broken metadata"),
        ({"channels_in": "3"}, "do not fit its metadata: stages.0.out.bias is"),
        ({"degradation": '{"kind": "rain", "levels": [1]}'}, "broken metadata: .*rain"),
        ({"degradation": "[]"}, "broken metadata"),
    ],
)
def test_foreign_metadata_is_refused(tmp_path, saved, metadata, says):
    path = tmp_path / "supernet.safetensors"
    tensors, written = read_safetensors(saved)
    write_safetensors(path, tensors, written | metadata)
    with pytest.raises(WeightsError, match=says) as caught:
        load_supernet(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_supernet_files_are_refused(tmp_path, saved):
    path = tmp_path / "supernet.safetensors"
    with pytest.raises(WeightsError, match=r"no such file; give a supernet\.safetensors"):
        load_supernet(path)
    with pytest.raises(WeightsError, match="it is a folder"):
        load_supernet(tmp_path)
    whole = saved.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        load_supernet(path)
    path.write_bytes(whole)
    tensors, metadata = read_safetensors(path)
    key = "architecture.decoder.1.up.beta"
    tensors[key][2, 1] = float("nan")
    write_safetensors(path, tensors, metadata)
    with pytest.raises(WeightsError, match=f"{key} holds NaN"):
        load_supernet(path)
    write_safetensors(path, {**tensors, key: torch.ones(5, 4), "more": torch.ones(1)}, metadata)
    with pytest.raises(WeightsError, match="more is unknown"):
        load_supernet(path)
    save_file(load_file(path), path)
    with pytest.raises(WeightsError, match="lacks format"):
        load_supernet(path)
    path.write_bytes(whole)
    with pytest.raises(ModnasError, match="there is no backend 'best'"):
        load_supernet(path, "best")


def test_a_supernet_file_knows_how_depth_was_searched(tmp_path):
    net = SuperNet(1, 4, depth_search="skip")
    save_supernet(tmp_path / "net.safetensors", net)
    again = load_supernet(tmp_path / "net.safetensors")
    assert again.architecture.depth_search == "skip"
    assert again.state_dict().keys() == net.state_dict().keys()
    tensors, metadata = read_safetensors(tmp_path / "net.safetensors")
    write_safetensors(tmp_path / "net.safetensors", tensors, metadata | {"depth_search": "sideways"})
    with pytest.raises(WeightsError, match="choose dense or skip"):
        load_supernet(tmp_path / "net.safetensors")
