"""fastopt.torch on parameters that are on a device: the bits of the same on the processor.

In the simulator a device's memory is the processor's, and CPU tensors stand for those on a device: `devices.kind` and
`current_stream` say so, and are all that is replaced. On a device they are on it.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from agreement import assert_agrees, is_exact
from cases import equal_bits
from custom_rule import Custom

torch = pytest.importorskip("torch")

import fastopt.torch  # noqa: E402
from fastopt.definitions.specs import SPECS  # noqa: E402
from fastopt.kernels.cuda.availability import is_simulated  # noqa: E402
from fastopt.torch.stepping import devices  # noqa: E402

SPECS = {name: spec for name, spec in SPECS.items() if not spec.has_sums}

SIMULATED = is_simulated()
DEVICE = "cpu" if SIMULATED else "cuda"
STEPS = 4

OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "nesterov": True},
    "Adam": {"amsgrad": True, "weight_decay": 0.1},
    "AdamW": {"maximize": True},
    "RMSprop": {"centered": True, "momentum": 0.5},
}
"""What makes some classes do more than by default."""

STREAM = 3


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Says of all tensors whether they are on a device."""
    asked = []

    def current_stream(device: Any) -> int:
        asked.append(device)
        return STREAM

    def say(so: bool) -> None:
        if SIMULATED:
            monkeypatch.setattr(devices, "kind", lambda tensor: "cuda" if so else "cpu")
            monkeypatch.setattr(devices, "current_stream", current_stream)
            monkeypatch.setattr(devices, "check_current", lambda *arguments: None)

    say(True)
    return say


def parameters(dtype: Any = torch.float32) -> list[Any]:
    """Of every layout that a step treats differently; the last has no gradient at first."""
    made = [
        torch.empty(67, dtype=dtype),
        torch.empty(5, 7, dtype=dtype),
        torch.empty((), dtype=dtype),
        torch.empty(3, 0, dtype=dtype),
        torch.empty(2, 3, 2, 2, dtype=dtype).contiguous(memory_format=torch.channels_last),
        torch.empty(6, 4, dtype=dtype).t(),
        torch.empty(4, 6, dtype=dtype)[:, 1::2],
        torch.empty(3, 1, dtype=dtype),
    ]
    for index, tensor in enumerate(made):
        fill(tensor, 99, index)
    return [torch.nn.Parameter(tensor) for tensor in made]


def to_the_device(tensor: Any) -> Any:
    """A copy that lies in memory as the tensor does; `Tensor.to` closes gaps where it copies."""
    there = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=DEVICE)
    return there.copy_(tensor)


def fill(tensor: Any, *seed: int) -> Any:
    values = np.asarray(np.random.default_rng(seed).standard_normal(tuple(tensor.shape)))
    return tensor.copy_(torch.from_numpy(values))


def set_gradients(params: list[Any], step: int, scale: float = 1.0) -> None:
    for index, param in enumerate(params):
        missing = (index == len(params) - 1 and step < 2) or (index == 1 and step == 2)
        like = torch.empty(param.shape, dtype=param.dtype, device=param.device)  # contiguous, as not all parameters are
        param.grad = None if missing else fill(like, step, index) * scale


def array(tensor: Any) -> np.ndarray:
    """Its numbers, in NumPy's dtype."""
    there: Any = tensor.detach().cpu()
    return there.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if there.dtype is torch.bfloat16 else there.numpy()


class Pair:
    """The same optimizer twice: on a device, and on the processor."""

    def __init__(
        self, say: Callable[[bool], None], name: str, dtype: Any = torch.float32, odd: bool = True, **options: Any
    ) -> None:
        self.say = say
        self.name = name
        make = Custom.torch if name == "Custom" else getattr(fastopt.torch, name)
        self.params = [parameters(dtype), parameters(dtype)]
        for params in () if odd else self.params:  # Without, gradients lie as parameters do, and less is looked at.
            del params[4:7]
        self.params[0] = [torch.nn.Parameter(to_the_device(param.detach())) for param in self.params[0]]
        say(True)
        self.device = make([{"params": self.params[0][:4]}, {"params": self.params[0][4:], "lr": 0.25}], **options)
        say(False)
        self.host = make([{"params": self.params[1][:4]}, {"params": self.params[1][4:], "lr": 0.25}], **options)

    def each(self, function: Callable[[Any, list[Any]], object]) -> None:
        for on_device, optimizer, params in ((True, self.device, self.params[0]), (False, self.host, self.params[1])):
            self.say(on_device)
            function(optimizer, params)

    def step(self, *steps: int, scale: float = 1.0) -> None:
        def take(optimizer: Any, params: list[Any]) -> None:
            for step in steps:
                set_gradients(params, step, scale)
                optimizer.step()

        self.each(take)

    def check(self) -> None:
        """The same parameters, states, counts of steps: bit by bit where a device computes no powers."""
        exact = is_exact(self.device.spec.coefficients)
        for index, (mine, theirs) in enumerate(zip(*self.params, strict=True)):
            label = f"{self.name}: parameter {index}"
            assert_agrees(array(theirs), array(mine), exact, label)
            own = self.device.state.get(mine, {})
            other = self.host.state.get(theirs, {})
            assert own.keys() == other.keys()
            for name, value in other.items():
                if name in self.device.spec.carried:  # rounded on the processor in each step
                    assert torch.allclose(own[name].cpu(), value), label
                else:
                    assert_agrees(array(value), array(own[name]), exact or name == "step", f"{name} of {label}")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float32) for name in (*SPECS, "Custom")),
        *((name, torch.float64) for name in ("SGD", "Adam", "NAdam", "Custom")),  # all: `test_cuda_engine.py`
    ],
    ids=str,
)
def test_every_class(on_device: Callable[[bool], None], name: str, dtype: Any) -> None:
    pair = Pair(on_device, name, dtype, **OPTIONS.get(name, {}))
    pair.step(*range(STEPS))
    if name in SPECS and SPECS[name].carried:  # not rounded between steps there, as it is in torch's state
        for mine, theirs in zip(*pair.params, strict=True):
            torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-6, atol=1e-7)
        return
    pair.check()
    walk = pair.device._stepper.update.single
    assert walk is None  # because of the parameter with gaps
    assert pair.device._stepper.update.rounds[0].on_device


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.average is not None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_averages_that_follow_from_parameters_are_shown(
    on_device: Callable[[bool], None], name: str, dtype: Any
) -> None:
    pair = Pair(on_device, name, dtype)
    pair.step(*range(STEPS))
    trained = [[array(param).copy() for param in params] for params in pair.params]
    pair.each(lambda optimizer, params: optimizer.eval())
    exact = is_exact(pair.device.spec.coefficients)
    for mine, theirs in zip(*pair.params, strict=True):
        assert_agrees(array(theirs), array(mine), exact)
    assert not equal_bits(array(pair.params[0][0]), trained[0][0])
    pair.each(lambda optimizer, params: optimizer.train())
    for params, before in zip(pair.params, trained, strict=True):
        assert all(equal_bits(array(param), each) for param, each in zip(params, before, strict=True))


def test_steps_go_to_the_current_stream_without_a_look_at_the_device(
    on_device: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    param = torch.nn.Parameter(torch.ones(5, device=DEVICE))
    optimizer = fastopt.torch.Adam([param], max_grad_norm=1.0)
    param.grad = torch.ones_like(param)
    optimizer.step()
    (round_,) = optimizer._stepper.update.rounds
    engine = round_.engine
    assert engine.stream == (STREAM if SIMULATED else torch.cuda.current_stream().cuda_stream)

    def fetch() -> None:
        raise AssertionError("fetched from the device, which waits for it")

    monkeypatch.setattr(engine, "fetch", fetch)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for _ in range(3):
        param.grad = torch.ones_like(param)
        optimizer.step()
        schedule.step()
    assert optimizer._stepper.update.rounds == [round_]  # nothing was made anew
    monkeypatch.undo()
    on_device(True)
    assert int(optimizer.state[param]["step"]) == 4


EXTRAS: dict[str, dict[str, Any]] = {
    "max_grad_norm": {"max_grad_norm": 0.5},
    "clip_norm": {"clip_norm": 0.25},
    "clip_value": {"clip_value": 0.3},
    "nonfinite": {"nonfinite": "skip"},
    "fused": {"fused": True},
    "foreach": {"foreach": True},
}


@pytest.mark.parametrize("options", EXTRAS.values(), ids=EXTRAS)
def test_every_option(on_device: Callable[[bool], None], options: dict[str, Any]) -> None:
    pair = Pair(on_device, "Adam", **options)
    pair.step(0, 1)
    set_gradients(pair.params[0], 9)
    set_gradients(pair.params[1], 9)
    for params in pair.params if options.get("nonfinite") else ():
        params[0].grad[3] = torch.nan
    pair.each(lambda optimizer, params: optimizer.step())
    pair.step(2)
    pair.check()
    assert pair.device.skipped_steps == pair.host.skipped_steps == bool(options.get("nonfinite"))
    assert pair.device.nonfinite_counts == pair.host.nonfinite_counts
    np.testing.assert_equal(pair.device.grad_norm, pair.host.grad_norm)


def test_gradients_are_zeroed(on_device: Callable[[bool], None]) -> None:
    param = torch.nn.Parameter(torch.ones(5, device=DEVICE))
    param.grad = torch.ones_like(param)
    optimizer = fastopt.torch.SGD([param], lr=0.5, zero_grads=True)
    versions = param._version, param.grad._version
    optimizer.step()
    assert param.tolist() == [0.5] * 5
    assert not param.grad.any()
    assert param._version > versions[0]
    assert param.grad._version > versions[1]


@pytest.mark.parametrize("clip", [{}, {"clip_value": 0.3}, {"max_grad_norm": 0.5}], ids=str)
def test_gradient_scalers(on_device: Callable[[bool], None], clip: dict[str, Any]) -> None:
    """Their numbers stay on the device: an overflow leaves the step out there, the scale divides there."""
    pair = Pair(on_device, "Adam", **clip)
    host_of: list[Any] = []
    found = [torch.tensor([value]) for value in (0.0, 1.0, 0.0)]
    for step, found_inf in enumerate(found):
        scale = torch.tensor([2.0 ** (10 - step)])

        def take(optimizer: Any, params: list[Any], step: int = step, scale: Any = scale, inf: Any = found_inf) -> None:
            set_gradients(params, step, float(scale))
            where = params[0].device
            optimizer.grad_scale, optimizer.found_inf = scale.to(where), inf.to(where)
            optimizer.step()
            del optimizer.grad_scale, optimizer.found_inf

        pair.each(take)
    pair.step(3)  # without a scaler
    pair.check()
    assert not host_of
    assert int(pair.device.state[pair.params[0][0]]["step"]) == 3
    assert pair.device.skipped_steps == 0


def test_torch_s_scaler(on_device: Callable[[bool], None]) -> None:
    param = torch.nn.Parameter(torch.ones(3, device=DEVICE))
    optimizer = fastopt.torch.SGD([param], lr=0.5)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=4.0)
    for factor in (1.0, torch.inf, 1.0):
        optimizer.zero_grad()
        scaler.scale((param * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert param.tolist() == [0.0] * 3
    assert scaler.get_scale() == 2.0


# --- states -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Adam", "SGD", "Rprop", "Lion"])
def test_state_dicts(on_device: Callable[[bool], None], name: str) -> None:
    pair = Pair(on_device, name, **({"momentum": 0.9} if "momentum" in SPECS[name].defaults else {}))
    pair.step(0, 1)
    saved = [pair.device.state_dict(), pair.host.state_dict()]
    assert saved[0].keys() == saved[1].keys()
    assert saved[0]["state"].keys() == saved[1]["state"].keys()
    pair.device.load_state_dict(saved[1])  # from the processor to the device, and back
    pair.host.load_state_dict(saved[0])
    pair.step(2)
    pair.check()


def test_a_state_dict_of_torch_s_class(on_device: Callable[[bool], None]) -> None:
    pair = Pair(on_device, "Adam")
    theirs = torch.optim.Adam(parameters())
    theirs.add_param_group({"params": [theirs.param_groups[0]["params"].pop() for _ in range(4)][::-1], "lr": 0.25})
    set_gradients([*theirs.param_groups[0]["params"], *theirs.param_groups[1]["params"]], 0)
    theirs.step()
    pair.each(lambda optimizer, params: optimizer.load_state_dict(copy.deepcopy(theirs.state_dict())))
    pair.step(1)
    pair.check()
    theirs.load_state_dict(pair.device.state_dict())
    assert int(theirs.state[theirs.param_groups[0]["params"][0]]["step"]) == 2


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda pair: pickle.loads(pickle.dumps(pair)),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_copies(on_device: Callable[[bool], None], name: str, copied: Callable[[Any], Any]) -> None:
    pair = Pair(on_device, name, lr=0.5)
    pair.step(0, 1)
    on_device(True)
    optimizer, params = copied((pair.device, pair.params[0]))
    pair.step(2)
    on_device(True)
    set_gradients(params, 2)
    optimizer.step()
    pair.device, pair.params[0] = optimizer, params
    pair.check()


def _set_step(optimizer: Any, params: list[Any]) -> None:
    optimizer.state[params[0]]["step"].fill_(100)


def _replace_state(optimizer: Any, params: list[Any]) -> None:
    optimizer.state[params[0]]["exp_avg"] = torch.zeros_like(params[0])


def _move_state(optimizer: Any, params: list[Any]) -> None:
    state = optimizer.state[params[0]]["exp_avg"]
    state.data = state.data * 2


def _move(optimizer: Any, params: list[Any]) -> None:
    params[0].data = params[0].data.clone()


CHANGES: dict[str, Callable[[Any, list[Any]], object]] = {
    "step": _set_step,
    "state": _replace_state,
    "memory": _move,
    "memory of a state": _move_state,
    "lr": lambda optimizer, params: optimizer.param_groups[1].update(lr=0.5),
    "tensor": lambda optimizer, params: optimizer.param_groups[1].update(lr=torch.tensor(0.5)),
    "betas": lambda optimizer, params: optimizer.param_groups[0].update(betas=(0.5, 0.5)),
    "amsgrad": lambda optimizer, params: optimizer.param_groups[0].update(weight_decay=0.5, maximize=True),
    "taken out": lambda optimizer, params: optimizer.param_groups[0]["params"].pop(),
    "added": lambda optimizer, params: optimizer.add_param_group({"params": [torch.nn.Parameter(params[0].data * 2)]}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("odd", [False, True], ids=["in place", "odd"])
def test_changes(on_device: Callable[[bool], None], change: Callable[[Any, list[Any]], object], odd: bool) -> None:
    pair = Pair(on_device, "Adam", odd=odd)
    pair.step(0, 1, 2)  # now all have states
    assert (pair.device._stepper.update.single is None) == odd
    pair.each(change)
    pair.step(3, 4)
    pair.check()


def test_step_in_backward(on_device: Callable[[bool], None]) -> None:
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)
    twin = copy.deepcopy(module)
    module = module.to(DEVICE)
    optimizer = fastopt.torch.step_in_backward(module, fastopt.torch.Adam, lr=0.5)
    other = torch.optim.Adam(twin.parameters(), lr=0.5)
    for _ in range(3):
        module(torch.ones(1, 3, device=DEVICE)).square().sum().backward()
        other.zero_grad()
        twin(torch.ones(1, 3)).square().sum().backward()
        other.step()
    for mine, theirs in zip(module.parameters(), twin.parameters(), strict=True):
        assert mine.grad is None
        torch.testing.assert_close(mine.cpu(), theirs)
    assert [int(state["step"]) for state in optimizer.state.values()] == [3, 3]


def test_parameters_on_both(on_device: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is stepped where it is."""
    if SIMULATED:
        monkeypatch.setattr(devices, "kind", lambda tensor: "cuda" if tensor.dtype == torch.float64 else "cpu")
    params = [
        torch.nn.Parameter(torch.ones(3)),
        torch.nn.Parameter(torch.ones(3, dtype=torch.float64, device=DEVICE)),
    ]
    optimizer = fastopt.torch.Adam(params, lr=0.5)
    for _ in range(2):
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
    assert [each.on_device for each in optimizer._stepper.update.rounds] == [False, True]
    assert [int(optimizer.state[param]["step"]) for param in params] == [2, 2]
    for param in params:
        torch.testing.assert_close(param.detach().cpu(), torch.zeros(3, dtype=param.dtype), atol=1e-6, rtol=0)


# --- what is refused --------------------------------------------------------------------------------------------------


def param() -> Any:
    return torch.nn.Parameter(torch.ones(3, device=DEVICE))


BAD: dict[str, tuple[bool, dict[str, Any], Any, str]] = {
    "a processor's backend": (True, {"backend": "cython"}, TypeError, "backend='cython' cannot step parameters on"),
    "flatten": (True, {"flatten": True}, ValueError, "flatten=True is for parameters in main memory"),
    "differentiable": (True, {"differentiable": True}, ValueError, "does not support differentiable=True"),
    "a device's backend": (False, {"backend": "cuda"}, TypeError, "backend='cuda' cannot step parameters on cpu"),
    "capturable": (False, {"capturable": True}, ValueError, "capturable=True for parameters that are not on a device"),
    "unknown": (True, {"backend": "fortran"}, ValueError, "unknown backend: 'fortran'"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_arguments(on_device: Callable[[bool], None], bad: tuple[bool, dict[str, Any], Any, str]) -> None:
    there, options, error, message = bad
    on_device(there)
    with pytest.raises(error, match=message):
        fastopt.torch.Adam([param() if there else torch.nn.Parameter(torch.ones(3))], **options)


def test_capturable_is_taken(on_device: Callable[[bool], None]) -> None:
    one = param()
    optimizer = fastopt.torch.Adam([one], capturable=True)
    one.grad = torch.ones_like(one)
    optimizer.step()
    assert optimizer.state[one]["step"].device == one.device
    assert int(optimizer.state[one]["step"]) == 1


def test_torch_clips_gradients_on_a_device(on_device: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """There its functions wait for nothing."""
    if SIMULATED:  # what the compiled module leaves over, as it does tensors that are not in main memory
        monkeypatch.setattr("fastopt.torch.clipping._pieces", lambda gradients, *_: (None, gradients))
    params = parameters()
    for index, each in enumerate(params):
        each.data = each.data.to(DEVICE)
        each.grad = fill(torch.empty_like(each), index)
    expected = [each.grad.clone() for each in params]
    total = torch.nn.utils.get_total_norm(expected)
    assert torch.equal(fastopt.torch.clip_grad_norm_(params, 1.0), total)
    fastopt.torch.clip_grad_value_(params, 0.125)
    for each, before in zip(params, expected, strict=True):
        torch.testing.assert_close(each.grad, (before / total).clamp(-0.125, 0.125))


# --- parameters of 16 bits --------------------------------------------------------------------------------------------

STORED: dict[str, tuple[Any, dict[str, Any]]] = {
    "bfloat16": (torch.bfloat16, {}),
    "float16": (torch.float16, {}),
    "bfloat16, stochastic": (torch.bfloat16, {"stochastic_rounding": True, "seed": 7}),
    "float16, stochastic": (torch.float16, {"stochastic_rounding": True}),
    "master weights": (torch.bfloat16, {"master_weights": True}),
}
by_storage = pytest.mark.parametrize(("dtype", "more"), STORED.values(), ids=STORED)


@by_storage
@pytest.mark.parametrize("name", ["SGD", "Adam", "Custom"])
def test_halves(on_device: Callable[[bool], None], name: str, dtype: Any, more: dict[str, Any]) -> None:
    pair = Pair(on_device, name, dtype, **OPTIONS.get(name, {}), **more)
    pair.step(*range(STEPS))
    pair.check()
    assert pair.device._stepper.update.rounds[0].on_device
    if more.get("master_weights"):
        for mine, theirs in zip(pair.device.master_params(), pair.host.master_params(), strict=True):
            assert torch.equal(mine.cpu(), theirs)


@by_storage
def test_gradients_of_halves_can_be_float32(
    on_device: Callable[[bool], None], dtype: Any, more: dict[str, Any]
) -> None:
    pair = Pair(on_device, "Adam", dtype, odd=False, max_grad_norm=0.5, **more)
    for params in pair.params:
        for param in params:
            param.grad_dtype = None  # any

    def take(optimizer: Any, params: list[Any]) -> None:
        for step in range(STEPS):
            set_gradients(params, step)
            for index, param in enumerate(params):
                if param.grad is not None and (index + step) % 2:
                    param.grad = param.grad.float() / 3
            optimizer.step()

    pair.each(take)
    pair.check()


@by_storage
def test_state_dicts_of_halves(on_device: Callable[[bool], None], dtype: Any, more: dict[str, Any]) -> None:
    pair = Pair(on_device, "Adam", dtype, **more)
    pair.step(0, 1)
    saved = [pair.device.state_dict(), pair.host.state_dict()]
    pair.device.load_state_dict(saved[1])
    pair.host.load_state_dict(saved[0])
    pair.step(2)
    pair.check()


def test_float16_has_no_master_weights_on_a_device_either(on_device: Callable[[bool], None]) -> None:
    one = torch.nn.Parameter(torch.ones(3, dtype=torch.float16, device=DEVICE))
    with pytest.raises(TypeError, match=r"master_weights=True is for bfloat16 parameters: params\[0\]"):
        fastopt.torch.Adam([one], master_weights=True)
