"""The peers: one file for each package, and the table of all.

`libraries.py` holds the code that they share. A peer computes the formula of torch.optim, with the defaults of torch,
or gives the reason why it does not. Packages are imported on first use.
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
"""The peers compared with fastopt in every case. To measure another peer, add a row."""

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
