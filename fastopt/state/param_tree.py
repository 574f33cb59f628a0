"""The shape in which parameters were given (an array, nested lists and dicts, groups), so that gradients mirror it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import FOR_TORCH, describe_type, is_device_array, is_torchs

Leaves = list[Any]


@dataclass(eq=False, repr=False)
class ParamTree:
    """How arrays are nested: a single array, a list or a dict of arrays or of trees, or a list of groups of them.

    Attributes
    ----------
    kind: "array", "list", "dict" or "groups"
    size: number of arrays.
    keys: the keys of a dict.
    children: the trees of the groups; of a list or a dict the trees of all entries, unless all entries are arrays.
    """

    kind: str
    size: int
    keys: tuple[Any, ...] = ()
    children: tuple[ParamTree, ...] = ()

    def with_group(self, group: ParamTree) -> ParamTree:
        """This tree as a list of groups, with one more."""
        children = self.children if self.kind == "groups" else (self,)
        return ParamTree("groups", self.size + group.size, children=(*children, group))

    @property
    def entries(self) -> Sequence[Any]:
        """The keys of a dict, or the positions in a list."""
        return self.keys if self.kind == "dict" else range(len(self.children) or self.size)

    def paths(self) -> list[tuple[Any, ...]]:
        """For each leaf the keys and positions that lead to it."""
        if self.kind == "array":
            return [()]
        if not self.children:
            return [(entry,) for entry in self.entries]
        pairs = zip(self.entries, self.children, strict=True)
        return [(entry, *path) for entry, child in pairs for path in child.paths()]

    def labels(self, root: str) -> list[str]:
        """The name of each leaf in an error message: `grads[2]`, `params['layers'][0]['W']`."""
        return [root + "".join([f"[{entry!r}]" for entry in path]) for path in self.paths()]

    def names(self, start: int = 0) -> list[Any]:
        """The user's name for each leaf: its key in a dict, "layers.0.W" where lists and dicts are nested, or else its
        position among all leaves."""
        if self.kind == "groups":
            names: list[Any] = []
            for child in self.children:
                names += child.names(start + len(names))
            return names
        if self.children:
            return [".".join(map(str, path)) for path in self.paths()]
        return list(self.keys) if self.kind == "dict" else list(range(start, start + self.size))

    @property
    def has_keys(self) -> bool:
        """Whether some array is in a dict."""
        return self.kind == "dict" or True in [child.has_keys for child in self.children]

    def group_names(self) -> list[tuple[Any, ...] | None]:
        """For each group the names of its parameters, see `names`; None if no parameter is in a dict."""
        found: list[tuple[Any, ...] | None] = []
        for child in self.children if self.kind == "groups" else (self,):
            names = tuple(child.names())
            if len(set(names)) < len(names):  # {"a": {"b": ...}, "a.b": ...}
                names = tuple(child.paths())
            found.append(names if child.has_keys else None)
        return found

    def flatten(self, values: Any, root: str = "grads") -> Leaves:
        """The leaves of values that are nested like this tree, in order.

        Raises
        ------
        TypeError, ValueError
            They are nested differently: leaves are missing, or there are too many.
        """
        if self.kind == "array":
            return [values]
        if self.kind == "list" and type(values) is list and len(values) == self.size and not self.children:
            return list(values)  # the shortest way
        entries = self._entries_of_dict(values, root) if self.kind == "dict" else self._entries_of_list(values, root)
        if not self.children:
            return entries
        leaves: Leaves = []
        for entry, child, value in zip(self.entries, self.children, entries, strict=True):
            leaves += [value] if child.kind == "array" else child.flatten(value, f"{root}[{entry!r}]")
        return leaves

    def unflatten(self, leaves: Sequence[Any]) -> Any:
        """The leaves, nested as this tree, in dicts and lists."""
        if self.kind == "array":
            return leaves[0]
        found, start = list(leaves), 0
        if self.children:
            found = []
            for child in self.children:
                found.append(child.unflatten(leaves[start : start + child.size]))
                start += child.size
        return dict(zip(self.keys, found, strict=True)) if self.kind == "dict" else found

    def _entries_of_list(self, values: Any, root: str) -> list[Any]:
        expected = len(self.children) or self.size
        noun = "parameter group" if self.kind == "groups" else "entry" if self.children else "parameter"
        if not isinstance(values, (list, tuple)):
            raise TypeError(
                f"{root} must be a list of {expected}, one for each {noun}, as the parameters are; "
                f"got {type(values).__name__}"
            )
        if len(values) != expected:
            raise ValueError(f"{root} must be a list of {expected}, one for each {noun}; got {len(values)}")
        return list(values)

    def _entries_of_dict(self, values: Any, root: str) -> list[Any]:
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


LEAF = ParamTree("array", 1)


def read_params(params: Any, root: str = "params") -> tuple[ParamTree, list[Any]]:
    """The parameters of one group, and the tree that they were given in."""
    if isinstance(params, np.ndarray) or is_device_array(params):
        return LEAF, [params]
    return _read_container(params if isinstance(params, Mapping) else _as_list(params, root), root)


def _as_list(params: Any, root: str) -> list[Any]:
    """The entries of something that may be iterated over only once."""
    if type(params) is list:
        return params
    if isinstance(params, (set, frozenset)):
        raise TypeError(f"{root} must be an ordered collection, got {type(params).__name__}; its order can change")
    if isinstance(params, (str, bytes)) or not isinstance(params, Iterable) or hasattr(params, "__array_interface__"):
        raise _not_params(root, params)
    try:
        return list(params)
    except TypeError as error:
        raise _not_params(root, params) from error


def _is_container(value: Any) -> bool:
    return isinstance(value, (list, tuple, Mapping))


def _read_container(values: Any, root: str, around: tuple[Any, ...] = ()) -> tuple[ParamTree, list[Any]]:
    """The tree and the leaves of a list, a tuple or a dict, which the containers `around` it contain."""
    if any(values is each for each in around):
        raise ValueError(f"{root} contains itself")
    is_dict = isinstance(values, Mapping)
    keys, entries = (tuple(values), list(values.values())) if is_dict else ((), list(values))
    kind = "dict" if is_dict else "list"
    if not any(map(_is_container, entries)):
        return ParamTree(kind, len(entries), keys), entries
    children, leaves = [], []
    for name, entry in zip(keys or range(len(entries)), entries, strict=True):
        if _is_container(entry):
            child, found = _read_container(entry, f"{root}[{name!r}]", (*around, values))
        else:
            child, found = LEAF, [entry]
        children.append(child)
        leaves += found
    return ParamTree(kind, len(leaves), keys, tuple(children)), leaves


def _not_params(root: str, value: Any) -> TypeError:
    got = describe_type(value)
    return TypeError(
        f"{root} must be a numpy.ndarray, a list or a dict of arrays, nested or not, or a list of groups; got {got}"
    )


def read_groups(params: Any) -> tuple[ParamTree, list[tuple[list[Any], dict[str, Any]]]]:
    """The tree of an optimizer's `params`; for each group its arrays and the hyperparameters given with them."""
    if isinstance(params, Mapping) and "params" in params and not isinstance(params["params"], np.ndarray):
        raise TypeError("params is a single group; pass a list of groups: [group]")
    if not (isinstance(params, (np.ndarray, Mapping)) or is_device_array(params)):
        params = _as_list(params, "params")
        if any(map(_is_group, params)):
            return _read_listed_groups(params)
    tree, leaves = read_params(params)
    if not leaves:
        raise ValueError("optimizer got an empty parameter list")
    if type(leaves[0]) is str and any(map(is_torchs, leaves)):  # model.named_parameters()
        raise TypeError(f"params must be arrays, got names and tensors of PyTorch's; {FOR_TORCH}")
    return tree, [(leaves, {})]


def _is_group(value: Any) -> bool:
    """Whether an entry of a list is meant as a group: a dict with "params", or with values that are no arrays."""
    if not isinstance(value, Mapping):
        return False
    return "params" in value or not all(_is_container(each) or hasattr(each, "shape") for each in value.values())


def _read_listed_groups(params: list[Any]) -> tuple[ParamTree, list[tuple[list[Any], dict[str, Any]]]]:
    children, groups = [], []
    for index, group in enumerate(params):
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
