"""What optimizers take besides hyperparameters: how a step is run, and what is done around the update."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from ..checks import above_zero, flag, one_of, real_number, text, whole_number
from ..threads import check_n_threads

if TYPE_CHECKING:
    from ..constraints import Projection, Prox

Nonfinite = Literal["propagate", "skip", "raise"]


class Options(TypedDict, total=False):
    """The keyword arguments of every optimizer class; `Optimizer` says what they mean."""

    grads: Any
    backend: str
    n_threads: int | None
    convention: str
    flush_denormals: bool
    grad_scale: float
    max_grad_norm: float | None
    clip_norm: float | None
    clip_value: float | None
    nonfinite: Nonfinite
    max_consecutive_skips: int | None
    accumulate_steps: int
    ema_decay: float | None
    ema_overwrite_frequency: int | None
    zero_grads: bool
    projection: Projection | None
    prox: Prox | None
    decay: float  # with convention="tf_keras_legacy"


class NesterovOptions(Options, total=False):
    """Also those of Adam and AdamW with convention="optax"."""

    eps_root: float
    nesterov: bool


class NAdamOptions(Options, total=False):
    """Also those of NAdam with convention="optax"."""

    eps_root: float


class RAdamOptions(Options, total=False):
    """Also those of RAdam with convention="optax"."""

    eps_root: float
    threshold: float


class RMSpropOptions(Options, total=False):
    """Also those of RMSprop with convention="optax"."""

    nesterov: bool
    initial_scale: float
    eps_in_sqrt: bool
    bias_correction: bool


def positive_or_none(name: str, value: Any) -> float | None:
    if value is None:
        return None
    number = real_number(name, value)
    if not number > 0:
        raise ValueError(f"{name} must be > 0, or None for none, got {value!r}")
    return number


def _whole_or_none(name: str, value: Any) -> int | None:
    return None if value is None else whole_number(name, value)


def _decay_or_none(name: str, value: Any) -> float | None:
    if value is None:
        return None
    number = real_number(name, value)
    if not 0 <= number < 1:
        raise ValueError(f"{name} must be at least 0 and less than 1, got {value!r}")
    return number


def _threads(name: str, value: Any) -> int | None:
    check_n_threads(value)
    return None if value is None else int(value)


def _constraint(table: str, plural: str) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> Any:
        if value is None:
            return None
        from .. import constraints  # not needed by most, and slow to load

        kinds: tuple[type, ...] = getattr(constraints, table)
        if not isinstance(value, kinds):
            hint = f" (write {value.__name__}())" if isinstance(value, type) and issubclass(value, kinds) else ""
            raise TypeError(f"{name} must be one of fastopt's {plural}, or None, got {value!r}{hint}")
        return value

    return check


Check = Callable[[str, Any], Any]

# name: (default, check and conversion)
STEP_OPTIONS: dict[str, tuple[Any, Check]] = {
    "backend": ("auto", text),  # the table of backends checks it
    "n_threads": (None, _threads),
    "convention": ("torch", text),  # the optimizer's row of the table of specs checks it
    "flush_denormals": (True, flag),
    "grad_scale": (1.0, above_zero),
    "max_grad_norm": (None, positive_or_none),
    "nonfinite": ("propagate", one_of(*get_args(Nonfinite))),
    "max_consecutive_skips": (None, _whole_or_none),
    "accumulate_steps": (1, whole_number),
    "ema_decay": (None, _decay_or_none),
    "ema_overwrite_frequency": (None, _whole_or_none),
    "zero_grads": (False, flag),
}
"""Options of an optimizer as a whole."""

GROUP_OPTIONS: dict[str, tuple[Any, Check]] = {
    "clip_norm": (None, positive_or_none),
    "clip_value": (None, positive_or_none),
    "projection": (None, _constraint("PROJECTIONS", "projections")),
    "prox": (None, _constraint("PROXES", "proximal steps")),
}
"""Options that each group can have for itself."""


def read_step_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """All step options, with defaults for those not given.

    Raises
    ------
    TypeError, ValueError
        One is not usable, or does not go with another.
    """
    options = {name: check(name, given.get(name, default)) for name, (default, check) in STEP_OPTIONS.items()}
    if options["ema_overwrite_frequency"] is not None and options["ema_decay"] is None:
        raise ValueError("ema_overwrite_frequency needs ema_decay: there is no average to overwrite parameters with")
    if options["max_consecutive_skips"] is not None and options["nonfinite"] != "skip":
        raise ValueError(f"max_consecutive_skips needs nonfinite='skip', got nonfinite={options['nonfinite']!r}")
    return options


def check_group_options(values: Mapping[str, Any], max_grad_norm: float | None) -> dict[str, Any]:
    """A group's options, checked and converted; at most one way of clipping, one kind of rows.

    Raises
    ------
    TypeError, ValueError
        One is not usable, or does not go with another.
    """
    options = {name: check(name, values.get(name, default)) for name, (default, check) in GROUP_OPTIONS.items()}
    clipping = {"max_grad_norm": max_grad_norm, "clip_norm": options["clip_norm"], "clip_value": options["clip_value"]}
    given = [f"{name}={value!r}" for name, value in clipping.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"at most one of max_grad_norm, clip_norm and clip_value, got {', '.join(given)}")
    prox, projection = options["prox"], options["projection"]
    if hasattr(prox, "per") and hasattr(projection, "per") and prox.per != projection.per:
        raise ValueError(f"prox and projection must have the same per, got {prox!r} and {projection!r}")
    return options


def check_names(owner: str, given: Mapping[str, Any], added: Iterable[str]) -> None:
    """Raise the TypeError of a call with a keyword argument that does not exist; `added` are those of conventions."""
    for name in given:
        if name not in GROUP_OPTIONS and name not in STEP_OPTIONS and name != "grads" and name not in added:
            raise TypeError(f"{owner}() got an unexpected keyword argument {name!r}")
