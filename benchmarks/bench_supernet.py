"""One W-step of the supernet, forward, MSE, backward and Adam, by backend and precision.

python -m benchmarks.bench_supernet [--device cpu|cuda] [--repeats 5] [--rivals folded fused] [-o FILE]

T = 2, C = 48, 12 patches of 64² gray, channels_last. Backends are compared in every gradient first, then timed in turn
in one process. Memory, on a CPU, is the peak of a fresh process that takes two steps less that of one that only builds
the network and its optimiser; on a GPU what two steps allocate at most above the built network, or, captured, those
that a search begins with. float32 is without TF32.

"compiled" is the reference with every normal layer compiled by torch.compile: 24 graphs, some ten minutes on two cores
before anything is timed. Compiling the network as a whole takes longer than its users would wait. Its memory is not
measured, since the compiler's own would count. On a GPU "+ graph" is the step as the search runs it there, captured.
The reference is always among the rivals.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from unittest import mock

import torch

from benchmarks.harness import PRECISIONS, Row, add_output, append_rows, interleave, peak_memory, positive
from modnas_fast.bench.machine import without_tf32
from modnas_fast.errors import ModnasError
from modnas_fast.ops import explain_backend, select_backend
from modnas_fast.runs.graphed import EAGER_STEPS, GraphedStep, build_adam
from modnas_fast.runs.processes import Processes
from modnas_fast.search import SuperNet, backends
from modnas_fast.search.steps import Step

STAGES, CHANNELS, SHAPE, THREADS = 2, 48, (12, 1, 64, 64), 2
DTYPES = ("float32", "bfloat16")
COMPILED, GRAPH = "compiled", " + graph"
RIVALS = ("folded", "fused", COMPILED)
# Of a gradient's norm: ε·√8192 for most. Where a ReLU's mask flips by rounding, one errs by the root of its share.
_TYPICAL, _LARGEST = 1e-5, 1e-3
_STEPS = """from benchmarks.bench_supernet import prepare
_, step = prepare({variant!r}, {dtype!r})
for _ in range({steps}):
    step()"""


def prepare(variant: str, dtype: str, device: str = "cpu") -> tuple[SuperNet, Callable[[], object]]:
    """A supernet and its W-step on fixed data; deterministic, so that two variants start alike."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    name = variant.removesuffix(GRAPH)
    net = SuperNet(STAGES, CHANNELS, backend="reference" if name == COMPILED else name)
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    clean = torch.rand(SHAPE)
    noisy = clean + 25 / 255 * torch.randn(SHAPE)
    batch = [image.to(device, memory_format=torch.channels_last) for image in (noisy, clean)]
    parameters = list(net.weight_parameters())
    graphed = variant.endswith(GRAPH)
    alone = Processes(0, 1, torch.device(device))
    eager = Step(net, parameters, build_adam(parameters, 1e-3, captured=graphed), PRECISIONS[dtype], alone)
    step = GraphedStep(eager) if graphed else eager
    if name != COMPILED:
        return net, lambda: step(*batch)
    torch._dynamo.config.recompile_limit = 64  # 12 shapes of layers, in two precisions
    layer = torch.compile(backends._normal, dynamic=False)

    def compiled_step() -> object:
        with mock.patch.object(backends, "_normal", layer):
            return step(*batch)

    return net, compiled_step


def gradient_errors(names: list[str], device: str) -> tuple[float, float]:
    """Median and largest relative L2 difference from the reference's gradients, over all parameters, in float32."""
    y = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))[:2].to(device)
    gradients = []
    for name in names:
        net, _ = prepare(name, "float32", device)
        net(y).square().mean().backward()
        gradients.append([torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()])
    pairs = [pair for mine in gradients[1:] for pair in zip(gradients[0], mine, strict=True)]
    errors = [float((mine - theirs).norm() / theirs.norm()) for theirs, mine in pairs]
    return statistics.median(errors), max(errors)


def memory(variant: str, dtype: str, device: str) -> float | None:
    """MiB of two steps' peak above the built net's; see the module."""
    if variant == COMPILED:
        return None
    if device == "cpu":
        peaks = [peak_memory(_STEPS.format(variant=variant, dtype=dtype, steps=n), THREADS) for n in (2, 0)]
        return peaks[0] - peaks[1]
    _, step = prepare(variant, dtype, device)
    torch.cuda.reset_peak_memory_stats()
    built = torch.cuda.memory_allocated()
    for _ in range(EAGER_STEPS + 2 if variant.endswith(GRAPH) else 2):
        step()
    return (torch.cuda.max_memory_allocated() - built) / 2**20


def variants_on(device: str, rivals: Sequence[str]) -> list[str]:
    """The reference and those of the rivals that run there; says why others do not."""
    names = ["reference"]
    for name in rivals:
        try:
            names.append(name if name == COMPILED else select_backend(name, torch.device(device)))
        except ModnasError:
            print(explain_backend(name, device))
    graphs = [] if device == "cpu" else [name + GRAPH for name in names if name != COMPILED]
    return [*names, *graphs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=positive, default=5, help="timed steps of each")
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS), help="beside the reference")
    add_output(parser)
    with without_tf32():
        run(parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    """Measures and prints; adds the rows."""
    device, names = arguments.device, variants_on(arguments.device, arguments.rivals)
    compared, error = [name for name in names if name != COMPILED and not name.endswith(GRAPH)], None
    if len(compared) > 1:
        typical, error = gradient_errors(compared, device)
        print(f"gradients differ by {typical:.1e}, {error:.1e} at most", flush=True)
        if not (typical < _TYPICAL and error < _LARGEST):
            sys.exit("the backends disagree: nothing was measured")
    variants = [(name, dtype) for dtype in DTYPES for name in names]
    peaks = {variant: memory(*variant, device) for variant in variants}
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    steps = {" ".join(variant): prepare(*variant, device)[1] for variant in variants}
    timings = interleave(steps, arguments.repeats, warmup=1 if device == "cpu" else 5, wait=wait)
    rows: list[Row] = []
    for name, dtype in variants:
        timing, peak = timings[f"{name} {dtype}"], peaks[name, dtype]
        rows.append(
            {
                "op": "supernet W-step",
                "backend": name,
                "mode": f"T={STAGES} C={CHANNELS} channels_last, forward + backward + Adam",
                "dtype": dtype,
                "shape": list(SHAPE),
                **timing.as_row(),
                "peak_mib": peak,
                "error": error,
                "device": "cpu" if device == "cpu" else torch.cuda.get_device_name(),
                "threads": THREADS,
            }
        )
        ratio = timings[f"reference {dtype}"].median / timing.median
        figures = f"{1e3 * timing.median:8.1f} ms ({1e3 * timing.low:.1f}-{1e3 * timing.high:.1f})  {ratio:5.2f}x"
        print(f"{name + ' ' + dtype:28} {figures}  {'' if peak is None else f'{peak:6.0f} MiB'}")
    print(append_rows(rows, arguments.output))


if __name__ == "__main__":
    main()
