"""The parameters of an optimizer, checked: as they were given, and as their memory has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..kernels.backends import Memory
from ..step.storage import working_dtype
from . import arrays
from .param_tree import ParamTree


class Parameters:
    """The parameters of all groups, one after the other.

    Attributes
    ----------
    tree: the tree in which they were given, which gradients mirror.
    given: the parameters as the user gave them.
    arrays: the same as arrays in `memory`.
    spans: for each group the positions of its parameters.

    Unpickled ones may be read-only, as maps of files are; steps refuse them.

    Raises
    ------
    TypeError, ValueError
        A parameter cannot be updated in place, differs from the others in dtype or place, or shares memory with one.
    """

    def __init__(
        self, tree: ParamTree, groups: Sequence[Sequence[Any]], memory: Memory, *, unpickled: bool = False
    ) -> None:
        self.tree = tree
        self.memory = memory
        self.given = [param for group in groups for param in group]
        self.spans: list[range] = []
        for group in groups:
            start = self.spans[-1].stop if self.spans else 0
            self.spans.append(range(start, start + len(group)))
        self.arrays = _checked(tree.labels("params"), self.given, memory, writable=not unpickled)

    def __len__(self) -> int:
        return len(self.arrays)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that steps compute in."""
        return working_dtype(self.arrays[0].dtype)

    @property
    def sizes(self) -> list[int]:
        """The number of elements of each."""
        return [param.size for param in self.arrays]

    @property
    def names(self) -> list[tuple[Any, int]]:
        """For each parameter its key in the dict it was given in, else its position; and its group."""
        groups = [index for index, span in enumerate(self.spans) for _ in span]
        return list(zip(self.tree.names(), groups, strict=True))

    def with_group(self, tree: ParamTree, group: Sequence[Any]) -> Parameters:
        """These parameters and one more group."""
        groups = [self.given[span.start : span.stop] for span in self.spans]
        return Parameters(self.tree.with_group(tree), [*groups, group], self.memory)

    def of_group(self, index: int) -> list[Any]:
        """The arrays of one group."""
        span = self.spans[index]
        return self.arrays[span.start : span.stop]


def _checked(labels: Sequence[str], given: Sequence[Any], memory: Memory, writable: bool) -> list[Any]:
    if not given:
        raise ValueError("optimizer got an empty parameter list: no group has any")
    params: list[Any] = []
    for label, each in zip(labels, given, strict=True):
        params.append(param := arrays.check_array(label, each, writable=writable, memory=memory))
        if working_dtype(param.dtype) != working_dtype(params[0].dtype):
            raise TypeError(
                "all parameters of an optimizer must be of one dtype, or of float32, bfloat16 and float16: "
                f"{labels[0]} is {params[0].dtype}, {label} is {param.dtype}"
            )
        if memory.place(param) != memory.place(params[0]):
            raise ValueError(
                f"all parameters of an optimizer must be in one place: {labels[0]} is on "
                f"{memory.place(params[0])}, {label} on {memory.place(param)}"
            )
    seen: dict[int, str] = {}
    for label, each in zip(labels, given, strict=True):
        if id(each) in seen:
            raise ValueError(f"{seen[id(each)]} and {label} are the same array: some parameters appear twice")
        seen[id(each)] = label
    arrays.check_no_overlap(list(zip(labels, params, strict=True)), memory)
    return params
