"""What `state_dtype`, `master_weights` and `stochastic_rounding` mean for each parameter and its states."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..definitions.specs import Spec
from ..kernels.backends import Backend
from ..kernels.formulas.storage import FORMATS
from .storage import HALVES, REST

STATE_FORMATS: dict[str, tuple[str, str]] = {
    "bfloat16": ("bfloat16", "bfloat16"),
    "float8": ("float8", "unsigned_float8"),
}
"""What `state_dtype` says of a state: its format if it has a sign, and if it is never negative."""

SMALL = 4096
"""The number of elements from which on a parameter's states are stored as `state_dtype` says, if it names no states."""


class ParamStorage(NamedTuple):
    """How a parameter and its states are stored.

    Attributes
    ----------
    formats: the formats of states, by name; states that are not in it are of the dtype that kernels compute in.
    split: whether the state `REST` holds the other half of the parameter's float32.
    """

    formats: Mapping[str, str] = {}
    split: bool = False

    def without(self, exact: Collection[str]) -> ParamStorage:
        """The same with these states in float32."""
        return self._replace(formats={name: each for name, each in self.formats.items() if name not in exact})


def param_storage(
    label: str,
    spec: Spec,
    group: Mapping[str, Any],
    options: Mapping[str, Any],
    dtype: str,
    size: int,
    owner: str = "",
) -> ParamStorage:
    """How a parameter of this dtype and size is stored; `label` names it in messages, which begin with `owner`.

    Raises
    ------
    TypeError
        The options are not possible with this dtype.
    """
    wanted, masters = group["state_dtype"], options["master_weights"]
    if wanted is not None and dtype != "float32" and dtype not in HALVES:
        raise TypeError(
            f"{owner}state_dtype={wanted!r} is for parameters of float32, bfloat16 or float16: {label} is {dtype}, and "
            "its states are too"
        )
    if masters:
        check_master_weights(owner, label, dtype)
    formats = {
        name: STATE_FORMATS[chosen][name in spec.unsigned]
        for name in spec.all_states
        if (chosen := _chosen(wanted, name, size)) != "float32"
    }
    return ParamStorage(formats, bool(masters) and dtype == "bfloat16").without(spec.exact_states(group))


def check_master_weights(owner: str, label: str, dtype: str) -> None:
    """Raise a TypeError if a parameter of this dtype cannot have master weights."""
    if dtype == "float16":
        raise TypeError(
            f"{owner}master_weights=True is for bfloat16 parameters: {label} is {dtype}, which has 3 bits of exponent "
            "less than float32, so that 16 further bits do not make a float32 of it; keep it in float32, or in bfloat16"
        )


def check_backend(backend: Backend, groups: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> None:
    """Raise a NotImplementedError for options that the steps of a backend cannot do."""
    if not backend.on_device:
        return
    given = ["master_weights"] if options["master_weights"] else []
    given += ["state_dtype" for group in groups if group["state_dtype"] not in (None, "float32")][:1]
    if given:
        raise NotImplementedError(
            f"{given[0]} with backend={backend.name!r}: its states are of float32 or float64 alone; leave it out, "
            "or use a backend that runs on the processor"
        )


def _chosen(wanted: str | Mapping[str, str] | None, name: str, size: int) -> str:
    if wanted is None:
        return "float32"
    if isinstance(wanted, str):
        return wanted if size >= SMALL else "float32"
    return wanted.get(name, "float32")


def check_state_dtype(spec: Spec, values: Mapping[str, Any], wanted: Any) -> None:
    """Raise a ValueError for a `state_dtype` that names what is no state, or one that is always float32."""
    if not isinstance(wanted, Mapping):
        return
    exact = spec.exact_states(values)
    for name, chosen in wanted.items():
        if name not in spec.all_states:
            known = ", ".join(map(repr, spec.all_states)) or "none"
            raise ValueError(f"state_dtype has {name!r}, which is no state of {spec.name} (it has {known})")
        if name in exact and chosen != "float32":
            raise ValueError(f"state_dtype[{name!r}] must be 'float32' with {spec.name}, got {chosen!r}: {EXACT}")


EXACT = "rounded, this state would make updates wrong by far more than it is rounded (docs/memory.md)"


def operand_names(states: Sequence[str], storage: ParamStorage) -> tuple[str, ...]:
    """The names of the states in memory, given those that the rule and options need."""
    return (*states, REST) if storage.split else tuple(states)


BYTES = {"float32": 4, "float64": 8}
"""Of an element of each dtype that kernels compute in."""


def describe_storage(
    params: Sequence[tuple[str, int]],
    storages: Sequence[ParamStorage],
    states: Sequence[str],
    options: Mapping[str, Any],
    seed: int,
) -> list[str]:
    """Lines that say how the parameters of a group, given as names of dtypes and sizes, and their states are stored.

    None if all of it is of the dtype that kernels compute in.
    """
    found: dict[tuple[str, ...], list[int]] = {}
    plain = True
    for (dtype, size), storage in zip(params, storages, strict=True):
        names = operand_names(states, storage)
        computed = "float64" if dtype == "float64" else "float32"
        formats = {"param": dtype, **{name: storage.formats.get(name, computed) for name in names}}
        if storage.split:
            formats[REST] = "the other 16 bits of float32"
        plain = plain and not storage.formats and dtype == computed
        nbytes = sum(
            size * 2 if name == REST else FORMATS[each].nbytes(size) if each in FORMATS else size * BYTES[each]
            for name, each in formats.items()
        )
        words = tuple(f"{name} {each.replace('_', ' ')}" for name, each in formats.items())
        row = found.setdefault(words, [0, 0, 0])
        found[words] = [row[0] + 1, row[1] + size, row[2] + nbytes]
    if plain:
        return []
    rounded = f"at random (seed {seed})" if options["stochastic_rounding"] else "to the nearest"
    lines = [f"Stored, and rounded {rounded} once a step:"]
    for words, (count, size, nbytes) in found.items():
        each = f"{nbytes / size:.4g} bytes an element" if size else "no elements"
        lines.append(f"    {count} parameter{'s' * (count != 1)}, {each}: {', '.join(words)}")
    return lines
