"""The codes that walks over tensors share; the native walk's are rendered from here.

The build imports this file, so it imports the standard library alone.
"""

import enum


class Found(enum.IntEnum):
    """What a walk over tensors found before a step. Unless it is READY, nothing was written."""

    READY = 0
    REBUILD = 1  # other parameters, states or memory than the walk was made for
    REREAD = 2  # other hyperparameters
    REPLACE = 3  # gradients that the kernels cannot read as they are


class NoSegment(enum.IntEnum):
    """What stands in place of a parameter's segment where it has none."""

    WITHOUT_GRADIENT = -1  # it has had no gradient yet
    ELSEWHERE = -2  # another engine steps it


LOW_ADDRESS = 1 << 40
"""Below this an address can be the offset of a view in a storage without memory, rather than an address of memory."""
