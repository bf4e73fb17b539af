"""Networks in folders and on the Hub, which is played by a stand-in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import huggingface_hub.hub_mixin
import pytest
import torch

from modnas_fast import DerivedNet, HubNet, ModnasError, load
from modnas_fast.images.degradations import Degradation
from modnas_fast.networks import ConditionedNet, WeightsError, hub
from tests.cases import random_genotype


def network(kind: type[DerivedNet] = DerivedNet) -> DerivedNet:
    torch.manual_seed(0)
    net = kind(random_genotype(3), 2)
    net.degradation = Degradation("awgn", (0, 55), between=True)
    return net


@pytest.mark.parametrize("kind", [DerivedNet, ConditionedNet])
def test_a_folder(kind: type[DerivedNet], tmp_path: Path) -> None:
    net = network(kind)
    HubNet(net).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "README.md"}
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "T = 2, gray" in card
    assert "trained for σ = 0 to 55" in card
    assert "library_name: modnas-fast" in card
    again = HubNet.from_pretrained(tmp_path).net
    assert type(again) is kind
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in again.state_dict().items())
    assert load(tmp_path / "model.safetensors").genotype == net.genotype


def test_there_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub is a folder here: what is uploaded to it is what is downloaded from it."""

    class Api:
        def __init__(self, *args: object, **kwargs: object) -> None: ...

        def create_repo(self, repo_id: str, **kwargs: object) -> object:
            (tmp_path / repo_id).mkdir(parents=True)
            return type("Repository", (), {"repo_id": repo_id})()

        def upload_folder(self, *, repo_id: str, folder_path: Path, **kwargs: object) -> str:
            for path in Path(folder_path).iterdir():
                path.rename(tmp_path / repo_id / path.name)
            return "a commit"

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Api)
    monkeypatch.setattr(hub, "hf_hub_download", lambda name, file, **settings: str(tmp_path / name / file))
    net = network()
    assert HubNet(net).push_to_hub("me/my-denoiser") == "a commit"
    assert 'from_pretrained("me/my-denoiser")' in (tmp_path / "me/my-denoiser/README.md").read_text(encoding="utf-8")
    y = torch.rand(1, 1, 8, 8)
    torch.testing.assert_close(HubNet.from_pretrained("me/my-denoiser", local_files_only=True).net(y), net(y))


def test_what_goes_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        HubNet.from_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="neither a folder nor a model that the Hub gives"):
        HubNet.from_pretrained("me/nothing", local_files_only=True)
    with pytest.raises(ModnasError, match="net is a str; give a network"):
        HubNet("modnas-b-t1-gray")
    HubNet(network()).save_pretrained(tmp_path / "saved")
    with pytest.raises(WeightsError, match=r"saved': it is a folder; give the file in it, .*saved.model\.safetensors$"):
        load(tmp_path / "saved")
    code = "import sys; sys.modules['huggingface_hub'] = None; import modnas_fast; modnas_fast.HubNet"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'modnas-fast[hub]'" in finished.stderr
