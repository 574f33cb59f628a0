"""fastopt.torch against PyTorch's own tables of optimizers: every input, error and scheduler that PyTorch tests with.

`torch.testing._internal.common_optimizers.optim_db` is what PyTorch's own tests of optimizers are made from. Whatever
in it is not run here stands in one of three tables with the reason, and a test holds the tables against `optim_db`.
"""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import BACKENDS, CASES, Case, equal_bits
from torch import Tensor
from torch.nn import Parameter
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.testing._internal.common_optimizers import OptimizerErrorEnum, OptimizerInfo, optim_db
from torch_cases import (
    DTYPES,
    TOLERANCE,
    assert_alike,
    assert_same_groups,
    gradient,
    parameters,
    set_values,
    torch_options,
    train,
)
from torch_workers import JOBS, SHARDED_STEPS, shard

import fastopt
import fastopt.torch

STEPS = 8
BEFORE, AFTER = range(4), range(4, 7)

INFOS: dict[str, OptimizerInfo] = {info.name: info for info in optim_db if hasattr(fastopt.torch, info.name)}
"""Those of torch's optimizers that are ours too."""

# --- what of torch's tables is not run, and why ----------------------------------------------------------------------

OTHER_OPTIMIZERS = {
    "ASGD": "fastopt has no such rule",
    "Adadelta": "fastopt has no such rule",
    "Adafactor": "fastopt has no such rule; factored states",
    "Adamax": "fastopt has no such rule",
    "LBFGS": "evaluates the model many times a step: nothing to fuse",
    "Muon": "multiplies matrices: not a loop over elements",
    "NAdam": "fastopt has no such rule",
    "RAdam": "fastopt has no such rule",
    "SparseAdam": "sparse gradients only, which fastopt refuses",
}


@dataclass(frozen=True)
class Refusal:
    """What torch's optimizers can do, and ours say that they cannot: by an error at construction, or in the step."""

    reason: str
    concerns: Callable[[OptimizerInfo], bool]
    error: type[Exception]
    match: str
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    param: Callable[[], Tensor] = lambda: torch.ones(3)
    gradient: Callable[[], Tensor] | None = None


REFUSED = {
    "capturable": Refusal(
        "for CUDA graphs; torch itself refuses it for CPU parameters, in the step",
        lambda info: info.has_capturable_arg,
        ValueError,
        "does not support capturable=True",
        options={"capturable": True},
    ),
    "differentiable": Refusal(
        "a step that autograd goes through cannot be native",
        lambda info: "differentiable" in info.supported_impls,
        ValueError,
        "does not support differentiable=True",
        options={"differentiable": True},
    ),
    "complex": Refusal(
        "kernels are for float32 and float64",
        lambda info: info.supports_complex,
        TypeError,
        r"params\[0\] is torch.complex64",
        param=lambda: torch.ones(3, dtype=torch.complex64),
    ),
    "sparse": Refusal(
        "kernels are for dense memory",
        lambda info: info.supports_sparse,
        RuntimeError,
        r"does not support sparse gradients or parameters: the gradient of params\[0\]",
        gradient=lambda: torch.ones(3).to_sparse(),
    ),
    "other devices": Refusal(
        "kernels are for main memory; a tensor without memory stands for the others",
        lambda info: info.supports_multiple_devices,
        ValueError,
        r"main memory: params\[0\] is on meta",
        param=lambda: torch.ones(3, device="meta"),
    ),
}

IMPLEMENTATIONS: dict[str, dict[str, bool]] = {
    "for loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
"""Torch's ways of doing a step on the CPU; the flags are given to ours too."""

REFUSE_TENSORS_WITH_FOREACH = ("Adam", "AdamW")
"""Where torch takes no tensor as lr or betas with `foreach=True`, nor do ours."""

FIELDS = {
    "optim_cls": "INFOS, OTHER_OPTIMIZERS",
    "optim_inputs_func": "test_every_input; those of `device='cuda'` too, without their `capturable`",
    "optim_error_inputs_func": "test_every_error_input; on CUDA there are more, which are in MORE_ERRORS",
    "scheduler_inputs": "test_every_scheduler_input",
    "supported_impls": "IMPLEMENTATIONS, REFUSED",
    "supports_fused_on": "IMPLEMENTATIONS; of its devices, only cpu concerns ours",
    "not_og_supported_flags": "test_older_state_dicts_load",
    "supports_param_groups": "test_every_input: two groups",
    "has_capturable_arg": "REFUSED",
    "supports_complex": "REFUSED",
    "supports_sparse": "REFUSED",
    "supports_multiple_devices": "REFUSED",
    "metadata_for_sparse": "not run: options for sparse gradients, see REFUSED",
    "only_supports_sparse_grads": "not run: True for SparseAdam alone",
    "step_requires_closure": "not run: True for LBFGS alone",
    "decorators": "not run: tolerances and skips of torch's own test classes",
}
"""What is done with each field of an OptimizerInfo."""


def test_the_tables_are_complete_and_not_stale() -> None:
    """An optimizer, kind of step or field that is new in torch, or is gone, shows here."""
    ours = {name for name, value in vars(fastopt.torch).items() if hasattr(value, "spec")}
    assert ours == set(INFOS), "one of ours is not in torch's table"
    assert OTHER_OPTIMIZERS.keys() == {info.name for info in optim_db} - INFOS.keys()
    for name, refusal in REFUSED.items():
        assert any(refusal.concerns(info) for info in INFOS.values()), f"no optimizer does {name}"
    kinds = {kind for info in INFOS.values() for kind in info.supported_impls}
    assert kinds == (IMPLEMENTATIONS.keys() - {"for loop"}) | {"differentiable"}
    for info in INFOS.values():
        assert FIELDS.keys() == vars(info).keys()
        assert info.supports_param_groups
        assert not info.only_supports_sparse_grads
        assert not info.step_requires_closure
        assert ("cpu" in info.supports_fused_on) == ("fused" in info.supported_impls)


@pytest.mark.parametrize(
    ("info", "refusal"),
    [
        pytest.param(info, refusal, id=f"{info.name}-{name}")
        for info in INFOS.values()
        for name, refusal in REFUSED.items()
        if refusal.concerns(info)
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_changes(info: OptimizerInfo, refusal: Refusal) -> None:
    def attempt() -> None:
        optimizer = getattr(fastopt.torch, info.name)([param], **refusal.options)
        if refusal.gradient is not None:
            param.grad = refusal.gradient()
        optimizer.step()

    param = Parameter(refusal.param())
    with pytest.raises(refusal.error, match=refusal.match):
        attempt()
    if param.device.type == "cpu":
        assert torch.equal(param, torch.ones_like(param))


# --- every input of torch's table, and every case of ours ------------------------------------------------------------


@dataclass(frozen=True)
class Setup:
    """Arguments of a constructor."""

    optimizer: str
    label: str
    options: dict[str, Any] = field(hash=False)

    def __str__(self) -> str:
        return f"{self.optimizer}-{self.label}"

    def make(self, module: Any, params: Any, **more: Any) -> Any:
        """The optimizer of this name in `fastopt.torch` or `torch.optim`."""
        return getattr(module, self.optimizer)(params, **copy.deepcopy(self.options), **more)

    @property
    def has_tensor_betas(self) -> bool:
        return isinstance(self.options.get("betas", (0,))[0], Tensor)

    @property
    def has_tensors(self) -> bool:
        return self.has_tensor_betas or isinstance(self.options.get("lr"), Tensor)

    def tolerance(self, dtype: torch.dtype) -> float:
        """Torch computes with tensors in their own float32, as in `1 - beta ** step`; ours with doubles."""
        return max(TOLERANCE[dtype], 1e-4 if self.has_tensor_betas else 1e-6 if self.has_tensors else 0)


def torch_setups(info: OptimizerInfo) -> list[Setup]:
    """Torch's inputs; those that it has for CUDA alone without the flag that is for CUDA alone."""
    setups = {}
    for device in ("cpu", "cuda"):
        for each in info.optim_inputs_func(device=device, dtype=torch.float32):
            assert each.params is None
            options = {name: value for name, value in each.kwargs.items() if name != "capturable"}
            setups.setdefault(each.desc, Setup(info.name, each.desc, options))
    return list(setups.values())


TORCH_SETUPS = [setup for info in INFOS.values() for setup in torch_setups(info)]
SETUPS = TORCH_SETUPS + [Setup(case.optimizer, f"case {case}", torch_options(case)) for case in CASES if case.in_torch]

by_setup = pytest.mark.parametrize("setup", SETUPS, ids=str)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
by_name = pytest.mark.parametrize("name", INFOS)


def in_two_groups(params: dict[str, Parameter]) -> list[dict[str, Any]]:
    tensors = list(params.values())
    return [{"params": tensors[:4]}, {"params": tensors[4:], "lr": 0.004}]


def implementations(name: str) -> list[str]:
    return ["for loop", *(kind for kind in IMPLEMENTATIONS if kind in INFOS[name].supported_impls)]


@pytest.mark.parametrize(
    ("setup", "implementation"),
    [
        pytest.param(setup, implementation, id=f"{setup}-{implementation}")
        for setup in SETUPS
        for implementation in implementations(setup.optimizer)
    ],
)
@by_dtype
def test_every_input(setup: Setup, implementation: str, dtype: torch.dtype) -> None:
    flags = IMPLEMENTATIONS[implementation]
    params, others = (parameters(dtype, plain=implementation == "fused") for _ in range(2))
    if implementation == "foreach" and setup.has_tensors and setup.optimizer in REFUSE_TENSORS_WITH_FOREACH:
        for module in (torch.optim, fastopt.torch):
            with pytest.raises(ValueError, match="as a Tensor is not supported for capturable=False and foreach=True"):
                setup.make(module, in_two_groups(params), **flags)
        return
    theirs = setup.make(torch.optim, in_two_groups(others), **flags)
    mine = setup.make(fastopt.torch, in_two_groups(params), **flags)
    for step in range(STEPS):
        train(mine, params, [step])
        train(theirs, others, [step])
        assert_alike(mine, theirs, params, others, setup.tolerance(dtype))


@pytest.mark.parametrize(
    ("setup", "schedulers"),
    [
        pytest.param(setup, schedulers, id=f"{setup}-{number}")
        for setup in TORCH_SETUPS
        for number, schedulers in enumerate(INFOS[setup.optimizer].scheduler_inputs)
    ],
)
def test_every_scheduler_input(setup: Setup, schedulers: Any) -> None:
    dtype = torch.float64
    trained = []
    for module in (fastopt.torch, torch.optim):
        params = parameters(dtype)
        optimizer = setup.make(module, list(params.values()), foreach=False)
        chain = [make(optimizer) for make in schedulers]
        rates = []
        for step in range(12):
            train(optimizer, params, [step])
            for scheduler in chain:
                if isinstance(scheduler, ReduceLROnPlateau):
                    scheduler.patience = 1  # or the rate stays
                    scheduler.step(1.0)
                else:
                    scheduler.step()
            rates.append(float(optimizer.param_groups[0]["lr"]))
        trained.append((optimizer, params, rates, [scheduler.state_dict() for scheduler in chain]))
    (mine, params, rates, states), (theirs, others, their_rates, their_states) = trained
    assert rates == their_rates
    assert len(set(rates)) > 1
    assert states == their_states
    assert_alike(mine, theirs, params, others, setup.tolerance(dtype))


CHANGES_IN_PLACE = {
    "SGD": ("lr", "weight_decay"),
    "Adam": ("lr", "betas"),
    "AdamW": ("lr", "betas"),
    "RMSprop": ("lr",),
    "Adagrad": ("lr",),
}
"""Which hyperparameters torch takes as tensors, which can change without being replaced."""


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name, keys in CHANGES_IN_PLACE.items() for key in keys], ids=str
)
def test_a_tensor_that_is_changed_in_place_is_noticed(name: str, key: str) -> None:
    trained = []
    for module in (fastopt.torch, torch.optim):
        value = torch.tensor(0.25, dtype=torch.float64)
        params = {"vector": Parameter(torch.linspace(1, 2, 5, dtype=torch.float64))}
        given = (value, torch.tensor(0.75, dtype=torch.float64)) if key == "betas" else value
        optimizer = getattr(module, name)(list(params.values()), **{key: given}, foreach=False)
        params["vector"].grad = torch.ones(5, dtype=torch.float64)
        for _ in range(4):
            optimizer.step()
            value.mul_(0.5)
            params["vector"].grad.mul_(-1.5)
        trained.append((optimizer, params))
    (mine, params), (theirs, others) = trained
    assert_alike(mine, theirs, params, others, TOLERANCE[torch.float64])


def add_a_group(optimizer: Any, param: Parameter) -> None:
    optimizer.add_param_group({"params": [param], "lr": 0.003, "maximize": True})


def add_to_a_group(optimizer: Any, param: Parameter) -> None:
    optimizer.param_groups[0]["params"].append(param)


def remove_a_group(optimizer: Any, param: Parameter) -> None:
    del optimizer.param_groups[0]


def remove_from_a_group(optimizer: Any, param: Parameter) -> None:
    del optimizer.param_groups[1]["params"][1]


def swap_groups(optimizer: Any, param: Parameter) -> None:
    optimizer.param_groups.reverse()


def replace_a_group(optimizer: Any, param: Parameter) -> None:
    optimizer.param_groups[1] = {**optimizer.param_groups[1], "lr": 0.02}


def replace_a_parameter(optimizer: Any, param: Parameter) -> None:
    optimizer.param_groups[1]["params"][2] = param


def move_a_parameter(optimizer: Any, param: Parameter) -> None:
    optimizer.param_groups[1]["params"].append(optimizer.param_groups[0]["params"].pop(0))


def clear_the_states(optimizer: Any, param: Parameter) -> None:
    optimizer.state.clear()


def forget_a_state(optimizer: Any, param: Parameter) -> None:
    optimizer.state.pop(optimizer.param_groups[0]["params"][0], None)


def replace_the_states(optimizer: Any, param: Parameter) -> None:
    for state in optimizer.state.values():
        state.update({key: value.clone() for key, value in state.items()})


def change_the_states(optimizer: Any, param: Parameter) -> None:
    for state in optimizer.state.values():
        for value in state.values():
            value.mul_(2)


def move_the_memory(optimizer: Any, param: Parameter) -> None:
    for group in optimizer.param_groups:
        for each in group["params"]:
            each.data = each.data.clone()


CHANGES = [
    add_a_group,
    add_to_a_group,
    remove_a_group,
    remove_from_a_group,
    swap_groups,
    replace_a_group,
    replace_a_parameter,
    move_a_parameter,
    clear_the_states,
    forget_a_state,
    replace_the_states,
    change_the_states,
    move_the_memory,
]
"""What a program may do to an optimizer between two steps."""


@by_name
@pytest.mark.parametrize("change", CHANGES)
def test_changes_between_steps(name: str, change: Callable[[Any, Parameter], None]) -> None:
    dtype = torch.float64
    trained = []
    for module in (fastopt.torch, torch.optim):
        params = parameters(dtype)
        optimizer = getattr(module, name)(
            in_two_groups(params), **({"momentum": 0.9} if name == "SGD" else {}), foreach=False
        )
        params["new"] = Parameter(torch.ones(3, 2, dtype=dtype))
        train(optimizer, params, BEFORE)
        change(optimizer, params["new"])
        if name == "Adagrad":  # which makes states at construction alone
            for group in optimizer.param_groups:
                for param in group["params"]:
                    state = {"step": torch.tensor(0.0), "sum": torch.zeros_like(param)}
                    optimizer.state[param] = optimizer.state.get(param) or state
        train(optimizer, params, AFTER)
        trained.append((optimizer, params))
    (mine, params), (theirs, others) = trained
    assert_alike(mine, theirs, params, others, TOLERANCE[dtype])


# --- every error of torch's table, and more --------------------------------------------------------------------------


@dataclass(frozen=True)
class WrongInput:
    name: str
    label: str
    kind: type[Exception]
    match: str
    params: Any = None
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    in_step: bool = False

    def attempt(self, module: Any) -> None:
        params = [Parameter(torch.ones(2, 2))] if self.params is None else self.params
        optimizer = getattr(module, self.name)(params, **copy.deepcopy(self.options))
        if self.in_step:
            for group in optimizer.param_groups:
                for param in group["params"]:
                    param.grad = torch.ones_like(param)
            optimizer.step()


def wrong_inputs(info: OptimizerInfo) -> list[WrongInput]:
    found = []
    for each in info.optim_error_inputs_func(device="cpu", dtype=torch.float32):
        given = each.optimizer_error_input
        in_step = each.error_on == OptimizerErrorEnum.STEP_ERROR
        found.append(
            WrongInput(info.name, given.desc, each.error_type, each.error_regex, given.params, given.kwargs, in_step)
        )
    return found


MORE_ERRORS: list[tuple[str, type[Exception], str, dict[str, Any]]] = [
    ("fused and foreach", RuntimeError, "cannot be `True` together", {"fused": True, "foreach": True}),
    ("negative lr", ValueError, "Invalid learning rate: -1", {"lr": -1.0}),
    ("no such option", TypeError, "unexpected keyword argument 'no_such_option'", {"no_such_option": 1}),
    ("set", TypeError, "ordered collections", {"params": [{"params": {1}}]}),
    ("no parameters", ValueError, "optimizer got an empty parameter list", {"params": []}),
    ("not a tensor", TypeError, "can only optimize Tensors", {"params": [1.0]}),
    ("not a leaf", ValueError, "non-leaf Tensor", {"params": [Parameter(torch.ones(2)) * 2]}),
]
"""Errors of torch that its table has for CUDA alone, or not at all: label, type, message, arguments."""


def more_wrong_inputs(info: OptimizerInfo) -> list[WrongInput]:
    known = inspect.signature(info.optim_cls).parameters
    found = []
    for label, kind, match, options in MORE_ERRORS:
        if label == "fused and foreach" and "fused" not in known:
            kind, match = TypeError, "unexpected keyword argument 'fused'"
        options = dict(options)
        found.append(WrongInput(info.name, label, kind, match, options.pop("params", None), options))
    return found


ERRORS = [each for info in INFOS.values() for each in (*wrong_inputs(info), *more_wrong_inputs(info))]


@pytest.mark.parametrize("wrong", ERRORS, ids=lambda wrong: f"{wrong.name}-{wrong.label}")
def test_every_error_input(wrong: WrongInput) -> None:
    """The same type and words as torch's, which are those in its table."""
    if issubclass(wrong.kind, Warning):
        for module in (torch.optim, fastopt.torch):
            with pytest.warns(wrong.kind, match=wrong.match):
                wrong.attempt(module)
        return
    with pytest.raises(wrong.kind, match=wrong.match) as theirs:
        wrong.attempt(torch.optim)
    with pytest.raises(wrong.kind, match=wrong.match) as mine:
        wrong.attempt(fastopt.torch)
    assert type(mine.value) is type(theirs.value)
    assert str(mine.value) == str(theirs.value)


@by_name
def test_a_parameter_that_is_given_twice_is_stepped_twice(name: str) -> None:
    """As torch does it, with a warning, until it will be an error there."""
    case = next(case for case in CASES if case.optimizer == name and case.options.get("momentum", True))
    trained = []
    for module in (fastopt.torch, torch.optim):
        params = {"twice": Parameter(torch.linspace(1, 2, 5, dtype=torch.float64))}
        with pytest.warns(UserWarning, match="a parameter group with duplicate parameters"):
            optimizer = getattr(module, name)([params["twice"]] * 2, **torch_options(case), foreach=False)
        train(optimizer, params, range(STEPS))
        trained.append((optimizer, params))
    (mine, params), (theirs, others) = trained
    assert_alike(mine, theirs, params, others, TOLERANCE[torch.float64])


# --- signatures and defaults -----------------------------------------------------------------------------------------


ADDED = {
    "max_grad_norm": None,
    "clip_norm": None,
    "clip_value": None,
    "nonfinite": "propagate",
    "max_consecutive_skips": None,
    "zero_grads": False,
    "backend": "auto",
    "n_threads": None,
    "flush_denormals": True,
    "flatten": False,
}
"""What ours take beside torch's arguments."""


@by_name
def test_the_signature_is_torchs_and_more_by_keyword(name: str) -> None:
    mine = list(inspect.signature(getattr(fastopt.torch, name)).parameters.values())
    theirs = list(inspect.signature(getattr(torch.optim, name)).parameters.values())
    assert mine[: len(theirs)] == theirs  # names, order, kinds, defaults, annotations
    added = mine[len(theirs) :]
    assert {each.kind for each in added} == {inspect.Parameter.KEYWORD_ONLY}
    assert {each.name: each.default for each in added} == ADDED


@by_name
def test_what_is_positional_for_torch_is_positional(name: str) -> None:
    theirs = getattr(torch.optim, name)
    positional = [
        each.default
        for each in list(inspect.signature(theirs).parameters.values())[1:]
        if each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    param = Parameter(torch.ones(1))
    assert_same_groups(getattr(fastopt.torch, name)([param], *positional), theirs([param], *positional))
    with pytest.raises(TypeError, match="positional argument"):
        getattr(fastopt.torch, name)([param], *positional, *[None] * 10)


@by_name
def test_default_construction(name: str) -> None:
    param = Parameter(torch.ones(3))
    mine, theirs = (getattr(module, name)([param]) for module in (fastopt.torch, torch.optim))
    assert isinstance(mine, getattr(torch.optim, name))
    assert mine.defaults == theirs.defaults
    assert list(mine.defaults) == list(theirs.defaults)
    assert_same_groups(mine, theirs)
    assert [list(group) for group in mine.param_groups] == [list(group) for group in theirs.param_groups]
    assert repr(mine) == repr(theirs)
    assert repr(mine.state_dict()) == repr(theirs.state_dict())


@by_name
@pytest.mark.parametrize("default", DTYPES, ids=str)
def test_the_default_dtype_makes_the_same_states(name: str, default: torch.dtype) -> None:
    """Torch's counts of steps are of the default dtype, whatever the parameters'."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        for dtype in DTYPES:
            params, others = parameters(dtype), parameters(dtype)
            mine, theirs = (
                getattr(module, name)(list(own.values()), foreach=False)
                for module, own in ((fastopt.torch, params), (torch.optim, others))
            )
            train(mine, params, range(3))
            train(theirs, others, range(3))
            assert_alike(mine, theirs, params, others, TOLERANCE[dtype])
    finally:
        torch.set_default_dtype(before)


@by_name
def test_both_dtypes_in_one_optimizer(name: str) -> None:
    trained = []
    for module in (fastopt.torch, torch.optim):
        params = {
            f"{key} {dtype}": param for dtype in DTYPES for key, param in parameters(dtype).items() if key != "never"
        }
        optimizer = getattr(module, name)(list(params.values()), lr=0.01, foreach=False)
        train(optimizer, params, range(STEPS))
        trained.append((optimizer, params))
    (mine, params), (theirs, others) = trained
    assert_alike(mine, theirs, params, others, TOLERANCE[torch.float32])


# --- state dicts -----------------------------------------------------------------------------------------------------

by_case = pytest.mark.parametrize("case", [case for case in CASES if case.in_torch], ids=str)


def make(module: Any, case: Case, params: dict[str, Parameter], **more: Any) -> Any:
    return getattr(module, case.optimizer)(in_two_groups(params), **torch_options(case), **more)


def through_a_file(saved: dict[str, Any], path: Path) -> Any:
    torch.save(saved, path / "optimizer.pt")
    return torch.load(path / "optimizer.pt", weights_only=True)


@by_case
@by_dtype
@pytest.mark.parametrize(
    ("first", "second", "exact"),
    [
        pytest.param(fastopt.torch, torch.optim, False, id="ours to torch's"),
        pytest.param(torch.optim, fastopt.torch, False, id="torch's to ours"),
        pytest.param(fastopt.torch, fastopt.torch, True, id="ours to ours"),
    ],
)
def test_training_goes_on_from_a_state_dict(
    case: Case, dtype: torch.dtype, first: Any, second: Any, exact: bool, tmp_path: Path
) -> None:
    params, others = parameters(dtype), parameters(dtype)
    one = make(first, case, params)
    train(one, params, BEFORE)
    set_values(others, params)
    other = getattr(second, case.optimizer)(in_two_groups(others))  # with the defaults: options are loaded too
    other.load_state_dict(through_a_file(one.state_dict(), tmp_path))
    assert_alike(other, one, others, params, 0)
    train(one, params, AFTER)
    train(other, others, AFTER)
    assert_alike(other, one, others, params, 0 if exact else TOLERANCE[dtype])


def deep_copy(optimizer: Any, params: dict[str, Parameter]) -> Any:
    return copy.deepcopy((optimizer, params))


def pickled(optimizer: Any, params: dict[str, Parameter]) -> Any:
    return pickle.loads(pickle.dumps((optimizer, params)))


def saved_whole(optimizer: Any, params: dict[str, Parameter]) -> Any:
    file = io.BytesIO()
    torch.save((optimizer, params), file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@by_case
@by_dtype
@pytest.mark.parametrize("duplicate", [deep_copy, pickled, saved_whole])
@pytest.mark.parametrize("steps", [0, 4])
def test_a_copy_goes_on_alike(case: Case, dtype: torch.dtype, duplicate: Any, steps: int) -> None:
    params = parameters(dtype)
    if duplicate is deep_copy:  # torch closes the gaps
        del params["gapped"]
    optimizer = make(fastopt.torch, case, params, clip_value=0.4)
    train(optimizer, params, range(steps))
    copied, others = duplicate(optimizer, params)
    assert type(copied) is type(optimizer)
    assert_alike(copied, optimizer, others, params, 0)
    train(optimizer, params, AFTER)
    train(copied, others, AFTER)
    assert_alike(copied, optimizer, others, params, 0)


@by_case
@by_dtype
@pytest.mark.parametrize("direction", ["to NumPy", "from NumPy"])
def test_state_dicts_and_numpy(case: Case, dtype: torch.dtype, direction: str) -> None:
    """Between `fastopt.torch` and `fastopt` over NumPy arrays: the same bits as without the change."""
    params = parameters(dtype)
    optimizer = make(fastopt.torch, case, params)
    train(optimizer, params, BEFORE)
    arrays = as_arrays(params)
    numpy_optimizer = case.make(numpy_groups(arrays))
    numpy_optimizer.load_state_dict(optimizer.state_dict())
    if direction == "to NumPy":
        train(optimizer, params, AFTER)
        train_numpy(numpy_optimizer, arrays, params, AFTER)
        assert_same_bits(optimizer, params, numpy_optimizer, arrays)
        return
    others = parameters(dtype)
    set_values(others, params)
    saved = numpy_optimizer.state_dict()
    for state in saved["state"].values():
        state.update({name: torch.tensor(value) for name, value in state.items() if isinstance(value, np.ndarray)})
    again = make(fastopt.torch, case, others)
    again.load_state_dict(saved)
    train(optimizer, params, AFTER)
    train(again, others, AFTER)
    for name, param in params.items():
        assert equal_bits(param.detach().numpy(), others[name].detach().numpy()), name


@by_name
def test_older_state_dicts_load(name: str) -> None:
    """Those from before an option or a tensor as count of steps was there load as into torch's class."""
    dtype = torch.float64
    loaded = []
    for module in (fastopt.torch, torch.optim):
        params = parameters(dtype)
        optimizer = getattr(module, name)(list(params.values()), lr=0.01)
        train(optimizer, params, BEFORE)
        saved = copy.deepcopy(optimizer.state_dict())
        for group in saved["param_groups"]:
            for flag in INFOS[name].not_og_supported_flags:
                group.pop(flag, None)
        for state in saved["state"].values():
            if "step" in state:
                state["step"] = int(state["step"])
        optimizer.load_state_dict(saved)
        train(optimizer, params, AFTER)
        loaded.append((optimizer, params))
    (mine, params), (theirs, others) = loaded
    assert_alike(mine, theirs, params, others, TOLERANCE[dtype])


@by_name
@pytest.mark.parametrize("names", [(True, False), (False, True), (True, True)], ids=str)
def test_names_of_parameters_are_kept_in_state_dicts(name: str, names: tuple[bool, bool]) -> None:
    loaded = []
    for module in (fastopt.torch, torch.optim):
        params = parameters(torch.float32)
        first, second = (
            getattr(module, name)(params.items() if named else params.values(), lr=0.01) for named in names
        )
        train(first, params, BEFORE)
        second.load_state_dict(first.state_dict())
        train(second, params, AFTER)
        loaded.append((second, params))
    (mine, params), (theirs, others) = loaded
    assert_alike(mine, theirs, params, others, TOLERANCE[torch.float32])


@by_case
def test_a_state_dict_from_another_layout(case: Case) -> None:
    """A state is laid out like its parameter, whatever it was saved with."""
    dtype = torch.float64
    params = parameters(dtype)
    others = {
        name: Parameter(param.detach().clone(memory_format=torch.contiguous_format)) for name, param in params.items()
    }
    optimizer, other = make(fastopt.torch, case, params), make(fastopt.torch, case, others)
    train(optimizer, params, BEFORE)
    set_values(others, params)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(optimizer, params, AFTER)
    train(other, others, AFTER)
    for name, param in params.items():
        assert equal_bits(param.detach().numpy(), others[name].detach().numpy()), name


def skip_a_step(optimizer: Any, params: dict[str, Parameter]) -> None:
    for param in params.values():
        param.grad = torch.full_like(param, float("inf"))
    optimizer.step()
    assert optimizer.skipped_steps == 1


def prepare_for_backward(optimizer: Any, params: dict[str, Parameter]) -> None:
    optimizer.step_in_backward()


@by_case
@pytest.mark.parametrize("prepare", [skip_a_step, prepare_for_backward])
def test_a_first_step_that_is_still_to_come_is_saved_as_that(case: Case, prepare: Any) -> None:
    """Where states are made early, a first step from what is saved is a first step: SGD's has no dampening."""
    dtype = torch.float64
    params = parameters(dtype)
    del params["gapped"]  # copy.deepcopy closes the gaps
    optimizer = make(fastopt.torch, case, params, nonfinite="skip" if prepare is skip_a_step else "propagate")
    prepare(optimizer, params)
    expected = parameters(dtype)
    train(make(fastopt.torch, case, expected), expected, AFTER)
    copies = [deep_copy(optimizer, params), pickled(optimizer, params)]
    for module in (fastopt.torch, torch.optim):
        others = parameters(dtype)
        del others["gapped"]
        copies.append((make(module, case, others), others))
        copies[-1][0].load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for other, others in copies:
        train(other, others, AFTER)
        for name, param in others.items():
            torch.testing.assert_close(param, expected[name], rtol=0, atol=1e-12)


@by_case
def test_a_state_dict_loads_before_the_first_step_in_backward(case: Case) -> None:
    params, others = ({"vector": Parameter(torch.linspace(1, 2, 5, dtype=torch.float64))} for _ in range(2))
    options = torch_options(case)
    optimizer, other = (getattr(fastopt.torch, case.optimizer)(own.values(), **options) for own in (params, others))
    train(optimizer, params, BEFORE)
    set_values(others, params)
    other.step_in_backward()
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in AFTER:
        params["vector"].grad = torch.ones(5, dtype=torch.float64)
        optimizer.step()
        others["vector"].sum().backward()
        assert_alike(other, optimizer, others, params, 0)


# --- the same bits ---------------------------------------------------------------------------------------------------


def as_arrays(params: dict[str, Parameter]) -> dict[str, np.ndarray]:
    return {name: param.detach().numpy().copy("C") for name, param in params.items()}


def numpy_groups(arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    return [{"params": group["params"], **rest(group)} for group in in_two_groups(arrays)]  # type: ignore[arg-type]


def rest(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def train_numpy(optimizer: Any, arrays: dict[str, np.ndarray], params: dict[str, Parameter], steps: Any) -> None:
    for step in steps:
        found = [gradient(name, param, step) for name, param in params.items()]
        gradients = [None if each is None else each.numpy().copy("C") for each in found]
        optimizer.step([gradients[:4], gradients[4:]])


def assert_same_bits(optimizer: Any, params: dict[str, Parameter], other: Any, arrays: dict[str, np.ndarray]) -> None:
    for index, (name, param) in enumerate(params.items()):
        assert equal_bits(param.detach().numpy(), arrays[name]), name
        for key, value in optimizer.state.get(param, {}).items():
            if key != "step":
                assert equal_bits(value.numpy(), np.asarray(other.state[index][key])), f"{key} of {name}"


@by_case
@by_dtype
@pytest.mark.usefixtures("threads_always")
def test_backends_threads_and_numpy_give_the_same_bits(case: Case, dtype: torch.dtype) -> None:
    arrays = as_arrays(parameters(dtype))
    expected = case.make(numpy_groups(arrays))
    train_numpy(expected, arrays, parameters(dtype), range(STEPS))
    for backend in BACKENDS:
        for n_threads in (1, 2):
            params = parameters(dtype)
            optimizer = make(fastopt.torch, case, params, backend=backend, n_threads=n_threads)
            train(optimizer, params, range(STEPS))
            assert_same_bits(optimizer, params, expected, arrays)


# --- torch.distributed.optim -----------------------------------------------------------------------------------------


def test_zero_redundancy_optimizer(tmp_path: Path) -> None:
    """States spread over two processes: the same bits as in one."""
    torch.multiprocessing.spawn(shard, (str(tmp_path), 2), 2)
    results = torch.load(tmp_path / "results.pt", weights_only=True)
    assert {name for name, _, _ in JOBS.values()} == set(INFOS)
    for label, (name, options, _) in JOBS.items():
        values, saved = results[label]
        params = parameters(torch.float32, plain=True)
        optimizer = getattr(fastopt.torch, name)(list(params.values()), lr=0.01, **options)
        train(optimizer, params, range(SHARDED_STEPS))
        for key, param in params.items():
            assert equal_bits(param.detach().numpy(), values[key].numpy()), f"{label}: {key}"
        expected = optimizer.state_dict()["state"]
        assert saved["state"].keys() == expected.keys()
        for index, state in expected.items():
            assert saved["state"][index].keys() == state.keys()
            for key, value in state.items():
                assert equal_bits(saved["state"][index][key].numpy(), value.numpy()), f"{label}: {key} of {index}"
