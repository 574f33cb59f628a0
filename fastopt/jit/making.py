"""The functions of a signature, compiled by Numba when they are first called."""

from __future__ import annotations

import functools
import inspect
import linecache
import threading
from types import ModuleType
from typing import Any

import numba
import numpy as np

from ..definitions import conventions
from ..definitions.signatures import Signature, signature, signatures
from ..definitions.specs import Spec
from ..kernels.formulas import registry
from ..kernels.numba.compile import vocabulary
from ..kernels.render.numba_source import functions_source, numba_source
from . import modes, support
from .render import conditions, python_source, stages_called, state_fields
from .stamps import stamping
from .states import state_class

_making = threading.RLock()

_made: dict[Any, Functions] = {}
"""The results of `functions`, so that repeated calls do not compile again."""

_INTERNAL = (
    "all_numbers",
    "before",
    "first",
    "last",
    "length",
    "own_mode",
    "part",
    "parts",
    "problem",
    "shown",
    "size",
    "state",
)
"""Variables in the rendered source; a custom rule cannot use these names for hyperparameters or states."""


class Functions(ModuleType):
    """The functions of one optimizer, as attributes that an `@njit` function can call.

    It is a module, because Numba resolves attributes of modules.

    Attributes
    ----------
    State: the NamedTuple class of the state.
    state(param): a new state.
    step(param, grad, state, ...): one update, in place.
    parallel(param, grad, state, ...): the same on Numba's threads.
    update(param, grad, *states, step, ...): one update, with states passed as arrays.
    update_parallel(...): the same on Numba's threads.
    """

    State: Any
    state: Any
    step: Any
    parallel: Any
    update: Any
    update_parallel: Any


@functools.cache
def _loop(rule: str) -> Any:
    """The loop of a rule, over pointers, with one version for each dtype."""

    def compiled(real: str) -> Any:
        namespace = dict(vocabulary(real))
        namespace["__name__"] = __package__
        exec(_compile(numba_source(registry.loop(rule), real), f"{rule} {real}"), namespace)
        return support.apart(namespace[f"{rule}_loop"])

    single, double = compiled("float32"), compiled("float64")

    def loop(operands: Any, size: Any, coefficients: Any, prefetch: Any) -> None:
        """Select the version by dtype."""

    @numba.extending.overload(loop, inline="always")
    def _choose(operands: Any, size: Any, coefficients: Any, prefetch: Any) -> Any:
        chosen = single if operands[0].dtype == numba.float32 else double

        def run(operands: Any, size: Any, coefficients: Any, prefetch: Any) -> Any:
            chosen(operands, size, coefficients, prefetch)

        return run

    return loop


@functools.cache
def _coefficients(name: str) -> Any:
    """A compiled coefficient function."""
    namespace = {**vocabulary("float64"), "inline": support.inline, "__name__": __package__}
    functions = registry.functions_of_coefficients(name)
    exec(_compile("\n\n".join(functions_source(functions)), name), namespace)
    return namespace[functions[-1].name]


def _compile(source: str, name: str) -> Any:
    filename = f"<fastopt.jit {name}>"
    # So that Numba and tracebacks can show the lines.
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    return compile(source, filename, "exec")


def make(given: Signature, flush_denormals: bool = True) -> Functions:
    """The functions of a signature."""
    fields = state_fields(given)
    result = Functions(f"{__package__}.{given.name}", f"The updates of {given.spec.name}, rule {given.rule!r}.")
    # The names that Numba looks up when it compiles. Its cache looks for them in `__name__`.
    namespace: dict[str, Any] = {
        "__name__": __package__,
        "State": state_class(given.rule, fields),
        "check_arrays": support.array_check(("param", "grad", *given.states)),
        "check_state": support.state_check(fields, given.spec.carried),
        "nanoseconds": given.spec.costs[given.rule][0],
        "loop": _loop(given.rule),
        "messages": tuple(message for _, message, _ in conditions(given)),
        "stamp": stamping(given.rule),
        "float64": np.float64,
        "int64": np.int64,
        "prange": numba.prange,
        "np": np,
        "set_mode": modes.set_mode,
        "leave_mode": modes.leave_mode,
        "pinned": modes.pinned,
        "mode_of_updates": modes.flushing if flush_denormals else modes.as_around,
        **{name: value for name, value in vars(support).items() if not name.startswith("_")},
    }
    for name in stages_called(given):
        namespace[f"coefficients_{name}"] = _coefficients(name)
    code = _compile(python_source(given), f"{given.name} {given.spec.convention}")
    taken = sorted({*given.states, *given.arguments} & {*namespace, *_INTERNAL})
    if taken:
        raise ValueError(f"fastopt.jit: {given.spec.name} cannot have a name that is used inside: {', '.join(taken)}")
    exec(code, namespace)
    result.State = namespace["State"]
    for name in Functions.__annotations__.keys() - {"State"}:
        function = namespace[name]
        setattr(result, name, support.refusing_halves(function, tuple(inspect.signature(function.py_func).parameters)))
    return result


@functools.cache
def built_in(name: str) -> Functions:
    """The functions of one of `signatures()`, by name."""
    with _making:
        return make(signatures()[name])


def functions(
    optimizer: Any, convention: str = "torch", flush_denormals: bool = True, **hyperparameters: Any
) -> Functions:
    """The updates of an optimizer, under any convention, or of a custom rule, to call in an `@njit` function.

    Parameters
    ----------
    optimizer: class
        `fastopt.Adam` etc., or a class that `fastopt.rule` made.
    convention: str
        As in the class.
    flush_denormals: bool
        Whether updates treat denormals as zero. If False, they treat them as the code around them does. Rounding is to
        nearest, and traps are masked, in any case.
    **hyperparameters
        The hyperparameters of the class. Flags, and whether `momentum` is 0, select the variant; numbers become the
        defaults of the functions' arguments.

    Returns
    -------
    Functions
        With the attributes `State`, `state`, `step`, `parallel`, `update`, `update_parallel`; see `fastopt.jit`.

    Raises
    ------
    TypeError, ValueError
        The optimizer does not have such a hyperparameter or convention, or the value is not usable; or it is an option
        of the class (`state_dtype`, `master_weights`, `stochastic_rounding` and all others), which updates do not have.

    Examples
    --------
    >>> import fastopt, numba, numpy as np
    >>> from fastopt import jit
    >>> adam = jit.functions(fastopt.Adam, convention="keras", amsgrad=True)
    >>> @numba.njit
    ... def descend(w, steps):
    ...     state = adam.state(w)
    ...     for _ in range(steps):
    ...         adam.step(w, 2 * w, state, lr=0.1)
    ...     return state.step[0]
    >>> w = np.ones(3)
    >>> descend(w, 100)
    100
    >>> bool(abs(w).max() < 0.1)
    True
    """
    given = getattr(optimizer, "spec", None)
    if not isinstance(optimizer, type) or not isinstance(given, Spec):
        raise TypeError(f"optimizer must be a class of fastopt or one that fastopt.rule made, got {optimizer!r}")
    spec = conventions.under(given, convention)
    for name in hyperparameters.keys() - spec.defaults.keys():
        if not conventions.conventions_with(spec, name):
            raise TypeError(
                f"{spec.name} has no argument {name!r} here: jit.functions takes hyperparameters alone, and no options "
                "of the class; an update reads and writes arrays of float32 or float64, and does nothing around it"
            )
    conventions.hyperparameters(spec, hyperparameters)
    key = (optimizer, convention, flush_denormals, repr(sorted(hyperparameters.items())))
    with _making:
        if key not in _made:
            _made[key] = make(signature(spec, hyperparameters), flush_denormals)
        return _made[key]
