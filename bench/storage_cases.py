"""Parameters and states in fewer bits: fastopt, torch and bitsandbytes with them, and the bytes that each moves."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import fastopt

from . import roofline
from .cases import FLOAT32, VARIANTS, Problem, Variant, Workload, copies
from .custom_loops import ours
from .peers import TORCH, torch_peer
from .peers.bitsandbytes import BITSANDBYTES_8BIT
from .runner import Peer, Runner

SPREAD = 1 / 32
"""Parameters lie within plus or minus 1/64, where steps of 0.001 are 16 or more units in the last place of bfloat16."""


def flat(size: int) -> Workload:
    """One flat tensor of small numbers."""
    return Workload(f"{size:,}", ((size,),), SPREAD)


# --- the input --------------------------------------------------------------------------------------------------------


def as_bfloat16(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """A copy of each array, of ml_dtypes' bfloat16."""
    dtype = importlib.import_module("ml_dtypes").bfloat16
    return copies([array.astype(dtype) for array in arrays])


class HalfProblem(Problem):
    """Parameters and gradients of float32 that bfloat16 can hold, for sides of either."""

    @classmethod
    def make(cls, variant: Variant, workload: Workload, n_threads: int) -> Problem:
        made = super().make(variant, workload, n_threads)
        made.params, made.grads = (
            copies([array.astype(FLOAT32) for array in as_bfloat16(arrays)]) for arrays in (made.params, made.grads)
        )
        return made

    def change_gradients(self) -> None:
        """As `Problem` does, by a factor that rounds nothing."""
        for grad in self.grads:
            grad.reshape(-1)[::3] *= -0.5


# --- results ----------------------------------------------------------------------------------------------------------

DIFFERENCE = 0.25
"""How much of its movement in the steps of the check a parameter may differ by. Among 10 million it was up to 0.12 with
states of 8 bits, ours and bitsandbytes', and 0.16 with parameters of bfloat16."""


def moving(peer: Peer) -> Peer:
    """The peer, with how far it has moved each parameter as its results."""

    def start(problem: Problem) -> Runner:
        runner = peer.start(problem)
        results = runner.results
        assert results is not None

        def movements() -> list[np.ndarray]:
            return [after - before for after, before in zip(results(), problem.params, strict=True)]

        return dataclasses.replace(runner, results=movements)

    return dataclasses.replace(peer, start=start)


# --- fastopt ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Storage:
    """How fastopt stores parameters and states, by `options`. `half`: parameters and gradients are of bfloat16."""

    name: str
    options: Mapping[str, Any] = field(hash=False)
    half: bool = False

    @property
    def subject(self) -> Peer:
        return moving(
            ours(
                "fastopt",
                memory=as_bfloat16 if self.half else copies,
                results=self._results,
                unavailable=self._unavailable,
                bytes_of=functools.partial(_bytes_of, self),
                **self.options,
            )
        )

    @property
    def roofline(self) -> Peer:
        return roofline.of_bytes(functools.partial(moved, self))

    def problem(self, variant: Variant, workload: Workload, n_threads: int) -> Problem:
        return (HalfProblem if self.half else Problem).make(variant, workload, n_threads)

    def _results(self, optimizer: Any, params: list[np.ndarray]) -> list[np.ndarray]:
        """The parameters of an optimizer in float32, with all of their bits."""
        if "master_weights" in self.options:
            return list(optimizer.master_params())
        return [param.astype(FLOAT32) for param in params]

    def _unavailable(self, problem: Problem) -> str | None:
        missing = self.half and importlib.util.find_spec("ml_dtypes") is None
        return "ml_dtypes is not installed" if missing else None


COUNTED = 1 << 16
"""The size of the parameter whose arrays are counted: states of it are compressed, in whole blocks."""


@functools.cache
def moved(storage: Storage, variant: Variant) -> tuple[float, float]:
    """The bytes of each parameter that a step reads and writes, by the arrays that an optimizer has."""
    (param,) = (as_bfloat16 if storage.half else copies)([np.zeros(COUNTED, FLOAT32)])
    optimizer = getattr(fastopt, variant.optimizer)(param, **variant.hyperparameters, **storage.options)
    optimizer.step(np.ones_like(param))
    states = optimizer.state_dict(encoded=True)["state"][0].values()
    arrays = [each["codes"] if isinstance(each, dict) else each for each in states]
    written = (param.nbytes + sum(each.nbytes for each in arrays if np.size(each) > 1)) / COUNTED
    return written + param.itemsize, written


def _bytes_of(storage: Storage, variant: Variant) -> float:
    return sum(moved(storage, variant))


AT_RANDOM = {"stochastic_rounding": True}
FLOAT8 = Storage("float8 states", {"state_dtype": "float8", **AT_RANDOM})
FLOAT8_NEAREST = Storage("float8 states to nearest", {"state_dtype": "float8"})
BFLOAT16 = Storage("bfloat16 parameters and states", {"state_dtype": "bfloat16", **AT_RANDOM}, half=True)
MASTER = Storage(
    "bfloat16 with master weights, float8 states",
    {"master_weights": True, "state_dtype": "float8", **AT_RANDOM},
    half=True,
)

# --- peers ------------------------------------------------------------------------------------------------------------

FLOAT32_STATES = moving(ours("fastopt float32"))
TORCH_FUSED = moving(torch_peer("torch fused", **TORCH["torch fused"]))
TORCH_FUSED_BFLOAT16 = moving(torch_peer("torch fused, bfloat16", dtype="bfloat16", **TORCH["torch fused"]))
BITSANDBYTES = moving(
    dataclasses.replace(BITSANDBYTES_8BIT, bytes_of=functools.partial(_bytes_of, FLOAT8), absolute=None)
)
"""It is said to move the bytes of its parameters, gradients and states, of which it makes copies in float32 as well."""

ADAM, ADAMW = VARIANTS["Adam"], VARIANTS["AdamW"]
BESIDE_PEERS: tuple[tuple[Variant, Storage, tuple[Peer, ...]], ...] = (
    (ADAM, FLOAT8, (TORCH_FUSED, BITSANDBYTES)),
    (ADAM, FLOAT8_NEAREST, (TORCH_FUSED, BITSANDBYTES)),
    (ADAMW, BFLOAT16, (TORCH_FUSED_BFLOAT16,)),
    (ADAM, MASTER, (TORCH_FUSED,)),
)
BESIDE_FLOAT32: tuple[tuple[Variant, Storage], ...] = tuple(
    (VARIANTS[name], storage)
    for storage in (FLOAT8, FLOAT8_NEAREST)
    for name in ("Adam", "RMSprop", "Adagrad", "SGD momentum", "Lion")
)
