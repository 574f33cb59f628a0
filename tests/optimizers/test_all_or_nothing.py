"""What fails half way leaves the optimizer as it was; what would disturb a step under way is refused."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, equal_bits
from comparing import snapshot

import fastopt
from fastopt.optimizers.engine_room import EngineRoom


def make(**options: Any) -> fastopt.Optimizer:
    optimizer = fastopt.Adam([np.ones(5), np.ones(3)], lr=0.5, **options)
    optimizer.step([np.ones(5), np.ones(3)])
    return optimizer


FAILING: dict[str, Callable[[fastopt.Optimizer], Any]] = {
    "load_state_dict": lambda opt: opt.load_state_dict(
        fastopt.Adam([np.ones(5), np.ones(3)], lr=0.1, amsgrad=True).state_dict()
    ),
    "add_param_group": lambda opt: opt.add_param_group({"params": np.zeros(2)}),
}


@pytest.mark.parametrize("name", FAILING)
@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_a_failure_half_way_changes_nothing(
    name: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer, twin = make(), make()
    before = snapshot(optimizer)

    def fail(*args: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(EngineRoom, "build", fail)
        with pytest.raises(error):
            FAILING[name](optimizer)
    assert snapshot(optimizer) == before
    for each in (optimizer, twin):
        each.step([np.full(5, 2.0), np.ones(3)])
    assert snapshot(optimizer) == snapshot(twin)
    with pytest.raises(ValueError, match="needs state"):
        optimizer.param_groups[0]["amsgrad"] = True


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_changed_during_a_step(backend: str) -> None:
    size = 2_000_000
    optimizer = fastopt.SGD(np.zeros(size), lr=1.0, momentum=0.5, grads=np.ones(size), backend=backend)
    optimizer.step()
    saved = optimizer.state_dict()
    stop = threading.Event()

    def keep_stepping() -> None:
        while not stop.is_set():
            with contextlib.suppress(RuntimeError):
                optimizer.step()

    refused = 0
    thread = threading.Thread(target=keep_stepping)
    thread.start()
    try:
        for attempt in range(2000):
            try:
                if attempt % 2:
                    optimizer.state_dict()
                else:
                    optimizer.load_state_dict(saved)
            except RuntimeError:
                refused += 1
            if refused >= 5:
                break
    finally:
        stop.set()
        thread.join()
    assert refused
    param = optimizer.param_groups[0]["params"][0]
    buffer = optimizer.state[0]["momentum_buffer"]
    assert equal_bits(param, np.full(size, param[0]))
    assert equal_bits(buffer, np.full(size, buffer[0]))
