"""pyproject.toml and what is made of it: README as PyPI shows it, one address of the repository, issue forms."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fastopt import __version__

ROOT = Path(__file__).resolve().parents[2]


def string(key: str) -> str:
    """A string of pyproject.toml; the standard library reads TOML from Python 3.11 only."""
    (value,) = re.findall(rf'^{key} = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    return str(value)


def classifiers() -> list[str]:
    (block,) = re.findall(
        r"^classifiers = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE
    )
    return re.findall(r'"(.*)"', block)


def test_readme_of_the_package_has_no_relative_links() -> None:
    """As `setup.py` makes it, read from the metadata without building anything."""
    source = (ROOT / "setup.py").read_text()
    (function,) = re.findall(r"^def readme\(\).*?(?=^\S)", source, re.DOTALL | re.MULTILINE)
    scope: dict[str, Any] = {"re": re, "HERE": ROOT, "PACKAGE": ROOT / "fastopt"}
    exec(function, scope)
    text = scope["readme"]()
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    repository = string("Repository")
    assert [each for each in targets if not each.startswith(("https://", "#"))] == []
    inside = [each.partition("#")[0] for each in targets if each.startswith(repository)]
    files = [re.sub(rf"^{re.escape(repository)}/(?:raw|blob)/v{re.escape(__version__)}/", "", each) for each in inside]
    assert len(files) > 30
    assert [each for each in files if not (ROOT / each).exists()] == []
    images = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert images
    assert all(f"{repository}/raw/" in each for each in images)
    assert text.count(repository) == len(inside)


def test_one_place_has_the_address_of_the_repository() -> None:
    repository = string("Repository")
    owner = repository.rpartition("/")[0].removeprefix("https://")
    assert string("Issues").startswith(repository)
    assert string("Changelog").startswith(repository)
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    paths = [ROOT / file for file in files if Path(file).suffix in (".md", ".py", ".toml", ".yml")]
    found = [path.name for path in paths if path.exists() and owner in path.read_text()]
    assert found == ["pyproject.toml"]


def test_classifiers_are_sorted_and_agree_with_the_lowest_python() -> None:
    lowest = int(string("requires-python").removeprefix(">=3."))
    minors = [int(each) for each in re.findall(r"Python :: 3\.(\d+)", "\n".join(classifiers()))]
    assert minors == list(range(lowest, max(minors) + 1))


def test_classifiers_exist() -> None:
    known = pytest.importorskip("trove_classifiers").classifiers
    assert [each for each in classifiers() if each not in known] == []


FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_issue_forms_are_forms(form: Path) -> None:
    read = pytest.importorskip("yaml").safe_load(form.read_text())
    if form.stem == "config":
        assert read == {"blank_issues_enabled": True}
        return
    assert {"name", "description", "body"} <= set(read)
    fields = [each for each in read["body"] if each["type"] != "markdown"]
    assert len({each["id"] for each in fields}) == len(fields)
    assert all(each["attributes"]["label"] for each in fields)
    assert "fastopt.show_config()" in [each["attributes"]["label"] for each in fields]
