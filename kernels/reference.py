"""The rules run by NumPy: slow, and what the other backends are measured against, bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import coefficients, render, rules

BLOCK = 1 << 16
"""Elements at a time, so that the temporaries stay in cache."""

Loop = Callable[[Sequence[np.ndarray], Sequence[Any]], None]
"""Updates one-dimensional arrays (parameter, gradient, states) in place with the given coefficients."""


def loop(rule_name: str, dtype: np.dtype) -> Loop:
    """A rule's loop over arrays of float32 or float64."""
    rule = render.rules()[rule_name]
    update = getattr(rules, rule_name)
    shared = len(render.coefficient_names(rule)) - len(rule.coefficients)

    def run(streams: Sequence[np.ndarray], scalars: Sequence[Any]) -> None:
        size = streams[0].size
        for start in range(0, size, BLOCK):
            param, grad, *states = (stream[start : start + BLOCK] for stream in streams)
            new_param, new_grad = rules.regularize(param, grad, *scalars[:shared])
            results = update(new_param, new_grad, *states, *scalars[shared:])
            if not states:
                results = (results,)
            for target, value in zip((param, *states), results, strict=True):
                target[...] = value

    return run


def coefficient_function(name: str) -> Callable[..., Any]:
    """A coefficient function as plain Python."""
    function: Callable[..., Any] = getattr(coefficients, name)
    return function
