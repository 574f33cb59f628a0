"""What the measurements should come to. The report shows them beside what was measured; nothing fails by them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

BEST = "best peer"


@dataclass(frozen=True)
class Target:
    """A bound for one column of the cases of a section whose names fit a pattern; a comparison's value is its ratio."""

    section: str
    cases: str
    column: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def wanted(self) -> str:
        return f"at most {self.at_most:g}" if self.at_most is not None else f"at least {self.at_least:.3g}"

    def is_met_by(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


def _ratios(section: str, case: str, peer: str, wanted: dict[int, float]) -> list[Target]:
    return [Target(section, f"{case}, {size:,}", peer, at_least=ratio) for size, ratio in wanted.items()]


def _torch(section: str, targets: dict[tuple[str, str], float]) -> list[Target]:
    """From a case and a peer to the ratio."""
    return [Target(f"torch: {section}", case, peer, at_least=ratio) for (case, peer), ratio in targets.items()]


MILLION, HUNDRED_MILLION = 10**6, 10**8
FLAT = "Flat tensors"

TARGETS: tuple[Target, ...] = (
    *_ratios(FLAT, "Adam", "torch fused", {10**3: 30, 10**4: 5, 10**5: 2, MILLION: 1.25, 10**7: 1.25}),
    *_ratios(FLAT, "Adam", "torch fused", {HUNDRED_MILLION: 1.1}),
    *_ratios(FLAT, "RMSprop", "torch default", {MILLION: 3, HUNDRED_MILLION: 5}),
    *_ratios(FLAT, "Rprop", "torch default", {MILLION: 10, HUNDRED_MILLION: 15}),
    *_ratios(FLAT, "Adagrad", "torch fused", {MILLION: 1.25, HUNDRED_MILLION: 1.1}),
    *_ratios(FLAT, "SGD momentum", "torch fused", {MILLION: 1.25, HUNDRED_MILLION: 1.1}),
    Target("Lists of tensors", "Adam, 500 tensors of 256", "torch fused", at_least=30),
    *_ratios("Moving bytes", "Adam", "move", {MILLION: 0.93, HUNDRED_MILLION: 0.93}),
    Target("Numba beside Cython", "*", "fastopt cython", at_least=0.85),
    Target("Threads", "*", BEST, at_least=1 / 1.1),
    *_ratios("Clip, step, zero", "AdamW betas", "torch fused", {MILLION: 2, HUNDRED_MILLION: 1.5}),
    *_ratios("Finite checks", "Adam", "fastopt", {HUNDRED_MILLION: 1 / 1.2}),
    *_ratios("Norms", "norm", "torch / fastopt", {HUNDRED_MILLION: 1}),
    *_torch(
        "whole training iterations",
        {
            ("Adam, 64-64-64-10, batch 32", "torch default"): 2.3,
            ("Adam, 64-64-64-10, batch 32", "torch fused"): 1.6,
        },
    ),
    *_torch(
        "steps",
        {
            ("Adam, 10 tensors, 2,100 in all", "torch default"): 30,
            ("Adam, 10 tensors, 2,100 in all", "torch fused"): 10,
            ("Adam, 500 tensors of 256, new gradients", "torch fused"): 20,
            ("Adam, GPT-2 124M, 148 tensors", "torch fused"): 1.1,
            ("RMSprop, GPT-2 124M, 148 tensors", "torch default"): 2.5,
            ("Rprop, GPT-2 124M, 148 tensors", "torch default"): 15,
        },
    ),
    *_torch("clip, step, zero", {("AdamW, *", "torch fused"): 1.7}),
    Target("Half-dead gradients", "Adam, 1,000,000, step 1,000", BEST, at_least=12),
    *(Target("Half-dead gradients: growth", "*", name, at_most=1.1) for name in ("fastopt", "fastopt numba")),
    Target("Cold start", "fastopt", "import and first step", at_most=60),
    Target("A million steps", "steps", "blocks kept per step", at_most=0),
    Target("A million steps", "steps", "memory growth", at_most=0),
)


def _value(target: Target, record: dict[str, Any]) -> float | None:
    if "values" in record:
        number: float | None = record["values"].get(target.column, (None, ""))[0]
        return number
    result = record if target.column == BEST else record["peers"].get(target.column, {})
    ratio: float | None = result.get("ratio")
    return ratio


def worst(target: Target, records: Iterable[dict[str, Any]]) -> tuple[str, float] | None:
    """The name of the case that is farthest from the target, and its value."""
    chosen = [each for each in records if each["section"] == target.section and fnmatchcase(each["name"], target.cases)]
    values = {each["name"]: value for each in chosen if (value := _value(target, each)) is not None}
    if not values:
        return None
    pick = min if target.at_least is not None else max
    name = pick(values, key=lambda each: values[each])
    return name, values[name]
