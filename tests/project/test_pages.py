"""README and docs: what they show of commands is what commands print, links lead somewhere, pictures are small."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

from fastopt.command import main as cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "bench" / "README.md",
)

GENERATED_TABLES = (
    "docs/benchmarks.md",
    *(f"docs/benchmarks/{page.name}" for page in sorted((ROOT / "docs" / "benchmarks").glob("*.md"))),
)
"""Pages whose tables are as wide as their numbers."""

SHORT_LINES = ("README.md", "CHANGELOG.md", "bench/README.md", "docs/performance.md", *GENERATED_TABLES)
"""Pages with lines below 120 columns."""

SHOWN = re.findall(
    r"```\n(fastopt [^\n]*)\n```\n\n```text\n(.*?)```", (ROOT / "docs/learning-rates.md").read_text(), re.DOTALL
)
"""Commands of the guide, and what it shows of their output."""


CHAOTIC = {"fastopt sweep": {"0.1": 3.0, "0.316": 1.5}}
"""Rates at which training is chaotic, by command, and the factor by which losses may differ from the guide's.

At these rates a change in the last bit of a matrix product, which differs from processor to processor, changes the
loss: in 12 sweeps with random changes of every gradient's last bit by factors of up to 2.0 at 0.1 and 1.24 at 0.316.
At all other rates of the sweep the losses differed by a factor of at most 1.0002.
"""


def same(shown: str, printed: str, factor: float) -> bool:
    """Whether two words are equal, or numbers that differ by a factor of at most `factor`."""
    try:
        ratio = float(shown.strip("%.,;")) / float(printed.strip("%.,;"))
    except (ValueError, ZeroDivisionError):
        return shown == printed
    return 1 / factor <= ratio <= factor


def same_line(command: str, shown: list[str], printed: list[str]) -> bool:
    if len(shown) != len(printed) or not same(shown[0], printed[0], 1.1):
        return False
    factor = CHAOTIC.get(command, {}).get(shown[0], 1.1)
    return all(same(*words, factor) for words in zip(shown[1:], printed[1:], strict=True))


@pytest.mark.blas
@pytest.mark.parametrize(("command", "text"), SHOWN, ids=[command for command, _ in SHOWN])
def test_the_guide_shows_what_commands_print(
    command: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1000")
    with threadpool_limits(1, "blas"):
        assert cli.main(command.split()[1:]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    for line in filter(None, text.splitlines()):
        assert any(same_line(command, line.split(), each) for each in printed), line


def test_the_guide_shows_commands() -> None:
    assert {command.split()[1] for command, _ in SHOWN} == {"diagnose", "range-test", "sweep"}


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text)
    for target in (first or second for first, second in links):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_every_page_is_found_from_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name}" not in readme] == []


@pytest.mark.parametrize("name", SHORT_LINES)
def test_lines_are_short(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()
    wide = name in GENERATED_TABLES
    assert [line for line in lines if len(line) >= 120 and not (wide and line.startswith("|"))] == []


def test_pictures_are_small_and_shown() -> None:
    pictures = [file for file in (ROOT / "docs").rglob("*") if file.suffix in (".png", ".svg")]
    text = "".join(page.read_text() for page in PAGES)
    assert [file.name for file in pictures if file.name not in text] == []
    assert [file.name for file in pictures if file.stat().st_size > 200_000] == []
    assert sum(file.stat().st_size for file in pictures) < 2_000_000  # with a plot of the benchmarks for each variant
