"""Lint, format, types, doctests, and the code in README: what is claimed is run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastopt

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str, cwd: Path = ROOT) -> None:
    result = subprocess.run([sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("arguments", [("check",), ("format", "--check")], ids=" ".join)
def test_ruff(arguments: tuple[str, ...]) -> None:
    run("ruff", *arguments, ".")


def test_mypy(tmp_path: Path) -> None:
    """In a copy laid out as the package is installed: mypy does not follow the mapping of folders."""
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "fastopt", tmp_path / "fastopt", ignore=ignore)
    for folder in ("bench", "examples", "kernels"):
        shutil.copytree(ROOT / folder, tmp_path / "fastopt" / folder, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    run("mypy", cwd=tmp_path)


WITH_EXTRAS = ("fastopt.keras", "fastopt.thinc")
"""Packages that the core tests cannot import; their own tests run their doctests."""


def modules() -> list[str]:
    found = pkgutil.walk_packages(fastopt.__path__, "fastopt.")
    names = ["fastopt", *(each.name for each in found if not each.name.endswith("__main__"))]
    return [name for name in names if not name.startswith(WITH_EXTRAS)]


@pytest.mark.parametrize("name", modules())
def test_doctests(name: str) -> None:
    module = importlib.import_module(name)
    results = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert results.failed == 0
    public = {
        "fastopt.state.packing",
        "fastopt.threads",
        *(f"fastopt.optimizers.{each.lower()}" for each in fastopt.definitions.specs.SPECS),
    }
    assert results.attempted >= (name in public)


@pytest.mark.parametrize(
    "cls", [getattr(fastopt, name) for name in fastopt.definitions.specs.SPECS], ids=lambda cls: cls.__name__
)
def test_docstrings_document_every_argument(cls: type) -> None:
    text = inspect.getdoc(cls)
    assert text is not None
    for section in ("Parameters", "Notes", "Examples", "References"):
        assert f"\n{section}\n---" in text
    for name in fastopt.definitions.specs.SPECS[cls.__name__].arguments:
        assert re.search(rf"^(.*, )?{name}[,:\n]", text, re.MULTILINE), name


def readme_blocks() -> list[str]:
    texts = [path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]
    return [block for text in texts for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]


@pytest.mark.blas
@pytest.mark.parametrize("block", readme_blocks(), ids=lambda block: block.splitlines()[0])
def test_the_code_in_readme_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "block.py").write_text(block)
    runpy.run_path("block.py")  # from a file: rules are read from their source


def test_readme_has_code() -> None:
    assert len(readme_blocks()) >= 3
