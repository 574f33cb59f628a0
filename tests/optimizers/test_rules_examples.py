"""The optimizers of examples/custom_rules.py beside the papers' formulas in plain NumPy."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastopt.examples import custom_rules

Update = Callable[[np.ndarray, np.ndarray, dict[str, Any], int], np.ndarray]


def lion(x: np.ndarray, g: np.ndarray, state: dict[str, Any], t: int) -> np.ndarray:
    """Algorithm 2 of the paper, without weight decay."""
    m = state.setdefault("m", np.zeros_like(x))
    update = np.sign(np.add(0.9 * m, (1 - 0.9) * g))
    state["m"] = 0.99 * m + (1 - 0.99) * g
    return x - 1e-3 * update


def adabelief(x: np.ndarray, g: np.ndarray, state: dict[str, Any], t: int) -> np.ndarray:
    """Algorithm 2 of the paper."""
    m = 0.9 * state.get("m", 0.0) + 0.1 * g
    s = 0.999 * state.get("s", 0.0) + 0.001 * (g - m) ** 2 + 1e-16
    state.update(m=m, s=s)
    return x - 1e-3 * (m / (1 - 0.9**t)) / (np.sqrt(s / (1 - 0.999**t)) + 1e-16)


def yogi(x: np.ndarray, g: np.ndarray, state: dict[str, Any], t: int) -> np.ndarray:
    """Algorithm 2 of the paper, with Adam's corrections and starts at 1e-6, as TensorFlow Addons and optax have it."""
    m = 0.9 * state.get("m", 1e-6) + 0.1 * g
    v = state.get("v", np.full_like(x, 1e-6))
    v = np.where(v > g**2, v - 0.001 * g**2, np.where(v < g**2, v + 0.001 * g**2, v))
    state.update(m=m, v=v)
    return x - 1e-2 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-3)


def sign_sgd(x: np.ndarray, g: np.ndarray, state: dict[str, Any], t: int) -> np.ndarray:
    """Algorithm 1 of the paper (EF-signSGD), with a fixed size of the compressed step."""
    p = 1e-2 * g + state.get("e", 0.0)
    compressed = np.where(p > 0, 1e-3, np.where(p < 0, -1e-3, 0.0))
    state["e"] = p - compressed
    return x - compressed


INDEPENDENT: dict[str, tuple[Update, dict[str, float]]] = {
    "Lion": (lion, {"lr": 1e-3}),
    "AdaBelief": (adabelief, {}),
    "Yogi": (yogi, {}),
    "ErrorFeedbackSignSGD": (sign_sgd, {}),
}


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", INDEPENDENT)
def test_they_do_what_the_papers_say(name: str, backend: str) -> None:
    update, options = INDEPENDENT[name]
    rng = np.random.default_rng(5)
    x = rng.standard_normal(101)
    w, state = x.copy(), {}
    optimizer = getattr(custom_rules, name)(w, backend=backend, **options)
    for t in range(1, 21):
        g = np.where(rng.random(101) < 0.1, 0.0, rng.standard_normal(101))
        x = update(x, g, state, t)
        optimizer.step(g)
        np.testing.assert_allclose(w, x, rtol=1e-12, atol=1e-14)


def test_every_custom_rule_of_the_example_is_compared() -> None:
    made = {name for name, each in vars(custom_rules).items() if getattr(getattr(each, "spec", None), "custom", False)}
    assert made == set(INDEPENDENT)


@pytest.mark.parametrize("name", INDEPENDENT)
def test_each_has_fewer_than_fifteen_lines(name: str) -> None:
    lines = inspect.getsource(custom_rules).splitlines()
    (start,) = (index for index, line in enumerate(lines) if line.startswith(f"def {name}("))
    first = max(index for index in range(start) if lines[index].startswith("@fastopt.rule"))
    end = next(index for index in range(start, len(lines)) if not lines[index].strip())
    own = end - first
    coefficients = [index for index, line in enumerate(lines) if line.startswith("def corrections(")]
    if "coefficients=corrections" in "\n".join(lines[first:start]):
        own += next(index for index in range(coefficients[0], len(lines)) if not lines[index].strip()) - coefficients[0]
    assert own < 15
