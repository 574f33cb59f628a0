"""What an optimizer is constructed from, as the arguments of its class say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..checks import text
from ..definitions import conventions
from ..definitions.defaults import without_defaults
from ..definitions.specs import Spec
from ..step.options import GROUP_OPTIONS, check_names, read_step_options
from .groups import check_key
from .param_tree import ParamTree, read_groups


class Construction(NamedTuple):
    """The arguments of an optimizer; pickles and copies are constructed from them again.

    Attributes
    ----------
    tree: the tree in which parameters were given.
    groups: for each group its parameters, and its hyperparameters and options.
    defaults: hyperparameters and options for groups that do not give them.
    options: the options of a step.
    gradients: the gradients to bind, or None.
    """

    tree: ParamTree
    groups: list[tuple[list[Any], dict[str, Any]]]
    defaults: dict[str, Any]
    options: dict[str, Any]
    gradients: list[Any] | None


def read_arguments(
    owner: str, spec: Spec, params: Any, hyperparameters: Mapping[str, Any], options: Mapping[str, Any]
) -> Construction:
    """The arguments of a class whose spec is this under PyTorch's convention.

    Raises
    ------
    TypeError, ValueError
        An argument is not usable.
    """
    given = dict(options)
    added = conventions.added_hyperparameters(spec)
    check_names(owner, given, added)
    spec = conventions.under(spec, text("convention", given.get("convention", "torch")))
    values = {**without_defaults(hyperparameters), **{key: given.pop(key) for key in added if key in given}}
    tree, groups = read_groups(params)
    defaults = {
        **conventions.hyperparameters(spec, values),
        **{key: given[key] for key in GROUP_OPTIONS if key in given},
    }
    for _, of_group in groups:
        for key in of_group:
            check_key(spec, key)
    filled = [(arrays, {**defaults, **of_group}) for arrays, of_group in groups]
    options_of_step, grads = read_step_options(given), given.get("grads")
    return Construction(tree, filled, defaults, options_of_step, None if grads is None else tree.flatten(grads))
