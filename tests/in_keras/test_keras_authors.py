"""Keras' own tests of its optimizers, which come with the package, run with those of `fastopt.keras`."""

from __future__ import annotations

import importlib
import unittest
from types import ModuleType
from typing import Any

import pytest

keras = pytest.importorskip("keras.optimizers")
ours = pytest.importorskip("fastopt.keras")

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]

MODULES = ("sgd", "adam", "adamw", "rmsprop", "adagrad", "adadelta", "adamax", "nadam", "lion", "optimizer")
WRAPPERS = ("loss_scale_optimizer", "multi_optimizer")

STATELESS = "an update that returns new variables is refused"

LEFT_OUT = {
    "OptimizerTest": {"test_get_method": "looks Keras' classes up by their names"},
    "LossScaleOptimizerTest": {"stateless": STATELESS},
    "MultiOptimizerTest": {"stateless": STATELESS, "tensorboard": "TensorFlow is not installed"},
}
"""By class, tests whose names contain this, and why they are not run."""


class Optimizers(ModuleType):
    """`keras.optimizers` with our classes where there are such."""

    def __getattr__(self, name: str) -> Any:
        return getattr(ours, name, None) or getattr(importlib.import_module("keras.src.optimizers"), name)


def own_tests(module_name: str) -> list[type[unittest.TestCase]]:
    """The classes of one of Keras' test modules, which from now on uses our optimizers."""
    module = importlib.import_module(f"keras.src.optimizers.{module_name}_test")
    for name in ours.__all__:
        if hasattr(module, name):
            setattr(module, name, getattr(ours, name))
    if hasattr(module, "optimizers"):
        module.optimizers = Optimizers("optimizers")  # type: ignore[attr-defined]
    return [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__]


for _name in (*MODULES, *WRAPPERS):
    for _class in own_tests(_name):
        if not issubclass(_class, unittest.TestCase):
            continue
        for _test in [each for each in dir(_class) if each.startswith("test")]:
            for _part, _why in LEFT_OUT.get(_class.__name__, {}).items():
                if _part in _test:
                    setattr(_class, _test, unittest.skip(_why)(getattr(_class, _test)))
        globals()[_class.__name__] = _class
del _class  # or pytest finds its tests twice


def test_they_use_our_optimizers() -> None:
    module = importlib.import_module("keras.src.optimizers.adam_test")
    assert module.Adam is ours.Adam
    optimizers = importlib.import_module("keras.src.optimizers.optimizer_test").optimizers
    assert optimizers.SGD is ours.SGD
    assert optimizers.get is keras.get
