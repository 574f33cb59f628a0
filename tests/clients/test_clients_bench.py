"""`python -m fastopt.bench.clients`: a row for each package."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fastopt.bench import clients


def test_every_package_is_trained_by_each_optimizer(capsys: pytest.CaptureFixture[str]) -> None:
    clients.main(["--quick"])
    _, _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == [client.name for client in clients.CLIENTS]
    for row in rows:
        assert len(re.findall(r"\d+\.\d %", row)) == len(clients.SIDES)
        assert row.count("*") == 1


def test_the_time_of_a_closure_is_not_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning and skorch compute the gradients in one."""
    now = [0.0]
    monkeypatch.setattr(clients.time, "perf_counter", lambda: now[0])
    watch = clients.Watch()
    param = torch.nn.Parameter(torch.ones(2))

    class Slow(torch.optim.SGD):
        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            now[0] += 1
            return super().step(closure)

    def closure() -> torch.Tensor:
        now[0] += 100
        param.grad = torch.ones(2)
        return param.sum()

    optimizer = clients.timed(Slow, watch, lr=0.5)([param])
    assert optimizer.step(closure) == 2
    optimizer.step()
    assert (watch.steps, watch.seconds, now) == (2, 2, [102])
    assert torch.equal(param.detach(), torch.zeros(2))
