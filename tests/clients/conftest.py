"""Tests of fastopt in other packages: collected only where `-m clients` asks for them, as `.ci/clients` does.

The packages come with the extra `clients` alone, so that other environments could not import these files. Nothing is
downloaded: models are made from configurations, data are generated or come with packages.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parent

OWN_WARNINGS = pytest.mark.filterwarnings("ignore", r"error:::fastopt(\..*)?")
"""Packages warn of each other, for reasons of their own; what fastopt does must not warn."""

# Before the packages are imported: they ask no server for anything, and report nothing to one.
for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ[name] = "1"


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Decide about all files of this folder."""
    wanted = re.sub(r"not\s+clients\b", "", config.option.markexpr)
    return None if re.search(r"\bclients\b", wanted) else True


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    """Packages warn when they are imported, too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.clients)
            item.add_marker(OWN_WARNINGS)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small models are slower on more, and two threads of two processes of xdist wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
