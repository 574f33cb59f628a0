"""fastopt.torch against PyTorch's own tables of optimizers: every input, error and scheduler that PyTorch tests with.

`torch.testing._internal.common_optimizers.optim_db` is what PyTorch's own tests of optimizers are made from. Whatever
in it is not run here stands in one of three tables with the reason, and a test holds the tables against `optim_db`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from cases import CASES
from torch import Tensor
from torch.nn import Parameter
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.testing._internal.common_optimizers import OptimizerErrorEnum, OptimizerInfo, optim_db
from torch_cases import (
    DTYPES,
    INFOS,
    STEPS,
    TOLERANCE,
    assert_alike,
    by_name_apart,
    in_two_groups,
    parameters,
    torch_options,
    train,
)
from torch_peers import IN_TORCH, NOT_IN_TORCH, TORCH, CarryIn

import fastopt
import fastopt.torch

# --- what of torch's tables is not run, and why ----------------------------------------------------------------------

OTHER_OPTIMIZERS = {
    "Adafactor": "fastopt has no such rule; factored states",
    "LBFGS": "evaluates the model many times a step: nothing to fuse",
    "Muon": "multiplies matrices: not a loop over elements",
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
        "kernels are for real numbers",
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
        r"params\[0\] is on meta, where tensors have no memory",
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

FACTORS = {"Adadelta": 2}
"""Of tolerances. It divides by its own steps: no element is large beside the others' errors."""

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
    assert INFOS.keys() - {info.name for info in optim_db} == {spec.name for spec in NOT_IN_TORCH}
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
        least = 1e-4 if self.has_tensor_betas else 1e-6 if self.has_tensors else 0
        return max(FACTORS.get(self.optimizer, 1) * TOLERANCE[dtype], least)


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
OUR_SETUPS = [Setup(case.optimizer, f"case {case}", torch_options(case)) for case in IN_TORCH]


def implementations(name: str) -> list[str]:
    return ["for loop", *(kind for kind in IMPLEMENTATIONS if kind in INFOS[name].supported_impls)]


WITH_IMPLEMENTATIONS = [
    *((setup, implementations(setup.optimizer)) for setup in TORCH_SETUPS),
    # Torch's own setups come with each implementation, ours with one in turn.
    *((setup, implementations(setup.optimizer)[number % 3 :][:1]) for number, setup in enumerate(OUR_SETUPS)),
]


@pytest.mark.parametrize(
    ("setup", "implementation", "dtype"),
    [
        pytest.param(setup, implementation, dtype, id=f"{setup}-{implementation}-{dtype}")
        for number, (setup, names) in enumerate(WITH_IMPLEMENTATIONS)
        for position, implementation in enumerate(names)
        for dtype in (DTYPES[(number + position) % 2],)  # in turn
    ],
)
def test_every_input(setup: Setup, implementation: str, dtype: torch.dtype, carry_in: CarryIn) -> None:
    carry_in(setup.optimizer, dtype)
    flags = IMPLEMENTATIONS[implementation]
    params, others = (parameters(dtype, plain=implementation == "fused") for _ in range(2))
    if implementation == "foreach" and setup.has_tensors and setup.optimizer in REFUSE_TENSORS_WITH_FOREACH:
        for module in (TORCH, fastopt.torch):
            with pytest.raises(ValueError, match="as a Tensor is not supported for capturable=False and foreach=True"):
                setup.make(module, in_two_groups(params, setup.optimizer), **flags)
        return
    theirs = setup.make(TORCH, in_two_groups(others, setup.optimizer), **flags)
    mine = setup.make(fastopt.torch, in_two_groups(params, setup.optimizer), **flags)
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
def test_every_scheduler_input(setup: Setup, schedulers: Any, carry_in: CarryIn) -> None:
    carry_in(setup.optimizer, torch.float64)
    dtype = torch.float64
    trained = []
    for module in (fastopt.torch, TORCH):
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
        for module in (TORCH, fastopt.torch):
            with pytest.warns(wrong.kind, match=wrong.match):
                wrong.attempt(module)
        return
    with pytest.raises(wrong.kind, match=wrong.match) as theirs:
        wrong.attempt(TORCH)
    with pytest.raises(wrong.kind, match=wrong.match) as mine:
        wrong.attempt(fastopt.torch)
    assert type(mine.value) is type(theirs.value)
    assert str(mine.value) == str(theirs.value)


@by_name_apart
def test_a_parameter_that_is_given_twice_is_stepped_twice(name: str, carry_in: CarryIn) -> None:
    """As torch does it, with a warning, until it will be an error there."""
    carry_in(name, torch.float64)
    case = next(case for case in CASES if case.optimizer == name and case.options.get("momentum", True))
    trained = []
    for module in (fastopt.torch, TORCH):
        params = {"twice": Parameter(torch.linspace(1, 2, 5, dtype=torch.float64))}
        with pytest.warns(UserWarning, match="a parameter group with duplicate parameters"):
            optimizer = getattr(module, name)([params["twice"]] * 2, **torch_options(case), foreach=False)
        train(optimizer, params, range(STEPS))
        trained.append((optimizer, params))
    (mine, params), (theirs, others) = trained
    assert_alike(mine, theirs, params, others, TOLERANCE[torch.float64])
