"""A step of an optimizer's parameters, and what to do first when something has changed."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...kernels.engine.contract import BUSY, SWAPPED
from . import modes
from .coded_states import hide_all
from .common import CommonNumbers, CommonWalk
from .exchange import Exchange, GuardedWalk, exchange_of
from .host import Group, Host, InitGroup, States
from .updates import Update
from .walks import READY, REREAD, TensorWalk

Result = TypeVar("Result")


class Stepper:
    """Steps the parameters of one optimizer, and keeps the engines from step to step.

    Like its host, it does not refer to the optimizer, whose groups and states it gets at each call. `only` restricts a
    step to the parameter at this position among all groups'; -1 stands for all.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.update: Update | None = None
        self.walk: TensorWalk | GuardedWalk | CommonWalk | None = None
        """The walk that steps all parameters, if there is one."""
        self.exchange: Exchange | None = None
        """How sums are added up over processes, if steps need that."""
        self.common = CommonNumbers(host.name, host.spec, host.progress) if host.spec.common else None
        self.settling = threading.Lock()
        self.claimed_by: int | None = None
        """The thread that keeps steps out, see `alone`."""
        self.counts_on_device = False
        """Whether states are behind what a device has counted; nothing is counted while an update is made."""

    def step(self, groups: list[Group], states: States, thorough: int, only: int) -> bool:
        """A step in one call of a walk; False, and nothing done, if `settle` has to do it.

        If `thorough`, the walk checks that states have the same memory as before.
        """
        walk, host = self.walk, self.host
        if walk is None:
            return False
        found = walk.step(groups, states, host.n_threads(), thorough, None, False, only)
        if found == REREAD and self.walk is walk and self.reread(groups, states):
            found = walk.step(groups, states, host.n_threads(), thorough, None, True, only)
        return bool(found == READY)

    def reread(self, groups: list[Group], states: States) -> bool:
        """Take over changed hyperparameters; whether that was possible without new engines."""
        if self.update is None:
            return False
        if self.host.early:
            self.write_counts()
        return self.update.reread(groups, states)

    def settle(self, groups: list[Group], states: States, init_group: InitGroup, only: int) -> None:
        """A step that first takes care of new parameters, memory, hyperparameters and gradients that lie differently.

        Raises
        ------
        RuntimeError, TypeError, ValueError
            Something is not usable, or another thread is in the middle of a step. Nothing has been changed.
        """
        if torch.is_inference_mode_enabled():  # What is made here must be usable outside of it.
            with torch.inference_mode(False):
                self.settle(groups, states, init_group, only)
            return
        modes.check_not_traced(self.host.name)  # `step` does not look for all that trace
        if self.host.progress.swapped[0]:
            raise RuntimeError(f"{self.host.name}: {SWAPPED}")
        if not self.settling.acquire(blocking=False):
            raise RuntimeError(BUSY)
        try:
            self.exchange = exchange_of(self.host, groups, self.exchange)
            with nullcontext() if self.exchange is None else self.exchange.telling_of_errors():
                self.settle_alone(groups, states, init_group, only)
        finally:
            self.settling.release()

    def skip(self, groups: list[Group]) -> None:
        """Leave out a step, for reasons of this process; those that wait for its numbers leave it out, too."""
        self.exchange = exchange_of(self.host, groups, self.exchange)
        if self.exchange is not None:
            self.exchange.skip()

    def settle_alone(self, groups: list[Group], states: States, init_group: InitGroup, only: int) -> None:
        hide_all(states)
        if self.common is not None:
            self.common.take(groups)
        update = self.update
        if update is None or not self.reread(groups, states):
            update = self.make_update(groups, states, init_group)
        replacements = update.look(groups, states, only)
        if replacements is None:
            update = self.make_update(groups, states, init_group)
            replacements = update.look(groups, states, only)
            assert replacements is not None, "an update that was just made is up to date"
        with torch.no_grad():
            done = update.step(groups, states, replacements, only)
        if not done and update.before:  # It was skipped, and leaves no states behind.
            update.drop_made_states(states)
            self.forget()
        elif done and self.common is not None:
            self.common.give(groups)
            update.note_values(groups)

    def alone(self, function: Callable[[], Result]) -> Result:
        """The result of `function()`, with all steps kept out. It may call this again.

        Raises
        ------
        RuntimeError
            A step is under way, or another thread keeps steps out.
        """
        if self.claimed_by == threading.get_ident():
            return function()
        if not self.settling.acquire(blocking=False):
            raise RuntimeError(BUSY)
        try:
            self.claimed_by = threading.get_ident()
            for each in self.update.rounds if self.update is not None else ():
                for engine in each.engines:
                    function = functools.partial(engine.alone, function)
            return function()
        finally:
            self.claimed_by = None
            self.settling.release()

    def make_update(self, groups: list[Group], states: States, init_group: InitGroup) -> Update:
        self.write_counts()
        self.counts_on_device = False
        try:
            update = Update(self.host, groups, states, init_group, self.steps(), self.exchange)
            self.update = update
            self.choose_walk()
        finally:
            self.counts_on_device = self.update is not None and any(each.on_device for each in self.update.rounds)
        return update

    def choose_walk(self) -> None:
        """Choose the walk of the engines that there are. There is none while parameters show their average: then steps
        come to `settle`, which refuses them."""
        self.walk = None if self.update is None or self.host.progress.swapped[0] else self.update.single
        if self.walk is not None and self.update is not None and self.common is not None:
            self.walk = CommonWalk(self.walk, self.common, self.update.note_values)
        if self.walk is not None and self.exchange is not None:
            self.walk = GuardedWalk(self.walk, self.exchange)

    def forget(self) -> None:
        """Drop the engines: the next step makes new ones."""
        self.update = self.walk = None

    def steps(self) -> dict[int, int]:
        """The number of steps of parameters by id, where torch keeps no count; 1 stands for any number above 0."""
        return {} if self.update is None else dict(self.update.steps())

    def are_states_held(self, owner: dict[str, Any]) -> bool:
        """Whether anybody can reach the memory of states without reading `owner["state"]` again."""
        rounds = () if self.update is None else self.update.rounds
        return any(each.are_states_held(owner, len(rounds)) for each in rounds)

    def position(self, param: Tensor) -> int | None:
        """A parameter's position among all groups' when the engines were made."""
        return None if self.update is None else self.update.positions.get(id(param))

    def set_grad_scale(self, scale: float) -> None:
        if scale != self.host.options["grad_scale"]:
            self.host.options["grad_scale"] = scale
            if self.update is not None:
                self.update.set_scale()

    def write_counts(self) -> None:
        """Bring what a device has counted, steps above all, to torch's states; waits for the device."""
        if self.counts_on_device and self.update is not None:
            self.update.write_numbers()
