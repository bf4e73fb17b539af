"""MoD-NAS made fast: gradient-based architecture search for image denoisers, and the denoisers it finds.

import modnas_fast
clean = modnas_fast.denoise(noisy, sigma=25)       # NumPy array, Pillow image or tensor
net = modnas_fast.load("modnas-b-t1-gray-s25")     # a torch module: float [N, 1, H, W] in [0, 1]
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modnas_fast.version import __version__

if TYPE_CHECKING:
    from modnas_fast.engine.denoiser import Denoiser, denoise
    from modnas_fast.errors import ModnasError
    from modnas_fast.genotype import PRIMITIVES, Genotype
    from modnas_fast.networks import ConditionedNet, DerivedNet, load
    from modnas_fast.networks.hub import HubNet
    from modnas_fast.networks.plug_and_play import PlugAndPlay

__all__ = [
    "PRIMITIVES",
    "ConditionedNet",
    "Denoiser",
    "DerivedNet",
    "Genotype",
    "HubNet",
    "ModnasError",
    "PlugAndPlay",
    "__version__",
    "denoise",
    "load",
]

_checkout = Path(__file__).parents[1]
if (_checkout / "setup.py").exists() and (_checkout / "kernels").is_dir():
    # Only a wheel has the kernels inside the package; here `modnas_fast.kernels` is found beside it.
    __path__.append(str(_checkout))

_HOMES = {
    "Denoiser": "modnas_fast.engine.denoiser",
    "denoise": "modnas_fast.engine.denoiser",
    "ModnasError": "modnas_fast.errors",
    "PRIMITIVES": "modnas_fast.genotype",
    "Genotype": "modnas_fast.genotype",
    "ConditionedNet": "modnas_fast.networks",
    "DerivedNet": "modnas_fast.networks",
    "HubNet": "modnas_fast.networks.hub",
    "PlugAndPlay": "modnas_fast.networks.plug_and_play",
    "load": "modnas_fast.networks",
}


def __getattr__(name: str) -> Any:
    """Import a public name's home when it is first asked for, so that `import modnas_fast` itself is cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
