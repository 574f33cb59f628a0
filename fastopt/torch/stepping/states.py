"""The states of parameters: torch's own tensors, which torch makes when they are needed."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...definitions.specs import Spec
from ...kernels.engine.contract import SegmentRecords
from ...kernels.formulas import registry
from ...state.states import UNUSED
from ...step.param_storage import ParamStorage
from ...step.storage import REST
from . import shards, tensors
from .coded_states import CodedState, CodedStates, dense_strides, encoded
from .host import PLAIN, Group, Host, InitGroup, States
from .hyperparameters import read_hyperparameters

ADAGRAD_NEEDS_STATES = torch.__version__ < "2.12"
"""Whether torch's Adagrad makes states in its constructor only; its steps then fail where there are none."""


class StateNumbers:
    """The numbers in torch's states: a segment's count of steps, where torch keeps one, then the carried ones.

    A step reads them from torch's tensors before, and writes them there after; engines keep them in their records.
    `counts_steps` says whether there is a count.
    """

    def __init__(self, spec: Spec, counts_steps: bool) -> None:
        self.counts_steps = counts_steps
        self.names = ("step",) * counts_steps + tuple(spec.carried)

    def get(self, records: SegmentRecords, index: int) -> list[float]:
        """The numbers of a segment, in the order of `names`."""
        count = [float(records.steps[index])] * self.counts_steps
        return count + [float(each) for each in records.carried[index]]

    def set(self, records: SegmentRecords, index: int, values: Sequence[float]) -> None:
        """Write a segment's numbers to the records."""
        if self.counts_steps:
            records.steps[index] = values[0]
        records.carried[index] = values[self.counts_steps :]


def state_names(spec: Spec, counts_steps: bool) -> tuple[str, ...]:
    """The names of everything that an optimizer may keep in a parameter's state."""
    return (*StateNumbers(spec, counts_steps).names, *spec.all_states)


def optional_states(spec: Spec) -> set[str]:
    """The states that some of the optimizer's rules do without: those that a hyperparameter turns on."""
    rules = [set(registry.rule(rule).states) for rule in spec.rules.values()]
    return set().union(*rules) - rules[0].intersection(*rules)


def has_state(names: Sequence[str], states: Mapping[Tensor, dict[str, Any]], param: Tensor) -> bool:
    """Whether a parameter has a state of one of these names; others may keep things beside them."""
    state = states.get(param)
    return bool(state) and any(dict.get(state, name) is not None for name in names)  # type: ignore[arg-type]


def is_unused(state: Tensor | CodedState) -> bool:
    """Whether a state has the value `UNUSED` everywhere; looks at all elements only if the first one has it."""
    if isinstance(state, CodedState):
        return state.is_filled(UNUSED)
    own: Tensor = shards.local(state)
    if not own.numel():
        return True
    first = own[(0,) * own.ndim]
    return bool(first == 0 and first.signbit()) and bool(((own == 0) & own.signbit()).all())


def has_begun(states: dict[str, Any], names: Sequence[str]) -> bool:
    """Whether a step has used one of these states; the rest of a parameter does not tell."""
    return not all(is_unused(dict.__getitem__(states, name)) for name in names if name != REST)


def new_state(
    spec: Spec,
    values: Mapping[str, Any],
    name: str,
    param: Tensor,
    dtype: torch.dtype | None = None,
    codec: str | None = None,
) -> Tensor | CodedState:
    """A state as a new optimizer with these hyperparameters has it before its first step: in the format `codec`, or of
    this dtype, by default the parameter's."""
    start = spec.initial.get(name, 0.0 if spec.counts_steps else UNUSED)
    value = float(values[start]) if isinstance(start, str) else start
    if codec is not None:
        return CodedState.filled(codec, param, value)
    own = shards.local(param)
    made = torch.full_like(own, value, dtype=dtype, requires_grad=False, memory_format=torch.preserve_format)
    return shards.wrapped(made, param)


def new_number(value: float, exact: bool = False) -> Tensor:
    """A number of a state, in the dtype that torch gives it or, if it is to be `exact`, as steps compute it."""
    double = exact or torch.get_default_dtype() == torch.float64
    return torch.tensor(value, dtype=torch.float64 if double else torch.float32)


def add_missing(
    spec: Spec,
    values: Mapping[str, Any],
    state: dict[str, Any],
    param: Tensor,
    dtype: torch.dtype | None = None,
    formats: Mapping[str, str] = PLAIN.formats,
) -> None:
    """Give a parameter's state what it has not, as it is before a first step."""
    numbers = {"step": 0.0} if spec.counts_steps else {}
    for name, start in {**numbers, **spec.carried}.items():
        if dict.get(state, name) is None:
            state[name] = new_number(start, exact=name in spec.carried and not spec.in_torch)
    for name in spec.states(values):
        if dict.get(state, name) is None:
            state[name] = new_state(spec, values, name, param, dtype, formats.get(name))


def state_of(states: MutableMapping[Tensor, dict[str, Any]], param: Tensor, storage: ParamStorage) -> dict[str, Any]:
    """A parameter's state, which is a dict that can have states in these formats."""
    state = states[param]
    if storage.formats and not isinstance(state, CodedStates):
        state = states[param] = CodedStates(state)
    return state


def make_states(host: Host, states: States, init_group: InitGroup, group: Group, params: list[Tensor]) -> None:
    """Make the states of parameters of a group: torch does, then whatever it leaves to its steps or its constructor.

    The parameters must have gradients. What others keep in a parameter's state stays, before ours.
    """
    lists: list[list[Any]] = [[] for _ in range(len(inspect.signature(init_group).parameters) - 1)]
    values = read_hyperparameters(host.name, host.spec, group)
    others = {param: encoded(states[param]) for param in params if states.get(param)}
    for param in others:
        states[param].clear()  # torch makes states only where there is nothing
    try:
        with torch.no_grad():
            whole = [param for param in params if not host.makes_states(param)]
            if ADAGRAD_NEEDS_STATES and host.spec.name == "Adagrad":
                for param in whole:
                    add_missing(host.spec, values, states[param], param)
            init_group({**group, "params": whole}, *lists)
            for param in params if host.spec.states(values) else ():
                storage = host.storage(param, values)
                state = state_of(states, param, storage)
                add_missing(host.spec, values, state, param, host.state_dtype(param), storage.formats)
    finally:
        for param, kept in others.items():
            made = encoded(states[param])
            states[param].clear()
            states[param].update({**kept, **made})


def make_states_early(
    host: Host, states: States, init_group: InitGroup, groups: Sequence[Group], only: Collection[int] | None = None
) -> None:
    """Make the states of all parameters, or of those with these ids, before there are gradients."""
    names = state_names(host.spec, host.counts_steps)
    for group in groups:
        new = [
            param
            for param in group["params"]
            if (only is None or id(param) in only) and not has_state(names, states, param)
        ]
        if new and host.spec.states(read_hyperparameters(host.name, host.spec, group)):
            gradients = [param.grad for param in new]
            try:
                for param in new:
                    param.grad = param.detach()  # torch makes states only for what has a gradient
                with torch.inference_mode(False):  # States must be usable outside of it.
                    make_states(host, states, init_group, group, new)
            finally:
                for param, gradient in zip(new, gradients, strict=True):
                    param.grad = gradient
        for param in new:
            add_own(host, states, param)
        starts = {name: float(group[name]) for name in _starts(host.spec).values()}
        host.early.update((param, starts) for param in new if starts)


def _starts(spec: Spec) -> dict[str, str]:
    """What a new state of torch's has that begins with a hyperparameter: arrays and numbers, and which it is."""
    found = {**spec.initial, **spec.carried_initial}
    return {name: start for name, start in found.items() if isinstance(start, str)}


def add_own(host: Host, states: States, param: Tensor) -> None:
    """Give a parameter's state what only options ask for, as it is before a first step, where it is missing.

    A checkpoint is loaded into states that are there: what is not would stay as it is in a new optimizer.
    """
    with torch.inference_mode(False):
        if host.is_split(param) and dict.get(states.get(param, {}), REST) is None:
            states[param][REST] = new_rest(param)
        if host.counts_steps and not host.spec.counts_steps and dict.get(states.get(param, {}), "step") is None:
            states[param]["step"] = new_number(0.0)


def new_rest(param: Tensor) -> Tensor:
    """What a bfloat16 parameter does not hold of its float32, before a first step: nothing."""
    own = shards.local(param)
    made = torch.zeros(own.numel(), dtype=tensors.REST_DTYPE).as_strided(own.shape, dense_strides(own))
    return shards.wrapped(made, param)


def follow_hyperparameters(
    host: Host, states: Mapping[Tensor, dict[str, Any]], params: Sequence[Tensor], values: Mapping[str, Any]
) -> None:
    """Have states that were made early, and that nobody has used or changed since, begin with these hyperparameters.

    Rprop's step sizes and ASGD's `eta`, for example, begin with the rate of the first step.
    """
    for param in params:
        starts, state = host.early.get(param), states.get(param, {})
        if starts is None:
            continue
        if dict.get(state, "step") != 0:
            del host.early[param]
            continue
        for name, start in _starts(host.spec).items():
            if starts[start] == values[start]:
                continue
            value = dict.__getitem__(state, name)
            if isinstance(value, CodedState):
                if value.is_filled(starts[start]):
                    value.fill(values[start])
            elif bool((shards.local(value) == torch.tensor(starts[start], dtype=value.dtype)).all()):
                shards.local(value).fill_(values[start])
        host.early[param] = {start: values[start] for start in starts}
