"""Gradients that cannot be used: counted, and an error where the user wants one."""

from __future__ import annotations

import copy
from collections.abc import Sequence


class NonfiniteGradients:
    """The report of engines on gradients that cannot be used: it counts steps, and raises where the policy says so.

    Engines call it before anything is written. It holds neither an optimizer nor an engine: without a cycle of
    references, the memory of an optimizer is free as soon as it is dropped.

    Parameters
    ----------
    policy: "propagate", "skip" or "raise"
    max_consecutive: int or None
        The number of steps in a row that may be skipped.

    Attributes
    ----------
    labels, sizes: the name of each gradient in messages, and its number of elements.
    skipped, consecutive: how many steps were skipped, in all and in a row.
    calls: how many calls had gone well when a step was last skipped.
    counts: for the last step that was skipped or raised, the number of unusable elements by label.
    """

    def __init__(self, policy: str, max_consecutive: int | None) -> None:
        self.policy = policy
        self.max_consecutive = max_consecutive
        self.labels: Sequence[str] = ()
        self.sizes: Sequence[int] = ()
        self.skipped = 0
        self.consecutive = 0
        self.calls = -1
        self.counts: dict[str, int] = {}

    def labelled(self, labels: Sequence[str], sizes: Sequence[int]) -> NonfiniteGradients:
        """A copy, with its counts, for these gradients."""
        copied = copy.copy(self)
        copied.labels, copied.sizes = labels, sizes
        return copied

    def loaded(self, skipped: int, consecutive: int, calls: int) -> NonfiniteGradients:
        """A copy that counts on from what was saved, given the number of calls that have gone well."""
        copied = copy.copy(self)
        copied.skipped, copied.consecutive, copied.calls, copied.counts = skipped, consecutive, calls, {}
        return copied

    def __call__(self, counts: list[tuple[int, int]], calls: int) -> None:
        found = {self.labels[index]: count for index, count in counts}
        message = self.describe(counts)
        if self.policy == "raise":
            self.counts = found
            raise FloatingPointError(message)
        consecutive = self.consecutive + 1 if calls == self.calls else 1
        self.skipped, self.consecutive, self.calls, self.counts = self.skipped + 1, consecutive, calls, found
        if self.max_consecutive is not None and consecutive > self.max_consecutive:
            raise FloatingPointError(
                f"{consecutive} steps in a row were skipped (max_consecutive_skips={self.max_consecutive}): {message}"
            )

    def fetched(self, skipped: int, consecutive: int, calls: int, counts: list[tuple[int, int]]) -> None:
        """Take over what a device has counted: the steps skipped, in all and in a row up to now, and what was found in
        the last of them."""
        if skipped != self.skipped:
            self.counts = {self.labels[index]: count for index, count in counts}
        self.skipped, self.consecutive, self.calls = skipped, consecutive, calls

    def consecutive_after(self, calls: int) -> int:
        """How many steps in a row were skipped up to now, given the number of calls that have gone well."""
        return self.consecutive if calls == self.calls else 0

    def describe(self, counts: list[tuple[int, int]]) -> str:
        if not counts:
            return "the norm of the gradients overflows, though each element is finite; nothing was changed"
        listed = [f"{count} of {self.sizes[index]} in {self.labels[index]}" for index, count in counts[:5]]
        more = f" and {len(counts) - 5} more arrays" if len(counts) > 5 else ""
        return f"gradients are NaN, infinite or too large to be squared: {', '.join(listed)}{more}; nothing was changed"
