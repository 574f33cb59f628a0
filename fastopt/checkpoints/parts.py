"""What a file can hold, part by part: optimizers over arrays, dicts, random generators, whatever has a state dict.

`models` has those of PyTorch.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from ..kernels.engine import host_memory
from ..optimizers.base import Optimizer
from ..state import matching, state_dicts
from . import fingerprints
from .changes import Changes
from .leaves import Leaf, array_leaf, is_array, is_tensor
from .trees import Writing, decoded, shortened

Result = TypeVar("Result")
Content = dict[str, Any]
"""What a file says of a part: JSON."""


class Part:
    """Something that is saved and loaded together with other parts.

    Saving calls `look` of all parts, then `saved` of all within `claimed` of all. Loading calls `check` of all; then
    `attempt` of all; then, within `claimed` of all, `collect` of all, and writes what was collected; then `finish`. If
    something fails before that is written, `undo` is called of those that were attempted.

    Attributes
    ----------
    kind: how a file says what it is.
    label: what messages call it, and what the names of its arrays begin with.
    value: what the user gave.
    """

    kind: str

    def __init__(self, label: str, value: Any) -> None:
        self.label, self.value = label, value

    def look(self) -> None:
        """Read what must be read before anything is claimed."""

    def claimed(self, function: Callable[[], Result]) -> Result:
        """The result of `function()`, with other threads kept out."""
        return function()

    def saved(self, writing: Writing, params: bool) -> Content:
        raise NotImplementedError

    def check(self, content: Content, leaves: Mapping[str, Leaf], params: bool, strict: bool) -> None:
        """Check what was saved against what is here, and keep it for the following methods.

        Raises
        ------
        ValueError, TypeError, KeyError
            They do not fit.
        """
        raise NotImplementedError

    def attempt(self) -> None:
        """Load in a way that `undo` can undo."""

    def undo(self) -> None: ...

    def collect(self, changes: Changes) -> None:
        """Say what is to be written."""

    def finish(self) -> None:
        """Do what can only be done when all else is loaded."""


# --- optimizers over arrays -----------------------------------------------------------------------------------------


class OptimizerPart(Part):
    """An optimizer of `fastopt`, with its parameters."""

    kind = "optimizer"
    value: Optimizer

    def claimed(self, function: Callable[[], Result]) -> Result:
        room = self.value._room

        def checked() -> Result:
            room.check_readable()
            room.engine.fetch()
            return function()

        result: Result = room.engine.alone(checked)
        return result

    def saved(self, writing: Writing, params: bool) -> Content:
        contents = self.value._room.contents
        memory = contents.params.memory
        to_host = _itself if memory is host_memory else memory.to_host
        label = self.label
        state_dict = state_dicts.save(contents, to_host)
        content = {
            "about": fingerprints.of_contents(contents),
            "state_dict": writing.encoded(state_dict, f"{label}.state_dict()", label),
            "params": None,
        }
        if params:
            named = zip(contents.params.names, contents.params.arrays, strict=True)
            content["params"] = [
                {"array": writing.add(f"{label}.params.{name}", array_leaf(label, to_host(array)))}
                for (name, _), array in named
            ]
        return content

    def check(self, content: Content, leaves: Mapping[str, Leaf], params: bool, strict: bool) -> None:
        contents = self.value._room.contents
        about, here = content["about"], fingerprints.of_contents(contents)
        self._state_dict = decoded(content["state_dict"], leaves, lambda kind, leaf: leaf.array)
        try:
            matched = matching.match(contents.params, self._state_dict["param_groups"])
        except ValueError:
            check_same(about, here, strict)  # says more, if it raises
            raise
        check_same(fingerprints.in_order(about, matched), here, strict)
        saved = read_params(content["params"], leaves, params)
        order = [index for group in matched.groups for index in fingerprints.positions_of(group)]
        self._params = [saved[index] for index in order] if params else []
        for (name, group), array, leaf in zip(
            contents.params.names, contents.params.arrays, self._params, strict=False
        ):
            if leaf.shape != tuple(array.shape) or leaf.dtype != array.dtype.name:
                raise ValueError(f"parameter {name!r} of group {group} is {array.dtype} of shape {array.shape}, {leaf}")
        state_dicts.read(contents, self._state_dict)

    def collect(self, changes: Changes) -> None:
        room = self.value._room
        contents = room.contents
        memory = contents.params.memory
        on_host = memory is host_memory
        for array, leaf in zip(contents.params.arrays, self._params, strict=False):
            if on_host:
                changes.copies.append((array, leaf.array_of(array.dtype)))
            else:
                changes.on_device.append(functools.partial(memory.copy, array, leaf.array))
        recording = _Recording(memory)
        params = copy.copy(contents.params)
        params.memory = recording if on_host else memory
        groups = [group.twin() for group in contents.groups]
        loaded = state_dicts.read(contents, self._state_dict)
        found = state_dicts.load(replace(contents, params=params, groups=groups), loaded)
        if on_host:
            changes.copies += _into_present(contents.states, found.states, recording)
        found.params = contents.params
        engine, structure = room.made(found)
        found.groups = contents.groups
        for group, twin in zip(contents.groups, groups, strict=True):
            changes.updates += [(group, dict(twin)), (vars(group), {"allowed_states": twin.allowed_states})]
        changes.attributes += room.assignments(found, engine, structure)
        changes.attributes += [(room.changes, "pending", True), (room.changes, "rates", True)]
        changes.attributes.append((room.changes, "ready_step", None))


class _Recording:
    """A main memory that notes what is to be written to new arrays instead of writing it: pages that nobody touches
    take no memory."""

    def __init__(self, memory: Any) -> None:
        self._memory = memory
        self.copies: list[tuple[np.ndarray, np.ndarray]] = []
        self.fills: list[tuple[int, int, float]] = []

    def copy(self, target: np.ndarray, source: np.ndarray) -> None:
        self.copies.append((target, source))

    def fill(self, array: np.ndarray, value: float) -> None:
        begin = host_memory.address(array)
        self.fills.append((begin, begin + array.nbytes, value))

    def fill_now(self, array: np.ndarray) -> None:
        """Write what was noted for a part of an array that was to be filled."""
        for begin, end, value in self.fills:
            if begin <= host_memory.address(array) < end:
                array.fill(value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._memory, name)


def _into_present(
    present: list[dict[str, Any]], new: list[dict[str, Any]], recording: _Recording
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Put the present states in the place of new ones of the same name and form; what is then to be copied.

    New states that nothing is copied to have their first values; these are copied to the present ones.
    """
    written = {id(target) for target, _ in recording.copies}
    targets: dict[int, np.ndarray] = {}
    first_values = []
    for mine, theirs in zip(present, new, strict=True):
        for name, array in theirs.items():
            fits = name in mine and (mine[name].dtype, mine[name].shape) == (array.dtype, array.shape)
            if id(array) not in written:
                recording.fill_now(array)
                if fits:
                    first_values.append((mine[name], array))
            if fits:
                targets[id(array)] = theirs[name] = mine[name]
    return [(targets.get(id(target), target), source) for target, source in recording.copies] + first_values


def _itself(array: np.ndarray) -> np.ndarray:
    return array


def check_same(saved: Any, here: fingerprints.Fingerprint, strict: bool) -> None:
    """Raise a ValueError that says how two optimizers differ, if they do."""
    found = fingerprints.differences(saved, here, strict)
    if found:
        advice = "" if fingerprints.differences(saved, here, False) else " (strict=False loads it nevertheless)"
        raise ValueError(f"it was saved from another optimizer: {fingerprints.message(found)}{advice}")


def read_params(saved: Any, leaves: Mapping[str, Leaf], wanted: bool) -> list[Leaf]:
    """The parameters in a file; none if they are not wanted.

    Raises
    ------
    ValueError
        They are wanted, and are not there.
    """
    if not wanted:
        return []
    if saved is None:
        raise ValueError("it has no parameters (it was saved with params=False); load them apart, with params=False")
    return [decoded(each, leaves, lambda kind, leaf: leaf) for each in saved]


# --- dicts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """An array in a file, of NumPy ("array") or PyTorch ("tensor")."""

    kind: str
    leaf: Leaf

    def new(self) -> Any:
        """A new array or tensor."""
        if self.kind == "array":
            return self.leaf.array.copy()
        from . import tensors

        return tensors.new_tensor(self.leaf)


def holds_array(value: Any) -> bool:
    return is_array(value) or is_tensor(value)


class DictPart(Part):
    """A dict of arrays, which are written in place, and of other values, which are replaced."""

    kind = "dict"
    value: dict[Any, Any]

    def saved(self, writing: Writing, params: bool) -> Content:
        return {"value": writing.encoded(self.value, self.label, self.label)}

    def check(self, content: Content, leaves: Mapping[str, Leaf], params: bool, strict: bool) -> None:
        self._saved = decoded(content["value"], leaves, Found)
        if not isinstance(self._saved, dict):
            raise ValueError("it is no dict in the file")
        self.collect(Changes())

    def collect(self, changes: Changes) -> None:
        _replace_values(self.value, self._saved, self.label, changes)


def _replace_values(target: dict[Any, Any], saved: dict[Any, Any], label: str, changes: Changes) -> None:
    missing, unknown = [key for key in target if key not in saved], [key for key in saved if key not in target]
    if missing or unknown:
        parts = [f"not in the file: {shortened(missing)}"] * bool(missing)
        parts += [f"only in the file: {shortened(unknown)}"] * bool(unknown)
        raise ValueError(f"{label} has other keys: {', '.join(parts)}")
    values = {}
    for key, present in target.items():
        name, value = f"{label}[{key!r}]", saved[key]
        if isinstance(present, dict) and isinstance(value, dict):
            _replace_values(present, value, name, changes)
        elif isinstance(present, list) and any(map(holds_array, present)):
            if not isinstance(value, list) or len(value) != len(present):
                raise ValueError(f"{name} is a list of {len(present)} arrays, and in the file {shortened(value)}")
            for index, (array, each) in enumerate(zip(present, value, strict=True)):
                write_in_place(array, each, f"{name}[{index}]", changes)
        elif holds_array(present):
            write_in_place(present, value, name, changes)
        else:
            values[key] = with_new_arrays(value)
    changes.updates.append((target, values))


def with_new_arrays(value: Any) -> Any:
    """A tree with new arrays in the place of those in the file."""
    if isinstance(value, Found):
        return value.new()
    if isinstance(value, dict):
        return {key: with_new_arrays(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(with_new_arrays, value))
    return value


def write_in_place(present: Any, saved: Any, label: str, changes: Changes) -> None:
    """Have an array or tensor written with what the file has for it.

    Raises
    ------
    ValueError
        They differ in shape, dtype or kind, or it is read-only.
    """
    if not holds_array(present) or not isinstance(saved, Found):
        raise ValueError(f"{label} is {shortened(present)} here, and {shortened(saved)} in the file")
    leaf = saved.leaf
    if is_tensor(present):
        from . import tensors

        tensors.write_in_place(present, leaf, label, changes)
        return
    if present.dtype.name != leaf.dtype or present.shape != leaf.shape:
        raise ValueError(f"{label} is {present.dtype} of shape {present.shape} here, and {leaf} in the file")
    if not present.flags.writeable:
        raise ValueError(f"{label} is a read-only array, which cannot be loaded into")
    if not present.dtype.isnative or host_memory.is_masked(present):
        raise ValueError(f"{label} is masked, or not in this machine's byte order")
    changes.copies.append((present.view(np.ndarray), leaf.array_of(present.dtype)))


# --- random generators, and whatever has a state dict ---------------------------------------------------------------


class GeneratorPart(Part):
    """A random generator of NumPy."""

    kind = "generator"
    value: np.random.Generator | np.random.BitGenerator

    @property
    def _bits(self) -> Any:
        return getattr(self.value, "bit_generator", self.value)

    def saved(self, writing: Writing, params: bool) -> Content:
        return {"state": writing.encoded(self._bits.state, f"the state of {self.label}", self.label)}

    def check(self, content: Content, leaves: Mapping[str, Leaf], params: bool, strict: bool) -> None:
        self._state = decoded(content["state"], leaves, lambda kind, leaf: leaf.array.copy())
        kind = type(self._bits).__name__
        if self._state["bit_generator"] != kind:
            raise ValueError(f"it is a {self._state['bit_generator']} in the file and a {kind} here")
        type(self._bits)(0).state = self._state  # Raises what is wrong with it.

    def collect(self, changes: Changes) -> None:
        changes.states.append((self._bits, "state", self._state))


class StatefulPart(Part):
    """Whatever has `state_dict` and `load_state_dict`.

    It is loaded first, to see whether it can be, and once more when all else is loaded, because it may look at that: a
    guard copies the optimizer's parameters.
    """

    kind = "state_dict"
    value: Any

    def look(self) -> None:
        self._state_dict = self.value.state_dict()

    def saved(self, writing: Writing, params: bool) -> Content:
        state_dict = writing.encoded(self._state_dict, f"{self.label}.state_dict()", self.label)
        return {"class": type(self.value).__name__, "state_dict": state_dict}

    def check(self, content: Content, leaves: Mapping[str, Leaf], params: bool, strict: bool) -> None:
        kind = type(self.value).__name__
        if content["class"] != kind:
            raise ValueError(f"it is a {content['class']} in the file and a {kind} here")
        self._content, self._leaves = content["state_dict"], leaves
        self._read()

    def _read(self) -> Any:
        """The state dict; its arrays are new, because the object may keep them."""
        return decoded(self._content, self._leaves, lambda kind, leaf: Found(kind, leaf).new())

    def attempt(self) -> None:
        self._before = copy.deepcopy(self.value.state_dict())
        self._tried = True
        self.value.load_state_dict(self._read())

    def undo(self) -> None:
        if getattr(self, "_tried", False):
            self.value.load_state_dict(self._before)

    def finish(self) -> None:
        self.value.load_state_dict(self._read())
