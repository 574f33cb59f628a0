"""Marks that Keras' own tests have; its conftest.py, which knows them, does not come with the package."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "requires_trainable_backend: one of Keras' own marks")
