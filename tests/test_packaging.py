"""What an installed package must bring along."""

import sys
from pathlib import Path

import slm_interp

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]


def test_every_file_that_is_no_code_is_package_data():
    package = Path(slm_interp.__file__).parent
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["slm_interp"]
    carried = {path for pattern in patterns for path in package.glob(pattern)}
    files = {path for path in package.rglob("*") if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts}
    assert files
    assert files - carried == set()


def test_the_version_is_the_same_wherever_it_stands():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert slm_interp.__version__ == declared
    assert f"version: {declared}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {declared} " in (ROOT / "CHANGELOG.md").read_text()
