"""Imports point one way: from what a user calls down to the formulas, and never in a circle.

All imports count: those in functions and under TYPE_CHECKING, too. Names that `fastopt/__init__.py` loads on first use
are public names and not counted.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FOLDERS = {"fastopt": "fastopt", "fastopt.kernels": "kernels", "fastopt.examples": "examples", "fastopt.bench": "bench"}
"""The packages and the folders that they are in."""

LAYERS: tuple[tuple[str, ...], ...] = (
    ("kernels/__init__.py", "kernels/constants.py", "kernels/registers.py"),
    ("kernels/formulas",),
    ("kernels/render",),
    ("kernels/cpu.py", "kernels/floating_point.py"),
    ("kernels/engine",),
    ("kernels/native", "kernels/python", "kernels/numba", "kernels/cuda"),
    ("kernels/backends.py",),
    ("fastopt/_version.py", "fastopt/checks.py"),
    ("fastopt/constraints.py", "fastopt/threads.py", "fastopt/schedules"),
    ("fastopt/config.py", "fastopt/definitions"),
    ("fastopt/step",),
    ("fastopt/state",),
    ("fastopt/norms.py", "fastopt/optimizers", "fastopt/torch/stepping", "fastopt/jit"),
    ("fastopt/torch",),
    ("fastopt/guard", "fastopt/rules.py", "fastopt/keras", "fastopt/thinc"),
    ("fastopt/checkpoints",),
    ("fastopt/__init__.py",),
    ("examples",),
    ("fastopt/tuning", "fastopt/command/arguments.py", "fastopt/command/progress.py"),
    ("bench",),
    ("fastopt/command",),
    ("fastopt/__main__.py",),
)
"""From low to high: folders and files that stand for themselves. A file imports from its own entry and from entries of
lower layers; entries of one layer do not know each other."""

NARROWER: Mapping[str, tuple[str, ...]] = {
    "fastopt/constraints.py": ("fastopt/checks.py",),
    "fastopt/jit": ("fastopt/_version.py", "fastopt/definitions", "kernels"),
    "fastopt/schedules": ("fastopt/checks.py",),
    "fastopt/torch": (
        "fastopt/checks.py",
        "fastopt/definitions",
        "fastopt/state/torch_form.py",
        "fastopt/step",
        "fastopt/threads.py",
        "fastopt/torch/stepping",
        "kernels",
    ),
}
"""Entries that may import from these alone."""

THIRD_PARTY: Mapping[str, tuple[str, ...]] = {
    "torch": (
        "fastopt/torch",
        "fastopt/keras",
        "fastopt/checkpoints/models.py",
        "fastopt/checkpoints/tensors.py",
        "fastopt/guard/torch_target.py",
        "fastopt/tuning/torch_view.py",
        "bench",
        "examples",
    ),
    "keras": ("fastopt/keras", "bench"),
    "thinc": ("fastopt/thinc", "bench"),
    "safetensors": ("fastopt/checkpoints/files.py",),
    "numba": ("kernels/numba", "kernels/cuda", "fastopt/jit", "fastopt/schedules/base.py", "bench", "examples"),
    "llvmlite": ("kernels/floating_point.py", "kernels/numba", "kernels/cuda", "fastopt/jit"),
    "matplotlib": ("fastopt/command", "fastopt/tuning/plots.py", "bench", "examples"),
    "rich": ("fastopt/command", "fastopt/tuning", "bench", "examples"),
}
"""Packages that only these may import."""

MOST_FILES_IN_THE_ROOT = 12


@dataclass
class Imports:
    """For each file, by its path, the files that it imports; and the packages beyond this one."""

    files: dict[str, set[str]] = field(default_factory=dict)
    packages: dict[str, set[str]] = field(default_factory=dict)


def read_imports(root: Path, folders: Mapping[str, str]) -> Imports:
    """Parse every Python file of the packages; a `.pyx` file can be imported, but is not read.

    `from package import name` is an import of the module `package.name` where there is one, else of the package.
    """
    paths: dict[str, str] = {}
    for package, folder in folders.items():
        for path in sorted((root / folder).rglob("*.py*")):
            if path.suffix in (".py", ".pyx"):
                names = path.relative_to(root / folder).with_suffix("").parts
                name = ".".join((package, *(names[:-1] if names[-1] == "__init__" else names)))
                if paths.get(name, "").endswith(".py"):  # the package's __init__.py beside its namesake
                    continue
                paths[name] = path.relative_to(root).as_posix()
    found = Imports()
    for name, path in paths.items():
        found.files[path], found.packages[path] = set(), set()
        if path.endswith(".pyx"):
            continue
        package = name if path.endswith("__init__.py") else name.rpartition(".")[0]
        for module in _imported(ast.parse((root / path).read_text(encoding="utf-8")), package):
            whole = module
            while module and module not in paths:
                module = module.rpartition(".")[0]
            if module:
                found.files[path] |= {paths[module]} - {path}
            else:
                found.packages[path].add(whole.partition(".")[0])
    return found


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    """The absolute names of everything that is imported, attributes of modules included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            start = parents[: len(parents) - node.level + 1] if node.level else []
            yield from (".".join([*start, *filter(None, [node.module, alias.name])]) for alias in node.names)


def circles(files: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The groups of files that import each other, directly or through others (Tarjan's algorithm)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(path: str) -> None:
        order[path] = lowest[path] = len(order)
        stack.append(path)
        for other in files[path]:
            if other not in order:
                visit(other)
                lowest[path] = min(lowest[path], lowest[other])
            elif other in stack:
                lowest[path] = min(lowest[path], order[other])
        if lowest[path] == order[path]:
            group = stack[stack.index(path) :]
            del stack[stack.index(path) :]
            if len(group) > 1:
                found.append(sorted(group))

    for path in files:
        if path not in order:
            visit(path)
    return sorted(found)


def within(path: str, entry: str) -> bool:
    return path == entry or path.startswith(f"{entry}/")


def entry_of(path: str, layers: tuple[tuple[str, ...], ...]) -> tuple[int, str]:
    """The layer and the longest entry that a file belongs to."""
    fitting = [(i, entry) for i, layer in enumerate(layers) for entry in layer if within(path, entry)]
    if not fitting:
        raise ValueError(f"{path} is in no layer: add it to LAYERS")
    return max(fitting, key=lambda each: len(each[1]))


def wrong_arrows(
    files: Mapping[str, Iterable[str]],
    layers: tuple[tuple[str, ...], ...],
    narrower: Mapping[str, tuple[str, ...]],
) -> list[str]:
    """The imports that do not point to a lower layer."""
    found = []
    for path, others in files.items():
        layer, entry = entry_of(path, layers)
        for other in others:
            other_layer, other_entry = entry_of(other, layers)
            allowed = narrower.get(entry)
            points_down = other_layer < layer and (allowed is None or any(within(other, each) for each in allowed))
            if entry != other_entry and not points_down:
                found.append(f"{path} -> {other}")
    return sorted(found)


def foreign(packages: Mapping[str, set[str]], allowed: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The imports of third-party packages outside of their places."""
    return sorted(
        f"{path} -> {package}"
        for package, entries in allowed.items()
        for path, imported in packages.items()
        if package in imported and not any(within(path, entry) for entry in entries)
    )


IMPORTS = read_imports(ROOT, FOLDERS)


def test_no_circle() -> None:
    assert circles(IMPORTS.files) == []


def test_every_import_points_down() -> None:
    assert wrong_arrows(IMPORTS.files, LAYERS, NARROWER) == []


def test_every_entry_of_the_tables_is_there() -> None:
    tables = (*LAYERS, *NARROWER.values(), *THIRD_PARTY.values())
    assert [entry for row in tables for entry in row if not (ROOT / entry).exists()] == []


def test_third_party_packages_stay_in_their_places() -> None:
    assert foreign(IMPORTS.packages, THIRD_PARTY) == []


def test_the_root_of_the_package_is_small() -> None:
    assert len(list((ROOT / "fastopt").glob("*.py"))) <= MOST_FILES_IN_THE_ROOT


# --- the checks find what they are to find ----------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two folders, low and high, without anything wrong."""
    for path, text in {
        "low/__init__.py": "",
        "low/a.py": "import math\nfrom . import b\n",
        "low/b.py": "",
        "high/__init__.py": "from .c import *\n",
        "high/c.py": "import package.low.a\nfrom ..low import b as name\n",
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def read(tree: Path) -> Imports:
    return read_imports(tree, {"package.low": "low", "package.high": "high"})


TWO_LAYERS = (("low",), ("high",))


def test_imports_are_resolved(tree: Path) -> None:
    found = read(tree)
    assert found.files == {
        "low/__init__.py": set(),
        "low/a.py": {"low/b.py"},
        "low/b.py": set(),
        "high/__init__.py": {"high/c.py"},
        "high/c.py": {"low/a.py", "low/b.py"},
    }
    assert found.packages["low/a.py"] == {"math"}
    assert circles(found.files) == wrong_arrows(found.files, TWO_LAYERS, {}) == []


@pytest.mark.parametrize(
    "code",
    [
        "from . import a",
        "from .a import name",
        "import package.low.a",
        "from package.low import a",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .a import name",
        "def function():\n    from .a import name",
        "class Class:\n    def method(self):\n        from . import a as other",
    ],
)
def test_a_circle_is_found(tree: Path, code: str) -> None:
    (tree / "low" / "b.py").write_text(code)
    assert circles(read(tree).files) == [["low/a.py", "low/b.py"]]


def test_a_circle_of_three_and_one_through_a_package_are_found(tree: Path) -> None:
    (tree / "low" / "b.py").write_text("from ..high import c")
    assert circles(read(tree).files) == [["high/c.py", "low/a.py", "low/b.py"]]
    (tree / "low" / "b.py").write_text("from .. import high")
    assert circles(read(tree).files) == [["high/__init__.py", "high/c.py", "low/a.py", "low/b.py"]]


def test_an_arrow_that_points_up_or_aside_is_found(tree: Path) -> None:
    (tree / "low" / "b.py").write_text("def function():\n    from ..high.c import name")
    files = read(tree).files
    assert wrong_arrows(files, TWO_LAYERS, {}) == ["low/b.py -> high/c.py"]
    aside = ["high/c.py -> low/a.py", "high/c.py -> low/b.py", "low/b.py -> high/c.py"]
    assert wrong_arrows(files, (("low", "high"),), {}) == aside


def test_the_longest_entry_counts_and_narrower_rows_hold(tree: Path) -> None:
    files = read(tree).files
    layers = (("low",), ("high",), ("low/a.py",))
    assert wrong_arrows(files, layers, {}) == ["high/c.py -> low/a.py"]
    assert wrong_arrows(files, TWO_LAYERS, {"high": ("low/b.py",)}) == ["high/c.py -> low/a.py"]


def test_a_file_without_a_layer_is_an_error(tree: Path) -> None:
    with pytest.raises(ValueError, match=r"low/__init__\.py is in no layer"):
        wrong_arrows(read(tree).files, (("high",),), {})


def test_a_foreign_package_is_found(tree: Path) -> None:
    (tree / "low" / "b.py").write_text("def function():\n    import torch.nn as nn")
    packages = read(tree).packages
    assert foreign(packages, {"torch": ("low/b.py",), "numba": ()}) == []
    assert foreign(packages, {"torch": ("high", "low/a.py")}) == ["low/b.py -> torch"]


def test_a_compiled_module_is_not_its_package(tree: Path) -> None:
    (tree / "high" / "fast.pyx").write_text("")
    (tree / "high" / "c.py").write_text("from . import fast")
    assert read(tree).files["high/c.py"] == {"high/fast.pyx"}
