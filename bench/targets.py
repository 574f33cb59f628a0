"""Targets for the measurements. The report compares results with them; a missed target fails no test."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from . import findings

BEST = "best library"
ROOFLINE = "roofline"


@dataclass(frozen=True)
class Target:
    """A bound for one column of the cases of a section whose names fit a pattern.

    The value of a comparison is its ratio to one peer, its ratio to the best peer with exact and right results, or its
    fraction of the roofline. The value of a measurement is the number at a label.
    """

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
    """Targets from a table that maps a case and a peer to their ratio."""
    return [Target(f"torch: {section}", case, peer, at_least=ratio) for (case, peer), ratio in targets.items()]


THOUSAND, MILLION, TEN_MILLION, HUNDRED_MILLION = 10**3, 10**6, 10**7, 10**8
FLAT, LISTS, HALF_DEAD = "Flat tensors", "Lists of tensors", "Half-dead gradients"
GPT2 = "GPT-2 124M, 148 tensors"

BESIDE_THE_BEST: tuple[Target, ...] = (
    *_ratios(FLAT, "Adam", BEST, {THOUSAND: 25, 10**4: 4, 10**5: 1.5}),
    *_ratios(FLAT, "Adam", BEST, {MILLION: 1.2, TEN_MILLION: 1.2, HUNDRED_MILLION: 1.15}),
    *_ratios(FLAT, "RMSprop", BEST, {THOUSAND: 40, 10**5: 2.5}),
    *_ratios(FLAT, "RMSprop", BEST, {MILLION: 1.5, TEN_MILLION: 1.3, HUNDRED_MILLION: 1.25}),
    *_ratios(FLAT, "Rprop", BEST, {10**5: 3, TEN_MILLION: 1.8, HUNDRED_MILLION: 1.5}),
    *_ratios(FLAT, "Adagrad", BEST, {MILLION: 1.3, TEN_MILLION: 1.2, HUNDRED_MILLION: 1.15}),
    *_ratios(FLAT, "SGD momentum", BEST, {MILLION: 1.3, TEN_MILLION: 1.2, HUNDRED_MILLION: 1.15}),
    Target(LISTS, "Adam, 500 tensors of 256", BEST, at_least=40),
    Target(HALF_DEAD, "Adam, 1,000,000, step 1,000", BEST, at_least=12),
)
BESIDE_THE_ROOFLINE = tuple(
    Target(section, f"*, {workload}", ROOFLINE, at_least=0.95)
    for section, workload in ((FLAT, f"{TEN_MILLION:,}"), (FLAT, f"{HUNDRED_MILLION:,}"), (LISTS, GPT2))
)
BESIDE_ONE_PEER: tuple[Target, ...] = (
    *_ratios(FLAT, "Adam", "torch fused", {THOUSAND: 30, 10**4: 5, 10**5: 2, MILLION: 1.25, TEN_MILLION: 1.25}),
    *_ratios(FLAT, "Adam", "torch fused", {HUNDRED_MILLION: 1.1}),
    *_ratios(FLAT, "RMSprop", "torch default", {MILLION: 3, HUNDRED_MILLION: 5}),
    *_ratios(FLAT, "Rprop", "torch default", {MILLION: 10, HUNDRED_MILLION: 15}),
    *_ratios(FLAT, "Adagrad", "torch fused", {MILLION: 1.25, HUNDRED_MILLION: 1.1}),
    *_ratios(FLAT, "SGD momentum", "torch fused", {MILLION: 1.25, HUNDRED_MILLION: 1.1}),
    Target(LISTS, "Adam, 500 tensors of 256", "torch fused", at_least=30),
    Target("spaCy: whole epochs", "*", "thinc", at_least=1.1),
    *_ratios("A custom rule with a sum", "StableAdamW", "fastopt numba", {MILLION: 0.95}),
    Target("torch: optimizers of other packages", "LAMB *, 500 tensors of 256", "pytorch_optimizer", at_least=30),
    Target("torch: optimizers of other packages", f"LAMB *, {GPT2}", "pytorch_optimizer", at_least=4),
    Target("torch: optimizers of other packages", f"ScheduleFreeAdamW *, {GPT2}", "schedulefree", at_least=2),
    Target("torch: sharded parameters", "*", "torch fused", at_least=10),
    Target("torch: sharded parameters", "*", "torch foreach", at_least=20),
    Target("torch: sharded parameters", "*", "fastopt, plain tensors", at_least=0.7),
    Target("Numba and Cython", "*", "fastopt cython", at_least=0.85),
    *_ratios("A custom rule", "Adam", "fastopt numba", {10**5: 0.95, MILLION: 0.95, TEN_MILLION: 0.95}),
    Target("Loops of 100 updates", "Adam, 1,000", "step() from Python", at_least=1.0),
    Target("Loops of a custom rule", "Adam, 1,000", "its step() from Python", at_least=1.0),
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
            (f"Adam, {GPT2}", "torch fused"): 1.1,
            (f"RMSprop, {GPT2}", "torch default"): 2.5,
            (f"Rprop, {GPT2}", "torch default"): 15,
        },
    ),
    *_torch("clip, step, zero", {("AdamW, *", "torch fused"): 1.7}),
    *(Target(f"{HALF_DEAD}: growth", "*", name, at_most=1.1) for name in ("fastopt", "fastopt numba")),
    Target("Cold start", "fastopt", "import and first step", at_most=60),
    Target("Cold start", "custom rule", "import and first step", at_most=300),
    Target("Cold start", "custom rule", "with empty caches", at_most=3000),
    Target("A million steps", "steps", "blocks kept per step", at_most=0),
    Target("A million steps", "steps", "memory growth", at_most=0),
)
FEWER, FEWER_ALONE = "Fewer bits", "Fewer bits beside float32"
IN_FEWER_BITS = (
    *(
        Target(FEWER, f"{variant}, {HUNDRED_MILLION:,}, {storage}", peer, at_least=ratio)
        for variant, storage, peer, ratio in (
            ("Adam", "float8 states", "torch fused", 1.2),
            ("Adam", "float8 states", "bitsandbytes, 8-bit state", 30),
            ("AdamW", "bfloat16 parameters and states", "torch fused, bfloat16", 1.3),
            ("Adam", "bfloat16 with master weights, float8 states", "torch fused", 1.3),
        )
    ),
    *(
        Target(FEWER_ALONE, f"{variant}, {HUNDRED_MILLION:,}, float8 states", "fastopt float32", at_least=1.15)
        for variant in ("RMSprop", "Adagrad", "SGD momentum", "Lion")
    ),
    *(Target(section, f"*, {HUNDRED_MILLION:,}, *", ROOFLINE, at_least=0.7) for section in (FEWER, FEWER_ALONE)),
)
ON_CUDA = (
    Target("CUDA: flat tensors", f"Adam, {HUNDRED_MILLION:,}", "torch fused", at_least=1),
    Target("CUDA: flat tensors", f"Adam, {HUNDRED_MILLION:,}", ROOFLINE, at_least=0.9),
)
GROUPS = {
    "Compared with the best library": BESIDE_THE_BEST,
    "Fraction of the roofline, where a step waits for memory": BESIDE_THE_ROOFLINE,
    "Compared with one peer, or alone": BESIDE_ONE_PEER,
    "Parameters and states in fewer bits": IN_FEWER_BITS,
    "On a GPU": ON_CUDA,
}


def _value(target: Target, record: dict[str, Any]) -> float | None:
    value: float | None
    if "values" in record:
        value = record["values"].get(target.column, (None, ""))[0]
    elif target.column == BEST:
        best = findings.best(record)
        value = best and best[1]["ratio"]
    elif target.column == ROOFLINE:
        value = record.get("fraction")
    else:
        value = record["peers"].get(target.column, {}).get("ratio")
    return value


def worst(target: Target, records: Iterable[dict[str, Any]]) -> tuple[str, float] | None:
    """The name of the case that is farthest from the target, and its value."""
    chosen = [each for each in records if each["section"] == target.section and fnmatchcase(each["name"], target.cases)]
    values = {each["name"]: value for each in chosen if (value := _value(target, each)) is not None}
    if not values:
        return None
    pick = min if target.at_least is not None else max
    name = pick(values, key=lambda each: values[each])
    return name, values[name]
