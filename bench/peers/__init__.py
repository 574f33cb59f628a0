"""The peers: one file for each package, and the table of all.

`libraries.py` is what they have in common. A peer computes torch.optim's formula, with torch's defaults, or says why it
does not. Packages are imported when they are first asked for something.
"""

from __future__ import annotations

from ..runner import Peer
from .bitsandbytes import BITSANDBYTES, BITSANDBYTES_8BIT
from .deepspeed import DEEPSPEED
from .keras import KERAS
from .optax import OPTAX
from .pytorch import (
    TORCH,
    TORCH_COMPILE,
    TORCH_DEFAULT,
    TORCH_FOREACH,
    TORCH_FUSED,
    Tensors,
    torch_peer,
    unavailable_in,
)
from .textbook import NJIT, NJIT_LOOP, NJIT_PRANGE, NUMPY
from .thinc import THINC

PEERS: tuple[Peer, ...] = (
    TORCH_DEFAULT,
    TORCH_FOREACH,
    TORCH_FUSED,
    TORCH_COMPILE,
    DEEPSPEED,
    BITSANDBYTES,
    BITSANDBYTES_8BIT,
    OPTAX,
    KERAS,
    THINC,
    NUMPY,
    NJIT,
    NJIT_LOOP,
    NJIT_PRANGE,
)
"""Whom fastopt is compared with in every case. To measure one more, add a row."""

__all__ = [
    "DEEPSPEED",
    "PEERS",
    "TORCH",
    "TORCH_COMPILE",
    "TORCH_DEFAULT",
    "TORCH_FOREACH",
    "TORCH_FUSED",
    "Tensors",
    "torch_peer",
    "unavailable_in",
]
