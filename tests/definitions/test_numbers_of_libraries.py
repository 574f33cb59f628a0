"""A number may be an array without dimensions of any library, wherever a number is an argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import PLAIN, Case

import fastopt
from fastopt.checks import flag, real_number, whole_number


def jax_array(value: Any) -> Any:
    import jax.numpy

    return jax.numpy.asarray(value)


class Eager:
    """As TensorFlow's tensors are: `numpy()`, and no `item`."""

    ndim = 0

    def __init__(self, value: Any) -> None:
        self.value = np.array(value)

    def numpy(self) -> Any:
        return self.value[()]


MAKERS: dict[str, Callable[[Any], Any]] = {
    "numpy": np.array,
    "torch": torch.tensor,
    "torch with a gradient": lambda value: torch.tensor(float(value), requires_grad=True),
    "jax": jax_array,
    "tensorflow": Eager,
}
"""What makes an array without dimensions of a number, by library."""

by_library = pytest.mark.parametrize(
    "library", [pytest.param(name, marks=[pytest.mark.peers] * (name == "jax")) for name in MAKERS]
)


def wrapped(value: Any, make: Callable[[Any], Any]) -> Any:
    return tuple(map(make, value)) if isinstance(value, tuple) else make(value)


@by_library
def test_numbers(library: str) -> None:
    make = MAKERS[library]
    assert real_number("x", make(0.5)) == 0.5
    assert type(real_number("x", make(0.5))) is float
    if library != "torch with a gradient":
        assert whole_number("x", make(3)) == 3
        assert flag("x", make(True)) is True
        with pytest.raises(TypeError, match="x must be a real number"):
            real_number("x", make(True))
    with pytest.raises(TypeError, match="x must be an integer"):
        whole_number("x", make(0.5))


def test_an_array_with_dimensions_is_no_number() -> None:
    for array in (np.ones(1), torch.ones(1), np.ma.array(0.5), np.ma.masked):
        with pytest.raises(TypeError, match="x must be a real number"):
            real_number("x", array)


@pytest.mark.peers
def test_an_array_with_dimensions_of_jax_is_no_number() -> None:
    with pytest.raises(TypeError, match="x must be a real number"):
        real_number("x", jax_array([1.0]))


@by_library
@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_every_hyperparameter(case: Case, library: str) -> None:
    """At construction and at assignment, kept as Python's own numbers."""
    make = MAKERS[library]
    defaults = {name: value for name, value in case.spec.defaults.items() if not isinstance(value, bool)}
    assigned = case.make(np.ones(3))
    for name, default in defaults.items():
        if not default:
            continue
        expected = wrapped(default, lambda value: float(np.float32(value)))  # what every library can hold
        given = wrapped(expected, make)
        constructed = case.make(np.ones(3), **{name: given})
        assigned.param_groups[0][name] = given
        for optimizer in (constructed, assigned):
            found = optimizer.param_groups[0][name]
            assert found == expected
            assert {type(each) for each in (found if isinstance(found, tuple) else (found,))} == {float}


@by_library
def test_schedules_may_return_them(library: str) -> None:
    make, w = MAKERS[library], np.zeros(1)
    optimizer = fastopt.SGD(w, lr=lambda step: make(0.5))
    optimizer.step(np.ones(1))
    assert w == -0.5
    assert optimizer.current_lr == (0.5,)


@pytest.mark.peers
def test_a_schedule_of_optax() -> None:
    import optax

    schedule, w = optax.cosine_decay_schedule(0.5, 10), np.zeros(1)
    optimizer = fastopt.SGD(w, lr=schedule)
    optimizer.step(np.ones(1))
    assert w == -0.5
    assert optimizer.current_lr == (float(schedule(1)),)


@by_library
def test_options(library: str) -> None:
    make = MAKERS[library]
    optimizer = fastopt.SGD(np.ones(3), max_grad_norm=make(0.5), grad_scale=make(2.0))
    optimizer.grad_scale, optimizer.max_grad_norm = make(4.0), make(0.25)
    assert (optimizer.grad_scale, optimizer.max_grad_norm) == (4.0, 0.25)
