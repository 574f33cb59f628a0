"""Writes the codecs as Cython, when fastopt is built: one loop that decodes an array, and two that encode it.

A loop that decodes is `void decode(const void *codes, const void *more, Py_ssize_t size, void *elements)`; one that
encodes is `void encode(const void *elements, Py_ssize_t size, void *codes, void *more, uint32_t key, uint32_t first)`.
`more` is where the rest of each element is, or the base of each block, and NULL for other formats. Arrays that are
divided into blocks begin at the first element of one. `first` is the number of the first element for `element_word`.
"""

from __future__ import annotations

from ..formulas.dialect import Function
from ..formulas.registry import codec_functions
from ..formulas.storage import BLOCK, FORMATS, Format
from .spelling import indent, statements

_PRELUDE = f"""\
from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef extern from *:
    '''
    #include <stdint.h>
    #include <string.h>
    typedef uint32_t *__restrict__ words;
    typedef uint16_t *__restrict__ codes_16;
    typedef uint8_t *__restrict__ codes_8;
    #define number_word(x) ((uint32_t)(x))
    static inline float number_of(uint32_t bits) {{ float number; memcpy(&number, &bits, 4); return number; }}
    static inline uint32_t word_of(float number) {{ uint32_t bits; memcpy(&bits, &number, 4); return bits; }}
    static inline uint32_t select_word(int condition, uint32_t a, uint32_t b) {{ return condition ? a : b; }}
    static inline uint32_t whole_word(uint32_t x) {{
        return word_of((float)(int32_t)x);
    }}
    static inline uint32_t larger_word(uint32_t a, uint32_t b) {{ return (int32_t)a > (int32_t)b ? a : b; }}
    static inline uint32_t smaller_word(uint32_t a, uint32_t b) {{ return (int32_t)a < (int32_t)b ? a : b; }}
    static inline uint32_t is_nan_word(uint32_t x) {{ return number_of(x) != number_of(x); }}
    static inline uint32_t shifted_word(uint32_t x, uint32_t by) {{ return (uint32_t)((int32_t)x >> by); }}
    '''
    ctypedef uint32_t *words
    ctypedef uint16_t *codes_16
    ctypedef uint8_t *codes_8
    float number_of(uint32_t) noexcept nogil
    uint32_t word_of(float) noexcept nogil
    uint32_t number_word(unsigned int) noexcept nogil
    uint32_t select_word(bint, uint32_t, uint32_t) noexcept nogil
    uint32_t whole_word(uint32_t) noexcept nogil
    uint32_t larger_word(uint32_t, uint32_t) noexcept nogil
    uint32_t smaller_word(uint32_t, uint32_t) noexcept nogil
    uint32_t shifted_word(uint32_t, uint32_t) noexcept nogil
    uint32_t is_nan_word(uint32_t) noexcept nogil

cdef enum:
    CODEC_BLOCK = {BLOCK}
"""


def _function(function: Function) -> str:
    body, returns = statements(function, call="{}_word", number="number_word", convert=int)
    result = "uint32_t" if len(returns) == 1 else "(" + ", ".join(["uint32_t"] * len(returns)) + ")"
    arguments = ", ".join(f"uint32_t {name}" for name in function.arguments)
    lines = [f"cdef uint32_t {name}" for name in function.local_names] + body
    lines.append("return " + (returns[0] if len(returns) == 1 else "(" + ", ".join(returns) + ")"))
    return f"cdef inline {result} {function.name}_word({arguments}) noexcept nogil:\n{indent(lines, 1)}\n"


_DECODE = """\
cdef inline void {name}_decode_block(words elements, codes_{bits} codes, {more}, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        elements[i] = {name}_decoded_word({arguments})


cdef void {name}_decode(const void *codes, const void *more, Py_ssize_t size, void *elements) noexcept nogil:
    cdef Py_ssize_t start = 0
    while start + CODEC_BLOCK <= size:  # of a constant length, which makes faster code
        {name}_decode_block(<words>elements + start, <codes_{bits}>codes + start, {more_at}, CODEC_BLOCK)
        start += CODEC_BLOCK
    if start < size:
        {name}_decode_block(<words>elements + start, <codes_{bits}>codes + start, {more_at}, size - start)
"""

_ENCODE = """\
cdef inline void {name}_{rounding}_block(words elements, codes_{bits} codes, {more}, Py_ssize_t size,
                                         uint32_t key, uint32_t first) noexcept nogil:
    cdef Py_ssize_t i
{declared}
    for i in range(size):
{encode}


cdef void {name}_encode_{rounding}(const void *elements, Py_ssize_t size, void *codes, void *more,
                                   uint32_t key, uint32_t first) noexcept nogil:
    cdef Py_ssize_t start = 0
{base}
    while start + CODEC_BLOCK <= size:
{find_base}
        {name}_{rounding}_block(
            <words>elements + start, <codes_{bits}>codes + start, {more_at}, CODEC_BLOCK, key, first + <uint32_t>start
        )
        start += CODEC_BLOCK
    if start < size:
{find_last_base}
        {name}_{rounding}_block(
            <words>elements + start, <codes_{bits}>codes + start, {more_at}, size - start, key, first + <uint32_t>start
        )
"""

_LARGEST = """\
cdef inline uint32_t largest_magnitude(words elements, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef int largest = 0
    for i in range(size):
        largest = max(largest, <int>(elements[i] & 0x7FFFFFFF))
    return <uint32_t>largest
"""


def _loops(name: str, storage: Format) -> str:
    bits = storage.bits
    more = "uint32_t base" if storage.has_base else f"codes_{bits} rest" if storage.has_rest else "uint32_t nothing"
    base_at = "(<codes_8>more)[start // CODEC_BLOCK]"
    more_at = base_at if storage.has_base else f"<codes_{bits}>more + start" if storage.has_rest else "0"
    further = ["base"] if storage.has_base else ["rest[i]"] if storage.has_rest else []
    common = {"name": name, "bits": bits, "more": more}
    parts = [_DECODE.format(**common, more_at=more_at, arguments=", ".join(["codes[i]", *further]))]
    for rounding in ("nearest", "stochastic") if storage.stochastic else ("nearest",):
        arguments = ["elements[i]", *(["base"] if storage.has_base else [])]
        if rounding == "stochastic":
            arguments.append("random_word_word(word)")
        call = f"{name}_{rounding}_word({', '.join(arguments)})"
        if storage.has_rest:
            declared = ["cdef uint32_t code, remainder"]
            encode = [
                f"code, remainder = {call}",
                f"codes[i] = <uint{bits}_t>code",
                f"rest[i] = <uint{bits}_t>remainder",
            ]
        else:
            declared, encode = [], [f"codes[i] = <uint{bits}_t>{call}"]
        base, find_base, find_last_base = [], [], []
        if storage.has_base:
            base = ["cdef uint32_t base"]
            find_base, find_last_base = (
                [
                    f"base = {name}_base_word(largest_magnitude(<words>elements + start, {length}))",
                    f"{base_at} = <uint8_t>base",
                ]
                for length in ("CODEC_BLOCK", "size - start")
            )
        if rounding == "stochastic":
            declared.append("cdef uint32_t word = element_word_word(first, key)")
            encode.append("word = word + element_word_word(1, 0)")
        parts.append(
            _ENCODE.format(
                **common,
                rounding=rounding,
                more_at="base" if storage.has_base else more_at,
                declared=indent(declared, 1),
                encode=indent(encode, 2),
                base=indent(base, 1),
                find_base=indent(find_base, 2),
                find_last_base=indent(find_last_base, 2),
            )
        )
    return "\n\n".join(parts)


def keys_source() -> str:
    """The Cython text of the functions that make keys of random bits, which the engine includes."""
    functions = codec_functions()
    return "\n\n".join([_PRELUDE, *(_function(functions[name]) for name in ("scrambled", "combined_key"))])


def codecs_source() -> str:
    """The Cython text of all codecs, and the tables of their addresses: `DECODERS` by format, `ENCODERS` by format and
    whether they round stochastically."""
    parts = [_PRELUDE, *(_function(each) for each in codec_functions().values()), _LARGEST]
    parts += [_loops(name, storage) for name, storage in FORMATS.items()]
    decoders = [f'"{name}": <size_t>&{name}_decode,' for name in FORMATS]
    encoders = [
        f'("{name}", {rounding == "stochastic"}): <size_t>&{name}_encode_{rounding},'
        for name, storage in FORMATS.items()
        for rounding in (("nearest", "stochastic") if storage.stochastic else ("nearest",))
    ]
    parts += [f"DECODERS = {{\n{indent(decoders, 1)}\n}}", f"ENCODERS = {{\n{indent(encoders, 1)}\n}}"]
    return "\n\n".join(parts)
