"""The engine and the programs that it is compared with, each with its best settings, behind one call.

Every rival gets the network for one fixed image size, a multiple of 8, so that nobody pads or crops; weights are packed
and shapes are known before anything is timed. A rival's `prepare` may write files into a folder, which another process
then reads; it returns the call that is timed, from the NumPy image to a NumPy result.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Call = Callable[[Array], Array]

MODEL = "modnas-b-t1-gray-s25"


class NotMeasuredError(Exception):
    """Why a rival cannot run here, or in this precision."""


@dataclass(frozen=True)
class Job:
    """What a rival has to do: a square gray image of this side, in this precision, on this many threads."""

    side: int
    dtype: str
    threads: int
    folder: Path  # for files

    @property
    def reduced(self) -> bool:
        return self.dtype == "bfloat16"


@dataclass(frozen=True)
class Rival:
    """`packages`: what it needs beyond this package's own requirements, module name → pip name."""

    name: str
    prepare: Callable[[Job], Call]
    packages: dict[str, str]

    def check(self) -> None:
        """Raise `NotMeasuredError` where a package is missing."""
        missing = [pip for module, pip in self.packages.items() if importlib.util.find_spec(module) is None]
        if missing:
            raise NotMeasuredError(f"not installed: pip install {' '.join(missing)}")


def _engine(job: Job) -> Call:
    from modnas_fast.engine.engine import Engine
    from modnas_fast.errors import ModnasError

    try:
        engine = Engine.from_pretrained(MODEL, dtype=job.dtype, threads=job.threads)
    except ModnasError as error:
        raise NotMeasuredError(str(error)) from None
    engine.warmup(job.side, job.side)
    out = np.empty((1, 1, job.side, job.side), np.float32)
    return lambda y: engine(y, out=out)


def _torch(job: Job, compiled: bool) -> Call:
    import torch
    from torch._inductor import config

    from modnas_fast import load

    torch.set_num_threads(job.threads)
    net: Any = load(MODEL).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if compiled:
        torch.compiler.reset()  # after 8 sizes and precisions it would run the network uncompiled
        net = torch.compile(net, dynamic=False)

    def call(y: Array) -> Array:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=job.reduced), config.patch(freezing=True):
            return net(torch.from_numpy(y)).float().numpy()

    return call


def _onnx_file(job: Job) -> Path:
    """The exported network for this one size, without its padding and cropping."""
    import onnx

    from modnas_fast import load
    from modnas_fast.engine.onnx_graph import build_onnx

    path = job.folder / f"{job.side}.onnx"
    if not path.exists():
        model = build_onnx(load(MODEL), {})
        crop = model.graph.node[-1]
        around = {"Shape", "Neg", "Mod", "Pad", "Slice"}
        nodes = [node for node in model.graph.node if node.op_type not in around and node.name != "pads"]
        used = {name for node in nodes for name in node.input}
        constants = [constant for constant in model.graph.initializer if constant.name in used]
        shape = [1, 1, job.side, job.side]
        ends = [onnx.helper.make_tensor_value_info(name, 1, shape) for name in ("padded", crop.input[0])]
        graph = onnx.helper.make_graph(nodes, "modnas_fast", ends[:1], ends[1:], constants)
        fixed = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
        onnx.checker.check_model(fixed, full_check=True)
        onnx.save(fixed, path)
    return path


def _onnxruntime(job: Job) -> Call:
    import onnxruntime

    if job.reduced:
        raise NotMeasuredError("ONNX Runtime has no bfloat16 convolution for this processor")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(str(_onnx_file(job)), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda y: session.run(None, {name: y})[0]


def _openvino(job: Job) -> Call:
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if job.reduced else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": job.threads,
        "NUM_STREAMS": 1,
    }
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(_onnx_file(job)), "CPU", settings)
    if compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() != settings["INFERENCE_PRECISION_HINT"]:
        raise NotMeasuredError(f"OpenVINO has no {job.dtype} here")
    request = compiled.create_infer_request()
    return lambda y: request.infer([y], share_inputs=True, share_outputs=True)[0]


def _ncnn(job: Job) -> Call:
    import ncnn

    stem = job.folder / f"ncnn{job.side}"
    if not stem.with_suffix(".ncnn.bin").exists():
        _convert_for_ncnn(job, stem)
    net = ncnn.Net()
    options = net.opt
    options.num_threads = job.threads
    options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
    options.use_bf16_storage = options.use_bf16_packed = job.reduced
    allocators = ncnn.UnlockedPoolAllocator(), ncnn.PoolAllocator()
    _ncnn_allocators.append(allocators)
    options.blob_allocator, options.workspace_allocator = allocators
    net.load_param(str(stem.with_suffix(".ncnn.param")))
    net.load_model(str(stem.with_suffix(".ncnn.bin")))

    def call(y: Array) -> Array:
        extractor = net.create_extractor()
        extractor.input(net.input_names()[0], ncnn.Mat(y[0]))
        return np.array(extractor.extract(net.output_names()[0])[1])[None]

    return call


_ncnn_allocators: list[Any] = []  # kept, since they must outlive their nets, which do not own them


def _convert_for_ncnn(job: Job, stem: Path) -> None:
    import pnnx
    import torch

    from modnas_fast import load

    traced = torch.jit.trace(load(MODEL), torch.zeros(1, 1, job.side, job.side))
    traced.save(str(stem.with_suffix(".pt")))
    program = Path(str(pnnx.__file__)).parent / "pnnx"
    command = [str(program), stem.with_suffix(".pt").name, f"inputshape=[1,1,{job.side},{job.side}]", "fp16=0"]
    subprocess.run(command, check=True, capture_output=True, cwd=job.folder)


def _mnn(job: Job) -> Call:
    file = job.folder / f"{job.side}.mnn"
    if not file.exists():
        arguments = ["-f", "ONNX", "--modelFile", str(_onnx_file(job)), "--MNNModel", str(file), "--bizCode", "MNN"]
        subprocess.run(
            [sys.executable, "-m", "MNN.tools.mnnconvert", *arguments], check=True, capture_output=True, cwd=job.folder
        )
    call = _mnn_module(job, file, "Low_BF16" if job.reduced else "high")
    if job.reduced:
        probe = np.random.default_rng(0).random((1, 1, job.side, job.side), np.float32)
        if np.array_equal(call(probe), _mnn_module(job, file, "high")(probe)):
            raise NotMeasuredError("MNN takes the precision Low_BF16 and gives its float32 answer, to the bit")
    return call


def _mnn_module(job: Job, file: Path, precision: str) -> Call:
    import MNN

    settings = {"backend": "CPU", "numThread": job.threads, "precision": precision, "memory": "high", "power": "high"}
    manager = MNN.nn.create_runtime_manager((settings,))
    ends = _ends(_onnx_file(job))
    module = MNN.nn.load_module_from_file(str(file), *ends, runtime_manager=manager, shape_mutable=False)

    def call(y: Array) -> Array:
        noisy = MNN.expr.const(y, list(y.shape), MNN.expr.NCHW)
        return np.array(MNN.expr.convert(module.forward([noisy])[0], MNN.expr.NCHW).read()).reshape(y.shape)

    return call


def _ends(path: Path) -> tuple[list[str], list[str]]:
    import onnx

    graph = onnx.load(path).graph
    return [graph.input[0].name], [graph.output[0].name]


_ONNX = {"onnx": "onnx"}
_TORCH_COMPILER = "torch.compile"

RIVALS = {
    rival.name: rival
    for rival in (
        Rival("engine", _engine, {}),
        Rival("torch eager", lambda job: _torch(job, compiled=False), {}),
        Rival(_TORCH_COMPILER, lambda job: _torch(job, compiled=True), {}),
        Rival("onnxruntime", _onnxruntime, {**_ONNX, "onnxruntime": "onnxruntime"}),
        Rival("openvino", _openvino, {**_ONNX, "openvino": "openvino"}),
        Rival("ncnn", _ncnn, {"ncnn": "ncnn", "pnnx": "pnnx"}),
        Rival("mnn", _mnn, {**_ONNX, "MNN": "MNN"}),
    )
}


def prepare(name: str, job: Job) -> Call:
    """The rival's call for this job.

    Raises:
        NotMeasuredError: it cannot run here, or not in this precision.
    """
    RIVALS[name].check()
    if name == _TORCH_COMPILER and shutil.which("g++") is None:
        raise NotMeasuredError("torch.compile needs a C++ compiler")
    return RIVALS[name].prepare(job)
