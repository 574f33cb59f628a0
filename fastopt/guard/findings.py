"""The findings of a guard: their kinds, the advice for each, and the error and warning that carry them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["nonfinite", "explosion", "oscillation", "stagnation", "vanishing"]

DIVERGENCES: tuple[Kind, ...] = ("nonfinite", "explosion", "oscillation")
"""Findings after which an update would do harm; `on_divergence` sets the reaction. For others `on_stall` does."""


@dataclass(frozen=True)
class Finding:
    """A problem that a guard found in one step.

    Attributes
    ----------
    kind: "nonfinite", "explosion", "oscillation", "stagnation" or "vanishing"
    step: int
        The number of steps that the guard had seen before this one: 0 for the first.
    message: str
        One line, with numbers.
    parameter: optional
        Where the problem started, if known: the parameter's key in the dict passed to the optimizer, its name if torch
        was given names, or else its position among all parameters.
    advice: tuple of str
        Remedies, the most promising first.
    action: "raised", "stopped", "skipped", "restored" or "warned"
        The guard's reaction.

    Examples
    --------
    >>> from fastopt.guard import Finding
    >>> print(Finding("nonfinite", 7, "the loss is nan", "W", ("scale the inputs",), "skipped"))
    nonfinite at step 7, in parameter 'W' (skipped): the loss is nan
      try: scale the inputs
    """

    kind: Kind
    step: int
    message: str
    parameter: Any = None
    advice: tuple[str, ...] = ()
    action: str = ""

    def __str__(self) -> str:
        where = "" if self.parameter is None else f", in parameter {self.parameter!r}"
        action = f" ({self.action})" if self.action else ""
        head = f"{self.kind} at step {self.step}{where}{action}: {self.message}"
        return "\n".join([head, *(f"  try: {each}" for each in self.advice)])


class DivergenceError(ArithmeticError):
    """A guard's finding as an error: `error.finding` is the `Finding`, and the message is its text."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding)
        self.finding = finding


class DivergenceWarning(UserWarning):
    """A guard's finding as a warning."""


@dataclass(frozen=True)
class Circumstances:
    """What the advice depends on.

    Attributes
    ----------
    rates: the learning rate that the next step would use, for each group.
    clips: whether gradients are clipped already.
    skips: whether the optimizer skips gradients that are not finite.
    zero_gradient: whether the finding is about a gradient that is exactly zero.
    """

    rates: Sequence[float]
    clips: bool = False
    skips: bool = False
    zero_gradient: bool = False

    def rate(self, factor: float) -> str:
        """The rates before and after multiplication by a factor, in words."""
        old = ", ".join(f"{rate:.3g}" for rate in self.rates)
        new = ", ".join(f"{rate * factor:.3g}" for rate in self.rates)
        return f"from {old} to {new}"


def advice(kind: Kind, now: Circumstances) -> tuple[str, ...]:
    """Remedies, the most promising first."""
    return tuple(text for text in _ADVICE[kind](now) if text)


def _nonfinite(now: Circumstances) -> list[str]:
    return [
        "look for log(0), a division by 0, sqrt of 0 (its slope is infinite) or exp of large numbers in the loss",
        "check the batch for NaN, and scale the inputs to mean 0 and variance 1",
        "" if now.skips else 'nonfinite="skip" in the optimizer, if it is single batches',
        f"lower the rate {now.rate(0.1)}, or warm it up from 0",
    ]


def _explosion(now: Circumstances) -> list[str]:
    return [
        f"lower the rate {now.rate(0.1)}, or warm it up from 0",
        "" if now.clips else "clip with max_grad_norm=1.0",
        "scale the inputs (and targets) to mean 0 and variance 1",
    ]


def _oscillation(now: Circumstances) -> list[str]:
    return [
        f"lower the rate {now.rate(0.5)}, or let it decay",
        "less momentum, if there is any",
        "larger batches, if an epoch has only two",
    ]


def _stagnation(now: Circumstances) -> list[str]:
    if not any(now.rates):
        return ["the rate is 0: give lr= a positive number, or look at the schedule"]
    if now.zero_gradient:
        return [
            "dead ReLU units: initialise smaller (He), lower the rate, or use leaky ReLU or GELU",
            "check that the loss depends on this parameter, and that its gradient is written where the optimizer reads",
        ]
    return [
        f"raise the rate {now.rate(10)}",
        "check that the loss depends on the parameters, and that inputs and targets belong together",
        "train on one batch only: a network that cannot learn even that has an error in its gradients",
    ]


def _vanishing(now: Circumstances) -> list[str]:
    return [
        "ReLU or GELU in place of sigmoid or tanh, initialised to match (He, Xavier)",
        "normalise between layers (batch or layer normalisation), or add residual connections",
        "fewer layers; for recurrent networks LSTM or GRU cells",
    ]


_ADVICE = {
    "nonfinite": _nonfinite,
    "explosion": _explosion,
    "oscillation": _oscillation,
    "stagnation": _stagnation,
    "vanishing": _vanishing,
}
