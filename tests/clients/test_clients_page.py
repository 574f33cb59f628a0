"""docs/clients.md: each block is a program that trains with the native step, and each package has one."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from training import counted_steps

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "clients.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^## ([^\n]*)\n|```py\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)


def programs() -> list[tuple[str, str]]:
    """Each block, after the heading that it stands under."""
    found, heading = [], ""
    for title, block in BLOCKS:
        if block:
            found.append((heading, block))
        heading = title or heading
    return found


@pytest.mark.parametrize(("heading", "block"), programs(), ids=[heading for heading, _ in programs()])
def test_a_program_trains(heading: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "program.py").write_text(block)
    with counted_steps() as counts:
        runpy.run_path("program.py")
    (steps,) = counts.values()
    assert steps >= 2


def test_each_package_has_a_program() -> None:
    tested = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    shown = {name for name in tested if any(re.search(rf"(from|import) {name}\b", block) for _, block in programs())}
    assert tested - shown == {"clients_bench", "clients_page", "spacy", "trainer"}  # docs/thinc.md; transformers
