"""DeepSpeed's optimizers for the CPU: C++ with AVX and OpenMP, over torch's parameters.

The package compiles them on first use, which takes about a minute, and keeps them on disk. This counts as part of the
installation, not of the first step. The optimizers are made for ZeRO-Offload, but are ordinary torch optimizers.
"""

from __future__ import annotations

import functools
import importlib
import operator
import os
import warnings
from typing import Any

from ..cases import Problem
from ..runner import Peer, Runner
from .libraries import ADAGRAD, ADAM, ADAMW, AMSGRAD, AMSGRADW, Key, Library, first_line, settings
from .pytorch import Tensors

ADAM_OPTIONS = ("lr", "betas", "eps", "weight_decay")
OPTIMIZERS: dict[Key, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    ADAM: ("adam.DeepSpeedCPUAdam", ADAM_OPTIONS, {"adamw_mode": False}),
    ADAMW: ("adam.DeepSpeedCPUAdam", ADAM_OPTIONS, {"adamw_mode": True}),
    ADAGRAD: ("adagrad.DeepSpeedCPUAdagrad", ("lr", "eps", "weight_decay"), {}),
}
BUILDERS = {"Adam": "CPUAdamBuilder", "AdamW": "CPUAdamBuilder", "Adagrad": "CPUAdagradBuilder"}


def choose_accelerator() -> None:
    """Choose the accelerator; otherwise DeepSpeed searches for one. The choice has an effect only before the import."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")


@functools.cache
def build_failure(builder: str) -> str | None:
    """Compile an extension, or find it compiled; returns why this is not possible, or None."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            getattr(importlib.import_module("deepspeed.ops.op_builder"), builder)().load(verbose=False)
        except Exception as error:  # no compiler, no ninja, another torch than it was made for
            return f"DeepSpeed's extension does not build: {first_line(error)}"
    return None


def make_optimizer(tensors: Tensors) -> Any:
    variant = tensors.problem.variant
    name, taken, fixed = LIBRARY.optimizer(variant)
    package = LIBRARY.package()
    values = settings(variant)
    with warnings.catch_warnings():
        # It looks up the processor's name in a forked process, and JAX warns of every fork.
        warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)
        make = operator.attrgetter(name)(package.ops)
        return make(tensors.params, **{option: values[option] for option in taken}, **fixed)


def start(problem: Problem) -> Runner:
    tensors = Tensors.of(problem)
    return Runner(make_optimizer(tensors).step, tensors.results, tensors.take_gradients)


LIBRARY = Library(
    "DeepSpeed",
    "deepspeed",
    OPTIMIZERS,
    others={AMSGRAD: "CPUAdam has no amsgrad", AMSGRADW: "CPUAdam has no amsgrad"},
    prepare=choose_accelerator,
    obstacle=lambda problem: build_failure(BUILDERS[problem.variant.optimizer]),
)
DEEPSPEED = Peer("DeepSpeed", start, LIBRARY.unavailable)
