"""PyTorch's optimizers, `fastopt.torch`'s among them, and its modules as parts of a file."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from . import fingerprints, tensors
from .changes import Changes
from .leaves import Leaf
from .parts import Content, Found, Part, StatefulPart, check_same, read_params, with_new_arrays
from .trees import Writing, decoded, shortened


def part_of(label: str, value: Any) -> Part | None:
    """The part that a value is; None if it is no optimizer and no module that can be written in place."""
    if isinstance(value, torch.optim.Optimizer):
        return TorchOptimizerPart(label, value)
    if isinstance(value, torch.nn.Module) and all(map(_is_tensor, value.state_dict().values())):
        return ModulePart(label, value)
    return None


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


class ModulePart(Part):
    """A module whose state dict has nothing but tensors: it is written in place."""

    kind = "module"
    value: torch.nn.Module

    def saved(self, writing: Writing, params: bool) -> Content:
        return {"state_dict": writing.encoded(dict(self.value.state_dict()), f"{self.label}.state_dict()", self.label)}

    def check(self, content: Content, leaves: Mapping[str, Leaf], params: bool, strict: bool) -> None:
        self._saved = decoded(content["state_dict"], leaves, Found)
        present = self.value.state_dict()
        missing, unknown = [key for key in present if key not in self._saved], [*(self._saved.keys() - present.keys())]
        if missing or unknown:
            raise ValueError(
                f"the module has other keys: not in the file: {shortened(missing)}, only in the file: "
                f"{shortened(sorted(unknown))}"
            )
        self.collect(Changes())

    def collect(self, changes: Changes) -> None:
        for key, tensor in self.value.state_dict().items():
            found = self._saved[key]
            if not isinstance(found, Found):
                raise ValueError(f"{key} is no tensor in the file")
            tensors.write_in_place(tensor, found.leaf, f"{self.label}.state_dict()[{key!r}]", changes)


class TorchOptimizerPart(StatefulPart):
    """An optimizer over tensors, with its parameters.

    States that it has already are written in place; the first load gives it new tensors for the others, which are
    written at once.
    """

    kind = "torch optimizer"
    value: torch.optim.Optimizer

    @property
    def _params(self) -> list[torch.Tensor]:
        return [param for group in self.value.param_groups for param in group["params"]]

    def look(self) -> None:
        """Nothing: the state dict shares the states' memory, so it is read when all else is."""

    def saved(self, writing: Writing, params: bool) -> Content:
        self._state_dict = self.value.state_dict()
        content = {**super().saved(writing, params), "about": self._about(), "params": None}
        if params:
            found = zip(self._names(), self._params, strict=True)
            content["params"] = [
                writing.encoded(param, f"parameter {name!r} of {self.label}", f"{self.label}.params.{name}")
                for name, param in found
            ]
        return content

    def _live_state_dict(self) -> dict[str, Any]:
        """The state dict whose tensors share the states' memory: with codes, where there are any."""
        named = inspect.signature(self.value.state_dict).parameters
        found: dict[str, Any] = self.value.state_dict(**({"encoded": True} if "encoded" in named else {}))
        return found

    def _names(self) -> list[Any]:
        names: list[Any] = []
        for group in self.value.param_groups:
            start = len(names)
            names += group.get("param_names", range(start, start + len(group["params"])))
        return names

    def _about(self) -> fingerprints.Fingerprint:
        names = iter(self._names())
        groups = [
            {
                "params": [
                    fingerprints.param_row(next(names), param.shape, tensors.dtype_name(param))
                    for param in group["params"]
                ],
                "options": None,
            }
            for group in self.value.param_groups
        ]
        options = getattr(self.value, "options", None)  # of `fastopt.torch`
        return {
            "class": type(self.value).__name__,
            "groups": groups,
            "options": fingerprints.options_of(options, fingerprints.OPTIONS) if isinstance(options, Mapping) else None,
            "settings": None,
        }

    def check(self, content: Content, leaves: Mapping[str, Leaf], params: bool, strict: bool) -> None:
        check_same(content["about"], self._about(), strict)
        self._saved_params = read_params(content["params"], leaves, params)
        if self._saved_params and len(self._saved_params) != len(self._params):
            raise ValueError(f"there are {len(self._saved_params)} parameters, not {len(self._params)}")
        self._collect_params(Changes())
        self._present = self._live_state_dict()["state"]
        super().check(content, leaves, params, strict)

    def _collect_params(self, changes: Changes) -> None:
        for index, (param, leaf) in enumerate(zip(self._params, self._saved_params, strict=False)):
            tensors.write_in_place(param.detach(), leaf, f"parameter {index} of {self.label}", changes)

    def _read(self) -> Any:
        """The state dict; where the optimizer has a tensor of the same shape and dtype, with that."""
        self._copies: list[tuple[torch.Tensor, Leaf]] = []
        saved = decoded(self._content, self._leaves, Found)
        for key, states in saved["state"].items():
            present = self._present.get(key, {})
            for name, found in states.items() if isinstance(states, dict) else ():
                mine: Any = present.get(name) if isinstance(present, Mapping) else None
                if isinstance(found, Found) and tensors.in_place(mine, found.leaf):
                    self._copies.append((mine, found.leaf))
                    states[name] = mine
        return with_new_arrays(saved)

    def attempt(self) -> None:
        before = self._live_state_dict()
        self._before = {
            **before,
            "state": {key: dict(each) if isinstance(each, Mapping) else each for key, each in before["state"].items()},
            "param_groups": [dict(group) for group in before["param_groups"]],
        }
        self._tried = True
        self.value.load_state_dict(self._read())

    def collect(self, changes: Changes) -> None:
        self._collect_params(changes)
        for tensor, leaf in self._copies:
            tensors.write_in_place(tensor, leaf, f"a state of {self.label}", changes)

    def finish(self) -> None:
        """Nothing: everything is loaded."""
