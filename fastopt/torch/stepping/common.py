"""Numbers that all parameters have in common, which torch's groups hold: Prodigy's `d`, for example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...definitions.specs import Spec
from ...kernels.engine.contract import Progress
from ...step.common import check_alike, read_common
from .host import Group
from .hyperparameters import Hyperparameters, read_hyperparameters
from .walks import READY


class CommonNumbers:
    """Carries the numbers of an optimizer between its groups and its engines.

    All groups show them. What counts is the first one's: there, others may have written them since the last step.
    """

    def __init__(self, owner: str, spec: Spec, progress: Progress) -> None:
        self.owner, self.spec, self.progress = owner, spec, progress
        self.known: list[Any] = []
        """As they were last read or written in the first group."""

    def take(self, groups: Sequence[Group]) -> None:
        """Let the next step go by what the first group has.

        Raises
        ------
        TypeError, ValueError
            That cannot be.
        """
        found = [groups[0].get(name) for name in self.spec.common]
        if found != self.known:
            values = read_common(self.spec, f"{self.owner}: param_groups[0]", groups[0])
            if values is None:
                values = self.spec.common_starts(read_hyperparameters(self.owner, self.spec, groups[0]))
            self.progress.common[:] = list(values.values())
            self.known = found

    def give(self, groups: Sequence[Group]) -> None:
        """Write what the last step found to all groups."""
        self.known = self.progress.common.tolist()
        values = dict(zip(self.spec.common, self.known, strict=True))
        for group in groups:
            group.update(values)


class CommonWalk:
    """A walk, before which common numbers are taken from the groups, and after which they are written there."""

    def __init__(self, walk: Any, numbers: CommonNumbers, note: Any) -> None:
        self.walk, self.numbers, self.note = walk, numbers, note

    def step(self, groups: list[Group], *arguments: Any) -> int:
        self.numbers.take(groups)
        found: int = self.walk.step(groups, *arguments)
        if found == READY:
            self.numbers.give(groups)
            self.note(groups)
        return found


def check_groups(owner: str, spec: Spec, groups: Sequence[Group]) -> list[Hyperparameters]:
    """The hyperparameters of each group, if they agree on what common numbers depend on.

    Raises
    ------
    ValueError
        They do not, or a flag asks for something that a native step cannot do.
    """
    values = [read_hyperparameters(owner, spec, group) for group in groups]
    check_alike(owner, spec, values, [each["lr"] for each in values])
    return values
