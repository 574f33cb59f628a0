"""The floating-point control register of this processor. `native/machine.h` has the same numbers for C.

This imports nothing but the standard library.
"""

from __future__ import annotations

import platform
from typing import NamedTuple


class Register(NamedTuple):
    """Numbers of a control register; all are 0 for processors of which they are not known."""

    flush: int = 0
    """The bits that make denormals zero, on input and output."""
    standard: int = 0
    """The register when it rounds to nearest and masks all traps, and denormals are numbers."""
    control: int = 0
    """The bits for denormals, rounding and traps; the others are flags, or nothing."""


REGISTERS = {
    "x86_64": Register(0x8040, 0x1F80, 0xFFC0),
    "arm64": Register(1 << 24, 0, (1 << 24) | (3 << 22) | 0x9F00),
}

_MACHINE = platform.machine().lower()

PROCESSOR = {"amd64": "x86_64", "aarch64": "arm64"}.get(_MACHINE, _MACHINE)
"""The processor by the name that `REGISTERS` has for it, which some systems call otherwise."""

REGISTER = REGISTERS.get(PROCESSOR, Register())
