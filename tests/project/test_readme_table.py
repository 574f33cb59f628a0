"""README's table of optimizers says what the table of specs says, and its benchmarks what their pages say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastopt.definitions.specs import SPECS, Spec
from fastopt.kernels.formulas import registry

README = Path(__file__).resolve().parents[2] / "README.md"
TEXT = " ".join(README.read_text().split())
ROWS = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|[^|]*\| ([^|]*) \| ([\d; ]+) \|$", README.read_text(), re.MULTILINE)
NAMED = [(name, states, moved) for names, states, moved in ROWS for name in re.findall(r"\w+", names)]


def bytes_moved(spec: Spec) -> list[int]:
    """Of each rule, per float32 parameter: parameter, gradient and states read, parameter and states written."""
    return sorted({4 * (3 + 2 * len(registry.rule(rule).states)) for rule in spec.rules.values()})


@pytest.mark.parametrize(("name", "states", "moved"), NAMED, ids=[name for name, _, _ in NAMED])
def test_states_and_bytes(name: str, states: str, moved: str) -> None:
    spec = SPECS[name]
    assert set(re.findall(r"`(\w+)`", states)) == {*spec.all_states, *spec.carried}
    assert [int(each) for each in moved.split(";")] == bytes_moved(spec)


def test_every_class_of_torch_is_there() -> None:
    assert {name for name, _, _ in NAMED} >= {name for name, spec in SPECS.items() if spec.in_torch}


def test_what_is_lost_on_another_machine_is_what_its_page_says() -> None:
    said = re.search(
        r"\((docs/benchmarks/[\w-]+\.md)\) fastopt loses (\d+) of (\d+) .*?([\d,]+) parameters.*? (0\.\d+) of", TEXT
    )
    assert said is not None
    name, losses, comparisons, parameters, ratio = said.groups()
    page = " ".join((README.parent / name).read_text().split())
    assert f"Of all {comparisons} comparisons of this page, fastopt wins" in page
    assert f"and loses {losses}. " in page
    assert re.search(rf"\| Adam, {parameters} parameters \|[^|]*\|[^|]*\|[^|]*\| \*\*{ratio}x\*\* \|", page)
