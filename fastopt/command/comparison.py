"""Steps of fastopt, of the textbook and of PyTorch side by side: are the results equal, and how long do they take?"""

from __future__ import annotations

import functools
import inspect
import resource
import statistics
import time
import timeit
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from .. import optimizers
from ..examples import textbook
from ..examples.char_rnn import SETTINGS
from ..optimizers.base import Optimizer

SECONDS_UNTIL_IDLE = 0.012
"""After parallel work the threads of a library spin for a while before they sleep, in the way of the next library's."""

WRONG = "[bold red]WRONG[/]"


@dataclass(frozen=True)
class Timing:
    """How thoroughly to time: so many repeats of about so many seconds."""

    repeats: int
    seconds: float


Step = Callable[[], object]
"""Updates the parameters that it was made with, by the gradients that it was made with."""


def fastopt_step(name: str, params: np.ndarray, grads: np.ndarray, n_threads: int) -> Step | None:
    create: Callable[..., Optimizer] = getattr(optimizers, name)
    return create(params, grads=grads, n_threads=n_threads, **SETTINGS.get(name, {})).step


def textbook_step(name: str, params: np.ndarray, grads: np.ndarray, n_threads: int) -> Step | None:
    create = textbook.TEXTBOOK.get(name)
    return create and functools.partial(create(params, **SETTINGS.get(name, {})).step, grads)


def torch_step(name: str, params: np.ndarray, grads: np.ndarray, n_threads: int, **options: bool) -> Step | None:
    try:
        import torch
    except ImportError:
        return None
    create = getattr(torch.optim, name, None)
    if create is None or not options.keys() <= inspect.signature(create).parameters.keys():
        return None
    torch.set_num_threads(n_threads)
    tensor = torch.from_numpy(params)
    tensor.grad = torch.from_numpy(grads)
    step: Step = create([tensor], **SETTINGS.get(name, {}), **options).step
    return step


IMPLEMENTATIONS: dict[str, Callable[[str, np.ndarray, np.ndarray, int], Step | None]] = {
    "fastopt": fastopt_step,
    "NumPy": textbook_step,
    "PyTorch": torch_step,
    "PyTorch fused": functools.partial(torch_step, fused=True),
}
"""Each makes a step of the named optimizer, or None where it has no such thing."""


@dataclass(frozen=True)
class Comparison:
    """The implementations of one optimizer: seconds a step where the result is right, and the names of the others.

    `disturbed` are those that could not be timed properly, because other programs were running.
    """

    is_checked: bool
    seconds: dict[str, float] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)
    disturbed: set[str] = field(default_factory=set)

    @property
    def verdict(self) -> str:
        if self.wrong:
            return WRONG
        return "[green]equal[/]" if self.is_checked else "[yellow]unchecked[/]"

    def cell(self, implementation: str) -> str:
        """The time in microseconds, and how many times fastopt's it is."""
        if implementation in self.wrong:
            return WRONG
        if implementation not in self.seconds:
            return "-"
        microseconds = f"{self.seconds[implementation] * 1e6:.1f}"
        if implementation in self.disturbed:
            return f"{microseconds} [yellow]?[/]"
        if implementation == "fastopt" or "fastopt" in self.wrong | self.disturbed:
            return microseconds
        return f"{microseconds} [cyan]{self.seconds[implementation] / self.seconds['fastopt']:5.1f}x[/]"


def interruptions() -> int:
    """How often the threads of this process were stopped in the middle of something, to let others run."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def compare(name: str, start: np.ndarray, gradients: list[np.ndarray], n_threads: int, timing: Timing) -> Comparison:
    """Run every implementation from the same parameters by the same gradients; time those that come out right."""
    found = Comparison(is_checked=name in textbook.TEXTBOOK)
    settings = SETTINGS.get(name, {})
    expected = textbook.find_expected(name, start, gradients, settings) if found.is_checked else None
    timers: dict[str, timeit.Timer] = {}
    for implementation, make in IMPLEMENTATIONS.items():
        params, grads = start.copy(), np.empty_like(start)
        step = make(name, params, grads, n_threads)
        if step is None:
            continue
        for gradient in gradients:
            grads[...] = gradient
            step()
        if expected is None or textbook.is_equal(params, expected):
            timers[implementation] = timeit.Timer(step)
        else:
            found.wrong.add(implementation)
    measure(timers, found, n_threads, timing)
    return found


def measure(timers: Mapping[str, timeit.Timer], found: Comparison, n_threads: int, timing: Timing) -> None:
    """Time in turns, so that all have the same luck; repeats that were interrupted count only if all were."""
    counts = {each: max(1, round(timing.seconds / timer.timeit(1))) for each, timer in timers.items()}
    calm: dict[str, list[float]] = {each: [] for each in timers}
    interrupted: dict[str, list[float]] = {each: [] for each in timers}
    for each in list(timers) * timing.repeats:
        if n_threads > 1:
            time.sleep(SECONDS_UNTIL_IDLE)
        timers[each].timeit(1)
        before = interruptions()
        seconds = timers[each].timeit(counts[each]) / counts[each]
        (calm if interruptions() == before else interrupted)[each].append(seconds)
    found.seconds.update({each: statistics.median(calm[each] or interrupted[each]) for each in timers})
    enough = timing.repeats // 2 if n_threads > 1 else 1  # threads wait for each other when one is interrupted
    found.disturbed.update(each for each in timers if len(calm[each]) < enough)
