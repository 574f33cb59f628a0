"""The site: every public name is in the reference, formulas become maths, links lead to what they led to."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import fastopt
from fastopt.definitions.signatures import signatures
from fastopt.definitions.specs import SPECS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site() -> Any:
    """The modules in docs/site that work without Sphinx."""
    sys.path.insert(0, str(DOCS / "site"))
    yield lambda name: importlib.import_module(name)
    sys.path.remove(str(DOCS / "site"))


@pytest.fixture(scope="module")
def names(site: Any) -> ModuleType:
    module: ModuleType = site("names")
    return module


REFERENCE = "".join(page.read_text() for page in sorted((DOCS / "api").glob("*.md")))
ENTRIES = set(re.findall(r"^ {3}(fastopt\.[\w.]+)$|^\.\. py:\w+:: (\S+)$", REFERENCE, re.MULTILINE))
DOCUMENTED = {first or second for first, second in ENTRIES}


MADE = {f"fastopt.jit.{name}{suffix}" for name in signatures() for suffix in fastopt.jit._SUFFIXES}
"""What `fastopt.jit` makes for each optimizer, with pages that docs/site/pages.py makes."""


def value_of(name: str) -> Any:
    module, _, own = name.rpartition(".")
    return getattr(importlib.import_module(module), own)


def test_every_public_name_is_in_the_reference(names: ModuleType) -> None:
    """A name that two modules have is there once, as `fastopt.rule` and not as `fastopt.rules.rule`."""
    missing = [name for name in names.public_names() if name not in DOCUMENTED | MADE]
    again = [name for name in missing if f"fastopt.{name.rpartition('.')[2]}" in DOCUMENTED]
    assert [name for name in again if value_of(name) is not value_of(f"fastopt.{name.rpartition('.')[2]}")] == []
    assert [name for name in missing if name not in again] == []


def test_what_is_in_the_reference_is_public(names: ModuleType) -> None:
    assert sorted(DOCUMENTED - set(names.public_names())) == []


def test_the_policies_name_every_public_module(names: ModuleType) -> None:
    text = (DOCS / "policies.md").read_text()
    assert [module for module in (*names.MODULES, "fastopt.updates") if f"`{module}`" not in text] == []


def test_every_public_class_and_function_has_a_docstring(names: ModuleType) -> None:
    left_out = tuple(f"{module}." for module in names.WITH_EXTRAS)  # whose own tests look at them
    checked = [name for name in names.public_names() if name not in MADE and not name.startswith(left_out)]
    values = {name: value_of(name) for name in checked}
    assert [name for name, value in values.items() if callable(value) and not inspect.getdoc(value)] == []


def test_every_update_for_c_is_listed(names: ModuleType) -> None:
    listed = [name for name, _ in names.c_functions()]
    assert sorted(listed) == sorted(f"{name}_{dtype}" for name in signatures() for dtype in ("float32", "float64"))


@pytest.mark.parametrize(
    ("line", "tex"),
    [
        ("m = beta1 * m + (1 - beta1) * g", r"m &\leftarrow \beta_{1} \, m + \left(1 - \beta_{1}\right) \, g"),
        ("p = a - (b - c)", r"p &\leftarrow a - \left(b - c\right)"),
        ("p = a - (b + c) - d", r"p &\leftarrow a - \left(b + c\right) - d"),
        ("p = a * (b * c) / d", r"p &\leftarrow \frac{a \, \left(b \, c\right)}{d}"),
        ("p = a / b * c / (d + e)", r"p &\leftarrow \frac{a}{b} \, \frac{c}{d + e}"),
        ("p = (a + b)^2 * -c", r"p &\leftarrow \left(a + b\right)^{2} \, -c"),
        ("u = max(v, |g| + eps)", r"u &\leftarrow \operatorname{max}\left(v, \left|g\right| + \epsilon\right)"),
        ("b = sqrt(mu_(t+1)) * lr_decay", r"b &\leftarrow \sqrt{\mu_{t+1}} \, \text{lr_decay}"),
        ("b = a_t   (only `here`)", r"b &\leftarrow a_{t} & \quad \text{(only here)}"),
    ],
)
def test_formulas(site: Any, line: str, tex: str) -> None:
    assert site("formulas").block([line]) == rf"\begin{{aligned}} {tex} \end{{aligned}}"


@pytest.mark.parametrize("line", ["p = 0 where g < 0", "fastopt sweep --lr 1", "x == y", "f(x)", "p = a[0]", ""])
def test_other_text_is_no_formula(site: Any, line: str) -> None:
    assert site("formulas").block(["m = g", line]) is None


def formulas_of(cls: type) -> list[str]:
    (block,) = re.findall(r"::\n\n((?:    .*\n)+)", inspect.getdoc(cls) or "")[:1]
    lines: list[str] = block.splitlines()
    return lines


@pytest.mark.parametrize("name", [name for name in SPECS if name != "Rprop"])  # whose update has cases
def test_formulas_of_optimizers_are_shown_as_maths(site: Any, name: str) -> None:
    assert site("formulas").block(formulas_of(getattr(fastopt, name))) is not None


def test_links(site: Any) -> None:
    text = '[a](docs/x.md#y) [b](https://z) [c](#d) ![e](f.png)\n```\n[g](h)\n```\n<img src="i.svg">'
    assert site("links").with_links(text, lambda target: f"<{target}>") == (
        '[a](<docs/x.md#y>) [b](https://z) [c](#d) ![e](<f.png>)\n```\n[g](h)\n```\n<img src="<i.svg>">'
    )


def test_every_page_is_in_the_navigation() -> None:
    index = (DOCS / "index.md").read_text()
    listed = re.findall(
        r"^(?:.*<)?([\w/-]+)>?$", "".join(re.findall(r"```\{toctree\}.*?```", index, re.DOTALL)), re.MULTILINE
    )
    pages = {page.stem for page in DOCS.glob("*.md") if not page.stem.startswith("benchmarks")}
    assert pages - set(listed) == {"index"}


def test_every_example_is_in_the_gallery() -> None:
    gallery = (DOCS / "gallery.md").read_text()
    examples = [file.name for file in (ROOT / "examples").glob("*.py") if file.stem != "__init__"]
    assert [name for name in examples if f"](../examples/{name})" not in gallery] == []
