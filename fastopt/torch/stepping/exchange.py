"""Sums over the gradients of DTensors: each process adds up its shards, and all of them exchange what they have found.

There is one all-reduce a step for each dimension of a mesh over which parameters are sharded, in which each process
sends some numbers to all others. All take the same decision, and know of errors of each other before anything is
written.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch

from . import hyperparameters, shards
from .host import Group, Host

Path = tuple[str, ...]
"""The names of the process groups over which the elements of a DTensor are spread; none for plain tensors, and where
all processes have all elements."""


class Exchange:
    """Adds up the sums of an optimizer's parameters over processes, each element once, however many have it.

    Parameters
    ----------
    owner: the optimizer's name for messages.
    params: all its parameters, whether they have a gradient or not: all processes must send numbers of the same ones.
    adds: whether a step adds up gradients.
    by_param: whether it needs the sum over the gradient of each parameter, not only over all together.
    checks: whether a sum over gradients that is not finite stops a step.
    n_sums: how many sums the rule has of each parameter.

    Attributes
    ----------
    messages: what the numbers belong to that processes send each other in a step, one list after the other.
    due: those for which other processes wait, or will.
    """

    def __init__(
        self,
        owner: str,
        params: Sequence[Any],
        adds: bool = True,
        by_param: bool = False,
        checks: bool = False,
        n_sums: int = 0,
    ) -> None:
        self.owner, self.adds, self.by_param, self.checks, self.n_sums = owner, adds, by_param, checks, n_sums
        self.groups: dict[str, Any] = {}
        found = list(map(path_of, params))
        for groups in found:
            self.groups.update(groups)
        self.paths = list(map(tuple, found))
        self.classes = list(dict.fromkeys(self.paths))
        self.class_of = [self.classes.index(path) for path in self.paths]
        self.params = list(params)
        of_gradients, of_rules = (
            self.paths if by_param else self.classes,
            [path for path in self.paths for _ in range(n_sums)],
        )
        self.messages: list[list[Path]] = [of_gradients] * adds + [of_rules] * (n_sums > 0)
        self.due: list[list[Path]] = []

    def total(self, sums: Mapping[Path, float]) -> float:
        """The sum over all processes, given that of this one for parameters of each path."""
        found = [sums.get(path, 0.0) for path in self.classes]
        self._exchange(found, self.classes)
        return functools.reduce(float.__add__, found, 0.0)

    def add_up(
        self, positions: Sequence[int], totals: Sequence[tuple[int, float]], usable: bool
    ) -> tuple[list[float], float] | None:
        """See `contract.Exchange`; `positions` are those of the engine's segments among the parameters."""
        of_params = [(positions[segment], total) for segment, total in totals]
        sums = [0.0] * len(self.paths if self.by_param else self.classes)
        for position, total in of_params:
            sums[position if self.by_param else self.class_of[position]] += total
        usable = self._exchange(sums, self.paths if self.by_param else self.classes, usable)
        total = functools.reduce(float.__add__, sums, 0.0)
        if not usable or (self.checks and not math.isfinite(total)):
            self.due = []
            return None
        return [sums[position] if self.by_param else total for position, total in of_params], total

    def add_up_rules(
        self, positions: Sequence[int], sums: Sequence[tuple[int, Sequence[float]]]
    ) -> tuple[list[list[float]], list[float]] | None:
        """See `contract.ExchangeSums`; `positions` are those of the engine's segments among the parameters."""
        n_sums = self.n_sums
        found = [0.0] * (len(self.paths) * n_sums)
        starts = [positions[segment] * n_sums for segment, _ in sums]
        for start, (_, own) in zip(starts, sums, strict=True):
            for index, each in enumerate(own, start):
                found[index] += each
        if not self._exchange(found, self.messages[-1]):
            return None
        over_all = [functools.reduce(float.__add__, found[index::n_sums], 0.0) for index in range(n_sums)]
        return [found[start : start + n_sums] for start in starts], over_all

    def _exchange(self, sums: list[float], paths: Sequence[Path], usable: bool = True, failed: bool = False) -> bool:
        """Add the sums of other processes to these: to each one those of the groups of its path, in the order of ranks.

        Returns whether gradients are usable in all processes.

        Raises
        ------
        RuntimeError
            Another process has an error, and writes nothing.
        """
        self.due = self.due[1:]
        for name, group in self.groups.items():
            own = [index for index, path in enumerate(paths) if name in path]
            sent = [float(failed), float(not usable), *(sums[index] for index in own)]
            failures, declined, *added = functools.reduce(np.add, gathered(sent, group)).tolist()
            for index, total in zip(own, added, strict=True):
                sums[index] = total
            failed, usable = failures > 0, declined == 0
        if failed:
            self.due = []  # nobody waits any more
            raise RuntimeError(
                f"{self.owner}: another process raised an error in this step, so nothing was changed here; its message "
                "says what is wrong"
            )
        return usable

    def fail(self) -> None:
        """Tell the others that this process has an error, if they wait for its numbers."""
        if self.due:
            paths = self.due[0]
            with suppress(RuntimeError):  # theirs, which follows from ours
                self._exchange([0.0] * len(paths), paths, failed=True)

    def skip(self) -> None:
        """Let no process do this step."""
        paths = self.messages[0]
        self._exchange([0.0] * len(paths), paths, usable=False)
        self._exchange([0.0] * len(self.paths), self.paths)  # as `report` in the others

    @contextmanager
    def telling_of_errors(self) -> Iterator[None]:
        """A step in a `with` statement: others, which wait for the numbers of this process, know of its errors."""
        self.due = self.messages
        try:
            yield
        except BaseException:
            self.fail()
            raise

    def report(
        self, positions: Sequence[int], local: Callable[..., None], counts: list[tuple[int, int]], calls: int
    ) -> None:
        """Tell a `contract.Report` of the unusable elements of all processes."""
        sums = [0.0] * len(self.paths)
        for segment, count in counts:
            sums[positions[segment]] += count
        self._exchange(sums, self.paths)
        found = [(segment, int(sums[position])) for segment, position in enumerate(positions)]
        local([(segment, count) for segment, count in found if count], calls)


def path_of(tensor: Any) -> dict[str, Any]:
    """The process groups over which the elements of a tensor are spread, by name, see `Path`."""
    spec = shards.spec_of(tensor)
    found = {}
    for dimension, placement in enumerate(() if spec is None else spec.placements):
        if not placement.is_replicate() and spec.mesh.size(dimension) > 1:
            group = spec.mesh.get_group(dimension)
            found[group.group_name] = group
    return found


def gathered(sent: Sequence[float], group: Any) -> np.ndarray:
    """What all processes of a group send: a row for each, in the order of their ranks."""
    kinds = {device.type for device in group._device_types}
    device = "cpu" if "cpu" in kinds or not kinds else sorted(kinds)[0]
    rows = torch.zeros((group.size(), len(sent)), dtype=torch.float64)
    rows[group.rank()] = torch.tensor(sent, dtype=torch.float64)
    rows = rows.to(device)
    torch.distributed.all_reduce(rows, group=group)  # exact: others add zeros to a row
    found: np.ndarray = rows.cpu().numpy()
    return found


class GuardedWalk:
    """A walk whose errors other processes are told of."""

    def __init__(self, walk: Any, exchange: Exchange) -> None:
        self.walk, self.exchange = walk, exchange

    def step(self, *arguments: Any) -> int:
        with self.exchange.telling_of_errors():
            found: int = self.walk.step(*arguments)
        return found


def exchange_of(host: Host, groups: Sequence[Group], known: Exchange | None) -> Exchange | None:
    """How the processes that have an optimizer's parameters exchange their sums: as before (`known`), if that fits.

    None if no step needs it.
    """
    by_param, checks = host.options["clip_norm"] is not None, host.options["nonfinite"] != "propagate"
    adds = by_param or checks or host.options["max_grad_norm"] is not None
    n_sums = max((hyperparameters.n_sums(host.spec, group) for group in groups), default=0)
    if not adds and not n_sums:
        return None
    params = [param for group in groups for param in group["params"]]
    same = known is not None and len(params) == len(known.params) and all(map(operator.is_, params, known.params))
    if known is not None and same and known.n_sums == n_sums:
        return known
    made = Exchange(host.name, params, adds, by_param, checks, n_sums)
    return made if made.groups else None


def exchange_of_gradients(owner: str, params: Sequence[Any]) -> Exchange | None:
    """How processes exchange the sum over the gradients that these parameters have; None if there is nothing to."""
    if not any(shards.is_sharded(param) for param in params):
        return None
    made = Exchange(owner, [param for param in params if param.grad is not None])
    return made if made.groups else None
