"""Nested dicts, lists, numbers and arrays as JSON text beside named arrays, and back.

What JSON has stands for itself. Everything else is an object with one key, which says what it is:
`{"dict": [[key, value], ...]}`, `{"tuple": [...]}`, `{"float": "nan"}`, `{"scalar": [dtype, value]}` for NumPy's
scalars, `{"array": name}` and `{"tensor": name}`. A dict keeps its order, and keys that are not strings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..kernels.engine import host_memory
from .leaves import DTYPES, Leaf, array_leaf, is_array, is_tensor, numpy_dtype

NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@dataclass
class Writing:
    """Collects the arrays of trees under names that are not in use yet.

    Attributes
    ----------
    leaves: the arrays by their name in the file. What several trees share is there once.
    """

    leaves: dict[str, Leaf] = field(default_factory=dict)
    _names: dict[tuple[int, int, str, tuple[int, ...]], str] = field(default_factory=dict)

    def add(self, name: str, leaf: Leaf) -> str:
        """The name under which an array is in the file."""
        key = host_memory.address(leaf.data), leaf.data.nbytes, leaf.dtype, leaf.shape
        if leaf.data.nbytes and key in self._names:
            return self._names[key]
        name = name.encode("utf-8", "replace").decode()
        free, number = name, 2
        while free in self.leaves or free == "__metadata__":
            free, number = f"{name}#{number}", number + 1
        self.leaves[free] = leaf
        self._names[key] = free
        return free

    def encoded(self, value: Any, label: str, name: str) -> Any:
        """A value as JSON has it.

        Parameters
        ----------
        value: a tree.
        label: what it is called in messages, `guard.state_dict()`.
        name: what its arrays are called in the file, joined with their keys by dots.

        Raises
        ------
        TypeError
            Something in it cannot be held by a file.
        """
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, np.generic):
            return {"scalar": [_scalar_dtype(value, label), self.encoded(value.item(), label, name)]}
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"float": str(float(value))}
        if isinstance(value, Mapping):
            pairs = [
                [self.encoded(key, f"a key of {label}", name), self.encoded(each, f"{label}[{key!r}]", f"{name}.{key}")]
                for key, each in value.items()
            ]
            return {"dict": pairs}
        if isinstance(value, (list, tuple)):
            items = [self.encoded(each, f"{label}[{index}]", f"{name}.{index}") for index, each in enumerate(value)]
            return items if isinstance(value, list) else {"tuple": items}
        for kind, is_leaf, leaf_of in (("array", is_array, array_leaf), ("tensor", is_tensor, _tensor_leaf)):
            if is_leaf(value):
                return {kind: self.add(name, leaf_of(label, value))}
        raise TypeError(
            f"{label} is a {type(value).__module__}.{type(value).__qualname__}, which a file cannot hold: it can hold "
            "None, numbers, strings, lists, tuples, dicts, NumPy arrays and PyTorch tensors"
        )


def decoded(value: Any, leaves: Mapping[str, Leaf], leaf: Callable[[str, Leaf], Any]) -> Any:
    """The tree that `Writing.encoded` had.

    Parameters
    ----------
    value: JSON.
    leaves: the arrays of the file by name.
    leaf: makes a leaf of the tree, a function of its kind ("array" or "tensor") and the array.

    Raises
    ------
    ValueError
        It is not such JSON, or an array is missing.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [decoded(each, leaves, leaf) for each in value]
    kind, content = _tagged(value)
    if kind == "dict":
        if not isinstance(content, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in content):
            raise ValueError(f"a dict is not a list of pairs: {shortened(content)}")
        found = {}
        for key, each in content:
            key = decoded(key, leaves, leaf)
            if isinstance(key, (list, dict, np.ndarray)) or key in found:
                raise ValueError(f"a dict has the key {shortened(key)}, which is a list or dict or there already")
            found[key] = decoded(each, leaves, leaf)
        return found
    if kind == "tuple" and isinstance(content, list):
        return tuple(decoded(each, leaves, leaf) for each in content)
    if kind == "float" and isinstance(content, str) and content in NOT_FINITE:
        return NOT_FINITE[content]
    if kind == "scalar" and isinstance(content, list) and len(content) == 2 and content[0] in DTYPES:
        return numpy_dtype(content[0]).type(decoded(content[1], leaves, leaf))
    if kind in ("array", "tensor") and isinstance(content, str):
        if content not in leaves:
            raise ValueError(f"the array {content!r} is not in the file")
        return leaf(kind, leaves[content])
    raise ValueError(f"unknown: {shortened(value)}")


def names_in(value: Any) -> Iterator[str]:
    """The names of the arrays that JSON refers to."""
    if isinstance(value, list):
        for each in value:
            yield from names_in(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key in ("array", "tensor") and isinstance(each, str):
                yield each
            else:
                yield from names_in(each)


def _tagged(value: Any) -> tuple[str, Any]:
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError(f"unknown: {shortened(value)}")
    ((kind, content),) = value.items()
    return kind, content


def shortened(value: Any, length: int = 100) -> str:
    """The text of a value that can be long."""
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _tensor_leaf(label: str, tensor: Any) -> Leaf:
    from . import tensors

    return tensors.tensor_leaf(label, tensor)


def _scalar_dtype(value: np.generic, label: str) -> str:
    if value.dtype.name not in DTYPES or value.dtype.kind == "c":
        raise TypeError(f"{label} is a numpy.{value.dtype.name}, which a file cannot hold")
    return value.dtype.name
