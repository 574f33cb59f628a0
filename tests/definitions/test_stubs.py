"""The stubs of what is made from the table of specs: they are up to date, and say what the classes are."""

from __future__ import annotations

import ast
import inspect
import math
from pathlib import Path
from typing import Any

import pytest

import fastopt
from fastopt.definitions.specs import SPECS
from fastopt.definitions.stubs import stubs

PACKAGE = Path(fastopt.__file__).parent


@pytest.mark.parametrize("path", stubs())
def test_what_is_installed_is_up_to_date(path: str) -> None:
    written = (PACKAGE / path).read_text(encoding="utf-8")
    assert written == stubs()[path], "run `pip install -e .` again"


def test_exports_are_those_of_the_table() -> None:
    assert set(fastopt.optimizers.__all__) == SPECS.keys()
    assert set(fastopt.__all__) >= SPECS.keys()
    tree = ast.parse(stubs()["optimizers/__init__.pyi"])
    imported = [alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(imported) == fastopt.optimizers.__all__ == all_of(tree)


def test_the_classes_for_torch_take_what_their_stubs_say() -> None:
    module = pytest.importorskip("fastopt.torch")
    tree = ast.parse(stubs()["torch/optimizers.pyi"])
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    assert classes.keys() == set(module.optimizers.__all__) == set(all_of(tree)) <= set(module.__all__)
    for name, node in classes.items():
        for function in (each for each in node.body if isinstance(each, ast.FunctionDef)):
            taken = inspect.signature(getattr(module, name)).parameters
            shown = [each.arg for each in (*function.args.args[1:], *function.args.kwonlyargs)]
            assert shown == list(taken)[: len(shown)]
            given = [
                ast.literal_eval(each) for each in (*function.args.defaults, *filter(None, function.args.kw_defaults))
            ]
            defaults = [taken[each].default for each in shown[1:]]
            assert given == [... if default == math.inf else default for default in defaults]


def all_of(tree: ast.Module) -> list[Any]:
    """The value of `__all__`."""
    (value,) = (node.value for node in tree.body if isinstance(node, ast.Assign))
    found: list[Any] = ast.literal_eval(value)
    return found
