"""What pyproject.toml cannot say: the version without importing torch, and the kernels' home inside the package."""

import re
from pathlib import Path

from setuptools import find_packages, setup

version = re.search(r'__version__ = "(.+)"', Path("modnas_fast/version.py").read_text(encoding="utf-8"))
assert version is not None

setup(
    version=version.group(1),
    packages=[*find_packages(include=["modnas_fast", "modnas_fast.*"]), "modnas_fast.kernels"],
    package_dir={"modnas_fast.kernels": "kernels"},
    package_data={"modnas_fast": ["genotypes/*.json", "weights/*", "py.typed"]},
)
