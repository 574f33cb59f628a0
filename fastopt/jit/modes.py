"""The floating-point mode of updates and of a user's own loops."""

from __future__ import annotations

from ..kernels.numba.modes import (
    BITS,
    STANDARD,
    get_mode,
    inline,
    leave_mode,
    pinned,
    replace_bits,
    set_mode,
    uint64,
)

__all__ = [
    "as_around",
    "flush_denormals",
    "flushing",
    "leave_mode",
    "pinned",
    "restore_denormals",
    "set_mode",
]


@inline
def flushing() -> int:
    """The mode of updates that treat denormals as zero."""
    mode: int = STANDARD | BITS
    return mode


@inline
def as_around() -> int:
    """The mode of updates that treat denormals as the code around them does."""
    around: int = get_mode()  # type: ignore[call-arg]
    mode: int = STANDARD | (around & BITS)
    return mode


@inline
def flush_denormals() -> int:
    """Treat denormals as zero in all later arithmetic of this thread, and return the mode before.

    Denormals are numbers closer to zero than 1.2e-38 (float32) or 2.2e-308 (float64). Arithmetic with them takes up to
    a hundred times as long. The updates of `fastopt.jit` flush them anyway; this function is for the rest of a loop.
    Call it from Python or inside an `@njit` function. It does nothing on processors other than x86-64 and AArch64.

    Returns
    -------
    int
        For `restore_denormals`.

    Examples
    --------
    >>> import numba, numpy as np
    >>> from fastopt import jit
    >>> @numba.njit
    ... def halve(array):
    ...     mode = jit.flush_denormals()
    ...     for i in range(array.size):
    ...         array[i] *= 0.5
    ...     jit.restore_denormals(mode)
    >>> numbers = np.array([1.0, 3e-308])
    >>> halve(numbers)
    >>> numbers
    array([0.5, 0. ])
    """
    return replace_bits(BITS, BITS)


@inline
def restore_denormals(mode: int) -> None:
    """Treat denormals as before `flush_denormals`, which returned `mode`. Other bits of the mode are kept."""
    replace_bits(uint64(mode), BITS)
