"""Imports point down: the floors of the house, checked on its source, and the checker checked on planted faults."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).parents[1]
PACKAGE = "slm_interp"

FLOORS: dict[int, str] = {
    0: "errors files audio vocabulary streams strings utterance prompt metrics statistics correlation store netcdf plots page",
    1: "hooked model readout",
    2: "convert speech lenses",
    3: "patching",
    4: "transcription circuits causal organisms",
    5: "report sweep demo",
    6: "__init__ __main__ organism_commands",
}
FLOOR_OF = {part: floor for floor, parts in FLOORS.items() for part in parts.split()}

SEAM = ("transformer_lens", "hooked")  # the package, and the one part of the house that may import it

# Distributions whose import name is not their own name.
IMPORT_NAMES = {"huggingface_hub": "huggingface_hub", "scikit_learn": "sklearn", "pyyaml": "yaml", "protobuf": "google"}


@dataclass(frozen=True)
class Import:
    """One import: of what, in which module, on which line, at the top level or inside a function."""

    module: str
    target: str
    line: int
    top: bool


def modules_of(root: Path) -> dict[str, Path]:
    """Every module under a package folder by its dotted name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


def imports_of(module: str, path: Path, modules: Iterable[str]) -> list[Import]:
    """Imports of a module, those inside functions included; `from package import submodule` names the submodule."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(node) for outer in ast.walk(tree) if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef) for node in ast.walk(outer)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: len(module.split(".")) - node.level + (path.name == "__init__.py")] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            targets = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base for alias in node.names]
        else:
            continue
        found += [Import(module, target, node.lineno, id(node) not in inside) for target in targets]
    return found


def part_of(module: str) -> str:
    """The part of the house a module belongs to: the first name after the package."""
    return module.split(".")[1] if "." in module else "__init__"


def faults(root: Path, floors: Mapping[str, int], required: Iterable[str]) -> list[str]:
    """What is wrong with the imports of the package in `root`, in sentences.

    Args:
        root: the folder of the package.
        floors: floor of each part.
        required: top-level names of the dependencies that are always installed.
    """
    modules = modules_of(root)
    imports = [one for name, path in modules.items() for one in imports_of(name, path, modules)]
    own = [one for one in imports if one.target.split(".")[0] == root.name]
    foreign = [one for one in imports if one.target.split(".")[0] not in (root.name, "__future__")]
    found = [f"{part} has no floor" for part in sorted({part_of(module) for module in modules}) if part not in floors]
    known = [one for one in own if part_of(one.module) in floors and part_of(one.target) in floors]
    for one in known:
        below, above = floors[part_of(one.module)], floors[part_of(one.target)]
        if above > below:
            found.append(f"{one.module}:{one.line} (floor {below}) imports {one.target} (floor {above})")
    lensed, seam = SEAM
    allowed = {*required, *sys.stdlib_module_names}
    for one in foreign:
        package = one.target.split(".")[0]
        if package == lensed and part_of(one.module) != seam:
            found.append(f"{one.module}:{one.line} imports {lensed}; only {root.name}.{seam} may")
        if one.top and package not in allowed:
            found.append(f"{one.module}:{one.line} imports {package} at the top, which pip install {root.name} does not bring")
    by_part = {(part_of(one.module), part_of(one.target)) for one in known if part_of(one.module) != part_of(one.target)}
    by_module = {(one.module, one.target) for one in own}
    return found + [f"a ring of imports: {ring}" for ring in dict.fromkeys([*rings(by_part), *rings(by_module)])]


def rings(edges: Iterable[tuple[str, str]]) -> list[str]:
    """One ring through each importer that can come back to itself, the same ring once."""
    after: dict[str, set[str]] = {}
    for start, stop in edges:
        after.setdefault(start, set()).add(stop)
    found: dict[frozenset[str], str] = {}
    for start in sorted(after):
        path = way(start, start, after)
        if path:
            found.setdefault(frozenset(path), " -> ".join(path))
    return list(found.values())


def way(start: str, goal: str, after: Mapping[str, set[str]]) -> list[str]:
    """The shortest way from `start` to `goal` in one step or more, or nothing."""
    ways, seen = [[start]], set()
    while ways:
        path = ways.pop(0)
        for following in sorted(after.get(path[-1], ())):
            if following == goal:
                return [*path, following]
            if following not in seen:
                seen.add(following)
                ways.append([*path, following])
    return []


def import_names(requirements: Iterable[str]) -> set[str]:
    """Top-level names that requirements like `scikit-learn>=1.5` bring to any Python."""
    names = {Requirement(one).name.replace("-", "_") for one in requirements}
    return {IMPORT_NAMES.get(name, name) for name in names}


def for_this_python(requirements: Iterable[str]) -> list[str]:
    """Those of the requirements that this Python installs."""
    parsed = {one: Requirement(one).marker for one in requirements}
    return [one for one, marker in parsed.items() if marker is None or marker.evaluate()]


PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIRED = import_names(PROJECT["dependencies"])
OPTIONAL = import_names(one for extra in PROJECT["optional-dependencies"].values() for one in extra if not one.startswith("slm-interp"))


# -- the house ---------------------------------------------------------------------------------------


def test_imports_point_down_and_reach_only_for_what_is_installed():
    assert faults(REPOSITORY / PACKAGE, FLOOR_OF, REQUIRED) == []


def test_no_part_has_two_floors():
    parts = " ".join(FLOORS.values()).split()
    assert len(parts) == len(set(parts))


# -- the checker -------------------------------------------------------------------------------------

SOUND = {
    "__init__.py": "from house.upper import f\n",
    "__main__.py": "from house import f\n",
    "ground.py": "import os\n",
    "hooked/__init__.py": "from house.hooked.one import h\n",
    "hooked/one.py": "import transformer_lens\nfrom house import ground\n",
    "upper/__init__.py": "from house.upper.one import f\n",
    "upper/one.py": "import torch\nfrom . import two\nfrom ..ground import g\n\ndef f():\n    import scipy\n",
    "upper/two.py": "from house.hooked import h\n",
    "beside.py": "",
}
HOUSE = {"ground": 0, "hooked": 1, "upper": 2, "beside": 2, "__init__": 6, "__main__": 6}


def found_in(tmp_path: Path, planted: Mapping[str, str]) -> list[str]:
    for name, text in {**SOUND, **planted}.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return faults(tmp_path / "house", HOUSE, {"torch", "transformer_lens"})


def test_the_checker_finds_nothing_in_a_sound_house(tmp_path):
    assert found_in(tmp_path, {}) == []


@pytest.mark.parametrize(
    ("planted", "sentence"),
    [
        ({"ground.py": "import house.upper.one\n"}, "house.ground:1 (floor 0) imports house.upper.one (floor 2)"),
        ({"ground.py": "\nfrom .upper import one\n"}, "house.ground:2 (floor 0) imports house.upper.one (floor 2)"),
        ({"ground.py": "def f():\n    from house import hooked\n"}, "house.ground:2 (floor 0) imports house.hooked (floor 1)"),
        ({"ground.py": "from house import f\n"}, "house.ground:1 (floor 0) imports house (floor 6)"),
        ({"upper/two.py": "from transformer_lens import utils\n"}, "house.upper.two:1 imports transformer_lens; only house.hooked may"),
        (
            {"upper/two.py": "def f():\n    import transformer_lens.utils\n"},
            "house.upper.two:2 imports transformer_lens; only house.hooked may",
        ),
        ({"attic.py": ""}, "attic has no floor"),
        ({"cellar/__init__.py": ""}, "cellar has no floor"),
        ({"ground.py": "import scipy.signal\n"}, "house.ground:1 imports scipy at the top, which pip install house does not bring"),
        (
            {"ground.py": "try:\n    import soundfile\nexcept ImportError:\n    soundfile = None\n"},
            "house.ground:2 imports soundfile at the top, which pip install house does not bring",
        ),
        ({"upper/two.py": "from house.upper.one import f\n"}, "a ring of imports: house.upper.one -> house.upper.two -> house.upper.one"),
        (
            {"upper/two.py": "from house.beside import b\n", "beside.py": "from house.upper import one\n"},
            "a ring of imports: beside -> upper -> beside",
        ),
        (
            {"upper/one.py": "import house.beside\n", "beside.py": "def late():\n    from house.upper import two\n"},
            "a ring of imports: beside -> upper -> beside",
        ),
    ],
)
def test_the_checker_finds_a_planted_fault(tmp_path, planted, sentence):
    assert sentence in found_in(tmp_path, planted)


def test_requirements_are_read_as_import_names():
    assert import_names(["torch>=2.6", "scikit-learn>=1.5", "transformer-lens>=3.9,<4", "x[y]>=1; python_version<'3.11'"]) == {
        "torch",
        "sklearn",
        "transformer_lens",
        "x",
    }


# -- the running house -------------------------------------------------------------------------------

# Required packages may themselves pick up an optional one they find; they come first, and what they bring is not ours.
# transformers loads its parts when they are asked for.
ALONE = """
import importlib, pkgutil, sys

def refuse_the_network(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        raise RuntimeError(f"the network was touched: {{event}} {{arguments}}")

sys.addaudithook(refuse_the_network)
for name in {required}:
    importlib.import_module(name)
from transformers import PreTrainedModel
brought = {{name for name in {optional} if name in sys.modules}}
for name in set({optional}) - brought:
    sys.modules[name] = None  # importing it now fails
import slm_interp
for module in pkgutil.walk_packages(slm_interp.__path__, "slm_interp."):
    importlib.import_module(module.name)
print("whole")
"""


def test_every_module_imports_without_the_extras_and_without_the_network():
    script = ALONE.format(required=sorted(import_names(for_this_python(PROJECT["dependencies"]))), optional=sorted(OPTIONAL - REQUIRED))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, timeout=110)
    assert done.stdout.strip().endswith("whole"), done.stderr
