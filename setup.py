"""What pyproject.toml cannot say: the version without importing torch, the kernels' home, and the compiled engine."""

import os
import platform
import re
import sys
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
TRAINING_FILES = ["convolution", "depthwise"]  # float32: avx512_bf16 has avx512's
VECTOR_FILES = ["output", "separable", "taps", "upsample", "variant", "winograd"]
SOURCES = [*sorted(map(str, Path("csrc").glob("*.cpp"))), "csrc/cpu/packing.cpp", "csrc/cpu/select.cpp"]


class BuildEngine(build_ext):
    """Builds modnas_fast._engine: required if MODNAS_FAST_EXT=1, left out if 0, and otherwise where it can be built.

    Where it cannot, the package installs without it and modnas_fast/_engine_missing.txt says why.
    """

    def run(self):
        folder = Path("modnas_fast" if self.inplace else f"{self.build_lib}/modnas_fast")
        folder.mkdir(parents=True, exist_ok=True)
        note = folder / "_engine_missing.txt"
        note.unlink(missing_ok=True)
        wanted = os.environ.get("MODNAS_FAST_EXT", "")
        reason = "the package was installed with MODNAS_FAST_EXT=0"
        try:
            if wanted != "0":
                super().run()
                return
        except Exception as error:
            if wanted == "1":
                raise
            reason = " ".join(f"it could not be compiled: {error}".split())
        print(f"modnas_fast._engine is left out: {reason}", file=sys.stderr)
        self.extensions = []
        note.write_text(reason + "\n", encoding="utf-8")

    def build_extension(self, extension):
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
            names = VECTOR_FILES if variant == "avx512_bf16" else [*VECTOR_FILES, *TRAINING_FILES]
            jobs += [(f"csrc/cpu/{name}.cpp", flags, variant) for name in names]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = pool.map(lambda job: compile_one(*job), jobs)
        extension.extra_objects = [path for paths in objects for path in paths]
        extension.sources = []
        extension.depends = extension.extra_objects  # or a module that is there already would not be linked again
        super().build_extension(extension)


setup(
    version=version.group(1),
    packages=[*find_packages(include=["modnas_fast", "modnas_fast.*"]), "modnas_fast.kernels"],
    package_dir={"modnas_fast.kernels": "kernels"},
    package_data={"modnas_fast": ["genotypes/*.json", "weights/*", "bench/*.json", "py.typed", "*.pyi"]},
    ext_modules=[Extension("modnas_fast._engine", SOURCES, language="c++", extra_link_args=["-pthread", "-ldl"])],
    cmdclass={"build_ext": BuildEngine},
)
