"""Numbers and names that engines and renderers agree on. The build writes them into `constants.pxi` for Cython.

This imports nothing but the standard library.
"""

from __future__ import annotations

# --- operands of a segment, programs, and the arguments of coefficient functions that the engine sets -----------------

PARAM, GRAD = 0, 1
"""The first two operands of a segment; the states follow."""

PREPARED, CLIPPED = -1, -2
"""Operands in a block private to each thread: the gathered gradient, and the gradient with its values clipped."""

FIRST_TERM, MAX_SUMS = -3, 3
"""The first of the operands that hold the terms of a rule's sums, -3, -4...; and the most sums of a rule."""

PROGRAMS = ("update", "gather", "clear", "swap", "terms")
"""Programs of a call on a segment: a whole step, only keep the gradient, only zero it, swap parameter and average, only
compute the terms of the rule's sums."""

ENGINE_ARGUMENTS = ("step", "lr", "weight_decay", "clip_coefficient")
"""Arguments of coefficient functions that engines set, because their values differ by step or by segment."""

# --- blocks -----------------------------------------------------------------------------------------------------------

CACHE_LINE = 64
"""Bytes."""

BOUNDARY = 64
"""Threads split a segment only at multiples of this many elements, so two threads never share a cache line."""

BLOCK = 1024
"""Elements per block; all operations of a program run on a block before the next, so it stays in the nearest cache."""

CODED_BLOCK = 512
"""Elements that a thread decodes at a time: with the codes of the next ones they fit into 32 kB, the smallest first
cache. A multiple of `formulas.storage.BLOCK`."""

SUM_BLOCK = 4096
"""Elements per block of a sum; a multiple of BLOCK."""

BACKWARDS_BLOCK = 1 << 15
"""Elements per block in a step that runs backwards; a multiple of SUM_BLOCK."""

LANES = 64
"""Partial sums per block: element i is added to sum i modulo LANES; then one half of them is repeatedly added to the
other half."""

PREFETCH_BLOCK = 64
"""Elements between two rounds of prefetches, in loops that prefetch."""

PREFETCH_BYTES = 64 << 20
"""Loops prefetch only above this many bytes, because less data can be in a cache."""

BYTES_IN_CACHE = 16 << 20
"""The most operands of parameters that are added up and then updated, one after the other, while caches hold them."""

# --- capacities of the tables of the native engine --------------------------------------------------------------------

MAX_LOOP_OPERANDS = 8
"""The most operands of one loop."""

MAX_OPERANDS = 12
"""The most operands of a segment."""

MAX_COEFFICIENTS = 48
"""The most coefficients of all operations of a program together."""

MAX_ARGUMENTS, MAX_RESULTS = 24, 24
"""The most arguments and results of one coefficient function."""

MAX_STAGES, MAX_OPERATIONS, MAX_ROW_OPERATIONS, MAX_CARRIED, MAX_COMMON = 6, 8, 2, 4, 4
