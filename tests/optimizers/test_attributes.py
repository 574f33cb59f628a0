"""No assignment to an optimizer is silently ignored: it counts, or an error says where the value is set."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from cases import PLAIN, Case
from custom_momentum import Momentum

import fastopt
from fastopt.definitions.hyperparameters import HYPERPARAMETERS
from fastopt.step.attributes import NAMES_ELSEWHERE, READ_ONLY
from fastopt.step.options import GROUP_OPTIONS, STEP_OPTIONS

SETTABLE = {"grad_scale": 2.0, "max_grad_norm": 0.5, "iterations": 3}
"""What can be assigned to an optimizer, with a value."""

by_case = pytest.mark.parametrize("case", PLAIN, ids=str)


def message_of_assignment(optimizer: Any, name: str, value: Any = 0.5) -> str:
    before = dict(vars(optimizer))
    with pytest.raises(AttributeError) as error:
        setattr(optimizer, name, value)
    assert vars(optimizer) == before
    assert (error.value.name, error.value.obj) == (name, optimizer)
    return str(error.value)


@by_case
def test_options_and_hyperparameters_cannot_be_assigned(case: Case) -> None:
    """All of the tables: of this optimizer, of groups, of steps, of other optimizers."""
    optimizer = case.make(np.ones(3))
    name = case.optimizer
    for key in {**optimizer.spec.defaults, **GROUP_OPTIONS}:
        message = message_of_assignment(optimizer, key)
        assert message.startswith(f"{name}.{key} cannot be assigned: each parameter group has its own; assign to ")
        assert f"param_groups[0][{key!r}]" in message
    for key in (*STEP_OPTIONS, "grads", "params"):
        if key not in SETTABLE:
            message = message_of_assignment(optimizer, key)
            assert message == f"{name}.{key} cannot be assigned: it is an argument of {name}(...), and fixed at " + (
                "construction"
            )
    for key in set(HYPERPARAMETERS) - set(optimizer.spec.defaults):
        assert "a hyperparameter of other optimizers" in message_of_assignment(optimizer, key)
    for key in (*READ_ONLY, "backend", "grad_norm", "skipped_steps", "consecutive_skips", "nonfinite_counts"):
        assert f"{name}.{key} cannot be assigned: " in message_of_assignment(optimizer, key)


@by_case
def test_what_can_be_assigned_counts(case: Case) -> None:
    optimizer = case.make(np.ones(3), max_grad_norm=1.0)
    for name, value in SETTABLE.items():
        setattr(optimizer, name, value)
        assert getattr(optimizer, name) == value


MISSPELT = {
    "grad_scal": "grad_scale",
    "gradscale": "grad_scale",
    "nthreads": "n_threads",
    "max_gradnorm": "max_grad_norm",
    "clipnorm": "clip_norm",
    "clipvalue": "clip_value",
    "non_finite": "nonfinite",
    "accumulate_step": "accumulate_steps",
    "zero_grad_": "zero_grads",
    "iteration": "iterations",
    "current_lrs": "current_lr",
    "weight_decays": "weight_decay",
    "beta": "betas",
    **NAMES_ELSEWHERE,
}


@pytest.mark.parametrize(("name", "meant"), MISSPELT.items(), ids=MISSPELT)
def test_misspelt_names_and_those_of_other_libraries(name: str, meant: str) -> None:
    for optimizer in (fastopt.Adam(np.ones(3)), fastopt.Adam(np.ones(3), convention="keras")):
        assert f"Adam has no attribute {name!r}; did you mean {meant!r}?" in message_of_assignment(optimizer, name)


def test_the_advice_for_a_misspelt_name() -> None:
    optimizer = fastopt.Adam(np.ones(3))
    assert "did you mean 'lr'? each parameter group has its own; assign to param_groups[0]['lr']" in (
        message_of_assignment(optimizer, "learning_rate")
    )
    assert message_of_assignment(optimizer, "loss_scale").endswith(
        "did you mean 'grad_scale'? assign to Adam.grad_scale"
    )
    assert message_of_assignment(optimizer, "num_threads").endswith(
        "an argument of Adam(...), and fixed at construction"
    )


def test_custom_rules() -> None:
    optimizer = Momentum(np.ones(3))
    assert "Momentum.beta cannot be assigned: each parameter group" in message_of_assignment(optimizer, "beta")
    assert "did you mean 'lr'?" in message_of_assignment(optimizer, "learning_rate")


def test_what_is_no_attribute_cannot_be_read() -> None:
    optimizer: Any = fastopt.SGD(np.ones(3), lr=0.5)
    with pytest.raises(AttributeError, match="'SGD' object has no attribute 'lr'"):
        optimizer.lr *= 0.5
    assert not hasattr(optimizer, "lr")
    assert getattr(optimizer, "momentum", None) is None


def test_attributes_of_the_user_s_own() -> None:
    """Any name that means nothing here; methods can be replaced; copies have them as before."""
    optimizer: Any = fastopt.Adam(np.ones(3))
    for name in ("name", "history", "epoch", "scheduler", "_lr", "best_loss", "x", "steps", "loss"):
        setattr(optimizer, name, 1)
        assert getattr(optimizer, name) == 1
    calls = []
    optimizer.step = lambda gradient: calls.append(gradient)
    optimizer.step(None)
    assert calls == [None]


class Own(fastopt.Adam):
    """A subclass with attributes whose names are, or look like, those of options."""

    lr = property(lambda self: self.param_groups[0]["lr"], lambda self, lr: self.param_groups[0].update(lr=lr))
    momentum = 0.0

    def __init__(self, params: Any, learning_rate: float) -> None:
        super().__init__(params, learning_rate)
        self.learning_rate = learning_rate
        self.threads = 3
        self.momentum = 0.5


def test_attributes_of_subclasses() -> None:
    own: Any = Own(np.ones(3), 0.25)
    assert (own.learning_rate, own.threads, own.momentum, own.lr) == (0.25, 3, 0.5, 0.25)
    own.lr = 0.5
    assert own.param_groups[0]["lr"] == 0.5
    assert "Own.nonfinite cannot be assigned" in message_of_assignment(own, "nonfinite")
    assert "Own.eps cannot be assigned" in message_of_assignment(own, "eps")


@by_case
def test_copies_and_pickles(case: Case) -> None:
    optimizer = case.make(np.ones(3))
    optimizer.step(np.ones(3))
    for again in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert again.iterations == 1
        again.step(np.ones(3))


# --- what belongs to optimizers ---------------------------------------------------------------------------------------


def test_groups_have_keys_and_no_attributes() -> None:
    group: Any = fastopt.SGD(np.ones(3), lr=0.5).param_groups[0]
    for name in ("lr", "learning_rate", "eps", "clip_norm"):
        with pytest.raises(AttributeError, match=f"a parameter group is a dict.*assign to group\\['{name}'\\]"):
            setattr(group, name, 0.1)
    assert group["lr"] == 0.5


def test_settings_of_single_parameters_are_read_only() -> None:
    each: Any = fastopt.SGD(np.ones(3)).segments[0]
    with pytest.raises(AttributeError):
        each.frozen = True


FIXED_OF_THE_GUARD = (
    *("on_divergence", "on_stall", "window", "explosion_factor", "patience", "min_improvement", "vanishing_ratio"),
    *("lr_factor", "max_restores", "max_consecutive_skips", "snapshot_every", "optimizer"),
)


@pytest.mark.parametrize("name", FIXED_OF_THE_GUARD)
def test_arguments_of_the_guard(name: str) -> None:
    guard: Any = fastopt.DivergenceGuard(fastopt.SGD(np.ones(3)))
    with pytest.raises(AttributeError, match=f"DivergenceGuard.{name} is fixed at construction"):
        setattr(guard, name, 5)
    for name in ("should_stop", "finding", "findings", "restores"):
        with pytest.raises(AttributeError):
            setattr(guard, name, 5)


def test_the_guard_s_arguments_are_all_in_the_list() -> None:
    import inspect

    assert set(FIXED_OF_THE_GUARD) == set(inspect.signature(fastopt.DivergenceGuard).parameters)
    guard = fastopt.DivergenceGuard(fastopt.SGD(np.ones(3)), "stop", window=5, patience=None)
    assert (guard.on_divergence, guard.window, guard.patience, guard.lr_factor) == ("stop", 5, None, 0.5)


@pytest.mark.parametrize("name", ["mode", "patience", "convention", "threshold", "threshold_mode", "eps", "min_delta"])
def test_arguments_of_the_plateau_that_are_fixed(name: str) -> None:
    plateau: Any = fastopt.ReduceOnPlateau(fastopt.SGD(np.ones(3)), patience=3)
    with pytest.raises(AttributeError, match=f"ReduceOnPlateau.{name} is fixed at construction"):
        setattr(plateau, name, 5)
    assert (plateau.patience, plateau.mode, plateau.convention) == (3, "min", "torch")


def test_arguments_of_the_plateau_that_can_change() -> None:
    optimizer = fastopt.SGD(np.ones(3), lr=1.0)
    plateau: Any = fastopt.ReduceOnPlateau(optimizer, patience=0)
    plateau.factor, plateau.min_lr, plateau.cooldown = 0.5, 0.4, 7
    assert [plateau.step(1.0) for _ in range(3)] == [False, True, False]
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert plateau.cooldown_counter == 6
