"""An engine on a device, and how torch's tensors get to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import devices
from .device_walk import DeviceWalk
from .rounds import Contents, Round
from .walks import TensorWalk


class DeviceRound(Round):
    """A round on a CUDA device, where steps are counted; `write_numbers` brings the counts to torch's state."""

    on_device = True

    def load_backend(self) -> Any:
        first = self.entries[0]
        devices.check_current(self.host.name, first.label, first.param)
        return devices.backend_for("cuda", self.host.options["backend"], self.host.spec.custom)

    def array(self, tensor: Tensor) -> Any:
        return devices.device_array(tensor)

    def read_numbers(self) -> None:
        """Take over the numbers in torch's state; this waits for those that are on the device."""
        self.known = [[tensor.item() for tensor in entry.numbers] for entry in self.entries]
        """The numbers in torch's state, as they were last read or written."""
        for index, values in enumerate(self.known):
            self.numbers.set(self.records, index, values)

    def make_walk(self, contents: Contents, segments: list[int]) -> TensorWalk:
        return DeviceWalk(
            self.engine,
            contents.known_groups,
            segments,
            [entry.memory for entry in self.entries],
            [entry.states for entry in self.entries],
            contents.states,
            self.wholes(),
            numbers_changed=self.numbers_changed,
            scaler=self.scaler,
        )

    def scaler(self) -> tuple[int, int]:
        """The addresses of a GradScaler's two numbers on the device, 0 for those that it does not have."""
        device = self.entries[0].param.device
        # They are kept until the next step: by then this one, on the same stream, has read them.
        self.scaled_by = [
            None if value is None else torch.as_tensor(value, dtype=torch.float32, device=device)
            for value in self.host.scaler
        ]
        found_inf, scale = (0 if value is None else value.data_ptr() for value in self.scaled_by)
        return found_inf, scale

    def numbers_changed(self) -> bool:
        """Whether somebody else wrote to the numbers in torch's state."""
        return any(
            tensor.item() != number
            for entry, known in zip(self.entries, self.known, strict=True)
            for tensor, number in zip(entry.numbers, known, strict=True)
        )

    def write_numbers(self) -> None:
        """Bring the device's counts to torch's state, unless somebody else wrote there; waits for the device."""
        self.engine.fetch()
        for index, (entry, known) in enumerate(zip(self.entries, self.known, strict=True)):
            numbers = self.numbers.get(self.records, index)
            for position, (tensor, number) in enumerate(zip(entry.numbers, numbers, strict=True)):
                if tensor.item() == known[position]:
                    with torch.no_grad():
                        tensor.fill_(number)
                    known[position] = tensor.item()
