"""The memory of optimizer states, and how users see it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from ..definitions.specs import Spec
from ..kernels.backends import Memory
from ..kernels.engine.contract import SegmentRecords
from ..step.operations import STATES
from ..step.rates import rate_at

States = dict[str, Any]
"""The states of a parameter by name, arrays of its shape in its memory."""

UNUSED = -0.0
"""What `fastopt.torch` has in a momentum of SGD that no step has used yet: torch keeps no count of SGD's steps.

Adding -0.0 changes no number, so to torch it is as good as no momentum. Unlike 0.0 it tells a first step, which has no
dampening, from a later one, in every copy and file.
"""


def is_unused(state: np.ndarray) -> bool:
    """Whether a state has the value `UNUSED` everywhere."""
    return bool(((state == 0) & np.signbit(state)).all())


def initial_states(
    spec: Spec, group: Mapping[str, Any], params: Sequence[Any], names: Iterable[str], memory: Memory
) -> list[States]:
    """New states for each parameter of a group: one buffer for each state, in which the part of each parameter is
    aligned."""
    states: list[States] = [{} for _ in params]
    for name in names:
        dtype = params[0].dtype if params else np.dtype(np.float32)
        step = memory.ALIGNMENT // dtype.itemsize
        padded = [-(-param.size // step) * step for param in params]
        buffer = memory.zeros(sum(padded), dtype)
        if name in spec.initial:
            memory.fill(buffer, initial_value(spec, group, name))
        start = 0
        copies = name in STATES and STATES[name].starts_as_param
        for param, size, state in zip(params, padded, states, strict=True):
            state[name] = buffer[start : start + param.size].reshape(param.shape)
            if copies:
                memory.copy(state[name], param)
            start += size
    return states


def initial_value(spec: Spec, group: Mapping[str, Any], name: str) -> float:
    """The value that a state starts with."""
    source = spec.initial[name]
    if not isinstance(source, str):
        return source
    return rate_at(group, 0) if source == "lr" else float(group[source])


class StateView(Mapping[int, Mapping[str, Any]]):
    """`opt.state`: position of a parameter -> its states by name. Its arrays can be written to, not replaced."""

    def __init__(
        self,
        spec: Spec,
        states: list[States],
        records: SegmentRecords,
        fetch: Callable[[], None],
    ) -> None:
        self._spec = spec
        self._states = states
        self._records = records
        self._fetch = fetch

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if not 0 <= index < len(self._states):
            raise KeyError(f"there is no parameter {index!r} (expected 0 to {len(self._states) - 1})")
        self._fetch()
        # The numbers of the rule come first; those of options say only what has begun.
        carried = dict(zip(self._spec.carried, self._records.carried[index].tolist(), strict=False))
        return MappingProxyType({"step": int(self._records.steps[index]), **carried, **self._states[index]})

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self._states)))

    def __len__(self) -> int:
        return len(self._states)

    def __repr__(self) -> str:
        return repr({index: dict(self[index]) for index in self})
