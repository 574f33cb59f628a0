"""An engine on a device, and what brings torch's tensors to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import devices
from .device_tensors import DeviceTensors
from .entries import Entry
from .hyperparameters import known_values
from .rounds import Round


class DeviceRound(Round):
    """One on a CUDA device. There steps are counted, and `write_numbers` brings the counts to torch's state."""

    on_device = True

    def load_backend(self) -> Any:
        first = self.entries[0]
        devices.check_current(self.owner.name, first.label, first.param)
        return devices.backend_for("cuda", self.owner.options["backend"], self.owner.spec.custom)

    def array(self, tensor: Tensor) -> Any:
        return devices.device_array(tensor)

    def read_numbers(self) -> None:
        """Take over the numbers in torch's state; those on the device have to be waited for."""
        self.tensors: list[dict[str, Tensor]] = []
        for entry in self.entries:
            values = {name: self.number(entry, name) for name in self.numbers}
            self.tensors.append({name: value for name, value in values.items() if value is not None})
        for index, own in enumerate(self.tensors):
            if "step" in own:
                self.records.steps[index] = int(own["step"].item())
            self.records.carried[index] = [own[name].item() for name in self.owner.spec.carried]
        self.known = [[tensor.item() for tensor in values.values()] for values in self.tensors]
        """What torch's state has, as it was last read or written."""

    def make_native(self, entries: Sequence[Entry | None], number: int) -> Any:
        return DeviceTensors(
            self.engine,
            [(group, *known_values(group)) for group in self.owner.param_groups],
            self.segments(entries, number),
            [entry.memory for entry in self.entries],
            [entry.states for entry in self.entries],
            self.owner.known_states,
            torch.autograd.graph.increment_version,
            self.numbers_changed,
            self.scaler,
        )

    def scaler(self) -> tuple[int, int]:
        """Where a GradScaler's two numbers are on the device, 0 for those that it has not."""
        device = self.entries[0].param.device
        # They are kept until the next step: by then this one, on the same stream, has read them.
        self.scaled_by = [
            None if value is None else torch.as_tensor(value, dtype=torch.float32, device=device)
            for value in self.owner.scaler
        ]
        found_inf, scale = (0 if value is None else value.data_ptr() for value in self.scaled_by)
        return found_inf, scale

    def numbers_changed(self) -> bool:
        """Whether somebody wrote to the numbers in torch's state."""
        return any(
            tensor.item() != number
            for values, known in zip(self.tensors, self.known, strict=True)
            for tensor, number in zip(values.values(), known, strict=True)
        )

    def write_numbers(self) -> None:
        """Bring what the device has counted to torch's state, where nobody else wrote; waits for the device."""
        self.engine.fetch()
        for index, (values, known) in enumerate(zip(self.tensors, self.known, strict=True)):
            fetched = dict(zip(self.owner.spec.carried, self.records.carried[index], strict=True))
            fetched["step"] = self.records.steps[index]
            for position, (name, tensor) in enumerate(values.items()):
                if tensor.item() == known[position]:
                    with torch.no_grad():
                        tensor.fill_(float(fetched[name]))
                    known[position] = tensor.item()
