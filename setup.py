"""What pyproject.toml cannot say: the version without importing torch, the kernels' home, and the compiled engine."""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

version = re.search(r'__version__ = "(.+)"', Path("modnas_fast/version.py").read_text(encoding="utf-8"))
assert version is not None

# The vector kernels are compiled once a variant, into a namespace each; the processor's is chosen at run time.
COMMON = ["-std=c++17", "-fvisibility=hidden", "-ffp-contract=fast", "-g0", "-Wall", "-Wextra"]
AVX512 = ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma", "-mprefer-vector-width=512"]
VARIANTS = {"portable": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    AVX512.append("-Wno-maybe-uninitialized")  # g++ 12's headers
    VARIANTS |= {"avx2": ["-mavx2", "-mfma"], "avx512": AVX512, "avx512_bf16": [*AVX512, "-mavx512bf16"]}
VECTOR_FILES = ["convolution", "depthwise", "output", "separable", "taps", "upsample", "variant", "winograd"]
SOURCES = [*sorted(map(str, Path("csrc").glob("*.cpp"))), "csrc/cpu/packing.cpp", "csrc/cpu/select.cpp"]


ENGINE, ENGINE_CUDA = "modnas_fast._engine", "modnas_fast._engine_cuda"
SWITCHES = {ENGINE: "MODNAS_FAST_EXT", ENGINE_CUDA: "MODNAS_FAST_CUDA"}
REQUIRED = ("1", "native")

# Code for these, and PTX of the last for what comes after it.
ARCHITECTURES = (75, 80, 86, 89, 90)
ELEMENT_FILES = ["convolution", "output", "separable", "stem"]  # once an element type
ELEMENTS = ["Float16", "Bfloat16"]
CUDA_SOURCES = [
    *sorted(map(str, Path("csrc/cuda").glob("*.c*"))),
    "csrc/check.cpp",
    "csrc/memory.cpp",
    "csrc/rewrite.cpp",
]


def find_nvcc():
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    for folder in [*(f"{home}/bin" for home in homes), None, "/usr/local/cuda/bin"]:
        nvcc = shutil.which("nvcc", path=folder)
        if nvcc:
            return nvcc
    raise RuntimeError("no CUDA compiler (nvcc) was there when the package was installed")


def run_compiler(command):
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout + done.stderr, end="", file=sys.stderr)
    if done.returncode != 0:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "error" in line] or ["unknown error"]
        raise RuntimeError(lines[0])


def gpus_here():
    """Compute capabilities of this machine's GPUs, 80 for 8.0."""
    elsewhere = os.pathsep.join(("/usr/local/nvidia/bin", "/usr/lib/wsl/lib"))  # containers and WSL
    tool = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path=elsewhere) or "nvidia-smi"
    try:
        query = [tool, "--query-gpu=compute_cap", "--format=csv,noheader"]
        lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return []
    return sorted({int(line.replace(".", "")) for line in lines if re.fullmatch(r"\d+\.\d", line)})


def architectures(switch):
    """Those of ARCHITECTURES to compile for: all for a wheel, otherwise what this machine's GPUs run."""
    if switch == "1":
        return ARCHITECTURES
    found = {max((number for number in ARCHITECTURES if number <= gpu), default=0) for gpu in gpus_here()} - {0}
    if not found:
        raise RuntimeError("there was no GPU when the package was installed (MODNAS_FAST_CUDA=1 builds for all)")
    return tuple(sorted(found))


def targets_of(numbers):
    code = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
    return [*code, f"-gencode=arch=compute_{numbers[-1]},code=compute_{numbers[-1]}"]


class BuildEngine(build_ext):
    """Builds modnas_fast._engine and, by nvcc, modnas_fast._engine_cuda.

    Each is required if its switch, MODNAS_FAST_EXT or MODNAS_FAST_CUDA, is 1, left out if it is 0, and otherwise built
    where that can be done. Where it cannot, the package installs without it and a note beside it says why. CUDA code is
    for this machine's GPUs; with MODNAS_FAST_CUDA=1, as wheels want it, for all; "native" is the former, and required.
    """

    def run(self):
        # Decided here: while it compiles, setuptools has `inplace` off.
        self.home = Path("modnas_fast" if self.inplace else f"{self.build_lib}/modnas_fast")
        for extension in self.extensions:
            self.note_of(extension).unlink(missing_ok=True)
            if self.switch_of(extension) == "0":
                self.leave_out(extension, f"the package was installed with {SWITCHES[extension.name]}=0")
        try:
            super().run()
        except Exception as error:
            for extension in self.extensions:
                if self.switch_of(extension) in REQUIRED:
                    raise
                self.leave_out(extension, f"it could not be compiled: {error}")

    def build_extensions(self):
        build = {ENGINE: self.build_engine, ENGINE_CUDA: self.build_engine_cuda}
        for extension in self.extensions:
            try:
                build[extension.name](extension)
            except Exception as error:
                if self.switch_of(extension) in REQUIRED:
                    raise
                self.leave_out(extension, f"it is not built: {error}")

    def switch_of(self, extension):
        return os.environ.get(SWITCHES[extension.name], "")

    def note_of(self, extension):
        self.home.mkdir(parents=True, exist_ok=True)
        return self.home / f"{extension.name.rpartition('.')[2]}_missing.txt"

    def leave_out(self, extension, reason):
        reason = " ".join(reason.split())
        print(f"{extension.name} is left out: {reason}", file=sys.stderr)
        self.extensions = [other for other in self.extensions if other is not extension]
        self.note_of(extension).write_text(reason + "\n", encoding="utf-8")

    def build_engine(self, extension):
        import pybind11

        def compile_one(source, flags, folder):
            return self.compiler.compile(
                [source],
                output_dir=f"{self.build_temp}/{folder}",
                include_dirs=["csrc", pybind11.get_include(), *self.compiler.include_dirs],
                extra_postargs=[*COMMON, *flags],
            )

        built = [f"-DMODNAS_FAST_{variant.upper()}" for variant in VARIANTS]
        jobs = [(source, ["-O1", *built], "common") for source in SOURCES]  # bindings.cpp takes longest as it is
        for variant, flags in VARIANTS.items():
            flags = ["-O3", f"-DMODNAS_FAST_ISA={variant}", *flags]
            jobs += [(f"csrc/cpu/{name}.cpp", flags, variant) for name in VECTOR_FILES]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = pool.map(lambda job: compile_one(*job), jobs)
        extension.extra_objects = [path for paths in objects for path in paths]
        extension.sources = []
        extension.depends = extension.extra_objects  # or a module that is there already would not be linked again
        self.build_extension(extension)

    def build_engine_cuda(self, extension):
        import pybind11

        nvcc, wanted = find_nvcc(), architectures(self.switch_of(extension))
        folder = Path(self.build_temp, "cuda")
        folder.mkdir(parents=True, exist_ok=True)
        includes = [f"-I{path}" for path in ("csrc", pybind11.get_include(), sysconfig.get_path("include"))]
        flags = ["-std=c++17", *includes, "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra"]

        def compile_one(job):
            source, extra = job
            target = folder / f"{Path(source).stem}{''.join(extra).rpartition('=')[2]}.o"
            numbers = [number for number in wanted if number >= 80 or "Bfloat16" not in target.stem] or [80]
            kind = ["-O3", *targets_of(numbers)] if source.endswith(".cu") else ["-O1"]
            run_compiler([nvcc, *flags, *kind, *extra, "-c", source, "-o", str(target)])
            return str(target)

        jobs = []
        for source in CUDA_SOURCES:
            each = ELEMENTS if Path(source).stem in ELEMENT_FILES else [None]
            jobs += [(source, [f"-DMODNAS_FAST_ELEMENT={element}"] if element else []) for element in each]
        jobs.sort(key=lambda job: job[0].endswith(".cu") - 2 * bool(job[1]))  # what takes longest first
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, jobs))
        module = self.get_ext_fullpath(extension.name)
        Path(module).parent.mkdir(parents=True, exist_ok=True)
        run_compiler([nvcc, "-shared", "-cudart=static", *objects, "-o", module])


setup(
    version=version.group(1),
    packages=[*find_packages(include=["modnas_fast", "modnas_fast.*"]), "modnas_fast.kernels"],
    package_dir={"modnas_fast.kernels": "kernels"},
    include_package_data=False,  # what MANIFEST.in names besides is for the source distribution
    package_data={"modnas_fast": ["genotypes/*.json", "weights/*", "bench/*.json", "py.typed", "*.pyi"]},
    ext_modules=[
        Extension(ENGINE, SOURCES, language="c++", extra_link_args=["-pthread", "-ldl"]),
        Extension(ENGINE_CUDA, CUDA_SOURCES, language="c++"),
    ],
    cmdclass={"build_ext": BuildEngine},
)
