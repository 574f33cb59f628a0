"""An exception from a signal's handler leaves whole steps, wherever it comes; so does one from a user's own code.

Handlers run in the main thread where Python looks for signals: when a function of Python starts, after a call returns,
and when a loop turns. The first test raises at every such place but the last, one after the other; the second sends
real signals at random moments.
"""

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS
from comparing import snapshot
from interrupting import interrupted_at

import fastopt

pytestmark = pytest.mark.usefixtures("no_garbage_collection")

SIZES = (5, 3)
GRADIENTS = [np.linspace(-1, 1, size) for size in SIZES]


def start(backend: str, made_by: Any = fastopt.SGD, **options: Any) -> fastopt.Optimizer:
    params = [np.ones(size) for size in SIZES]
    optimizer: fastopt.Optimizer = made_by(params, lr=0.5, momentum=0.9, backend=backend, **options)
    optimizer.step(GRADIENTS)
    return optimizer


def assign(name: str, value: float) -> Callable[[fastopt.Optimizer], None]:
    return lambda optimizer: optimizer.param_groups[0].update({name: value})


def schedule(optimizer: fastopt.Optimizer) -> None:
    """A rate for each step, and a first one that engines have seen."""
    optimizer.param_groups[0]["lr"] = fastopt.schedules.InverseTimeDecay(0.75, 1, 0.5)
    step(optimizer)


def step(optimizer: fastopt.Optimizer) -> None:
    optimizer.step(GRADIENTS[: len(optimizer.state)])


def step_with_nan(optimizer: fastopt.Optimizer) -> None:
    optimizer.step([np.full(size, np.nan) for size in SIZES])


def scale(optimizer: fastopt.Optimizer) -> None:
    optimizer.grad_scale = 2.0


def nothing(optimizer: fastopt.Optimizer) -> None:
    pass


def load(optimizer: fastopt.Optimizer) -> None:
    optimizer.load_state_dict(fastopt.SGD([np.zeros(size) for size in SIZES], lr=0.1, momentum=0.5).state_dict())


# What is done before, and what is then interrupted.
ACTIONS: dict[str, tuple[Callable[[fastopt.Optimizer], Any], Callable[[fastopt.Optimizer], Any]]] = {
    "step": (nothing, step),
    "assign": (nothing, assign("lr", 0.25)),
    "assign for another rule": (nothing, assign("momentum", 0.0)),
    "step after assignment": (assign("lr", 0.25), step),
    "step after assignment for another rule": (assign("momentum", 0.0), step),
    "assign in place of a schedule": (schedule, assign("lr", 0.25)),
    "step with a schedule": (schedule, step),
    "state_dict": (nothing, lambda optimizer: optimizer.state_dict()),
    "load_state_dict": (nothing, load),
    "add_param_group": (nothing, lambda optimizer: optimizer.add_param_group({"params": np.zeros(2)})),
    "the call that updates": (nothing, step),
    "the call that accumulates": (step, step),
    "apply_accumulated": (step, lambda optimizer: optimizer.apply_accumulated()),
    "drop_accumulated": (step, lambda optimizer: optimizer.drop_accumulated()),
    "a step with everything": (nothing, step),
    "a step that is skipped": (nothing, step_with_nan),
    "step after another scale": (scale, step),
    "swap_averages": (nothing, lambda optimizer: optimizer.swap_averages()),
    "eval": (nothing, lambda optimizer: optimizer.eval()),  # type: ignore[attr-defined]
    "train": (lambda optimizer: optimizer.eval(), lambda optimizer: optimizer.train()),  # type: ignore[attr-defined]
    "set_segments": (nothing, lambda optimizer: optimizer.set_segments(0, lr_scale=0.5, frozen=True)),
}
EVERYTHING: dict[str, Any] = {
    "max_grad_norm": 1.0,
    "nonfinite": "skip",
    "ema_decay": 0.5,
    "prox": fastopt.constraints.L1(0.01),
    "projection": fastopt.constraints.L2Ball(1.0),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "the call that updates": {"accumulate_steps": 2},
    "the call that accumulates": {"accumulate_steps": 2, **EVERYTHING},
    "apply_accumulated": {"accumulate_steps": 3, **EVERYTHING},
    "drop_accumulated": {"accumulate_steps": 3},
    "a step with everything": EVERYTHING,
    "a step that is skipped": EVERYTHING,
    "swap_averages": EVERYTHING,
    "eval": {"made_by": fastopt.ScheduleFreeSGD},
    "train": {"made_by": fastopt.ScheduleFreeSGD},
}


def all_of(optimizer: fastopt.Optimizer) -> list[bytes]:
    """All that an optimizer holds; what is swapped in is swapped out first."""
    swapped = optimizer.averages_swapped_in
    if swapped:
        optimizer.swap_averages()
    found = [repr(swapped).encode(), repr(optimizer.segments).encode(), repr(optimizer.grad_norm).encode()]
    return found + snapshot(optimizer)


def step_all(optimizer: fastopt.Optimizer) -> None:
    if len(optimizer.param_groups) == 1:
        step(optimizer)
    else:
        optimizer.step([GRADIENTS, np.ones(2)])


@pytest.mark.parametrize("backend", ["cython", "reference"])  # Both engines.
@pytest.mark.parametrize("action", ACTIONS)
def test_an_interrupt_anywhere_leaves_all_or_nothing(backend: str, action: str) -> None:
    """Takes long where an action makes a new engine: over a thousand places, each with an optimizer of its own."""
    prepare, interrupted = ACTIONS[action]
    optimizers = {name: start(backend, **OPTIONS.get(action, {})) for name in ("before", "after")}
    for each in optimizers.values():
        prepare(each)
    interrupted(optimizers["after"])
    whole = {name: all_of(each) for name, each in optimizers.items()}
    for each in optimizers.values():
        step_all(each)
    stepped = {name: all_of(each) for name, each in optimizers.items()}
    place, tiny = 0, np.array([np.finfo(np.float32).tiny])
    error_state = np.geterr()
    while True:
        place += 1
        optimizer = start(backend, **OPTIONS.get(action, {}))
        prepare(optimizer)
        # While the exception lives, so do its frames: nothing can be left to a generator that is closed with them.
        error, _ = interrupted_at(place, functools.partial(interrupted, optimizer))
        assert (np.geterr(), (tiny / 2)[0] != 0) == (error_state, True), place
        now = all_of(optimizer)
        assert now in whole.values(), place
        step_all(optimizer)
        assert all_of(optimizer) == stepped["after" if now == whole["after"] else "before"], place
        if error is None:
            break
    assert place > 2


class Interrupting(dict[str, np.ndarray]):
    """Gradients of which one cannot be had."""

    def __getitem__(self, key: str) -> np.ndarray:
        if key == "b":
            raise KeyboardInterrupt
        return super().__getitem__(key)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_interrupt_in_the_users_own_code_changes_nothing(backend: str) -> None:
    gradients = {"a": np.ones(3), "b": np.ones(2)}
    optimizer = fastopt.Adam({name: value.copy() for name, value in gradients.items()}, backend=backend)
    optimizer.step(gradients)
    before = snapshot(optimizer)
    with pytest.raises(KeyboardInterrupt) as interrupt:
        optimizer.step(Interrupting(gradients))
    assert snapshot(optimizer) == before, interrupt
    optimizer.step(gradients)
    assert optimizer.state[1]["step"] == 2


SIGNALS = {signal.SIGINT: 200, signal.SIGTERM: 20, signal.SIGALRM: 20}
"""How many of each a child gets."""


class Interrupt(Exception):
    """What handlers of the other signals raise."""


def raise_interrupt(number: int, frame: Any) -> None:
    raise Interrupt


def advance(optimizer: fastopt.Optimizer, gradients: list[list[np.ndarray]]) -> None:
    """The next step; everything in it follows from the number of steps so far."""
    done = optimizer.state[0]["step"]
    if done % 8 == 0:
        optimizer.param_groups[0]["lr"] = 0.01 / (1 + done // 8 % 5)
        optimizer.state_dict()
    optimizer.step(gradients[done % len(gradients)])


def be_interrupted(backend: str, size: int) -> None:
    """In a child: step, ask for a signal by a dot, step until it comes, compare with an uninterrupted twin; again."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, raise_interrupt)
    shapes = ((size,), (7, 11), (129,))
    rng = np.random.default_rng(1)
    gradients = [[rng.standard_normal(shape).astype(np.float32) for shape in shapes] for _ in range(3)]
    optimizer, twin = (
        fastopt.Adam([np.ones(shape, np.float32) for shape in shapes], backend=each) for each in (backend, "cython")
    )
    for _ in range(sum(SIGNALS.values())):
        advance(optimizer, gradients)  # One that is not interrupted: on a slow machine few others end in time.
        done = optimizer.state[0]["step"]
        try:
            os.write(1, b".")
            while True:
                done = optimizer.state[0]["step"]
                advance(optimizer, gradients)
        except (KeyboardInterrupt, Interrupt):
            steps = optimizer.state[0]["step"]
            assert steps in (done, done + 1)
            while twin.state[0]["step"] < steps:
                advance(twin, gradients)
            for index in range(len(shapes)):
                param, twin_param = (each.param_groups[0]["params"][index] for each in (optimizer, twin))
                assert np.array_equal(param, twin_param), (index, steps)
                state, twin_state = optimizer.state[index], twin.state[index]
                assert all(np.array_equal(state[name], twin_state[name]) for name in twin_state), (index, steps)
    os.write(1, b"!")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "size", "longest_wait"),
    [
        ("cython", 1_000, 2e-3),
        ("numba", 1_000, 2e-3),
        ("reference", 1_000, 2e-3),
        ("cython", 2_000_000, 5e-3),
        ("numba", 2_000_000, 5e-3),
        ("reference", 200_000, 5e-3),
    ],
)
def test_signals_at_random_moments_leave_whole_steps(backend: str, size: int, longest_wait: float) -> None:
    numbers = [number for number, count in SIGNALS.items() for _ in range(count)]
    moments = random.Random(1)
    code = f"import test_interrupts\ntest_interrupts.be_interrupted({backend!r}, {size})"
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(here.parent)}  # of what this file imports
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=here, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        watchdog = threading.Timer(120, child.kill)
        watchdog.start()
        assert child.stdout is not None
        assert child.stderr is not None
        try:
            for number in numbers:
                if child.stdout.read(1) != b".":
                    break
                time.sleep(moments.uniform(0, longest_wait))
                child.send_signal(number)
            end, errors = child.stdout.read(), child.stderr.read()
        finally:
            watchdog.cancel()
            child.kill()
    assert end == b"!", errors.decode()
