"""The shape in which parameters were given (an array, a list, a dict, groups), so that gradients can mirror it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import describe_type, is_device_array

Leaves = list[Any]


@dataclass(eq=False, repr=False)
class ParamTree:
    """How arrays are nested: a single array, a list or a dict of arrays, or a list of groups of them.

    Attributes
    ----------
    kind: "array", "list", "dict" or "groups"
    size: number of arrays.
    keys: the keys of a dict.
    children: the trees of the groups.
    """

    kind: str
    size: int
    keys: tuple[Any, ...] = ()
    children: tuple[ParamTree, ...] = ()

    def with_group(self, group: ParamTree) -> ParamTree:
        """This tree as a list of groups, with one more."""
        children = self.children if self.kind == "groups" else (self,)
        return ParamTree("groups", self.size + group.size, children=(*children, group))

    def labels(self, root: str) -> list[str]:
        """The name of each leaf in an error message: `grads[2]`, `params['W']`."""
        if self.kind == "array":
            return [root]
        if self.kind == "dict":
            return [f"{root}[{key!r}]" for key in self.keys]
        if self.kind == "list":
            return [f"{root}[{index}]" for index in range(self.size)]
        return [label for index, child in enumerate(self.children) for label in child.labels(f"{root}[{index}]")]

    def names(self, start: int = 0) -> list[Any]:
        """The user's name for each leaf: its key in a dict, else its position among all leaves."""
        if self.kind == "dict":
            return list(self.keys)
        if self.kind == "groups":
            names: list[Any] = []
            for child in self.children:
                names += child.names(start + len(names))
            return names
        return list(range(start, start + self.size))

    def flatten(self, values: Any, root: str = "grads") -> Leaves:
        """The leaves of values that are nested like this tree, in order.

        Raises
        ------
        TypeError, ValueError
            They are nested differently: leaves are missing, or there are too many.
        """
        kind = self.kind
        if kind == "array":
            return [values]
        if kind == "dict":
            return self._flatten_dict(values, root)
        expected = self.size if kind == "list" else len(self.children)
        noun = "parameter" if kind == "list" else "parameter group"
        if not isinstance(values, (list, tuple)):
            raise TypeError(
                f"{root} must be a list of {expected}, one for each {noun}, as the parameters are; "
                f"got {type(values).__name__}"
            )
        if len(values) != expected:
            raise ValueError(f"{root} must be a list of {expected}, one for each {noun}; got {len(values)}")
        if kind == "list":
            return list(values)
        leaves: Leaves = []
        for index, (child, value) in enumerate(zip(self.children, values, strict=True)):
            leaves += child.flatten(value, f"{root}[{index}]")
        return leaves

    def _flatten_dict(self, values: Any, root: str) -> Leaves:
        if not isinstance(values, Mapping):
            raise TypeError(f"{root} must be a dict with the parameters' keys, got {type(values).__name__}")
        missing = [key for key in self.keys if key not in values]
        unknown = [key for key in values if key not in self.keys]
        if missing or unknown:
            parts = [f"missing {missing}"] * bool(missing) + [f"unknown {unknown}"] * bool(unknown)
            raise ValueError(
                f"{root} must have the parameters' keys: {' and '.join(parts)} (None for a parameter without gradient)"
            )
        return [values[key] for key in self.keys]


def read_params(params: Any, root: str = "params") -> tuple[ParamTree, list[Any]]:
    """The parameters of one group, and the tree that they were given in."""
    if isinstance(params, np.ndarray) or is_device_array(params):
        return ParamTree("array", 1), [params]
    if isinstance(params, Mapping):
        return ParamTree("dict", len(params), keys=tuple(params)), list(params.values())
    if isinstance(params, (set, frozenset)):
        raise TypeError(f"{root} must be an ordered collection, got {type(params).__name__}; its order can change")
    if isinstance(params, (str, bytes)) or not isinstance(params, Iterable) or hasattr(params, "__array_interface__"):
        raise _not_params(root, params)
    try:
        leaves = list(params)
    except TypeError as error:
        raise _not_params(root, params) from error
    return ParamTree("list", len(leaves)), leaves


def _not_params(root: str, value: Any) -> TypeError:
    got = describe_type(value)
    return TypeError(f"{root} must be a numpy.ndarray, a list or a dict of arrays, or a list of groups; got {got}")


def read_groups(params: Any) -> tuple[ParamTree, list[tuple[list[Any], dict[str, Any]]]]:
    """The tree of an optimizer's `params`; for each group its arrays and the hyperparameters given with them."""
    if isinstance(params, Mapping) and "params" in params and not isinstance(params["params"], np.ndarray):
        raise TypeError("params is a single group; pass a list of groups: [group]")
    tree, leaves = read_params(params)
    if not leaves:
        raise ValueError("optimizer got an empty parameter list")
    if tree.kind != "list" or not any(isinstance(leaf, Mapping) for leaf in leaves):
        return tree, [(leaves, {})]
    children, groups = [], []
    for index, group in enumerate(leaves):
        child, arrays, values = read_group(group, index)
        children.append(child)
        groups.append((arrays, values))
    return ParamTree("groups", sum(child.size for child in children), children=tuple(children)), groups


def read_group(group: Any, index: int) -> tuple[ParamTree, list[Any], dict[str, Any]]:
    """The tree, the arrays and the hyperparameters of one group, a dict with "params"."""
    if not isinstance(group, Mapping):
        raise TypeError(f"param_group must be a dict, but got {type(group).__name__} as group {index}")
    if "params" not in group:
        raise ValueError(f"parameter group {index} has no 'params' (its keys: {', '.join(map(repr, group))})")
    tree, arrays = read_params(group["params"], f"params[{index}]['params']")
    return tree, arrays, {key: value for key, value in group.items() if key != "params"}
