"""The walk over tensors on a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import devices
from .walks import PythonWalk


class DeviceWalk(PythonWalk):
    """The walk of an engine on a device, which takes the addresses of gradients, and counts steps there.

    Beyond `PythonWalk`'s arguments it takes a function that says whether somebody wrote to the numbers in torch's
    state, and one that gives the addresses of a GradScaler's two numbers, 0 for those that it does not have.
    """

    def __init__(
        self, *arguments: Any, numbers_changed: Callable[[], bool], scaler: Callable[[], tuple[int, int]]
    ) -> None:
        super().__init__(*arguments)
        self.numbers_changed = numbers_changed
        self.scaler = scaler

    def is_kept(self, thorough: bool) -> bool:
        return super().is_kept(thorough) and not (thorough and self.numbers_changed())

    def advance(self, n_threads: int) -> bool:
        if not self.memory:
            return False
        stream = devices.current_stream(self.forms[0].device)
        if stream != self.engine.stream:
            self.engine.stream = stream
        self.engine.set_scaler(*self.scaler())
        direct = [
            gradient is not None and gradient.dtype is not form.dtype
            for gradient, form in zip(self.gradients, self.forms, strict=True)
        ]
        self.engine.step_at(self.addresses, direct)
        return True  # Only the device knows.
