"""Fixtures for the tests of `fastopt.torch`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from torch_peers import CarryIn, carrying_in


@pytest.fixture
def carry_in() -> Iterator[CarryIn]:
    """`torch_peers.carrying_in` until the end of a test."""
    with ExitStack() as stack:
        yield lambda optimizer, dtype: stack.enter_context(carrying_in(optimizer, dtype))
