"""The tests that plain `pytest` leaves out: `.ci/run` or `.ci/clients` runs them, and CONTRIBUTING.md says how."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_what_is_left_out_is_run_elsewhere(pytestconfig: pytest.Config) -> None:
    left_out = re.findall(r"not (\w+)", " ".join(pytestconfig.getini("addopts")))
    *in_run, alone, by_hand = left_out
    assert len(in_run) >= 3
    expression = f"({' or '.join(in_run)}) and not {by_hand}"
    assert f'pytest -n 2 -m "{expression}"\n' in (ROOT / ".ci" / "run").read_text()
    assert (alone, by_hand) == ("clients", "exhaustive")
    assert f"pytest -n 2 -m {alone} " in (ROOT / ".ci" / "clients").read_text()
    described = re.findall(r"`pytest -n 2 -m (\w+)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert described == left_out
    registered = {line.partition(":")[0] for line in pytestconfig.getini("markers")}
    assert registered >= set(left_out)


@pytest.mark.parametrize(
    ("expression", "collected"),
    [
        ("", False),
        ("not peers and not cuda and not slow and not clients and not exhaustive", False),
        ("(peers or cuda or slow) and not exhaustive", False),
        ("clients", True),
        ("slow or clients", True),
    ],
)
def test_clients_are_collected_only_if_asked_for(expression: str, collected: bool) -> None:
    """The packages that they import are in no other environment."""
    scope = runpy.run_path(str(ROOT / "tests" / "clients" / "conftest.py"))
    config = SimpleNamespace(option=SimpleNamespace(markexpr=expression))
    assert scope["pytest_ignore_collect"](config) is (None if collected else True)
