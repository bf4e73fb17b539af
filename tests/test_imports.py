"""The laws of imports: one way between rooms, and nothing heavy before it is needed."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
PACKAGE = CHECKOUT / "modnas_fast"
FILES = sorted([*PACKAGE.glob("*/**/*.py"), *CHECKOUT.glob("kernels/*.py")])

# A room may import the rooms listed before it, and itself; single files are free to all.
ORDER = (
    "images",
    "reference",
    "kernels",
    "_engine",
    "ops",
    "layers",
    "networks",
    "runs",
    "search",
    "engine",
    "training",
    "bench",
    "cli",
)
LEAVES = {"reference", "kernels", "_engine"}
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


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_rooms_import_one_way(path: Path) -> None:
    room = path.relative_to(PACKAGE if PACKAGE in path.parents else CHECKOUT).parts[0]
    allowed = FREE | set(ORDER[: ORDER.index(room) + 1])
    if room in LEAVES:
        allowed = FREE | {room}
    assert imported_modules(path) <= allowed


def test_the_package_knows_no_tests_and_no_benchmarks() -> None:
    for path in [*PACKAGE.rglob("*.py"), *CHECKOUT.glob("kernels/*.py")]:
        text = path.read_text(encoding="utf-8")
        assert "from tests" not in text
        assert "from benchmarks" not in text


@pytest.mark.parametrize(
    "statement",
    ["import modnas_fast", "import modnas_fast; modnas_fast.denoise; modnas_fast.DerivedNet"],
)
def test_importing_loads_nothing_heavy(statement: str) -> None:
    """Beyond what torch itself loads: no Triton, no plotting, no YAML, no codecs, no baselines, no CUDA context."""
    code = (
        f"import sys, torch; before = set(sys.modules); {statement}\n"
        "heavy = ('triton', 'matplotlib', 'yaml', 'tensorboard', 'imagecodecs', 'tifffile', 'scipy', 'skimage')\n"
        "loaded = {name.split('.')[0] for name in set(sys.modules) - before} & set(heavy)\n"
        "assert not loaded, loaded\n"
        "assert 'modnas_fast.networks.baselines' not in sys.modules\n"
        "assert not torch.cuda.is_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_kernels_are_imported_when_they_run() -> None:
    """torch's own compiler imports Triton where it is installed; what counts is that no kernel is looked at."""
    code = (
        "import sys, modnas_fast.cli, modnas_fast.search, modnas_fast.training, modnas_fast.kernels\n"
        "loaded = [name for name in sys.modules if name.startswith('modnas_fast.kernels.')]\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_alone_does_not_load_torch() -> None:
    subprocess.run([sys.executable, "-c", "import modnas_fast, sys; assert 'torch' not in sys.modules"], check=True)


def test_a_checkout_that_is_not_installed_has_its_kernels() -> None:
    """Without site-packages nothing but the checkout is there; see also the wheel's `package_dir` in setup.py."""
    code = f"import modnas_fast.kernels as k; assert k.__path__ == [{str(CHECKOUT / 'kernels')!r}], k.__path__"
    subprocess.run([sys.executable, "-S", "-c", code], check=True, cwd=CHECKOUT, env={})


def test_a_package_without_a_checkout_around_it_looks_nowhere_else(tmp_path: Path) -> None:
    """Somebody's `kernels` in site-packages is not ours."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").touch()
    shutil.copytree(PACKAGE, tmp_path / "modnas_fast", ignore=shutil.ignore_patterns("weights", "__pycache__"))
    code = "import importlib.util as u, modnas_fast; assert u.find_spec('modnas_fast.kernels') is None"
    subprocess.run([sys.executable, "-S", "-c", code], check=True, cwd=tmp_path, env={})
