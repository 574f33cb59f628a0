"""One thread begins something while another does something else: as if one came first, or one is refused.

At each line of fastopt that the first thread comes to, in turn, the second one does all that it does: nothing here
depends on time.
"""

from __future__ import annotations

import copy
import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, each_pair

import fastopt
from fastopt.kernels.engine.contract import BUSY

pytestmark = pytest.mark.usefixtures("no_garbage_collection")

FASTOPT = str(Path(fastopt.__file__).parent)
KERNELS = str(Path(fastopt.kernels.__file__).parent)
MOST_LINES = 24
"""The most lines at which one function is interrupted by another, spread evenly over those that it comes to."""


class World:
    """An optimizer that has made an update and accumulated once more, its parameters, and what is done to it."""

    def __init__(self, backend: str, bound: bool) -> None:
        self.params = {"a": np.linspace(1.0, 2.0, 3), "b": np.linspace(-1.0, 1.0, 2)}
        self.grads = {"a": np.array([0.5, -1.0, 2.0]), "b": np.array([0.25, 3.0])}
        self.added, self.added_grads = np.ones(2), np.array([-1.0, 1.0])
        options: dict[str, Any] = {"accumulate_steps": 2} | ({"grads": self.grads} if bound else {})
        self.bound = bound
        self.optimizer = fastopt.AdamW(self.params, lr=0.1, ema_decay=0.5, backend=backend, **options)
        self.loaded = self.optimizer.state_dict()
        for _ in range(3):
            self.optimizer.step(None if bound else self.grads)

    def step(self) -> None:
        self.optimizer.step(None if self.bound else self.grads)

    def assign(self) -> None:
        self.optimizer.param_groups[0]["weight_decay"] = 0.5

    def assign_rate(self) -> None:
        self.optimizer.param_groups[0]["lr"] = 0.25

    def freeze(self) -> None:
        self.optimizer.set_segments("a", frozen=True)

    def add(self) -> None:
        self.optimizer.add_param_group({"params": self.added}, grads=self.added_grads if self.bound else None)

    def load(self) -> None:
        self.optimizer.load_state_dict(self.loaded)

    def swap(self) -> None:
        self.optimizer.swap_averages()

    def apply(self) -> Any:
        return self.optimizer.apply_accumulated()

    def drop(self) -> None:
        self.optimizer.drop_accumulated()

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def save(self) -> Any:
        return plain(self.optimizer.state_dict())

    def dump(self) -> Any:
        return shown(pickle.loads(pickle.dumps(self.optimizer)))

    def copy(self) -> Any:
        return shown(copy.deepcopy(self.optimizer))


def plain(value: Any) -> Any:
    """A value that can be compared, with the bits of arrays."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value.tobytes() if isinstance(value, np.ndarray) else repr(value)


def shown(optimizer: fastopt.Optimizer) -> Any:
    """All that an optimizer is made of."""
    swapped = optimizer.averages_swapped_in
    params = [param.copy() for group in optimizer.param_groups for param in group["params"]]
    if swapped:
        optimizer.swap_averages()
    state = optimizer.state_dict()
    if swapped:
        optimizer.swap_averages()
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    return plain([params, swapped, state, groups, list(optimizer.segments)])


CHANGES = ("freeze", "add", "load", "swap")
BEGUN = ("step", "assign step", "assign_rate step", *CHANGES, "apply", "drop", "save", "dump", "copy", "zero_grad")
"""What the first thread does: one or two calls."""
MEANWHILE = ("step", "assign", *CHANGES, "apply")


def result_of(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except (RuntimeError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def refused(result: Any) -> bool:
    return isinstance(result, str) and BUSY in result


class Interruption:
    """Traces this thread, and calls a function in another at one of the lines of fastopt; counts the lines."""

    def __init__(self, at: int, function: Callable[[], Any]) -> None:
        self.at, self.function = at, function
        self.lines = 0
        self.result: Any = None

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith((FASTOPT, KERNELS)):
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                thread = threading.Thread(target=self.call)
                thread.start()
                thread.join()
        return self

    def call(self) -> None:
        self.result = result_of(self.function)


def interrupted(backend: str, bound: bool, begun: list[str], second: str, at: int) -> tuple[list[Any], Any, Any, int]:
    """The results of both, what is left, and the number of lines of what was begun."""
    world = World(backend, bound)
    interruption = Interruption(at, getattr(world, second))
    sys.settrace(interruption)
    try:
        results = [result_of(getattr(world, name)) for name in begun]
    finally:
        sys.settrace(None)
    return results, interruption.result, shown(world.optimizer), interruption.lines


def in_turn(backend: str, bound: bool, names: list[str]) -> tuple[list[Any], Any]:
    """The results of calls, one after the other, and what is left."""
    world = World(backend, bound)
    results = [result_of(getattr(world, name)) for name in names]
    return results, shown(world.optimizer)


def orders(backend: str, bound: bool, begun: list[str], second: str) -> list[tuple[list[Any], Any, Any]]:
    """What `interrupted` may find: as if the second came before, between or after the others, or one was refused."""
    found = []
    for at in range(len(begun) + 1):
        for names in (begun, begun[:-1]):
            results, left = in_turn(backend, bound, [*names[:at], second, *names[at:]])
            found.append((results[:at] + results[at + 1 :], results[at] if at < len(results) else results[-1], left))
    results, left = in_turn(backend, bound, begun)
    return [*found, (results, "refused", left)]


@each_pair(backend=["cython", "reference"], bound={"bound": True, "given": False}, first=BEGUN, second=MEANWHILE)
def test_what_another_thread_does_comes_before_or_after_or_is_refused(
    backend: str, bound: bool, first: str, second: str
) -> None:
    begun = first.split()
    allowed = orders(backend, bound, begun, second)
    lines = interrupted(backend, bound, begun, second, 0)[3]
    for at in sorted({1 + round(each * (lines - 1) / (MOST_LINES - 1)) for each in range(MOST_LINES)}):
        results, other, left, _ = interrupted(backend, bound, begun, second, at)
        if refused(results[-1]):
            results.pop()
        assert (results, "refused" if refused(other) else other, left) in allowed, at


class Changing(dict[str, Any]):
    """Gradients that, when they are read, change the optimizer that they are for."""

    action: Callable[[], None]

    def __getitem__(self, key: str) -> Any:
        self.action()
        return super().__getitem__(key)


@pytest.mark.parametrize("second", CHANGES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_that_change_the_optimizer_while_they_are_read(backend: str, second: str) -> None:
    """What they do comes before the step, in the same thread as in another."""
    world = World(backend, False)
    gradients = Changing(world.grads)
    once = iter([getattr(world, second)])
    gradients.action = lambda: next(once, lambda: None)()
    result = result_of(lambda: world.optimizer.step(gradients))
    (_, expected), left = in_turn(backend, False, [second, "step"])
    if second == "add":
        expected = expected.replace("got dict", "got Changing")
    assert (result, shown(world.optimizer)) == (expected, left)


@pytest.mark.parametrize("backend", BACKENDS)
def test_arrays_shared_with_what_is_pickled_or_copied_beside_an_optimizer_stay_shared(backend: str) -> None:
    world = World(backend, False)
    for params, optimizer in (
        pickle.loads(pickle.dumps((world.params, world.optimizer))),
        copy.deepcopy((world.params, world.optimizer)),
    ):
        for mine, theirs in zip(params.values(), optimizer.param_groups[0]["params"], strict=True):
            assert mine is theirs


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_error_while_an_engine_is_replaced_leaves_the_one_before_in_its_place(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, twin = World(backend, True), World(backend, True)
    room = world.optimizer._room

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "_note_taken_over", interrupt)  # the last that is done
    for change in (world.add, world.load):
        with pytest.raises(KeyboardInterrupt):
            change()
    monkeypatch.undo()
    world.step()
    twin.step()
    assert shown(world.optimizer) == shown(twin.optimizer)
