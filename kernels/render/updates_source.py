"""Writes `fastopt.updates`, when fastopt is built: single updates as C functions, for Cython's `cimport` and for C.

These functions are thin: they call, by address, the coefficient functions and loops of the other compiled modules, so
their results have the bits of the engine. `setup.py` runs this with the table of `fastopt.definitions.signatures`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..constants import PREFETCH_BYTES
from ..formulas import registry
from ..formulas.registry import REALS
from .spelling import indent

_HEADER = '''\
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: binding=False, embedsignature=False, freethreading_compatible=True
# Rendered by kernels/render/updates_source.py; never edited, never committed.
"""Single updates as C functions: `from fastopt.updates cimport adam_float32`; see updates.pxd and docs/your-loop.md."""

from libc.stdint cimport int64_t, uintptr_t

cdef extern from "machine.h":
    ctypedef unsigned long long floating_point_mode
    floating_point_mode enter_mode(int flush) noexcept nogil
    void leave_mode(floating_point_mode caller) noexcept nogil

ctypedef void (*loop_function)(void **, Py_ssize_t, const void *, Py_ssize_t) noexcept nogil
ctypedef void (*coefficient_function)(const double *, double *) noexcept nogil

cdef enum:
    PREFETCH_BYTES = {prefetch_bytes}
    MAX_COEFFICIENTS = {most}

cdef loop_function loops[{n_rules}][2]
cdef coefficient_function functions[{n_functions}]
cdef Py_ssize_t prefetch_distance
'''

_RUN = """\
cdef void run_{real}(loop_function loop, void **operands, int n_operands, Py_ssize_t size, const double *numbers,
                     int n_numbers) noexcept nogil:
    cdef {c} coefficients[MAX_COEFFICIENTS]
    cdef int k
    cdef Py_ssize_t nbytes = size * <Py_ssize_t>sizeof({c}) * n_operands
    for k in range(n_numbers):
        coefficients[k] = <{c}>numbers[k]
    loop(operands, size, coefficients, prefetch_distance if nbytes > PREFETCH_BYTES else 0)
"""

_NUMBERS = """\
cdef void {name}_numbers({arguments}, double *numbers) noexcept nogil:
    cdef double passed[{most_arguments}]
{declared}
{body}
"""

_FUNCTION = """\
cdef api void {name}_{real}({arguments}) noexcept nogil:
    cdef void *operands[{n_operands}]
    cdef double numbers[{n_numbers}]
    cdef floating_point_mode caller = enter_mode(1)
{body}
    run_{real}(loops[{rule}][{position}], operands, {n_operands}, size, numbers, {n_numbers})
    leave_mode(caller)
"""

_ENDING = """\
import numpy

from .kernels import native
from .kernels.native import loops as native_loops

prefetch_distance = native.PREFETCH_DISTANCE
for position, name in enumerate({functions!r}):
    functions[position] = <coefficient_function><uintptr_t>native.coefficient_function(name)
for position, name in enumerate({rules!r}):
    for index, real in enumerate({reals!r}):
        loops[position][index] = <loop_function><uintptr_t>native_loops.loop(name, numpy.dtype(real))
"""


def _numbers(signature: Any) -> list[str]:
    """Declarations of the arguments of a function that follow its size."""
    carried = [f"double *{name}" for name in signature.spec.carried]
    hyperparameters = [f"{'bint' if signature.is_flag(name) else 'double'} {name}" for name in signature.arguments]
    return ["int64_t step", *carried, *hyperparameters]


def _declaration(signature: Any, real: str) -> str:
    c = REALS[real]
    pointers = [f"{c} *param", f"const {c} *grad", *(f"{c} *{name}" for name in signature.states)]
    return ", ".join((*pointers, "Py_ssize_t size", *_numbers(signature)))


def _coefficients(signature: Any, functions: list[str]) -> str:
    """Calls the coefficient functions, and selects the coefficients of the loop, in the order of the loop."""
    declared: list[str] = []
    body: list[str] = []
    position: dict[str, str] = {}
    stages = signature.stages()
    for stage, (function, passed) in enumerate(stages):
        name = function.name
        declared.append(f"cdef double results_{stage}[{len(function.returns)}]")
        for index, value in enumerate(passed.values()):
            body.append(f"passed[{index}] = {value + '[0]' if value in signature.spec.carried else value}")
        body.append(f"functions[{functions.index(name)}](passed, results_{stage})")
        position |= {result: f"results_{stage}[{index}]" for index, result in enumerate(function.returned_names)}
    for index, name in enumerate(registry.loop(signature.rule).coefficients):
        body.append(f"numbers[{index}] = {position[name]}")
    body += [f"{name}[0] = {position[name]}" for name in signature.spec.carried]
    return _NUMBERS.format(
        name=signature.name,
        arguments=", ".join(_numbers(signature)),
        most_arguments=max(len(function.arguments) for function, _ in stages),
        declared=indent(declared, 1),
        body=indent(body, 1),
    )


def _function(signature: Any, real: str, rules: list[str]) -> str:
    operands = ("param", "grad", *signature.states)
    names = [each.split()[-1].lstrip("*") for each in _numbers(signature)]
    body = [f"{signature.name}_numbers({', '.join(names)}, numbers)"]
    body += [f"operands[{index}] = <void *>{name}" for index, name in enumerate(operands)]
    return _FUNCTION.format(
        name=signature.name,
        real=real,
        arguments=_declaration(signature, real),
        n_operands=len(operands),
        n_numbers=len(registry.loop(signature.rule).coefficients),
        body=indent(body, 1),
        rule=rules.index(signature.rule),
        position=list(REALS).index(real),
    )


def updates_source(signatures: Iterable[Any]) -> str:
    """The Cython module `fastopt.updates`."""
    table = list(signatures)
    rules = list(dict.fromkeys(each.rule for each in table))
    functions = list(dict.fromkeys(function.name for each in table for function, _ in each.stages()))
    parts = [
        _HEADER.format(
            prefetch_bytes=PREFETCH_BYTES,
            most=max(len(registry.loop(rule).coefficients) for rule in rules),
            n_rules=len(rules),
            n_functions=len(functions),
        )
    ]
    parts += [_RUN.format(real=real, c=c) for real, c in REALS.items()]
    for each in table:
        parts.append(_coefficients(each, functions))
        parts += [_function(each, real, rules) for real in REALS]
    parts.append(_ENDING.format(functions=tuple(functions), rules=tuple(rules), reals=tuple(REALS)))
    return "\n\n".join(parts)


_PXD = """\
# Single updates as C functions, for `cimport` (by kernels/render/updates_source.py; never edited or committed).
#
# Each does one update of `size` elements in place, on the thread that calls it, with the bits of fastopt's optimizers:
#
#     from fastopt.updates cimport adam_float32
#
# `grad` is only read. States start at zero, unless it is said otherwise, and are the caller's. `step` counts updates
# from 1. All are `noexcept nogil`, allocate nothing and check nothing: arrays must not overlap, and numbers must be
# what the optimizers accept. Elements do not depend on one another, so threads can share the work: each calls the
# function with pointers to its own part. Denormals are zero meanwhile. `grad_scale` is what the gradient is divided by.
# Importing a module that was compiled against other signatures raises TypeError.

from libc.stdint cimport int64_t

"""

_PXD_FUNCTIONS = """\
# {title}
#
# Defaults of `fastopt.{optimizer}`: {defaults}.{notes}
"""


def updates_pxd(signatures: Iterable[Any]) -> str:
    """The declarations of the functions that other modules can cimport from `fastopt.updates`."""
    parts = []
    for each in signatures:
        shown = [
            f"{name} {'(must be given)' if value is None else (bool(value) if each.is_flag(name) else value)}"
            for name, value in each.arguments.items()
        ]
        notes = [f"`{state}` starts with {_start(each, start)}." for state, start in each.initial.items()]
        notes += [
            f"`{name}` points to {start} before the first step; it is changed."
            for name, start in each.spec.carried.items()
        ]
        text = _PXD_FUNCTIONS.format(
            title=f"{each.name}: one update of `fastopt.{each.spec.name}`, rule `{each.rule}`.",
            optimizer=each.spec.name,
            defaults=", ".join(shown),
            notes="".join(f"\n# {note}" for note in notes),
        )
        functions = [f"cdef void {each.name}_{real}({_declaration(each, real)}) noexcept nogil" for real in REALS]
        parts.append(text + "\n".join(functions) + "\n")
    return _PXD + "\n".join(parts)


def _start(signature: Any, start: str | float) -> str:
    return f"{start} ({signature.initial_arguments[start]})" if isinstance(start, str) else str(start)
