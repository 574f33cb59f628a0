"""What `state_dtype` says of each parameter, and how states are made that torch's constructors would make too large."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..definitions.specs import Spec
from ..step.options import GROUP_OPTIONS
from ..step.param_storage import check_state_dtype
from .stepping import states, tensors
from .stepping.host import Host
from .stepping.hyperparameters import read_hyperparameters

NAME = "state_dtype"

Chosen = str | dict[str, str]
"""What `state_dtype` says of a parameter, if anything."""

EXPECTED = (
    "'float32', 'bfloat16' or 'float8', a dict of them by the names of states, or a function of (name, parameter) that "
    "returns one of these or None"
)


def check(wanted: Any) -> Any:
    """A `state_dtype`, checked as far as that is possible without parameters.

    Raises
    ------
    TypeError, ValueError
        It is none.
    """
    if callable(wanted):
        return wanted
    if wanted is not None and not isinstance(wanted, (str, Mapping)):
        raise TypeError(f"{NAME} must be {EXPECTED}, got {wanted!r}")
    return GROUP_OPTIONS[NAME].check(NAME, wanted)


def is_given(options: Mapping[str, Any], params: Any = ()) -> bool:
    """Whether the option stands among those of an optimizer or in a list of its groups."""
    groups = [each for each in params if isinstance(each, dict)] if isinstance(params, (list, tuple)) else []
    return any(each.get(NAME) is not None for each in (options, *groups))


def taken_from(group: dict[str, Any], default: Any) -> tuple[dict[str, Any], Any]:
    """A group as torch has it, without our option, and what it says there; the group itself is not changed."""
    if NAME not in group:
        return group, default
    return {key: value for key, value in group.items() if key != NAME}, check(group[NAME])


def of_group(owner: str, spec: Spec, group: dict[str, Any], wanted: Any) -> Iterator[tuple[Tensor, Chosen]]:
    """What is chosen for each parameter of a group; nothing for those that are as they would be without the option.

    Raises
    ------
    TypeError, ValueError
        Something else, or what the optimizer cannot do.
    """
    if wanted is None:
        return
    values = read_hyperparameters(owner, spec, group)
    names = group.get("param_names") or [None] * len(group["params"])
    for position, (name, param) in enumerate(zip(names, group["params"], strict=True)):
        chosen = _called(owner, wanted, name, position, param) if callable(wanted) else wanted
        if chosen is not None:
            check_state_dtype(spec, values, chosen)
            yield param, chosen


def _called(owner: str, function: Callable[..., Any], name: str | None, position: int, param: Tensor) -> Any:
    """What a function says of a parameter."""
    try:
        chosen = function(name, param)
    except (TypeError, AttributeError) as error:
        if name is not None:
            raise
        raise TypeError(
            f"{owner}: {NAME}(name, parameter) raised {type(error).__name__}: {error}. The name was None: only "
            "parameters that are given with names have some, as in model.named_parameters()"
        ) from error
    label = f"{NAME}({name!r}, parameter)" if name is not None else f"{NAME}(None, parameter {position} of its group)"
    if callable(chosen) or not (chosen is None or isinstance(chosen, (str, Mapping))):
        raise TypeError(
            f"{owner}: {label} must return {EXPECTED.partition(', or a function')[0]}, or None; got {chosen!r}"
        )
    return GROUP_OPTIONS[NAME].check(f"{owner}: what {label} returns", chosen)


class Undecided(TorchFunctionMode):
    """While it is active, `torch.full_like` makes tensors without memory.

    Adagrad's constructor calls it for all states, in the parameters' dtype; `make_undecided` makes those then.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        return func(*args, **(kwargs if func is not torch.full_like else {**kwargs, "device": "meta"}))


def make_undecided(host: Host, own: Any, groups: list[dict[str, Any]]) -> None:
    """Make the states that have no memory yet, in their formats."""
    for group in groups:
        values = read_hyperparameters(host.name, host.spec, group)
        for param in group["params"]:
            state = own.get(param, {})
            missing = [name for name in host.spec.all_states if tensors.is_without_memory(dict.get(state, name))]
            if not missing or tensors.is_without_memory(param):
                continue
            for name in missing:
                del state[name]
            storage = host.storage(param, values)
            state = states.state_of(own, param, storage)
            states.add_missing(host.spec, values, state, param, host.state_dtype(param), storage.formats)
