"""Writes the functions of one signature as Python source, which Numba compiles when they are first called."""

from __future__ import annotations

from ..definitions.signatures import GRAD_SCALE, Signature
from ..kernels.formulas import registry
from ..kernels.render.spelling import indent
from .documentation import documentation

_FUNCTION = '''\
@{decorator}
def {name}({arguments}):
    """{documentation}"""
{body}
'''

_INLINE = """\
@inline
def {function}({arguments}):
{body}
"""


def python_source(signature: Signature) -> str:
    """All functions of a signature.

    Its globals must have the coefficient functions as `coefficients_...`, the rule's loop as `loop`, its `State`, and
    the other names that `making` provides.
    """
    return "\n\n".join(
        [
            _coefficients(signature),
            _first_problem(signature),
            _elements(signature),
            _part(signature),
            _attempt(signature, "attempt", "inline", ["quiet(elements, ({operands}, 0, size, all_numbers))"]),
            _attempt(signature, "attempt_parallel", "parallel", _IN_PARTS),
            _update(signature, "update", "attempt"),
            _update(signature, "update_parallel", "attempt_parallel"),
            _step(signature, "step", "attempt"),
            _step(signature, "parallel", "attempt_parallel"),
            _state(signature),
        ]
    )


def parameters(signature: Signature) -> str:
    """The numeric parameters of a function, with defaults, as the end of its parameter list."""
    return "".join(
        f", {name}" if default is None else f", {name}={_literal(signature, name, default)}"
        for name, default in signature.arguments.items()
    )


def _literal(signature: Signature, name: str, value: float) -> str:
    return repr(bool(value)) if signature.is_flag(name) else repr(float(value))


def stages_called(signature: Signature) -> tuple[str, ...]:
    """The names of the coefficient functions that an update calls."""
    return (*signature.spec.stages(signature.rule), *(["decayed_rate"] if _decays(signature) else []))


def _decays(signature: Signature) -> bool:
    return "decay" in signature.arguments


def _coefficients(signature: Signature) -> str:
    """All coefficients in float64, in the loop's order; then the next carried numbers."""
    lines = ["step = float64(step)"]
    if _decays(signature):
        lines.append("lr = coefficients_decayed_rate(step, lr, decay)")
    for (function, passed), name in zip(signature.stages(), stages_called(signature), strict=False):
        results = [f"c_{name}" for name in function.returned_names]
        call = f"coefficients_{name}({', '.join(passed.values())})"
        lines.append(f"{', '.join(results)} = {call}")
    results = [f"c_{name}" for name in registry.loop(signature.rule).coefficients]
    results += [f"c_{name}" for name in signature.spec.carried]
    lines.append(f"return ({', '.join(results)},)")
    return _INLINE.format(function="all_coefficients", arguments=", ".join(_numbers(signature)), body=indent(lines, 1))


def _numbers(signature: Signature) -> list[str]:
    return ["step", *signature.spec.carried, *signature.arguments]


def _operands(signature: Signature) -> tuple[str, ...]:
    return ("param", "grad", *signature.states)


def _elements(signature: Signature) -> str:
    """Update elements [first, last), with coefficients rounded to the dtype."""
    operands = _operands(signature)
    count = len(registry.loop(signature.rule).coefficients)
    pointers = ", ".join(f"pointer({name}, first)" for name in operands)
    rounded = ", ".join(f"number_like(param, all_numbers[{index}])" for index in range(count))
    line = f"loop(({pointers},), last - first, ({rounded},), prefetch_distance(param, {len(operands)}))"
    arguments = ", ".join((*operands, "first", "last", "all_numbers"))
    return _INLINE.format(function="elements", arguments=arguments, body=indent([line], 1))


def _part(signature: Signature) -> str:
    """The same in a thread of its own, whose mode it sets and restores."""
    passed = ", ".join((*_operands(signature), "first", "last", "all_numbers"))
    lines = ["before = set_mode(own_mode)", f"elements({passed})", "leave_mode(before, own_mode)"]
    return _INLINE.format(function="elements_of_part", arguments=f"{passed}, own_mode", body=indent(lines, 1))


_IN_PARTS = [
    "parts = number_of_parts(size, nanoseconds)",
    "if parts <= 1:",
    "    elements({operands}, 0, size, all_numbers)",
    "else:",
    "    for part in prange(parts):",
    "        elements_of_part({operands}, first_of_part(part, parts, size),",
    "                 first_of_part(part + 1, parts, size), all_numbers, own_mode)",
]


def _attempt(signature: Signature, name: str, decorator: str, walk: list[str]) -> str:
    """The update. It returns 0, 0.0 and the next carried numbers; or the result of `first_problem`, without an update.

    Coefficients are computed in the mode of the update. It never raises (see `support.quiet`) and has no branches:
    either would make Numba count references to arrays.
    """
    operands = ", ".join(_operands(signature))
    checked = ", ".join((*_operands(signature), "step", *signature.arguments))
    first, *others = _numbers(signature)
    numbers = ", ".join([first, *(f"pinned({each})" for each in others)])
    carried = _next(signature)
    lines = [
        f"problem, shown = quiet(first_problem, ({checked},))",
        "size = param.size * (problem == 0)",
        "own_mode = mode_of_updates()",
        "before = quiet(set_mode, (own_mode,))",
        f"all_numbers = quiet(all_coefficients, ({numbers},))",
        *(line.format(operands=operands) for line in walk),
        *(f"{each} = pinned(all_numbers[{index - len(carried)}])" for index, each in enumerate(carried)),
        "quiet(leave_mode, (before, own_mode))",
        ", ".join(["return problem, shown", *carried]),
    ]
    arguments = ", ".join((*_operands(signature), *_numbers(signature)))
    return f"@{decorator}\ndef {name}({arguments}):\n{indent(lines, 1)}\n"


def conditions(signature: Signature) -> list[tuple[str, str, str]]:
    """The conditions on arguments, each with the error message and the value that the message shows."""
    found = [
        (f"{name}.shape == param.shape", f"{name} must have the shape of param; its size is", f"{name}.size")
        for name in _operands(signature)[1:]
    ]
    for name in ("step", *signature.arguments):
        bound = signature.bound(name)
        if bound is not None:
            expected = "a number" if bound == f"{name} == {name}" else bound
            found.append((bound, f"invalid {name}, expected {expected}, got", name))
    return found


def _first_problem(signature: Signature) -> str:
    """The number, from 1, of the first condition that does not hold, or 0; and the value to show.

    Branches do not touch arrays, because Numba would then count references to them.
    """
    lines, branches = [], ["problem, shown = 0, 0.0"]
    for number, (condition, _, value) in reversed(list(enumerate(conditions(signature), start=1))):
        lines += [f"holds_{number} = {condition}", f"value_{number} = float64({value})"]
        branches += [f"if not holds_{number}:", f"    problem, shown = {number}, value_{number}"]
    arguments = ", ".join((*_operands(signature), "step", *signature.arguments))
    body = indent([*lines, *branches, "return problem, shown"], 1)
    return _INLINE.format(function="first_problem", arguments=arguments, body=body)


def _next(signature: Signature) -> list[str]:
    return [f"next_{name}" for name in signature.spec.carried]


def _call(signature: Signature, attempt: str) -> list[str]:
    numbers = [f"{name} = float64({name})" for name in signature.arguments]
    passed = ", ".join((*_operands(signature), *_numbers(signature)))
    return [
        *numbers,
        f"{', '.join(['problem, shown', *_next(signature)])} = quiet({attempt}, ({passed},))",
        "if problem:",
        "    raise ValueError(messages[problem - 1], shown)",
    ]


def _update(signature: Signature, name: str, attempt: str) -> str:
    operands = _operands(signature)
    lines = ["stamp()", f"check_arrays(({', '.join(operands)},))", "step = int64(step)"]
    lines += [f"{each} = float64({each})" for each in signature.spec.carried]
    lines += _call(signature, attempt)
    if signature.spec.carried:
        lines.append(f"return {', '.join(_next(signature))}")
    return _FUNCTION.format(
        decorator="inline",
        name=name,
        arguments=", ".join((*operands, *_numbers(signature)[: -len(signature.arguments)])) + parameters(signature),
        documentation=documentation(signature, name),
        body=indent(lines, 1),
    )


def _step(signature: Signature, name: str, attempt: str) -> str:
    lines = ["stamp()", "check_state(state)"]
    for each in ("step", *signature.spec.carried):  # a variable for each: Numba 0.62 raises with the first of one name
        lines += [f"size_of_{each} = state.{each}.size", f"if size_of_{each} != 1:"]
        lines += [f'    raise ValueError("state.{each} must be an array of one number; its size is", size_of_{each})']
    lines += [f"{each} = state.{each}" for each in signature.states]
    lines += [f"check_arrays(({', '.join(_operands(signature))},))", "step = state.step[0] + 1"]
    lines += [f"{each} = state.{each}[0]" for each in signature.spec.carried]
    lines += _call(signature, attempt)
    lines += [f"state.{each}[0] = next_{each}" for each in signature.spec.carried]
    lines.append("state.step[0] = step")
    return _FUNCTION.format(
        decorator="inline",
        name=name,
        arguments="param, grad, state" + parameters(signature),
        documentation=documentation(signature, name),
        body=indent(lines, 1),
    )


def _state(signature: Signature) -> str:
    arguments = "".join(f", {name}={value!r}" for name, value in signature.initial_arguments.items())
    values = ["np.zeros(1, np.int64)"]
    values += [f"np.full(1, {start!r}, np.float64)" for start in signature.spec.carried.values()]
    for name in signature.states:
        start = signature.initial.get(name)
        values.append("np.zeros_like(param)" if start is None else f"np.full_like(param, {start})")
    lines = [
        "check_arrays((param,))",
        *(
            line
            for name in signature.initial_arguments
            for line in (
                f"if not {name} >= 0:",
                f'    raise ValueError("invalid {name}, expected {name} >= 0, got", {name})',
            )
        ),
        f"return State({', '.join(values)})",
    ]
    return _FUNCTION.format(
        decorator="inline",
        name="state",
        arguments="param" + arguments,
        documentation=documentation(signature, "state"),
        body=indent(lines, 1),
    )


def state_fields(signature: Signature) -> tuple[str, ...]:
    """The fields of the state of an update."""
    return ("step", *signature.spec.carried, *signature.states)


assert GRAD_SCALE == "grad_scale", "the name is spelled in documentation.py"
