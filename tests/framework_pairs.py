"""The same call in Keras 3, in optax and here: how their arguments are called, and steps of each."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from cases import Case

from fastopt import schedules
from fastopt.definitions.conventions import DIFFERENCES

ARGUMENTS: dict[str, dict[str, str | tuple[str, ...]]] = {
    "keras": {
        "lr": "learning_rate",
        "betas": ("beta_1", "beta_2"),
        "eps": "epsilon",
        "alpha": "rho",
        "clip_norm": "clipnorm",
        "max_grad_norm": "global_clipnorm",
        "clip_value": "clipvalue",
        "accumulate_steps": "gradient_accumulation_steps",
    },
    "optax": {"lr": "learning_rate", "betas": ("b1", "b2", "b3")},
}
"""What an argument is called there, where it is called otherwise; of a tuple, as many as it has elements."""

ARGUMENTS_OF = {("optax", "RMSprop"): {"alpha": "decay"}}
"""The same, of single optimizers."""

NOT_THERE: dict[str, set[str]] = {
    # The object's own methods; tests of options compare them (tests/golden has Keras' averages).
    "keras": {"name", "kwargs", "use_ema", "ema_momentum", "ema_overwrite_frequency", "loss_scale_factor"},
    # dtypes of states, masks (here: weight_decay of groups and segments), and what only one of two functions has.
    "optax": {
        "accumulator_dtype",
        "mu_dtype",
        "mask",
        "weight_decay_mask",
        "clip_value_fn",
        "bias_correction_mu",
        "bias_correction_nu",
    },
}
"""Arguments of theirs that are no hyperparameters here."""

PIPELINE = ("clip_norm", "max_grad_norm", "clip_value", "accumulate_steps")
"""Our options that are arguments of theirs."""

NOT_HERE = {
    ("optax", "RAdam"): {"nesterov": False},
    ("optax", "NAdam"): {"nesterov": True},
    ("optax", "AdaBelief"): {"nesterov": False},
    ("optax", "ADOPT"): {"nesterov": False},
}
"""Hyperparameters of theirs that we do not have, and what they are here; all that is known to be left out."""

FIXED = {("keras", "NAdam"): ("momentum_decay",)}
"""Hyperparameters that cannot be chosen there: they are what our default is."""

Arrays = list[np.ndarray]
Step = Callable[[Arrays], Arrays]
"""A step with these gradients; the parameters after it."""


def names_of(convention: str, optimizer: str) -> tuple[str, ...]:
    """What the framework calls its optimizer."""
    return tuple(DIFFERENCES[convention][optimizer].called.split(", "))


def arguments_of(convention: str, optimizer: str) -> dict[str, str | tuple[str, ...]]:
    return {**ARGUMENTS[convention], **ARGUMENTS_OF.get((convention, optimizer), {})}


def translated(convention: str, optimizer: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options by the names that they have there."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        theirs = arguments_of(convention, optimizer).get(name, name)
        if isinstance(theirs, tuple):
            found.update(zip(theirs[: len(value)], value, strict=True))
        else:
            found[theirs] = value
    return found


def their_defaults(
    convention: str, optimizer: str, function: Any, ours: Iterable[str]
) -> tuple[dict[str, Any], set[str]]:
    """From its signature: what is given for our hyperparameters when nothing is, and which arguments are left over."""
    parameters = inspect.signature(function).parameters
    left = set(parameters) - NOT_THERE[convention]
    found: dict[str, Any] = {}
    for name in ours:
        theirs = arguments_of(convention, optimizer).get(name, name)
        names = tuple(each for each in theirs if each in parameters) if isinstance(theirs, tuple) else (theirs,)
        if names and left.issuperset(names):
            values = tuple(parameters[each].default for each in names)
            found[name] = values if isinstance(theirs, tuple) else values[0]
            left -= set(names)
    return found, left


# --- Keras ----------------------------------------------------------------------------------------------------------


def keras_step(keras: Any, case: Case, start: Arrays) -> Step:
    options = {name: value for name, value in case.options.items() if name != "convention"}
    (name,) = names_of("keras", case.optimizer)
    if isinstance(options.get("lr"), schedules.Schedule):
        options["lr"] = keras_schedule(keras, options["lr"])
    optimizer = getattr(keras.optimizers, name)(**translated("keras", case.optimizer, options))
    variables = [keras.Variable(each, dtype=each.dtype.name) for each in start]
    optimizer.build(variables)

    def step(gradients: Arrays) -> Arrays:
        optimizer.apply([keras.ops.convert_to_tensor(each) for each in gradients], variables)
        return [np.array(keras.ops.convert_to_numpy(each.value)) for each in variables]

    return step


def keras_schedule(keras: Any, schedule: schedules.Schedule) -> Any:
    class Same(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc,name-defined]
        def __call__(self, step: Any) -> float:
            return schedule(int(step))

    return Same()


# --- optax ----------------------------------------------------------------------------------------------------------


def optax_transformation(optax: Any, case: Case) -> Any:
    """Its function, or what it is made of where it has none: coupled weight decay comes before everything."""
    options = {name: value for name, value in case.options.items() if name != "convention"}
    coupled = not options.pop("decoupled_weight_decay", case.spec.defaults.get("decoupled_weight_decay", True))
    clips = options.pop("max_grad_norm", None)
    before = [] if clips is None else [optax.clip_by_global_norm(clips)]
    if coupled and "weight_decay" in options:
        before.append(optax.add_decayed_weights(options.pop("weight_decay")))
    if isinstance(options.get("lr"), schedules.Schedule):
        options["lr"] = optax_schedule(options["lr"])
    amsgrad = options.pop("amsgrad", False)
    lr, decay = options.pop("lr"), options.pop("weight_decay", None)
    names = names_of("optax", case.optimizer)
    arguments = translated("optax", case.optimizer, options)
    if amsgrad:
        arguments.pop("nesterov", None)
    if amsgrad and not coupled:  # It has no amsgradw.
        own = [optax.scale_by_amsgrad(**arguments), optax.add_decayed_weights(decay or 0.0)]
        return optax.chain(*before, *own, optax.scale_by_learning_rate(lr))
    if amsgrad:
        name = "amsgrad"
    else:
        name = names[-1] if not coupled else names[0]
        arguments |= {} if decay is None else {"weight_decay": decay}
    return optax.chain(*before, operator.attrgetter(name)(optax)(lr, **arguments))


def optax_schedule(schedule: schedules.Schedule) -> Callable[[Any], float]:
    return lambda count: schedule(int(count))


def optax_step(optax: Any, case: Case, start: Arrays) -> Step:
    import jax.numpy as jnp

    transformation = optax_transformation(optax, case)
    params: Any = [jnp.asarray(each) for each in start]
    state = transformation.init(params)

    def step(gradients: Arrays) -> Arrays:
        nonlocal params, state
        updates, state = transformation.update([jnp.asarray(each) for each in gradients], state, params)
        params = optax.apply_updates(params, updates)
        return [np.asarray(each) for each in params]

    return step


def our_step(case: Case, start: Arrays) -> Step:
    params = [each.copy() for each in start]
    optimizer = case.make(params)

    def step(gradients: Arrays) -> Arrays:
        optimizer.step(gradients)
        return [each.copy() for each in params]

    return step


STEPS: dict[str, Callable[[Any, Case, Arrays], Step]] = {"keras": keras_step, "optax": optax_step}


def trajectory(step: Step, gradients: Iterable[Arrays]) -> np.ndarray:
    """All parameters after each step."""
    return np.array([np.concatenate([each.ravel() for each in step(one)]) for one in gradients])
