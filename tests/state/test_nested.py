"""Parameters in nested lists, tuples and dicts: the same steps as of a flat list, with labels that name the path."""

from __future__ import annotations

import copy
import pickle
import re
from collections import OrderedDict
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import BACKENDS, PLAIN, Case, equal_bits
from hypothesis import given, settings
from hypothesis import strategies as st

import fastopt

shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
keys = st.text("abW.", min_size=1, max_size=3) | st.integers(0, 5)
trees = st.recursive(
    shapes.map(np.zeros),
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(keys, inner),
    max_leaves=12,
)
"""Arrays of zeros in any nesting; containers can be empty."""


def leaves_of(tree: Any, path: str = "") -> list[tuple[str, np.ndarray]]:
    """Each array with the expression that gets it."""
    if isinstance(tree, np.ndarray):
        return [(path, tree)]
    entries = tree.items() if hasattr(tree, "items") else enumerate(tree)
    return [leaf for key, value in entries for leaf in leaves_of(value, f"{path}[{key!r}]")]


def with_leaves(tree: Any, leaves: list[Any], mirrored: bool = False) -> Any:
    """The same nesting with other leaves; mirrored: dicts in another order, lists for tuples and tuples for lists."""
    if isinstance(tree, np.ndarray):
        return leaves.pop(0)
    if isinstance(tree, dict):
        found = {key: with_leaves(value, leaves, mirrored) for key, value in tree.items()}
        return dict(reversed(found.items())) if mirrored else found
    values = [with_leaves(value, leaves, mirrored) for value in tree]
    return tuple(values) if isinstance(tree, tuple) != mirrored else values


def is_usable(tree: Any) -> bool:
    """There are arrays, and it is nothing that means groups, or one group."""
    return bool(leaves_of(tree)) and not (isinstance(tree, dict) and "params" in tree)


@settings(deadline=None, max_examples=150)
@given(trees.filter(is_usable), st.booleans(), st.sampled_from([case for case in PLAIN if case.moves_at_once]))
def test_steps_are_those_of_a_flat_list(tree: Any, mirrored: bool, case: Case) -> None:
    flat = [leaf.copy() for _, leaf in leaves_of(tree)]
    nested, listed = case.make(tree), case.make(flat)
    for step in range(2):
        gradients: list[Any] = [
            None if (index + step) % 4 == 3 else np.full(leaf.shape, index - 1.5)
            for index, leaf in enumerate(leaf for _, leaf in leaves_of(tree))
        ]
        nested.step(with_leaves(tree, list(gradients), mirrored))
        listed.step(gradients)
    for (_, mine), theirs in zip(leaves_of(tree), flat, strict=True):
        assert equal_bits(mine, theirs)
    for mine, theirs in zip(nested.state.values(), listed.state.values(), strict=True):
        assert {name: np.asarray(value).tobytes() for name, value in mine.items()} == {
            name: np.asarray(value).tobytes() for name, value in theirs.items()
        }
    listed.load_state_dict(nested.state_dict())  # by position
    names = [each.name for each in nested.segments]
    assert len(names) == len(flat)


@settings(deadline=None, max_examples=100)
@given(trees.filter(is_usable), st.data())
def test_messages_name_the_path(tree: Any, data: st.DataObject) -> None:
    optimizer = fastopt.SGD(tree, lr=1.0)
    labels, arrays = zip(*leaves_of(tree), strict=True)
    wrong = data.draw(st.integers(0, len(arrays) - 1))
    gradients = [np.ones((*array.shape, 2) if index == wrong else array.shape) for index, array in enumerate(arrays)]
    with pytest.raises(ValueError, match=f"^grads{re.escape(labels[wrong])} must be of its parameter's shape"):
        optimizer.step(with_leaves(tree, gradients))
    assert not any(array.any() for array in arrays)
    arrays[wrong].flags.writeable = False
    with pytest.raises(ValueError, match=f"^params{re.escape(labels[wrong])} must be writable"):
        fastopt.SGD(tree)


def network(fill: float = 0.0) -> dict[str, Any]:
    """As code for autograd and JAX has its parameters; one layer has none."""
    return {
        "embed": np.full((4, 2), fill),
        "layers": [{"W": np.full((2, 2), fill), "b": np.full(2, fill)}, (), (np.full((2, 1), fill), np.full(1, fill))],
    }


NAMES = ["embed", "layers.0.W", "layers.0.b", "layers.2.0", "layers.2.1"]


class Missing(NamedTuple):
    """Gradients nested in another way than `network`, by what to change, and the message."""

    name: str
    change: Any
    error: type[Exception]
    match: str


def set_layer(index: int, value: Any) -> Any:
    return lambda grads: grads["layers"].__setitem__(index, value)


WRONG = [
    Missing("a key", lambda grads: grads.pop("embed"), ValueError, r"grads must have .*missing \['embed'\]"),
    Missing(
        "a layer", lambda grads: grads["layers"].pop(), ValueError, r"grads\['layers'\] must be a list of 3.*got 2"
    ),
    Missing("a weight", lambda grads: grads["layers"][0].pop("W"), ValueError, r"grads\['layers'\]\[0\] .*\['W'\]"),
    Missing("a list", set_layer(0, [np.ones((2, 2)), np.ones(2)]), TypeError, r"grads\['layers'\]\[0\] must be a dict"),
    Missing("a dict", set_layer(2, {0: 1, 1: 1}), TypeError, r"grads\['layers'\]\[2\] must be a list of 2.*got dict"),
    Missing("an array", set_layer(2, np.ones(2)), TypeError, r"grads\['layers'\]\[2\] must be a list of 2.*ndarray"),
    Missing("None", set_layer(0, None), TypeError, r"grads\['layers'\]\[0\] must be a dict.*got NoneType"),
    Missing("too much", set_layer(1, [np.ones(1)]), ValueError, r"grads\['layers'\]\[1\] must be a list of 0.*got 1"),
    Missing(
        "one deeper", lambda grads: grads.update(embed=[np.ones((4, 2))]), TypeError, r"grads\['embed'\] must be a"
    ),
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
@pytest.mark.parametrize("bound", [False, True])
def test_gradients_in_another_nesting(wrong: Missing, bound: bool) -> None:
    params, grads = network(), network(1.0)
    wrong.change(grads)
    with pytest.raises(wrong.error, match=wrong.match):
        fastopt.SGD(params, grads=grads) if bound else fastopt.SGD(params).step(grads)
    assert not any(leaf.any() for _, leaf in leaves_of(params))


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_that_knows_parameters_by_name(backend: str) -> None:
    params, grads = network(), network(1.0)
    optimizer = fastopt.SGD(params, lr=0.5, grads=grads, backend=backend, nonfinite="skip")
    assert [each.name for each in optimizer.segments] == NAMES
    optimizer.set_segments("layers.0.b", frozen=True)
    optimizer.set_segments(lambda name, param: name.startswith("layers.2"), lr_scale=0.5)
    optimizer.step()
    found = [leaf.flat[0] for _, leaf in leaves_of(params)]
    assert found == [-0.5, -0.5, 0, -0.25, -0.25]
    optimizer.zero_grad()
    assert not any(leaf.any() for _, leaf in leaves_of(grads))
    grads["layers"][2][0][0] = np.nan
    optimizer.step()
    assert optimizer.nonfinite_counts == {"grads['layers'][2][0]": 1}


def test_the_guard_and_the_range_test_take_them() -> None:
    from fastopt.tuning import range_test

    params = network(1.0)
    optimizer = fastopt.SGD(params, lr=0.5)
    guard = fastopt.DivergenceGuard(optimizer)
    assert guard.step(1.0, network(1.0))
    grads = network(1.0)
    grads["layers"][0]["W"][0] = np.inf
    with pytest.raises(fastopt.guard.DivergenceError) as error:
        guard.step(1.0, grads)
    assert error.value.finding.parameter == "layers.0.W"
    before = copy.deepcopy(params)
    range_test(optimizer, lambda step: (float(params["embed"][0, 0] ** 2), network(1.0)), points=10)
    for (_, mine), (_, theirs) in zip(leaves_of(params), leaves_of(before), strict=True):
        assert equal_bits(mine, theirs)


def test_groups_of_nested_parameters() -> None:
    """Their gradients are a list with one entry for each group, nested as its parameters are."""
    params, more = network(), [(np.zeros(2), np.zeros(3)), {"b": np.zeros(1)}]
    optimizer = fastopt.SGD([{"params": params, "lr": 0.5}, {"params": np.zeros(2)}], lr=1.0)
    optimizer.add_param_group({"params": more})
    optimizer.step([network(1.0), np.ones(2), [(np.ones(2), None), {"b": np.ones(1)}]])
    assert params["layers"][0]["W"][0, 0] == -0.5
    assert (more[0][0][0], more[0][1][0], more[1]["b"][0]) == (-1, 0, -1)
    assert [each.name for each in optimizer.segments] == [*NAMES, 5, "0.0", "0.1", "1.b"]
    with pytest.raises(ValueError, match=r"grads\[2\]\[1\]\['b'\] must be of its parameter's shape"):
        optimizer.step([network(1.0), np.ones(2), [(np.ones(2), None), {"b": np.ones(2)}]])


def test_a_list_of_layers_is_no_list_of_groups() -> None:
    layers = [{"W": np.zeros(2), "b": np.zeros(1)}, {"W": np.zeros(1)}]
    fastopt.SGD(layers, lr=1.0).step([{"W": np.ones(2), "b": np.ones(1)}, {"W": np.ones(1)}])
    assert (layers[0]["b"][0], layers[1]["W"][0]) == (-1, -1)
    with pytest.raises(ValueError, match="parameter group 0 has no 'params'"):
        fastopt.SGD([layers[0], {"params": layers[1]["W"]}])


class Layer(NamedTuple):
    """Parameters of a layer."""

    W: np.ndarray
    b: np.ndarray


def test_other_containers() -> None:
    params = OrderedDict(a=Layer(np.zeros(2), np.zeros(1)), b=MappingProxyType({"c": np.zeros(1)}))
    optimizer = fastopt.SGD(params, lr=1.0)
    optimizer.step({"b": {"c": np.ones(1)}, "a": Layer(np.ones(2), np.ones(1))})
    assert (params["a"].W[1], params["a"].b[0], params["b"]["c"][0]) == (-1, -1, -1)  # type: ignore[attr-defined,index]
    generated = [[np.zeros(1)], np.zeros(1)]
    fastopt.SGD((each for each in generated), lr=1.0).step([[np.ones(1)], np.ones(1)])
    assert (generated[0][0][0], generated[1][0]) == (-1, -1)


def test_copies_and_pickles() -> None:
    optimizer = fastopt.SGD(network(), lr=0.5, momentum=0.9)
    optimizer.step(network(1.0))
    for again in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert [each.name for each in again.segments] == NAMES
        again.step(network(1.0))
        assert again.iterations == 2


@settings(deadline=None)
@given(trees.filter(lambda tree: not isinstance(tree, np.ndarray) and leaves_of(tree)))
def test_pack_and_global_norm(tree: Any) -> None:
    for index, (_, leaf) in enumerate(leaves_of(tree)):
        leaf[...] = index
    flat, views = fastopt.pack(tree)
    given, packed = leaves_of(tree), leaves_of(views)
    assert [label for label, _ in packed] == [label for label, _ in given]
    assert flat.size == sum(leaf.size for _, leaf in given)
    for (_, view), (_, leaf) in zip(packed, given, strict=True):
        assert equal_bits(view, leaf)
        assert not view.size or np.shares_memory(view, flat)
    assert fastopt.global_norm(tree) == fastopt.global_norm([leaf for _, leaf in given])
