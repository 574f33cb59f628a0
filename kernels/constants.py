"""Numbers and names that engines and renderers agree on. The build writes them into `constants.pxi` for Cython.

This imports nothing but the standard library.
"""

from __future__ import annotations

# --- a segment's operands, programs, and what the engine puts into coefficient functions ------------------------------

PARAM, GRAD = 0, 1
"""The first two operands of a segment; its states follow."""

PREPARED, CLIPPED = -1, -2
"""Operands that are a thread's own block: the gathered gradient, and the gradient with its values clipped."""

PROGRAMS = ("update", "gather", "clear", "swap")
"""What a call can do to a segment: a whole step, only keep its gradient, only zero it, exchange it with its average."""

ENGINE_ARGUMENTS = ("step", "lr", "weight_decay", "clip_coefficient")
"""Arguments of coefficient functions that engines put in, because their values differ by step or by segment."""

# --- blocks -----------------------------------------------------------------------------------------------------------

CACHE_LINE = 64
"""Bytes."""

BOUNDARY = 64
"""Threads meet at multiples of this many elements of a segment, so never in one cache line."""

BLOCK = 1024
"""Elements that all operations of a program run on before the next block: they stay in the nearest cache."""

SUM_BLOCK = 4096
"""Elements that are added up at a time; a multiple of BLOCK."""

BACKWARDS_BLOCK = 1 << 15
"""Elements at a time where a step goes backwards; a multiple of SUM_BLOCK."""

LANES = 64
"""Partial sums of a block: element i goes to number i modulo LANES; then each half is added to the other."""

PREFETCH_BLOCK = 64
"""Elements between two rounds of prefetches, in loops that prefetch."""

PREFETCH_BYTES = 64 << 20
"""Loops prefetch from this many bytes on: less can be in a cache."""

# --- what the tables of the native engine have room for ---------------------------------------------------------------

MAX_LOOP_OPERANDS = 8
"""Of one loop."""

MAX_OPERANDS = 12
"""Of a segment."""

MAX_COEFFICIENTS = 48
"""Of all operations of a program."""

MAX_ARGUMENTS, MAX_RESULTS = 16, 24
"""Of one coefficient function."""

MAX_STAGES, MAX_OPERATIONS, MAX_ROW_OPERATIONS, MAX_CARRIED = 6, 8, 2, 4
