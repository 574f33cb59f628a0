"""Writes the loops of rules over operands that are all stored as bfloat16, when fastopt is built.

Such a loop decodes each element, computes, and encodes it, in registers: other formats, and programs of several
operations, go through a thread's own memory instead. Its codes are the same. It is
`void loop(void **operands, Py_ssize_t size, const void *coefficients, const uint32_t *keys, uint32_t first)`,
where `keys` are those of the operands' random bits, and `first` is the number of the first element.

A loop reads and writes two codes at a time, as one word of 32 bits, since a bfloat16 is the upper half of a float32. So
nothing has to be moved between lanes of a vector, which would take as long as all the rest.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from ..formulas.registry import Loop
from ..formulas.registry import loop as loop_of
from .spelling import call_lines, indent, table

_PRELUDE = """\
cdef extern from *:
    '''
    #if defined(__GNUC__)
    typedef uint32_t __attribute__((aligned(2), may_alias)) pair_of_codes;
    #else
    typedef uint32_t pair_of_codes;
    #endif
    typedef pair_of_codes *__restrict__ pairs;
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    #define first_of(pair) ((pair) & 0xFFFF0000u)
    #define second_of(pair) ((pair) << 16)
    #define joined(first, second) (((first) & 0xFFFF0000u) | ((second) >> 16))
    #else
    #define first_of(pair) ((pair) << 16)
    #define second_of(pair) ((pair) & 0xFFFF0000u)
    #define joined(first, second) (((second) & 0xFFFF0000u) | ((first) >> 16))
    #endif
    '''
    ctypedef uint32_t *pairs
    uint32_t first_of(uint32_t) noexcept nogil
    uint32_t second_of(uint32_t) noexcept nogil
    uint32_t joined(uint32_t, uint32_t) noexcept nogil
"""

_LOOP = """\
cdef inline void {name}_over_pairs_{rounding}({arguments}, Py_ssize_t n_pairs, const float *coefficients,
                                              const uint32_t *keys, uint32_t first) noexcept nogil:
{locals}
    cdef Py_ssize_t i
    for i in range(n_pairs):
{body}


cdef void {name}_bfloat16_{rounding}(void **operands, Py_ssize_t size, const void *coefficients, const uint32_t *keys,
                                     uint32_t first) noexcept nogil:
    cdef const float *numbers = <const float *>coefficients
    cdef uint32_t last[{n_operands}]
    cdef int k
    {name}_over_pairs_{rounding}({operands}, size // 2, numbers, keys, first)
    if size % 2 == 0:
        return
    for k in range({n_operands}):
        last[k] = joined(<uint32_t>(<uint16_t *>operands[k])[size - 1] << 16, 0)
    {name}_over_pairs_{rounding}({last}, 1, numbers, keys, first + <uint32_t>(size - 1))
    for k in range({n_operands}):
        if k in {written}:
            (<uint16_t *>operands[k])[size - 1] = <uint16_t>(first_of(last[k]) >> 16)
"""


def _loop(loop: Loop, stochastic: bool) -> str:
    operands = range(len(loop.operands))
    written = [name for name in loop.operands if name in loop.writes]
    declared = [f"cdef float l_{name}" for name in loop.local_names]
    declared += [f"cdef float c_{name} = coefficients[{index}]" for index, name in enumerate(loop.coefficients)]
    declared += [f"cdef float e_{name}" for name in loop.operands]
    declared += [f"cdef uint32_t p_{name}, r_{name}" for name in loop.operands]
    if stochastic:
        keys = {name: f"keys[{loop.operands.index(name)}]" for name in written}
        declared += [f"cdef uint32_t w_{name} = element_word_word(first, {keys[name]})" for name in written]
    body = [f"p_{name} = s_{name}[i]" for name in loop.operands]
    for half in ("first", "second"):
        body += [f"e_{name} = number_of({half}_of(p_{name}))" for name in loop.operands]
        body += call_lines(loop, call="{}_float32", element="e_{}")
        for name in written:
            word = f"bfloat16_nearest_word_word(word_of(e_{name}))"
            if stochastic:
                word = f"bfloat16_stochastic_word_word(word_of(e_{name}), random_word_word(w_{name}))"
            body.append(f"r_{name} = {word}" if half == "first" else f"s_{name}[i] = joined(r_{name}, {word})")
            if stochastic:
                body.append(f"w_{name} = w_{name} + element_word_word(1, 0)")
    return _LOOP.format(
        name=loop.name,
        rounding="stochastic" if stochastic else "nearest",
        arguments=", ".join(f"pairs s_{name}" for name in loop.operands),
        n_operands=len(loop.operands),
        operands=", ".join(f"<pairs>operands[{index}]" for index in operands),
        last=", ".join(f"<pairs>&last[{index}]" for index in operands),
        written=tuple(loop.operands.index(name) for name in written),
        locals=indent(declared, 1),
        body=indent(body, 2),
    )


def bfloat16_source(rules: Iterable[str]) -> str:
    """The Cython text of the loops, and the table of their addresses: `OVER_BFLOAT16` by rule, and by whether they
    round stochastically."""
    names = list(rules)
    ways = list(itertools.product(names, (False, True)))
    parts = [_loop(loop_of(name), stochastic) for name, stochastic in ways]
    kinds = {False: "bfloat16_nearest", True: "bfloat16_stochastic"}
    return "\n\n".join([_PRELUDE, *parts, table("OVER_BFLOAT16", names, kinds)])
