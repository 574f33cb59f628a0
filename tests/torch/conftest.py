"""Fixtures for the tests of `fastopt.torch`."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch_peers import CarryIn, carrying_in

from fastopt.torch.stepping.states import ADAGRAD_NEEDS_STATES


@pytest.fixture(autouse=ADAGRAD_NEEDS_STATES)
def _adagrad_of_later_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch's own Adagrad step parameters without states, as it does from 2.12 on; ours always can."""
    init_group = torch.optim.Adagrad._init_group

    @functools.wraps(init_group)
    def with_states(self: Any, group: dict[str, Any], *lists: Any) -> Any:
        if type(self) is torch.optim.Adagrad:
            start = self.defaults["initial_accumulator_value"]
            for param in group["params"]:
                if param.grad is not None and not self.state[param]:
                    dtype = torch.get_default_dtype() if torch.get_default_dtype() == torch.float64 else torch.float32
                    self.state[param] = {"step": torch.tensor(0.0, dtype=dtype), "sum": torch.full_like(param, start)}
        return init_group(self, group, *lists)

    monkeypatch.setattr(torch.optim.Adagrad, "_init_group", with_states)


@pytest.fixture
def carry_in() -> Iterator[CarryIn]:
    """`torch_peers.carrying_in` until the end of a test."""
    with ExitStack() as stack:
        yield lambda optimizer, dtype: stack.enter_context(carrying_in(optimizer, dtype))
