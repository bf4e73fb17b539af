"""Published weight files of the baselines: their authors' names and wrappings, and what is said of other files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from modnas_fast.errors import ModnasError
from modnas_fast.networks.baselines import BASELINES, load_baseline
from modnas_fast.networks.baselines.dncnn import DnCNN
from modnas_fast.networks.weights import WeightsError

State = dict[str, Tensor]

# Tensor names of published files and shapes in them, from the authors' repositories.
PUBLISHED = {
    ("ffdnet", 1): {"model.0.weight": (64, 5, 3, 3), "model.28.bias": (4,)},
    ("ffdnet", 3): {"model.0.weight": (96, 13, 3, 3), "model.22.weight": (12, 96, 3, 3)},
    ("drunet", 1): {
        "m_head.weight": (64, 2, 3, 3),
        "m_down1.0.res.0.weight": (64, 64, 3, 3),
        "m_down1.4.weight": (128, 64, 2, 2),
        "m_body.3.res.2.weight": (512, 512, 3, 3),
        "m_up3.0.weight": (512, 256, 2, 2),
        "m_up1.4.res.2.weight": (64, 64, 3, 3),
        "m_tail.weight": (1, 64, 3, 3),
    },
    ("scunet", 3): {
        "m_head.0.weight": (64, 3, 3, 3),
        "m_down1.0.trans_block.ln1.weight": (32,),
        "m_down1.1.trans_block.msa.relative_position_params": (1, 15, 15),
        "m_down2.3.trans_block.msa.embedding_layer.weight": (192, 64),
        "m_down3.0.trans_block.mlp.2.bias": (128,),
        "m_down3.4.weight": (512, 256, 2, 2),
        "m_body.0.conv1_1.weight": (512, 512, 1, 1),
        "m_up2.1.conv_block.2.weight": (64, 64, 3, 3),
        "m_tail.0.weight": (3, 64, 3, 3),
    },
    ("nafnet", 3): {
        "intro.weight": (32, 3, 3, 3),
        "encoders.3.7.conv2.weight": (512, 1, 3, 3),
        "encoders.0.0.sca.1.weight": (32, 32, 1, 1),
        "downs.0.bias": (64,),
        "middle_blks.11.norm2.weight": (512,),
        "ups.0.0.weight": (1024, 512, 1, 1),
        "decoders.3.1.beta": (1, 32, 1, 1),
        "ending.bias": (3,),
    },
    ("vdn", 3): {
        "DNet.down_path.0.block.0.weight": (64, 3, 3, 3),
        "DNet.up_path.2.up.weight": (128, 64, 2, 2),
        "DNet.up_path.0.conv_block.block.2.bias": (256,),
        "DNet.last.weight": (6, 64, 3, 3),
    },
}

# What turns our names into the authors', where they differ.
INVERSES: dict[str, tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]] = {
    "n3net": ((r"distance_norm", "n3aggregation.aggregation.nnn.bn"),),
    "ecae": ((r"^layers\.(\d+)\.", r"layer_module.\1.conv1.0."),),
    "danet": ((r"^unet\.", ""),),
    "dpdnn": (
        (r"^encoders\.(\d)", lambda found: f"Feature_Encoder{int(found[1]) + 1}_fe"),
        (r"^downs\.(\d)", lambda found: f"Feature_Encoder{int(found[1]) + 1}_down"),
        (r"^ups\.(\d)", lambda found: f"decoder_up{int(found[1]) + 1}"),
        (r"^decoders\.(\d)", lambda found: f"Feature_Decoder{int(found[1]) + 1}"),
        (r"^(delta|eta)\.(\d)", lambda found: f"{found[1]}_{int(found[2]) + 1}"),
        (r"^middle\.", "encoder_end."),
        (r"^out\.", "Feature_Decoder_end."),
    ),
    "cbdnet": (
        (r"^estimator\.", "fcn.fcn."),
        (r"^out\.", "unet.outc.conv."),
        (r"^up(\d)\.", r"unet.up\1.up."),
        *(
            (rf"^{ours}\.(\d+)\.", lambda found, theirs=theirs: f"unet.{theirs}.{int(found[1]) // 2}.conv.0.")
            for ours, theirs in {
                "enter": "inc",
                "down1": "conv1",
                "down2": "conv2",
                "merge1": "conv3",
                "merge2": "conv4",
            }.items()
        ),
    ),
    "ffdnet": (),
}
AUTHORS = {
    "n3net": {"blocks.0.conv1.weight", "nls.1.n3aggregation.aggregation.nnn.bn.bias", "nls.0.tempcnn.6.bias"},
    "ecae": {"layer_module.0.conv1.0.weight", "layer_module.14.conv1.0.weight"},
    "danet": {"down_path.0.block.0.weight", "down_path.3.downsample.weight", "up_path.0.conv_block.block.2.bias"},
    "dpdnn": {"Feature_Encoder1_fe.0.weight", "decoder_up4.bias", "delta_6", "Feature_Decoder2.8.weight"},
    "cbdnet": {"fcn.fcn.8.bias", "unet.inc.1.conv.0.weight", "unet.conv2.5.conv.0.bias", "unet.up1.up.weight"},
    "ffdnet": {"model.0.weight"},
}
WRAPPINGS: dict[str, Callable[[State], object]] = {
    "n3net": lambda state: {"net": state, "epoch": 51},
    "ecae": lambda state: state,
    "danet": lambda state: {"D": state, "G": {}},
    "dpdnn": lambda state: {f"module.{key}": value for key, value in state.items()},
    "cbdnet": lambda state: {"epoch": 1, "state_dict": {f"module.{key}": value for key, value in state.items()}},
    "ffdnet": lambda state: {"params": state},
}


def trained(name: str, channels_in: int) -> nn.Module:
    torch.manual_seed(0)
    net = BASELINES[name].build(channels_in).eval()
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for tensor in (module.running_var, module.weight, module.bias):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return net


def call(name: str, net: nn.Module, y: Tensor) -> Tensor:
    with torch.no_grad():
        return net(y, 25.0) if BASELINES[name].noise == "sigma" else net(y)


def refused(says: str, name: str, path: Path, channels_in: int = 1) -> str:
    with pytest.raises(WeightsError, match=says) as caught:
        load_baseline(name, path, channels_in)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("name", "channels_in"), PUBLISHED)
def test_names_are_those_of_published_files(name: str, channels_in: int) -> None:
    with torch.device("meta"):
        state = BASELINES[name].build(channels_in).state_dict()
    for key, shape in PUBLISHED[name, channels_in].items():
        assert tuple(state[key].shape) == shape


@pytest.mark.parametrize("name", INVERSES)
def test_files_with_their_authors_names_give_the_same_outputs(name: str, tmp_path: Path) -> None:
    channels_in = BASELINES[name].channels[0]
    net = trained(name, channels_in)
    state = {}
    for key, value in net.state_dict().items():
        for pattern, replacement in INVERSES[name]:
            key = re.sub(pattern, replacement, key)
        if not key.endswith("num_batches_tracked"):  # older files lack these
            state[key] = value
    assert AUTHORS[name] <= state.keys()
    torch.save(WRAPPINGS[name](state), tmp_path / "weights.pth")
    again = load_baseline(name, tmp_path / "weights.pth", channels_in)
    y = torch.rand(1, channels_in, 20, 16)
    assert torch.equal(call(name, again, y), call(name, net, y))
    assert not again.training


@pytest.mark.parametrize("channels_in", [1, 3])
@pytest.mark.parametrize("form", ["authors", "port", "framework", "folded", "blind"])
def test_every_form_of_dncnn_files(form: str, channels_in: int, tmp_path: Path) -> None:
    """Authors' (one bias), a port's (none, ε = 1e-5), KAIR's with norms and without, and 20 layers deep."""
    torch.manual_seed(0)
    net = DnCNN(channels_in, 20 if form == "blind" else 17, folded=form in ("folded", "blind")).eval()
    convs = [module for module in net.model if isinstance(module, nn.Conv2d)]
    if form == "port":
        convs[0].bias = None
    if form == "framework":
        for conv in convs:
            conv.bias = nn.Parameter(torch.rand(conv.out_channels) / 9)
    for module in net.model:
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5 if form == "port" else 1e-4
            nn.init.uniform_(module.running_var, 1e-4, 1e-3)  # small: a wrong ε would show
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.weight, 0.01, 0.03)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    prefix = "dncnn" if form in ("authors", "port") else "model"
    state = {f"module.{prefix}.{key}": value for key, value in net.model.state_dict().items()}
    save_file(state, tmp_path / "dncnn.safetensors")
    again = load_baseline("dncnn", tmp_path / "dncnn.safetensors", channels_in)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in again.modules())
    y = torch.rand(1, channels_in, 12, 15)
    with torch.no_grad():
        expected, folded = net(y), again(y)
    torch.testing.assert_close(folded, expected, rtol=1e-4, atol=1e-5)
    assert (expected - y).abs().mean() > 1e-3


def test_dncnn_files_that_lack_some_biases_are_refused(tmp_path: Path) -> None:
    """Biases in all convolutions, in the first or in none are forms of the network; in some, damage."""
    state = {f"model.{key}": value for key, value in DnCNN(1, 5, folded=True).model.state_dict().items()}
    for lost in ("model.4.bias", "model.0.bias"):
        save_file({key: value for key, value in state.items() if key != lost}, tmp_path / "dncnn.safetensors")
        refused(f"{lost} is missing", "dncnn", tmp_path / "dncnn.safetensors")


def test_what_training_alone_needs_is_left_out(tmp_path: Path) -> None:
    net = trained("vdn", 1)
    torch.save(net.state_dict() | {"SNet.conv1.weight": torch.zeros(64, 1, 3, 3)}, tmp_path / "vdn")
    y = torch.rand(1, 1, 8, 8)
    assert torch.equal(call("vdn", load_baseline("vdn", tmp_path / "vdn"), y), call("vdn", net, y))


def test_a_wrong_file_is_named_with_its_first_wrong_tensor(tmp_path: Path) -> None:
    path = tmp_path / "ffdnet.pth"
    torch.save(BASELINES["ffdnet"].build(1).state_dict(), path)
    message = refused("not drunet with 1 channels: m_head.weight is missing", "drunet", path)
    assert message.endswith("the file seems to be ffdnet with 1 channels")
    message = refused(r"model.0.weight is \[64, 5, 3, 3\], not \[96, 13, 3, 3\]", "ffdnet", path, 3)
    assert message.endswith("the file seems to be ffdnet with 1 channels")
    refused(r"not dncnn with 1 channels: model.0.weight is \[64, 5, 3, 3\], not \[64, 1, 3, 3\]", "dncnn", path)


def test_a_wrong_tensor_is_named(tmp_path: Path) -> None:
    path, state = tmp_path / "ecae.pth", BASELINES["ecae"].build(1).state_dict()
    torch.save({**state, "layers.15.weight": torch.zeros(3)}, path)
    message = refused(r"layers.15.weight is unknown; the file is of no known baseline", "ecae", path)
    assert message.endswith("it starts with layers.0.weight [64, 1, 3, 3]")
    torch.save({key: value for key, value in state.items() if "3" not in key}, path)
    refused("layers.3.weight is missing", "ecae", path)
    state["layers.2.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, path)
    refused("layers.2.weight holds NaN or infinite values", "ecae", path)


class Runs:
    """A pickle that runs a command when it is read."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch ran",)


def test_files_that_would_run_code_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Runs()}, tmp_path / "evil.pth")
    torch.save(DnCNN(), tmp_path / "module.pth")  # a whole pickled module
    refused("files that would run code when read are refused", "dncnn", tmp_path / "evil.pth")
    torch.save(DnCNN(), tmp_path / "older.pth", _use_new_zipfile_serialization=False)
    for name in ("module.pth", "older.pth"):
        message = refused(r"a pickled modnas_fast\.networks\.baselines\.dncnn\.DnCNN, not", "dncnn", tmp_path / name)
        assert message.endswith("load it and write torch.save(net.state_dict(), FILE)")
    assert not (tmp_path / "ran").exists()


def test_broken_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(BASELINES["ecae"].build(1).state_dict(), path)
    whole = path.read_bytes()
    for broken in (b"", b"\0", b"<html>not found</html>", whole[:1000], whole[:-200]):
        path.write_bytes(broken)
        refused("damaged, or no file of tensors alone", "ecae", path)
    torch.save({"epoch": 3, "loss": 0.5}, path)
    refused("no state dict, but a mapping with 'epoch', 'loss'", "ecae", path)
    torch.save([torch.zeros(1)], path)
    refused("no state dict, but an object of type list", "ecae", path)
    torch.save({}, path)
    refused("no state dict, but an empty mapping", "ecae", path)
    refused("No such file", "ecae", tmp_path / "nowhere.pth")
    refused("Is a directory", "ecae", tmp_path)
    (tmp_path / "text.safetensors").write_text("no tensors")
    refused("not a readable safetensors file", "ecae", tmp_path / "text.safetensors")


def test_networks_and_channels_are_checked_first(tmp_path: Path) -> None:
    with pytest.raises(ModnasError, match="unknown baseline 'resnet'; known: bm3d, "):
        load_baseline("resnet", tmp_path)
    with pytest.raises(ModnasError, match="n3net is for gray images, not for 3 channels"):
        load_baseline("n3net", tmp_path, 3)
    with pytest.raises(ModnasError, match="bm3d has no weights"):
        load_baseline("bm3d", tmp_path)
