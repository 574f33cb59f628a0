"""`.ci/release` in a small repository of its own: what it changes, and that it refuses without changing anything."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def git(repository: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
    command = ["git", *identity, "-C", str(repository), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Test")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "test@example.com")
    for name in (".ci/release", "fastopt/_version.py", "CHANGELOG.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\nText.\n\n## Unreleased\n\n- New.\n")
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "Start")
    return tmp_path


def release(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repository / ".ci" / "release"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def everything(repository: Path) -> tuple[str, ...]:
    return tuple(git(repository, *command) for command in (("rev-parse", "HEAD"), ("tag",), ("diff", "HEAD")))


def test_changelog_version_commit_and_tag(repository: Path) -> None:
    done = release(repository, "7.1.0")
    assert done.returncode == 0, done.stderr
    changelog = (repository / "CHANGELOG.md").read_text()
    assert re.fullmatch(r"# Changelog\n\nText.\n\n## Unreleased\n\n## 7.1.0 - \d{4}-\d\d-\d\d\n\n- New.\n", changelog)
    assert '__version__ = "7.1.0"\n' in (repository / "fastopt" / "_version.py").read_text()
    assert git(repository, "log", "-1", "--format=%s %D") == "Release 7.1.0 HEAD -> main, tag: v7.1.0"
    assert git(repository, "cat-file", "-t", "v7.1.0") == "tag"
    assert git(repository, "status", "--porcelain") == ""
    assert done.stdout.splitlines()[-1].split() == ["git", "push", "--atomic", "origin", "main", "v7.1.0"]


def test_the_version_may_be_set_already_and_the_next_release_follows(repository: Path) -> None:
    current = re.findall('"(.*)"', (repository / "fastopt" / "_version.py").read_text())[-1]
    assert release(repository, current).returncode == 0
    text = (repository / "CHANGELOG.md").read_text()
    (repository / "CHANGELOG.md").write_text(text.replace("## Unreleased\n", "## Unreleased\n\n- Newer.\n"))
    git(repository, "commit", "--quiet", "--all", "--message", "Newer")
    assert release(repository, "9.0.0").returncode == 0
    headings = re.findall(r"^(?:## |- )(\S+)", (repository / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings == ["Unreleased", "9.0.0", "Newer.", current, "New."]


@pytest.mark.parametrize(
    ("version", "before", "message"),
    [
        ("1.0", (), "'1.0' is not a version"),
        ("01.0.0", (), "'01.0.0' is not a version"),
        ("1.0.0rc1", (), "'1.0.0rc1' is not a version"),
        ("2.9.9", ("tag", "v2.10.0"), "2.9.9 is not later than 2.10.0"),
        ("2.10.0", ("tag", "v2.10.0"), "2.10.0 is not later than 2.10.0"),
        ("9.0.0", ("switch", "--quiet", "--create", "other"), "made from the branch main, this is other"),
        ("9.0.0", ("switch", "--quiet", "--detach"), "made from the branch main, this is no branch"),
    ],
)
def test_refused(repository: Path, version: str, before: tuple[str, ...], message: str) -> None:
    if before:
        git(repository, *before)
    was = everything(repository)
    refused = release(repository, version)
    assert refused.returncode == 1
    assert message in refused.stderr
    assert everything(repository) == was


@pytest.mark.parametrize(
    ("name", "text", "commit", "message"),
    [
        ("CHANGELOG.md", "# Changelog\n\n## Unreleased\n\n## 0.0.1 - 2020-01-01\n\n- Old.\n", True, "is empty"),
        ("CHANGELOG.md", "# Changelog\n", True, "has no section '## Unreleased'"),
        ("fastopt/_version.py", "version = 1\n", True, "does not have one line __version__"),
        ("new.txt", "", False, "?? new.txt"),
    ],
)
def test_files_that_are_refused(repository: Path, name: str, text: str, commit: bool, message: str) -> None:
    (repository / name).write_text(text)
    if commit:
        git(repository, "commit", "--quiet", "--all", "--message", "Change")
    was = everything(repository)
    refused = release(repository, "9.0.0")
    assert refused.returncode == 1
    assert message in refused.stderr
    assert everything(repository) == was


def test_the_changelog_has_what_a_release_needs() -> None:
    assert (ROOT / "CHANGELOG.md").read_text().count("## Unreleased\n") == 1
