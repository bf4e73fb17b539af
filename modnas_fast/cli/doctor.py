"""Say what runs on this machine, and why: versions, the compiled engine or what keeps it away, and devices."""

from __future__ import annotations

import argparse
import platform


def add_arguments(parser: argparse.ArgumentParser) -> None:
    del parser  # takes none


def run(arguments: argparse.Namespace) -> int:
    import numpy as np
    import torch

    from modnas_fast.engine.denoiser import Denoiser
    from modnas_fast.engine.engine import engine_obstacle
    from modnas_fast.version import __version__

    print(f"modnas-fast {__version__}, Python {platform.python_version()}, {platform.machine()} {platform.system()}")
    print(f"torch {torch.__version__}, numpy {np.__version__}, {torch.get_num_threads()} threads")
    obstacle = engine_obstacle()
    if obstacle:
        print(f"compiled engine: not used: {obstacle}")
    else:
        from modnas_fast import _engine

        variants = _engine.variants()
        float32 = next(variant for variant in variants if variant != "avx512_bf16")
        print(
            f"compiled engine: runs, with kernels for {', '.join(variants)}; "
            f"uses {float32} for float32, {variants[0]} for bfloat16"
        )
    from modnas_fast.engine.cuda import cuda_obstacle

    for index in range(max(1, torch.cuda.device_count())):
        obstacle = cuda_obstacle(index)
        print(f"compiled engine on cuda:{index}: " + (f"not used: {obstacle}" if obstacle else "runs"))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "torch sees none"
    print(f"CUDA device: {device}")
    for denoiser in (Denoiser(), Denoiser().for_channels(3)):
        print(f"denoising with {denoiser.name}: on {denoiser.device} by {denoiser.backend}")
    return 0
