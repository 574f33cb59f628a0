"""The memory of optimizer states, and how users see it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from ..definitions.specs import Spec
from ..kernels.backends import Memory
from ..kernels.engine import host_memory
from ..kernels.engine.contract import SegmentRecords
from ..step.operations import STATES
from ..step.param_storage import ParamStorage
from ..step.rates import rate_at
from ..step.storage import CODE_DTYPES, REST, working_dtype
from . import coded

States = dict[str, Any]
"""The states of a parameter by name, arrays in its memory: of its shape, unless a format needs another."""

UNUSED = -0.0
"""What `fastopt.torch` has in a momentum of SGD that no step has used yet: torch keeps no count of SGD's steps.

Adding -0.0 changes no number, so to torch it is as good as no momentum. Unlike 0.0 it tells a first step, which has no
dampening, from a later one, in every copy and file.
"""


def is_unused(state: np.ndarray) -> bool:
    """Whether a state has the value `UNUSED` everywhere."""
    return bool(((state == 0) & np.signbit(state)).all())


def initial_states(
    spec: Spec,
    group: Mapping[str, Any],
    params: Sequence[Any],
    names: Iterable[str],
    memory: Memory,
    storages: Sequence[ParamStorage],
) -> list[States]:
    """New states for each parameter of a group; those of `names`, and what split parameters need.

    There is one buffer for each state and dtype, in which the part of each parameter is aligned.
    """
    states: list[States] = [{} for _ in params]
    for name in names:
        forms = [_form(name, param, storage) for param, storage in zip(params, storages, strict=True)]
        start = initial_value(spec, group, name) if name in spec.initial else None
        allocate(name, forms, states, memory, start)
        for param, storage, state in zip(params, storages, states, strict=True):
            if start is not None and name in storage.formats:
                start_state(memory, state[name], param, storage.formats[name], start)
            if name in STATES and STATES[name].starts_as_param:
                memory.copy(state[name], param if memory is host_memory else widened(memory, param))
    split = [(param, state) for param, storage, state in zip(params, storages, states, strict=True) if storage.split]
    allocate(REST, [(CODE_DTYPES[16], param.shape) for param, _ in split], [state for _, state in split], memory)
    return states


def widened(memory: Memory, array: Any) -> Any:
    """An array in the dtype that steps compute in: itself, or a copy in main memory."""
    wide = working_dtype(array.dtype)
    return array if wide == array.dtype else memory.to_host(array).astype(wide)


Form = tuple["np.dtype[Any]", tuple[int, ...]]
"""The dtype and the shape of an array."""


def _form(name: str, param: Any, storage: ParamStorage) -> Form:
    if name in storage.formats:
        return coded.form_of(storage.formats[name], param.shape)
    return working_dtype(param.dtype), tuple(param.shape)


def allocate(
    name: str, forms: Sequence[Form], states: Sequence[States], memory: Memory, start: float | None = None
) -> None:
    """Give each parameter a state of this form, all of a dtype in one buffer; those that are no codes start as said."""
    for dtype in dict.fromkeys(dtype for dtype, _ in forms):
        step = memory.ALIGNMENT // dtype.itemsize
        own = [(state, shape) for state, (each, shape) in zip(states, forms, strict=True) if each == dtype]
        padded = [-(-math.prod(shape) // step) * step for _, shape in own]
        buffer = memory.zeros(sum(padded), dtype)
        if start is not None and dtype.kind == "f":
            memory.fill(buffer, start)
        begin = 0
        for (state, shape), size in zip(own, padded, strict=True):
            state[name] = buffer[begin : begin + math.prod(shape)].reshape(shape)
            begin += size


def start_state(memory: Memory, state: Any, param: Any, format_name: str | None, value: float) -> None:
    """Let all elements of a state of a parameter, whose format is None or has this name, be a number."""
    if format_name is None:
        memory.fill(state, value)
    else:
        memory.copy(state, coded.filled(format_name, value, param.shape))


def initial_value(spec: Spec, group: Mapping[str, Any], name: str) -> float:
    """The value that a state starts with."""
    source = spec.initial[name]
    if not isinstance(source, str):
        return source
    return rate_at(group, 0) if source == "lr" else float(group[source])


def decoded_states(states: States, param: Any, storage: ParamStorage) -> States:
    """The states of a parameter, with read-only copies in float32 of those that are stored in another format."""
    if not storage.formats:
        return states
    found = dict(states)
    for name, each in storage.formats.items():
        if name in found:
            found[name] = coded.decoded(each, found[name], param.shape)
            found[name].flags.writeable = False
    return found


class StateView(Mapping[int, Mapping[str, Any]]):
    """`opt.state`: position of a parameter -> its states by name. Its arrays can be written to, not replaced; those of
    states that are stored in another format than float32 are copies, and read-only."""

    def __init__(
        self,
        spec: Spec,
        states: list[States],
        params: Sequence[Any],
        storages: Sequence[ParamStorage],
        records: SegmentRecords,
        fetch: Callable[[], None],
    ) -> None:
        self._spec = spec
        self._states = states
        self._params = params
        self._storages = storages
        self._records = records
        self._fetch = fetch

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if not 0 <= index < len(self._states):
            raise KeyError(f"there is no parameter {index!r} (expected 0 to {len(self._states) - 1})")
        self._fetch()
        # The numbers of the rule come first; those of options say only what has begun.
        carried = dict(zip(self._spec.carried, self._records.carried[index].tolist(), strict=False))
        states = decoded_states(self._states[index], self._params[index], self._storages[index])
        return MappingProxyType({"step": int(self._records.steps[index]), **carried, **states})

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self._states)))

    def __len__(self) -> int:
        return len(self._states)

    def __repr__(self) -> str:
        return repr({index: dict(self[index]) for index in self})
