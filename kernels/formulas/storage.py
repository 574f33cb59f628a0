"""The formats in which parameters, gradients and states can be stored, beside those that loops compute in.

This imports nothing but the standard library: `setup.py` runs it.
"""

from __future__ import annotations

from typing import NamedTuple

BLOCK = 256
"""Elements of a block that shares an exponent."""


class Format(NamedTuple):
    """A format; `codecs.py` has its functions, by its name."""

    bits: int
    """Of a code."""
    has_rest: bool = False
    """Whether the float32 number is in two arrays: the code, and a state with its other bits."""
    has_base: bool = False
    """Whether a block of `BLOCK` codes shares a base, one byte; the bases lie behind all codes."""
    stochastic: bool = True
    """Whether it can be rounded to stochastically."""

    def nbytes(self, size: int) -> int:
        """The bytes of an array of this many elements, bases included."""
        return size * self.bits // 8 if not self.has_base else -(-size // BLOCK) * (BLOCK * self.bits // 8 + 1)


FORMATS: dict[str, Format] = {
    "bfloat16": Format(16),
    "float16": Format(16),
    "split_bfloat16": Format(16, has_rest=True, stochastic=False),
    "float8": Format(8, has_base=True),
    "unsigned_float8": Format(8, has_base=True),
}
