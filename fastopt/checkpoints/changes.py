"""Everything that loading writes, collected first and then written in one call that no signal handler interrupts."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

import numpy as np

from ..kernels.engine import host_memory

Result = TypeVar("Result")


class Changes:
    """Writes to arrays, dicts and attributes that cannot fail, because they were checked.

    `apply` makes them all in one call of C code: Python runs signal handlers between its own instructions only, so a
    KeyboardInterrupt comes before the first write or after the last one.

    Attributes
    ----------
    states: (object, name, value), of random generators, whose assignment checks the value; this comes first.
    copies: (target, source), NumPy arrays of the same shape and dtype.
    updates: (dict, values).
    attributes: (object, name, value), plain ones, whose assignment runs no Python.
    on_device: what Python code must do, for memory on a device; each is called once all else is written.
    """

    def __init__(self) -> None:
        self.states: list[tuple[Any, str, Any]] = []
        self.copies: list[tuple[np.ndarray, np.ndarray]] = []
        self.updates: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self.attributes: list[tuple[Any, str, Any]] = []
        self.on_device: list[Callable[[], None]] = []

    def apply(self) -> None:
        # What is replaced is freed below: freeing may run Python.
        replaced = [[dict(old) for old, _ in self.updates], [getattr(*row[:2], None) for row in self.attributes]]
        copies = self._needed_copies()
        deque(
            itertools.chain(
                map(setattr, *_columns(self.states, 3)),
                map(
                    np.ndarray.__setitem__,
                    [target for target, _ in copies],
                    itertools.repeat(...),
                    [source for _, source in copies],
                ),
                map(dict.update, *_columns(self.updates, 2)),
                map(setattr, *_columns(self.attributes, 3)),
            ),
            maxlen=0,
        )
        for each in self.on_device:
            each()
        del replaced

    def _needed_copies(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The last copy to each target: weights that two parts of a model share are there twice."""
        found: dict[Any, tuple[np.ndarray, np.ndarray]] = {}
        for target, source in self.copies:
            if target.size:
                key = host_memory.address(target), target.shape, target.strides
                found.pop(key, None)  # so that it comes after what it may be copied from
                found[key] = target, source
        return list(found.values())


def _columns(rows: list[Any], width: int) -> list[list[Any]]:
    return [[row[index] for row in rows] for index in range(width)]


class _DeferringHandler:
    """A signal handler that notes signals while they are deferred, and hands them on to `handler` otherwise."""

    def __init__(self, handler: Callable[..., Any], deferred: _Deferred) -> None:
        self.handler = handler
        self.deferred = deferred

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.deferred.waiting:
            self.deferred.numbers.append(number)
        else:
            self.handler(number, frame)


class _Deferred:
    """What the handlers of one call know of each other."""

    def __init__(self) -> None:
        self.waiting = False
        self.numbers: list[int] = []

    def handle(self) -> None:
        """Send the noted signals again; a handler that raises keeps none of the others from being sent."""
        with contextlib.ExitStack() as last:
            while self.numbers:
                last.callback(signal.raise_signal, self.numbers.pop())


def without_interrupts(function: Callable[[], Result]) -> Result:
    """The result of `function()`; signals whose handlers are Python's are handled after it.

    Only the main thread has handlers, so in other threads there is nothing to do.

    Handlers cannot all be replaced, or put back, at once: a signal that arrives in between may raise there. Handlers
    that are left behind then go on calling those that they replaced, and the next call removes them.
    """
    if threading.current_thread() is not threading.main_thread():
        return function()
    handlers: dict[int, Callable[..., Any]] = {}
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        while isinstance(handler, _DeferringHandler):
            handler = handler.handler
        if callable(handler):  # not one of C
            handlers[number] = handler
    deferred = _Deferred()
    try:
        for each, handler in handlers.items():
            signal.signal(each, _DeferringHandler(handler, deferred))
        deferred.waiting = True
        return function()
    finally:
        deferred.waiting = False
        with contextlib.ExitStack() as last:
            last.callback(deferred.handle)
            for each, handler in handlers.items():
                last.callback(signal.signal, each, handler)
