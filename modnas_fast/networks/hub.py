"""Networks on the Hugging Face Hub, by its own mixin. Needs the package huggingface_hub (the extra `hub`).

HubNet(net).push_to_hub("you/your-denoiser")
net = HubNet.from_pretrained("you/your-denoiser").net
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modnas_fast.errors import ModnasError
from modnas_fast.networks.derived import DerivedNet
from modnas_fast.networks.weights import WeightsError, load, save_weights

try:
    from huggingface_hub import ModelHubMixin, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
except ImportError:
    raise ModnasError("the Hub needs the package huggingface_hub: pip install 'modnas-fast[hub]'") from None

FILE = "model.safetensors"

_CARD = """---
{{ card_data }}
---
A denoiser of [modnas-fast](https://pypi.org/project/modnas-fast), {{ summary }}.

```python
from modnas_fast import HubNet

net = HubNet.from_pretrained("{{ repo_id | default('you/this-model', true) }}").net  # float [N, C, H, W] in [0, 1]
```
"""


class HubNet(
    ModelHubMixin,
    library_name="modnas-fast",
    pipeline_tag="image-to-image",
    tags=["image-denoising", "neural-architecture-search"],
    paper_url="https://arxiv.org/abs/2104.02525",
    model_card_template=_CARD,
):
    """A network with the Hub's `save_pretrained`, `from_pretrained` and `push_to_hub`.

    A repository, or a folder, holds one self-describing weight file, model.safetensors, which `modnas_fast.load` reads
    too, and a model card.

    Args:
        net: the network, `HubNet.net`.

    Raises:
        ModnasError: something else.
    """

    def __init__(self, net: DerivedNet) -> None:
        if not isinstance(net, DerivedNet):
            raise ModnasError(f"net is a {type(net).__name__}; give a network, as modnas_fast.load has it")
        self.net = net

    def _save_pretrained(self, save_directory: Path) -> None:
        save_weights(save_directory / FILE, self.net)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # its keyword arguments would be a constructor's
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> HubNet:
        """The network of a folder, or of a repository on the Hub; the arguments are those of `hf_hub_download`.

        Raises:
            WeightsError: neither has a weight file, or as `load`.
        """
        if Path(pretrained_model_name_or_path).is_dir():
            return cls(load(Path(pretrained_model_name_or_path) / FILE))
        name = str(pretrained_model_name_or_path)
        try:
            path = hf_hub_download(
                name,
                FILE,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
            reason = str(error).strip().splitlines()[0]
            raise WeightsError(f"{name}: neither a folder nor a model that the Hub gives ({reason})") from None
        return cls(load(path))

    def push_to_hub(self, repo_id: str, **settings: Any) -> str:
        """Upload to the Hub; `settings` are the mixin's: private, branch, commit_message, token, …"""
        settings["model_card_kwargs"] = {"repo_id": repo_id} | settings.get("model_card_kwargs", {})
        return super().push_to_hub(repo_id, **settings)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> Any:
        """The mixin's, with what the network is."""
        net = self.net
        colour = {1: "gray", 3: "RGB"}.get(net.channels_in, f"{net.channels_in} channels")
        count = sum(parameter.numel() for parameter in net.parameters())
        trained = f", trained for {net.degradation}" if net.degradation else ""
        summary = f"{net.genotype.name}, T = {len(net.stages)}, {colour}, {count:,} parameters{trained}"
        return super().generate_model_card(*args, summary=summary, **kwargs)
