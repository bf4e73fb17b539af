"""What is installed and what is handed on as source: all that is needed, and nothing else."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("setuptools", minversion="77")
CHECKOUT = Path(__file__).parent.parent
FOR_DEVELOPMENT_ONLY = {".gitignore", ".ci/run"}


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """The files of the checkout."""
    if not (CHECKOUT / ".git").exists():
        pytest.skip("needs a git checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


@pytest.fixture(scope="module")
def tree(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of these files, in which setup.py has collected what it would pack."""
    folder = tmp_path_factory.mktemp("tree")
    for name in tracked:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, folder / name)
    commands = ["egg_info", "build_py", "--build-lib", "lib"]
    subprocess.run([sys.executable, "setup.py", "-q", *commands], cwd=folder, check=True, capture_output=True)
    return folder


def test_the_source_distribution_is_the_checkout(tree: Path, tracked: list[str]) -> None:
    packed = set((tree / "modnas_fast.egg-info/SOURCES.txt").read_text(encoding="utf-8").splitlines())
    made = {name for name in packed if name == "setup.cfg" or ".egg-info/" in name}
    assert packed - made == set(tracked) - FOR_DEVELOPMENT_ONLY


def test_the_package_has_its_data_and_its_kernels(tree: Path, tracked: list[str]) -> None:
    installed = {path.relative_to(tree / "lib").as_posix() for path in (tree / "lib").rglob("*") if path.is_file()}
    package = {name for name in tracked if name.startswith("modnas_fast/")}
    assert installed == package | {f"modnas_fast/{name}" for name in tracked if name.startswith("kernels/")}
