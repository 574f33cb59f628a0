"""Your own update rule as an optimizer: `rule`, and the words that rules are written with.

>>> import numpy as np, fastopt
>>> @fastopt.rule(state=("exp_avg",), hyper=dict(lr=1e-3, beta=0.9))
... def Momentum(param, grad, exp_avg, lr, beta):
...     exp_avg = beta * exp_avg + grad
...     param = param - lr * exp_avg
...     return param, exp_avg
>>> w = np.zeros(3)
>>> opt = Momentum(w, lr=0.5)
>>> opt.step(np.ones(3))
>>> w
array([-0.5, -0.5, -0.5])
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from .checks import bound_arguments, real_number
from .definitions.hyperparameters import HYPERPARAMETERS, Hyperparameter, between
from .definitions.specs import SPECS, Spec
from .kernels.constants import ENGINE_ARGUMENTS
from .kernels.formulas import custom_rules
from .kernels.formulas.costs import cost, squares
from .kernels.formulas.custom_rules import SourceError
from .kernels.formulas.dialect import DialectError
from .kernels.formulas.vocabulary import clip, floor, log, maximum, select, sign, sqrt
from .optimizers.base import Optimizer
from .state.groups import NOTES
from .step.options import GROUP_OPTIONS, STEP_OPTIONS

if TYPE_CHECKING:
    from .torch.base import NativeOptimizer

COMMON: dict[str, Any] = {"weight_decay": 0.0, "decoupled_weight_decay": False, "maximize": False}
"""Hyperparameters that every rule has without taking them: they are seen to before it."""

MISSING: Any = inspect.Parameter.empty

CARRIED = SPECS["NAdam"].carried
"""The numbers that a custom rule can carry from step to step, and their initial values."""

GIVEN = ("step", *CARRIED)
"""What a rule or its coefficients can take beside hyperparameters."""


AS_PARAM = "param"
"""What a state starts with that starts as a copy of the parameter."""


class _ForTorch:
    """The class of the same rule for PyTorch's parameters, made when it is first asked for."""

    def __get__(self, instance: Any, owner: type[RuleOptimizer]) -> type[NativeOptimizer]:
        from .torch.custom import torch_class

        return torch_class(owner)


class RuleOptimizer(Optimizer):
    """What the classes that `rule` makes share; their arguments beyond those of the rule are `fastopt.Optimizer`'s."""

    __signature__: ClassVar[inspect.Signature]

    torch = _ForTorch()
    """The same optimizer as a torch.optim one, for PyTorch's parameters, as `fastopt.torch`'s are."""

    def __init__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        given = bound_arguments(type(self).__name__, self.__signature__, params, *args, **kwargs)
        options = given.pop("options", {})
        del given["params"]
        super().__init__(params, given, options)


def rule(
    state: Iterable[str] | Mapping[str, float | str],
    hyper: Mapping[str, float | bool] = MISSING,
    *,
    coefficients: Callable[..., Any] | None = None,
    domain: Mapping[str, str] | None = None,
    source: str | None = None,
    unsigned: Iterable[str] = (),
    sums: Callable[..., Any] | None = None,
    sums_over_all: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., Any]], type[RuleOptimizer]]:
    """Make an optimizer class from a function that updates one element.

    The function is `(param, grad, *state, *coefficients) -> (param, *state)`: scalars in, scalars out. It is read from
    its source, checked, and compiled by Numba over whole arrays: fused, in place, in parallel. What it makes is a
    `fastopt.Optimizer` like all others: arrays, lists, dicts and groups of parameters, options, schedules, state dicts,
    checks; `describe()` prints its update, `.torch` is the same optimizer for PyTorch's parameters.

    Parameters
    ----------
    state: tuple of names, or dict
        The arrays that are kept for each parameter, of its shape and dtype, in the function's order: at most six. They
        start at zero; a dict says what each starts with: a number, the name of a hyperparameter, or "param", for a copy
        of the parameter: as the function first sees it, in the first update, until which the state shows 0.
    hyper: dict
        The hyperparameters and their defaults: numbers, True or False. One is `lr`, the rate. They are the class'
        keyword arguments, in this order, with `weight_decay`, `decoupled_weight_decay` and `maximize`, which every
        rule has: a rule does not take those, they are seen to before it, and `hyper` can give them other defaults.
    coefficients: function, optional
        What the rule takes, from hyperparameters: `(step, lr, ...) -> names`, in float64 and once a step; `step` counts
        each parameter's updates from 1. Here `**` and `log` are possible. It returns variables, and the rule takes
        those of its arguments' names. Without it the rule takes hyperparameters themselves, or `step`.
    domain: dict, optional
        The values that a hyperparameter can have, as an interval: `{"beta": "[0, 1)"}`. Without it: finite, and what a
        hyperparameter of that name has in fastopt's own optimizers (`lr`, `eps`, `momentum`: at least 0).
    source: str, optional
        Python code that has the function, and `coefficients` and other functions that it calls, where Python does not
        keep the code: for functions that `exec` made or that were typed into an interpreter. What is found there is
        compared with the functions as they run.
    unsigned: tuple of names, optional
        States that are never negative, such as averages of squares. With `state_dtype="float8"` they are stored without
        a sign, and only 0 is stored as 0, so that nothing is divided by a 0 that rounding made.

    sums: function, optional
        What is added up over each parameter before anything is written: `(param, grad, *state, *coefficients) ->
        terms` takes those of the rule's arguments that it needs, of one element, as they are before the update, and
        returns variables, whose names are those of the sums: at most three. The rule, or `coefficients`, takes the
        sums by these names, and `numel`, the parameter's number of elements. They are added up in float64, in a fixed
        order; a term that is a square, `x * x`, is also squared there. A segment of a packed buffer is a parameter.
    sums_over_all: function, optional
        The same for sums over all parameters that the step updates. They are three together.

    Returns
    -------
    decorator: function -> class
        The class has the function's name; `Class(params, lr=..., **options)`.

    Raises
    ------
    fastopt.rules.DialectError
        The function uses something outside of the dialect. A SyntaxError: it shows the line.
    fastopt.rules.SourceError
        The source cannot be read. A ValueError.
    TypeError, ValueError
        `state`, `hyper` or `domain` is not usable.

    Notes
    -----
    The dialect: assignments `name = expression` and one `return`; `+ - * /`, numbers, the words `sqrt`, `floor`,
    `select(condition, if_true, if_false)`, `maximum`, `clip(x, low, high)`, `sign`, which `fastopt.rules` has, with one
    comparison as a condition; and other functions written in it. Numbers are of the parameter's precision. All of it is
    exact in IEEE 754, so every backend and every number of threads gives the same bits.

    The first step compiles, which takes about a second; in the next process, a few hundredths. Compiled rules are kept
    in `~/.cache/fastopt` (FASTOPT_CACHE_DIR names another folder; set to nothing, nothing is kept), by all that they
    are made of, so that nothing there can be stale.

    Rules are element-wise: elements depend on each other by sums alone, so matrix products, sorting and medians are not
    possible. Sums are not for `fastopt.jit`, nor for CUDA.

    A proximal step (`prox=` of one element) is not possible: what the rate of an element is, is not known.

    Examples
    --------
    AdaBelief's bias corrections belong into coefficients:

    >>> import numpy as np, fastopt
    >>> from fastopt.rules import sqrt
    >>> def corrections(step, lr, beta1, beta2, eps):
    ...     step_size = lr * sqrt(1 - beta2**step) / (1 - beta1**step)
    ...     return step_size, beta1, beta2, eps
    >>> @fastopt.rule(
    ...     state=("exp_avg", "exp_avg_var"), hyper=dict(lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8),
    ...     coefficients=corrections, domain={"beta1": "[0, 1)", "beta2": "[0, 1)"},
    ... )
    ... def AdaBelief(param, grad, exp_avg, exp_avg_var, step_size, beta1, beta2, eps):
    ...     exp_avg = exp_avg + (1 - beta1) * (grad - exp_avg)
    ...     surprise = grad - exp_avg
    ...     exp_avg_var = beta2 * exp_avg_var + (1 - beta2) * surprise * surprise
    ...     param = param - step_size * exp_avg / (sqrt(exp_avg_var) + eps)
    ...     return param, exp_avg, exp_avg_var
    >>> AdaBelief(np.zeros(3), beta1=1.0)
    Traceback (most recent call last):
    ValueError: Invalid beta1 value: 1 (expected beta1 in [0, 1))

    Gradient descent by the direction of each parameter's gradient alone:

    >>> def norm(grad):
    ...     grad_square_sum = grad * grad
    ...     return grad_square_sum
    >>> def normalized(lr, grad_square_sum):
    ...     step_size = lr / sqrt(grad_square_sum)
    ...     return step_size
    >>> @fastopt.rule(state=(), hyper=dict(lr=1.0), coefficients=normalized, sums=norm)
    ... def Normalized(param, grad, step_size):
    ...     param = param - step_size * grad
    ...     return param
    >>> w, v = np.zeros(2), np.zeros(1)
    >>> Normalized([w, v]).step([np.array([3.0, 4.0]), np.array([-7.0])])
    >>> w, v
    (array([-0.6, -0.8]), array([1.]))
    """
    if callable(state):
        raise TypeError("rule needs its arguments: write @fastopt.rule(state=(...), hyper=dict(lr=...))")
    defaults = _read_hyper(hyper)
    hyperparameters = _read_domains(defaults, domain or {})
    initial = _read_state(state, defaults)
    without_sign = _read_unsigned(unsigned, initial)
    if source is not None and not isinstance(source, str):
        raise TypeError(f"source must be a string, the code that has the function, got {source!r}")

    for name, given in (("sums", sums), ("sums_over_all", sums_over_all)):
        if given is not None and not callable(given):
            raise TypeError(f"{name} must be a function of one element that returns terms, got {given!r}")

    def decorate(function: Callable[..., Any]) -> type[RuleOptimizer]:
        inputs = (*(name for name in defaults if name not in COMMON), *GIVEN)
        copies = tuple(name for name, start in initial.items() if start == AS_PARAM)
        custom = custom_rules.register(
            function, tuple(initial), inputs, coefficients, source, sums, sums_over_all, copies
        )
        last = custom.coefficients[-1]
        returned = last.returned_names
        starts = {name: value for name, value in initial.items() if value != 0 and name not in copies}
        spec = Spec(
            function.__name__,
            defaults=defaults,
            rules={(): custom.rule.name},
            coefficients=custom.rule.name,
            costs={custom.rule.name: cost(custom.loop)},
            initial=starts,
            starts_as_param=copies,
            unsigned=without_sign,
            squares=squares(custom.rule, custom.loop),
            carried={name: start for name, start in CARRIED.items() if name in returned},
            constants={
                name: start for name, start in CARRIED.items() if name in last.arguments and name not in returned
            },
            hyperparameters=hyperparameters,
            in_torch=False,
            custom_rule=custom,
        )
        namespace = {
            "spec": spec,
            "__doc__": _docstring(function, spec),
            "__module__": function.__module__,
            "__qualname__": function.__qualname__,
            "__signature__": _signature(defaults),
        }
        return type(function.__name__, (RuleOptimizer,), namespace)

    return decorate


def _read_hyper(hyper: Any) -> dict[str, Any]:
    """The defaults, those of all rules last."""
    if not isinstance(hyper, Mapping):
        got = "nothing" if hyper is MISSING else repr(hyper)
        raise TypeError(f"hyper must be a dict of names and defaults, got {got}")
    if "lr" not in hyper:
        raise ValueError(f"hyper must have 'lr', the rate (1.0 where there is none), got {dict(hyper)!r}")
    taken = (*ENGINE_ARGUMENTS, *STEP_OPTIONS, *GROUP_OPTIONS, *NOTES, "grads", "params", "options")
    taken += (*custom_rules.RESERVED_STREAMS, *CARRIED, "decay")  # that of Keras' legacy classes, by which rates fall
    defaults: dict[str, Any] = {}
    for name, value in hyper.items():
        if name not in COMMON and name != "lr":
            custom_rules.check_name("hyper", name, taken)
        kind = bool if isinstance(COMMON.get(name, value), bool) else float
        if kind is bool and not isinstance(value, bool):
            raise TypeError(f"hyper[{name!r}] must be True or False, got {value!r}")
        defaults[name] = value if kind is bool else real_number(f"hyper[{name!r}]", value)
    own = [name for name in defaults if name not in COMMON]
    return {name: defaults.get(name, COMMON.get(name)) for name in (*own, *COMMON)}


def _read_domains(defaults: Mapping[str, Any], domain: Mapping[str, str]) -> dict[str, Hyperparameter]:
    """What values each hyperparameter can take; its default is one of them."""
    if not isinstance(domain, Mapping):
        raise TypeError(f"domain must be a dict of names and intervals, got {domain!r}")
    for name in domain:
        if name not in defaults or isinstance(defaults[name], bool):
            raise ValueError(f"domain has {name!r}, which is no number in hyper")
    found: dict[str, Hyperparameter] = {}
    for name, value in defaults.items():
        known = HYPERPARAMETERS.get(name)
        is_flag = isinstance(value, bool)
        if name in domain:
            found[name] = replace(between(name, domain[name]), function=name == "lr")
        elif known is not None and known.flag == is_flag and not known.length:
            found[name] = known
        elif is_flag:
            found[name] = Hyperparameter(name, lambda value: None, flag=True)
        else:
            found[name] = between(name, "(-inf, inf)")
        found[name].convert(value)
    return found


def _read_state(state: Any, defaults: Mapping[str, Any]) -> dict[str, float | str]:
    """What each state starts with."""
    if isinstance(state, str) or not isinstance(state, Iterable):
        raise TypeError(f"state must be a tuple of names, or a dict, got {state!r}")
    starts = dict(state) if isinstance(state, Mapping) else dict.fromkeys(state, 0.0)
    if not isinstance(state, Mapping) and len(starts) != len(tuple(state)):
        raise ValueError(f"state has a name twice: {tuple(state)!r}")
    if len(starts) > custom_rules.MAX_STATES:
        raise ValueError(f"state can be at most {custom_rules.MAX_STATES} arrays, got {len(starts)}")
    for name, start in starts.items():
        custom_rules.check_name("state", name, (*custom_rules.RESERVED_STREAMS, *CARRIED, *defaults, "params"))
        if isinstance(start, str) and start != AS_PARAM:
            if start not in defaults or isinstance(defaults[start], bool):
                raise ValueError(f"state[{name!r}] starts with {start!r}, which is no number in hyper, nor 'param'")
        elif start != AS_PARAM:
            starts[name] = real_number(f"state[{name!r}]", start)
            if not math.isfinite(starts[name]):
                raise ValueError(f"state[{name!r}] must start with a finite number, got {start!r}")
    return starts


def _read_unsigned(unsigned: Any, states: Mapping[str, float | str]) -> tuple[str, ...]:
    """The states that are never negative."""
    if isinstance(unsigned, str) or not isinstance(unsigned, Iterable):
        raise TypeError(f"unsigned must be a tuple of names, got {unsigned!r}")
    names = tuple(unsigned)
    for name in names:
        if name not in states:
            raise ValueError(f"unsigned has {name!r}, which is no name in state")
        start = states[name]
        if start == AS_PARAM or (not isinstance(start, str) and start < 0):
            raise ValueError(f"unsigned has {name!r}, which starts with {start!r}")
    return names


def _signature(defaults: Mapping[str, Any]) -> inspect.Signature:
    kind = inspect.Parameter
    parameters = [kind("params", kind.POSITIONAL_OR_KEYWORD)]
    parameters += [
        kind(name, kind.KEYWORD_ONLY if name in COMMON else kind.POSITIONAL_OR_KEYWORD, default=value)
        for name, value in defaults.items()
    ]
    return inspect.Signature([*parameters, kind("options", kind.VAR_KEYWORD)])


def _docstring(function: Callable[..., Any], spec: Spec) -> str:
    shown = ", ".join(f"{name}={value!r}" for name, value in spec.defaults.items())
    text = inspect.getdoc(function) or f"{spec.name}, an update rule."
    return f"{text}\n\n{spec.name}(params, {shown}, **options); see `fastopt.Optimizer` for options."


__all__ = [
    "DialectError",
    "RuleOptimizer",
    "SourceError",
    "clip",
    "floor",
    "log",
    "maximum",
    "rule",
    "select",
    "sign",
    "sqrt",
]
