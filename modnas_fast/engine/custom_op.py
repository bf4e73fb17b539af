"""The engine as an operator of PyTorch, which can stand inside torch.compile and torch.export.

denoiser = EngineModule.from_pretrained("modnas-b-t1-gray-s25", threads=2)
pipeline = torch.compile(lambda y: denoiser(y).clamp(0, 1), fullgraph=True)

The operator is `modnas_fast::denoise(Tensor y, Tensor model, int threads, str dtype) -> Tensor`. `model` is a weight
file, byte for byte: it describes its network, so the operator has no state that a graph could not hold, and an
exported program carries the network in itself. The engine is made at the first call with a model and kept with it:
planning and packing happen once. Images are read and written where they are, without copies.

Limits: CPU tensors in float32; no gradients, since the engine is for inference; engines of the last 8 models are kept,
so a ninth is made anew at every turn. Whoever loads an exported program imports this module first.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor, nn

from modnas_fast.engine.engine import Engine
from modnas_fast.errors import ModnasError
from modnas_fast.networks import DerivedNet, load, plain_net
from modnas_fast.networks.weights import net_from_bytes, weights_to_bytes

_ENGINES_KEPT = 8

# A model's tensor is held beside its engine, so that no other can come to lie at the same address meanwhile.
_Key = tuple[int, int, int, int, str]
_engines: OrderedDict[_Key, tuple[Tensor, Engine]] = OrderedDict()
_lock = threading.Lock()


@torch.library.custom_op("modnas_fast::denoise", mutates_args=(), device_types="cpu")
def denoise_op(y: Tensor, model: Tensor, threads: int, dtype: str) -> Tensor:
    """Denoise a batch with the compiled engine.

    Args:
        y: float32 [N, C, H, W] on the CPU, strided as it may be.
        model: uint8 [bytes], a weight file. Changing it in place is noticed.
        threads: that share an image; 0: the processors that this process may use.
        dtype: as `Engine`'s.

    Returns:
        float32 [N, C, H, W], contiguous, not clipped.

    Raises:
        ModnasError: as `Engine`, `load` and calls of an engine.
    """
    out = torch.empty(y.shape, dtype=torch.float32)
    _engine_of(model, threads, dtype)(y, out=out)
    return out


@denoise_op.register_fake
def _(y: Tensor, model: Tensor, threads: int, dtype: str) -> Tensor:
    return torch.empty(y.shape, dtype=torch.float32, device=y.device)


def _engine_of(model: Tensor, threads: int, dtype: str) -> Engine:
    version = 0 if model.is_inference() else model._version
    key = (model.data_ptr(), model.numel(), version, threads, dtype)
    with _lock:
        if key in _engines:
            _engines.move_to_end(key)
        else:
            if model.dtype != torch.uint8 or not model.is_contiguous():
                raise ModnasError(f"model is {model.dtype}; give a weight file as contiguous bytes (torch.uint8)")
            net = net_from_bytes(model.numpy().tobytes(), "model")
            engine = Engine(net.genotype, net.state_dict(), dtype=dtype, threads=threads or None)
            _engines[key] = (model, engine)
            while len(_engines) > _ENGINES_KEPT:
                _engines.popitem(last=False)
        return _engines[key][1]


class EngineModule(nn.Module):
    """A network on the compiled engine, as a module for inference; see above for what it may stand in.

    The weights are one buffer, `model`: no parameters, nothing to train, and nothing that `.to(dtype)` would change.

    Args:
        net: the network.
        threads: that share an image; 0: the processors that this process may use.
        dtype: as `Engine`'s.
    """

    model: Tensor

    def __init__(self, net: DerivedNet, threads: int = 0, dtype: str = "float32") -> None:
        super().__init__()
        self.threads, self.dtype = threads, dtype
        content = np.frombuffer(weights_to_bytes(net), np.uint8)
        self.register_buffer("model", torch.from_numpy(content.copy()))

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        threads: int = 0,
        dtype: str = "float32",
        sigma: float | None = None,
    ) -> EngineModule:
        """The module of a shipped model, by name, or of a weight file; of one for every σ, at `sigma`.

        Raises:
            ModnasError: as `networks.load` and `networks.plain_net`.
        """
        return cls(plain_net(load(name_or_path), sigma, os.fspath(name_or_path)), threads, dtype)

    def forward(self, y: Tensor) -> Tensor:
        """As `Engine.__call__`: float32 [N, C, H, W] with any H, W ≥ 1 on the CPU, to the same shape."""
        return denoise_op(y, self.model, self.threads, self.dtype)
