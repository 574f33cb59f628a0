"""What optimizers take besides hyperparameters: how a step is run, and what is done around the update.

Each option is one row of a table here; the operations that it brings into a step are rows of `operations.FUSED`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, get_args

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
    ema_warmup: bool
    ema_overwrite_frequency: int | None
    zero_grads: bool
    state_dtype: str | Mapping[str, str] | None
    stochastic_rounding: bool
    seed: int
    master_weights: bool
    projection: Projection | None
    prox: Prox | None
    decay: float  # with convention="tf_keras_legacy"


class NesterovOptions(Options, total=False):
    """Also those of Adam and AdamW with convention="optax"."""

    eps_root: float
    nesterov: bool


class RootEpsOptions(Options, total=False):
    """Also those of NAdam, AdaBelief, AdEMAMix and Adan with convention="optax"."""

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


def _seed(name: str, value: Any) -> int:
    return whole_number(name, value, least=0, bits=64)


def _state_dtype(name: str, value: Any) -> str | dict[str, str] | None:
    if value is None:
        return None
    formats = value if isinstance(value, Mapping) else {"": value}
    if not all(isinstance(each, str) for each in formats) or not (formats is value or isinstance(value, str)):
        raise TypeError(f"{name} must be {_EXPECTED}, got {value!r}")
    if not all(each in STATE_DTYPES for each in formats.values()):
        raise ValueError(f"{name} must be {_EXPECTED}, got {value!r}")
    return {key: str(formats[key]) for key in sorted(formats)} if formats is value else str(value)


STATE_DTYPES = ("float32", "bfloat16", "float8")
"""What `state_dtype` can be, also for single states."""

_EXPECTED = f"one of {', '.join(map(repr, STATE_DTYPES))}, or a dict of them by the names of states"


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


def the_value(value: Any) -> Hashable:
    """The structure of an option whose every value is built in."""
    known: Hashable = value
    return known


def is_given(value: Any) -> bool:
    """The structure of an option that is a number or None: an engine is built with it or without it."""
    return value is not None


def is_a_number(value: Any) -> None:
    """The structure of an option that is only a number."""
    return


def items(value: Any) -> Hashable:
    """The structure of an option that can be a dict."""
    known: Hashable = tuple(value.items()) if isinstance(value, Mapping) else value
    return known


def kind(constraint: Any) -> Hashable:
    """The structure of a constraint: all but its numbers."""
    known: Hashable = None if constraint is None else constraint.structure
    return known


class Option(NamedTuple):
    """One option.

    Attributes
    ----------
    default: its value where the user gives none.
    check: checks and converts a value; a function of (name, value).
    structure: the part of a value that decides how an engine is built. Two values of the same structure differ only in
        numbers, which a built engine takes over.
    before, after: the line with which `describe` says what the option does before or after the update.
    """

    default: Any
    check: Check
    structure: Callable[[Any], Hashable]
    before: str = ""
    after: str = ""


STEP_OPTIONS: dict[str, Option] = {
    "backend": Option("auto", text, the_value),  # the table of backends checks it
    "n_threads": Option(None, _threads, the_value),
    "convention": Option("torch", text, the_value),  # the optimizer's row of the table of specs checks it
    "flush_denormals": Option(True, flag, the_value),
    "grad_scale": Option(1.0, above_zero, is_a_number, before="grad is divided by {value:g}"),
    "accumulate_steps": Option(1, whole_number, the_value, before="grad is the mean over {value} calls of step()"),
    "max_grad_norm": Option(
        None,
        positive_or_none,
        is_given,
        before="grad is scaled so that all gradients together have a norm of at most {value:g}",
    ),
    "nonfinite": Option("propagate", one_of(*get_args(Nonfinite)), the_value),
    "max_consecutive_skips": Option(None, _whole_or_none, the_value),
    "ema_decay": Option(
        None,
        _decay_or_none,
        is_given,
        after="param_average = {value:g} * param_average + {rest:g} * param, and = param in the first step",
    ),
    "ema_warmup": Option(
        False, flag, is_a_number, after="in which the decay is at most (1 + t) / (10 + t) in update t = 1, 2, ..."
    ),
    "ema_overwrite_frequency": Option(
        None, _whole_or_none, is_given, after="param = param_average in every step that {value} divides"
    ),
    "zero_grads": Option(False, flag, the_value),
    "stochastic_rounding": Option(False, flag, the_value),
    "seed": Option(0, _seed, is_a_number),
    "master_weights": Option(False, flag, the_value),
}
"""Options of an optimizer as a whole."""

GROUP_OPTIONS: dict[str, Option] = {
    "clip_norm": Option(
        None, positive_or_none, is_given, before="grad is scaled so that it has a norm of at most {value:g}"
    ),
    "clip_value": Option(None, positive_or_none, is_given, before="grad is limited to [-{value:g}, {value:g}]"),
    "prox": Option(None, _constraint("PROXES", "proximal steps"), kind, after="proximal step: {value!r}"),
    "projection": Option(None, _constraint("PROJECTIONS", "projections"), kind, after="projection: {value!r}"),
    "state_dtype": Option(None, _state_dtype, items),
}
"""Options that each group can have for itself."""

CONSTRAINTS = ("prox", "projection")
"""Those that constrain parameters, in the order in which they are done."""


class Words(NamedTuple):
    """Lines that say what options do before and after an update."""

    before: list[str]
    after: list[str]


def words(values: Mapping[str, Any]) -> Words:
    """The lines for all options, of a step and a group, that are not at their defaults."""
    found = Words([], [])
    for name, option in {**STEP_OPTIONS, **GROUP_OPTIONS}.items():
        value = values[name]
        if value != option.default:
            rest = 1 - value if isinstance(value, float) else 0
            for lines, template in ((found.before, option.before), (found.after, option.after)):
                if template:
                    lines.append(template.format(value=value, rest=rest))
    return found


def read_step_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a step, with defaults for those that are not given.

    Raises
    ------
    TypeError, ValueError
        An option is not usable, or does not go together with another.
    """
    options = {name: option.check(name, given.get(name, option.default)) for name, option in STEP_OPTIONS.items()}
    if options["ema_overwrite_frequency"] is not None and options["ema_decay"] is None:
        raise ValueError("ema_overwrite_frequency needs ema_decay: there is no average to overwrite parameters with")
    if options["ema_warmup"] and options["ema_decay"] is None:
        raise ValueError("ema_warmup needs ema_decay: there is no average whose decay could grow")
    if options["max_consecutive_skips"] is not None and options["nonfinite"] != "skip":
        raise ValueError(f"max_consecutive_skips needs nonfinite='skip', got nonfinite={options['nonfinite']!r}")
    if options["seed"] and not options["stochastic_rounding"]:
        raise ValueError(f"seed needs stochastic_rounding=True: nothing else is random, got seed={options['seed']}")
    return options


def check_group_options(values: Mapping[str, Any], max_grad_norm: float | None) -> dict[str, Any]:
    """The options of a group, checked and converted: at most one way of clipping, and rows of one kind.

    Raises
    ------
    TypeError, ValueError
        An option is not usable, or does not go together with another.
    """
    options = {name: option.check(name, values.get(name, option.default)) for name, option in GROUP_OPTIONS.items()}
    clipping = {"max_grad_norm": max_grad_norm, "clip_norm": options["clip_norm"], "clip_value": options["clip_value"]}
    given = [f"{name}={value!r}" for name, value in clipping.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"at most one of max_grad_norm, clip_norm and clip_value, got {', '.join(given)}")
    prox, projection = options["prox"], options["projection"]
    rows = [each.per for each in (prox, projection) if each is not None and each.row is not None]
    if len(set(rows)) > 1:
        raise ValueError(f"prox and projection must have the same per, got {prox!r} and {projection!r}")
    return options


def check_names(owner: str, given: Mapping[str, Any], added: Iterable[str]) -> None:
    """Raise a TypeError for a keyword argument that does not exist; `added` are those that conventions add."""
    for name in given:
        if name not in GROUP_OPTIONS and name not in STEP_OPTIONS and name != "grads" and name not in added:
            raise TypeError(f"{owner}() got an unexpected keyword argument {name!r}")
