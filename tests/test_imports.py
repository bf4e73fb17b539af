"""The laws of imports: one way between rooms, and nothing heavy before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "modnas_fast"

# A room may import the rooms listed before it, and itself; single files are free to all.
ORDER = (
    "images",
    "reference",
    "kernels",
    "ops",
    "layers",
    "networks",
    "runs",
    "search",
    "_engine",
    "engine",
    "training",
    "cli",
)
LEAVES = {"reference", "kernels"}
FREE = {"atomic", "errors", "genotype", "version"}


def imported_modules(path: Path) -> set[str]:
    """Rooms of modnas_fast that a file imports anywhere, functions included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.split(".")[1] for name in names if name.startswith("modnas_fast.")}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*/*.py")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_rooms_import_one_way(path: Path) -> None:
    room = path.parent.name
    allowed = FREE | set(ORDER[: ORDER.index(room) + 1])
    if room in LEAVES:
        allowed = FREE | {room}
    assert imported_modules(path) <= allowed


def test_the_package_knows_no_tests_and_no_benchmarks() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "from tests" not in text
        assert "from benchmarks" not in text


@pytest.mark.parametrize(
    "statement", ["import modnas_fast", "import modnas_fast; modnas_fast.denoise; modnas_fast.DerivedNet"]
)
def test_importing_loads_nothing_heavy(statement: str) -> None:
    """Beyond what torch itself loads: no Triton, no plotting, no YAML, no TensorBoard, no codecs, no CUDA context."""
    code = (
        f"import sys, torch; before = set(sys.modules); {statement}\n"
        "heavy = ('triton', 'matplotlib', 'yaml', 'tensorboard', 'imagecodecs', 'tifffile', 'scipy', 'skimage')\n"
        "loaded = {name.split('.')[0] for name in set(sys.modules) - before} & set(heavy)\n"
        "assert not loaded, loaded\n"
        "assert not torch.cuda.is_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_alone_does_not_load_torch() -> None:
    subprocess.run([sys.executable, "-c", "import modnas_fast, sys; assert 'torch' not in sys.modules"], check=True)
