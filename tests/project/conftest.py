"""What several files here build on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from building import ROOT, build_wheel, copy_of_sources


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copy_of_sources(tmp_path / "fastopt")


@pytest.fixture(scope="session")
def built_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout after `pip wheel`, with the wheel in `dist`. What was compiled here from the same text is taken."""
    folder = copy_of_sources(tmp_path_factory.mktemp("built") / "checkout")
    for name in ("generated", "compiled"):
        if (ROOT / "build" / name).exists():
            shutil.copytree(ROOT / "build" / name, folder / "build" / name)
    built = build_wheel(folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder
