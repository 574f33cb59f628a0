"""The GitHub workflows: what `.ci/workflows` does not see, or what should fail without it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEXTS = [path.read_text(encoding="utf-8") for path in WORKFLOWS]

by_workflow = pytest.mark.parametrize("text", TEXTS, ids=[path.name for path in WORKFLOWS])


def cibuildwheel() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib")
    settings: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return settings["tool"]["cibuildwheel"] | {"requires-python": settings["project"]["requires-python"]}


def test_the_workflows_are_found() -> None:
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "wheels.yml"]


@by_workflow
def test_actions_are_pinned_to_a_commit_whose_version_is_named(text: str) -> None:
    uses = re.findall(r"uses: *(.*)", text)
    assert uses
    for each in uses:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each), each


def test_a_version_of_an_action_or_a_tool_is_the_same_everywhere() -> None:
    scripts = [path.read_text(encoding="utf-8") for path in (ROOT / ".ci").iterdir()]
    for pattern in (r"uses: *([\w./-]+)@(\w+)", r"([\w-]+)==([\d.]+)"):
        used = {match for text in TEXTS for match in re.findall(pattern, text)}
        names = {name for name, _ in used}
        assert names
        used |= {match for text in scripts for match in re.findall(pattern, text) if match[0] in names}
        assert len(used) == len(names), sorted(used)


@by_workflow
def test_a_job_has_only_the_permissions_that_it_names(text: str) -> None:
    assert "\npermissions: {}\n" in text
    jobs = re.findall(r"^  [\w-]+:\n(?:    .*\n|\n)+", text[text.index("\njobs:") :], re.MULTILINE)
    assert jobs
    for job in jobs:
        writes = "attestations" in job or "id-token" in job
        assert writes == ("gh-action-pypi-publish" in job), job
        assert "contents: write" not in job
        assert ("persist-credentials: false" in job) == ("actions/checkout" in job), job


@by_workflow
def test_the_scripts_that_are_run_are_there(text: str) -> None:
    for script in re.findall(r"run: *(\.ci/\S+)", text):
        assert os.access(ROOT / script, os.X_OK), script


def test_wheels_are_built_from_the_oldest_python_on_and_tested_by_tests_that_are_there() -> None:
    settings = cibuildwheel()
    versions = re.findall(r"\d+", settings["build"].partition("{")[2])
    assert settings["requires-python"] == f">=3.{versions[0]}"
    assert versions == [str(number) for number in range(int(versions[0]), int(versions[-1]) + 1)]
    files = re.findall(r"\{project\}/(\S+)", settings["test-command"])
    assert files
    assert all((ROOT / name).is_file() for name in files)
