"""`state_dtype=` of fastopt.torch: states in fewer bits, and what a user sees of them."""

from __future__ import annotations

import copy
import io
import pickle
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from cases import Case, equal_bits
from storages import HALVES, STORAGES, bits, problem
from torch import Tensor
from torch.nn import Parameter
from torch_pairs import MAIN
from torch_peers import IN_TORCH, TORCH, CarryIn, torch_options

import fastopt
import fastopt.torch
from fastopt.guard.torch_target import TorchTarget
from fastopt.state import coded
from fastopt.step.param_storage import SMALL
from fastopt.step.storage import REST
from fastopt.torch import step_in_backward
from fastopt.torch.stepping import devices
from fastopt.torch.stepping.coded_states import CodedState
from fastopt.tuning.torch_view import TorchView

LARGE = SMALL + 1000
FORMATS = ("bfloat16", "float8")
NAMES = ("float8", "unsigned_float8")
"""The formats of "float8", by whether a state is never negative."""

by_format = pytest.mark.parametrize("name", FORMATS)
by_case = pytest.mark.parametrize("case", MAIN, ids=str)


def make(case: Case, params: Any, **more: Any) -> Any:
    return getattr(fastopt.torch, case.optimizer)(params, **torch_options(case.options, case.optimizer), **more)


def parameters(*shapes: Any, dtype: torch.dtype = torch.float32) -> list[Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [Parameter(torch.randn(each, generator=generator).to(dtype)) for each in shapes or ((70, 80), (37,))]


def set_gradients(params: Any, step: int) -> None:
    for index, param in enumerate(params):
        generator = torch.Generator().manual_seed(100 * step + index)
        param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)


def train(optimizer: Any, params: Any, steps: range) -> None:
    for step in steps:
        set_gradients(params, step)
        optimizer.step()


def stored(optimizer: Any, param: Tensor) -> dict[str, Any]:
    """The states of a parameter as they are in memory."""
    return dict(dict.items(optimizer.state[param]))


def codecs(optimizer: Any, param: Tensor) -> dict[str, str]:
    return {key: each.codec for key, each in stored(optimizer, param).items() if isinstance(each, CodedState)}


def assert_same(mine: Any, params: Any, theirs: Any, others: Any) -> None:
    """Parameters and states have the same bits."""
    for param, other in zip(params, others, strict=True):
        assert torch.equal(param, other)
        state, its = mine.state[param], theirs.state[other]
        assert list(state) == list(its)
        for key, value in state.items():
            assert value.dtype == its[key].dtype
            assert equal_bits(value.numpy(), its[key].numpy()), key


# --- the bits of NumPy's classes --------------------------------------------------------------------------------------

ALWAYS = ("bfloat16 states", "float8 states, stochastic", "master weights, float8 states")
WITH_STATES = [name for name, (_, options) in STORAGES.items() if "state_dtype" in options]
TABLE = [
    pytest.param(case, storage, marks=[] if case in MAIN and storage in ALWAYS else [pytest.mark.slow])
    for case in IN_TORCH
    for storage in WITH_STATES
]


@pytest.mark.parametrize(("case", "storage"), TABLE, ids=str)
@pytest.mark.usefixtures("threads_always")
def test_the_bits_of_numpys_classes(case: Case, storage: str, carry_in: CarryIn, rng: np.random.Generator) -> None:
    carry_in(case.optimizer, torch.float64)
    dtypes, options = STORAGES[storage]
    arrays, gradients = problem(rng, dtypes, 4)
    start = [array.copy() for array in arrays]
    expected = case.make(arrays, **options)
    for each in gradients:
        expected.step(each)
    for n_threads in (1, 2):
        params = [Parameter(as_tensor(array)) for array in start]
        optimizer = make(case, params, n_threads=n_threads, **options)
        for each in gradients:
            for param, gradient in zip(params, each, strict=True):
                param.grad_dtype = None
                param.grad = None if gradient is None else as_tensor(gradient)
            optimizer.step()
        for index, (param, array) in enumerate(zip(params, arrays, strict=True)):
            assert np.array_equal(as_array(param), bits(array)), f"parameter {index}"
            formats, names = expected._contents.storages[index].formats, set(optimizer.state[param])
            assert codecs(optimizer, param) == {key: formats[key] for key in formats if key in names}
            for key, value in optimizer.state[param].items():
                if key not in ("step", REST):
                    assert equal_bits(value.numpy(), np.asarray(expected.state[index][key])), f"{key} of {index}"


def as_tensor(array: np.ndarray) -> Tensor:
    array = array.copy()
    if array.dtype.name in HALVES:
        return torch.from_numpy(array.view(np.int16)).view(getattr(torch, array.dtype.name))
    return torch.from_numpy(array)


def as_array(tensor: Tensor) -> np.ndarray:
    kinds = {2: torch.int16, 4: torch.int32}
    found = tensor.detach().view(kinds[tensor.element_size()]).numpy()
    return found.view(f"u{tensor.element_size()}")


# --- which states are stored ------------------------------------------------------------------------------------------


def test_by_parameter_and_state() -> None:
    """Strings leave small parameters alone, dicts do not; functions decide by name and parameter."""
    model = torch.nn.ModuleDict({"embedding": torch.nn.Embedding(100, 80), "out": torch.nn.Linear(80, 4)})
    large, small, bias = model.parameters()
    seen = []

    def chosen(name: str, param: Tensor) -> Any:
        seen.append((name, param))
        return {"embedding.weight": "float8", "out.weight": {"exp_avg": "bfloat16"}}.get(name)

    expected: dict[Any, tuple[dict[str, str], ...]] = {
        "float8": (dict(zip(("exp_avg", "exp_avg_sq"), NAMES, strict=True)), {}, {}),
        "float32": ({}, {}, {}),
        chosen: (dict(zip(("exp_avg", "exp_avg_sq"), NAMES, strict=True)), {"exp_avg": "bfloat16"}, {}),
    }
    for wanted, formats in expected.items():
        optimizer = fastopt.torch.Adam(model.named_parameters(), state_dtype=wanted)
        train(optimizer, model.parameters(), range(1))
        assert tuple(codecs(optimizer, param) for param in (large, small, bias)) == formats
        assert optimizer.state_dtype == wanted
    assert [name for name, _ in seen] == [name for name, _ in model.named_parameters()]
    assert all(mine is param for (_, mine), param in zip(seen, model.parameters(), strict=True))


def test_groups_decide_for_themselves() -> None:
    first, second, third, fourth = parameters((LARGE,), (LARGE,), (LARGE,), (LARGE,))
    groups: list[dict[str, Any]] = [{"params": [first], "state_dtype": "bfloat16"}, {"params": [second]}]
    optimizer = fastopt.torch.SGD(
        [*groups, {"params": [third], "state_dtype": None}], momentum=0.5, state_dtype="float8"
    )
    optimizer.add_param_group({"params": [fourth], "state_dtype": {"momentum_buffer": "float32"}})
    train(optimizer, [first, second, third, fourth], range(2))
    found = [codecs(optimizer, each).get("momentum_buffer") for each in (first, second, third, fourth)]
    assert found == ["bfloat16", "float8", None, None]
    assert all("state_dtype" not in group for group in optimizer.param_groups)  # state dicts stay torch's
    assert groups[0]["state_dtype"] == "bfloat16"  # what the user gave can be used again


def test_a_group_that_is_refused_leaves_nothing() -> None:
    (param,), (other,) = parameters((LARGE,)), parameters((LARGE,), dtype=torch.float64)
    optimizer = fastopt.torch.Adam([param], state_dtype="float8")
    for bad in ({"params": [other]}, {"params": [Parameter(torch.ones(3))], "state_dtype": "float7"}):
        with pytest.raises((TypeError, ValueError), match="state_dtype"):
            optimizer.add_param_group(bad)
    assert len(optimizer.param_groups) == 1
    train(optimizer, [param], range(1))
    assert len(codecs(optimizer, param)) == 2


def test_functions_get_no_name_where_there_is_none() -> None:
    params = parameters()
    optimizer = fastopt.torch.Adam(params, state_dtype=lambda name, param: "bfloat16" if param.ndim > 1 else None)
    train(optimizer, params, range(1))
    assert len(codecs(optimizer, params[0])) == 2
    with pytest.raises(TypeError, match=r"The name was None: .* model\.named_parameters\(\)"):
        fastopt.torch.Adam(params, state_dtype=lambda name, _: "float8" if "weight" in name else None)
    model = torch.nn.Linear(80, 60)
    stepper = step_in_backward(model, fastopt.torch.Adam, state_dtype=lambda name, _: {"weight": "float8"}.get(name))
    assert len(codecs(stepper, model.weight)) == 2
    assert not codecs(stepper, model.bias)


def test_lazy_and_frozen_parameters() -> None:
    """They are judged when they have a gradient, as without the option."""
    model = torch.nn.Sequential(torch.nn.LazyLinear(70), torch.nn.Linear(70, 70).double())
    model[1].requires_grad_(False)
    optimizer = fastopt.torch.Adam(model.parameters(), state_dtype="float8")
    model[0](torch.ones(2, 90)).sum().backward()
    optimizer.step()
    assert len(codecs(optimizer, model[0].weight)) == 2
    model[1].weight.grad = torch.ones_like(model[1].weight)
    with pytest.raises(TypeError, match=r"state_dtype='float8' is for .*: params\[2\] is float64"):
        optimizer.step()


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "number": (8, TypeError, "state_dtype must be 'float32', 'bfloat16' or 'float8', a dict"),
    "unknown": ("float7", ValueError, "state_dtype must be one of 'float32', 'bfloat16', 'float8'"),
    "no state": ({"exp_avg_squared": "float8"}, ValueError, "'exp_avg_squared', which is no state of Adam"),
    "returns a number": (lambda *_: 8, TypeError, "state_dtype(None, parameter 0 of its group) must return 'float32'"),
    "returns a dtype": (
        lambda *_: "half",
        ValueError,
        "what state_dtype(None, parameter 0 of its group) returns must be",
    ),
}


@pytest.mark.parametrize(("wanted", "error", "message"), BAD.values(), ids=BAD)
def test_what_is_refused(wanted: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        fastopt.torch.Adam(parameters(), state_dtype=wanted)
    with pytest.raises(error, match=re.escape(message)):
        fastopt.torch.Adam([{"params": parameters(), "state_dtype": wanted}])


def test_float64_is_refused_as_by_numpys_classes() -> None:
    with pytest.raises(TypeError, match=r"fastopt.torch.Adam: state_dtype='float8' is for .*: params\[0\] is float64"):
        fastopt.torch.Adam(parameters(dtype=torch.float64), state_dtype="float8")


def test_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "kind", lambda tensor: "cuda")
    with pytest.raises(NotImplementedError, match=r"state_dtype is for parameters in main memory, params\[0\] is on"):
        fastopt.torch.Adam(parameters(), state_dtype="float8")


def test_parameters_of_any_size() -> None:
    """A dict is for all of them, down to none and one."""
    params = parameters((0, 3), (), (1,), (255,), (257,))
    optimizer = fastopt.torch.Adam(params, state_dtype={"exp_avg": "float8", "exp_avg_sq": "bfloat16"})
    train(optimizer, params, range(2))
    for param in params:
        assert codecs(optimizer, param) == {"exp_avg": "float8", "exp_avg_sq": "bfloat16"}
    others = [Parameter(param.detach().clone()) for param in params]
    other = fastopt.torch.Adam(others, state_dtype={"exp_avg": "float8", "exp_avg_sq": "bfloat16"})
    other.load_state_dict(through_file(optimizer.state_dict(encoded=True)))
    assert_same(optimizer, params, other, others)


# --- what a user sees -------------------------------------------------------------------------------------------------


@by_format
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_states_are_shown_in_float32(name: str, dtype: torch.dtype) -> None:
    params = parameters(dtype=dtype)
    optimizer = fastopt.torch.Adam(params, state_dtype=name)
    train(optimizer, params, range(2))
    saved, codes = optimizer.state_dict()["state"], optimizer.state_dict(encoded=True)["state"]
    assert isinstance(dict.get(optimizer.state[params[0]], "exp_avg"), CodedState)  # nothing of this has decoded them
    for index, param in enumerate(params):
        state = optimizer.state[param]
        assert list(state) == ["step", "exp_avg", "exp_avg_sq"] == list(dict(state)) == list(saved[index])
        for key in ("exp_avg", "exp_avg_sq"):
            assert type(state[key]) is Tensor
            assert state[key].dtype == saved[index][key].dtype == torch.float32
            assert state[key].shape == saved[index][key].shape == param.shape
            assert torch.equal(state[key], saved[index][key])
            assert state[key] is state.get(key) is dict(state.items())[key] is state[key]
            is_coded = index == 0
            assert isinstance(codes[index][key], dict) == is_coded
            if is_coded:
                assert torch.equal(torch.from_numpy(coded.from_saved(key, codes[index][key])), state[key])


def test_reading_states_changes_nothing_and_writing_does() -> None:
    runs = []
    for reads in (False, True):
        params = parameters()
        optimizer = fastopt.torch.Adam(params, state_dtype="float8", stochastic_rounding=True)
        train(optimizer, params, range(2))
        update = optimizer._stepper.update
        if reads:
            assert all(value is not None for state in optimizer.state.values() for value in state.values())
            copy.deepcopy(optimizer.state[params[0]])
        train(optimizer, params, range(2, 4))
        assert optimizer._stepper.update is update
        assert len(codecs(optimizer, params[0])) == 2
        runs.append((optimizer, params))
    assert_same(*runs[0], *runs[1])
    (optimizer, (param, _)) = runs[1]
    for write in (
        lambda state: state["exp_avg"].zero_(),
        lambda state: state["exp_avg"][3].data.zero_(),
        lambda state: state["exp_avg"].numpy().fill(0),
        lambda state: state.update(exp_avg=torch.zeros_like(param)),
    ):
        train(optimizer, [param], range(1))
        state = optimizer.state[param]
        assert state["exp_avg"][3].abs().max() > 0
        write(state)
        param.grad = torch.zeros_like(param)
        assert optimizer.state_dict()["state"][0]["exp_avg"][3].abs().max() == 0
        optimizer.step()
        assert optimizer.state[param]["exp_avg"][3].abs().max() == 0
        assert len(codecs(optimizer, param)) == 1  # the other one was just read


def test_states_that_nobody_keeps_are_encoded_again() -> None:
    params = parameters((LARGE,), (LARGE,), (LARGE,))
    optimizer = fastopt.torch.SGD(params, momentum=0.5, state_dtype="float8")
    train(optimizer, params, range(2))
    for state in optimizer.state.values():
        for value in state.values():
            assert float(value.norm()) > 0
    # A loop has the last one while it reads the next.
    assert [len(codecs(optimizer, param)) for param in params] == [1, 0, 0]
    del value
    kept = [state["momentum_buffer"][1:] for state in optimizer.state.values()]
    assert [len(codecs(optimizer, param)) for param in params] == [0, 0, 0]
    for param, each in zip(params, kept, strict=True):
        assert torch.equal(optimizer.state[param]["momentum_buffer"][1:], each)


def test_states_behave_like_dicts() -> None:
    (param,) = parameters((LARGE,))
    optimizer = fastopt.torch.SGD([param], momentum=0.5, state_dtype="float8")
    train(optimizer, [param], range(1))
    state = optimizer.state[param]
    expected = state["momentum_buffer"].clone()
    for read in (
        lambda state: state.copy()["momentum_buffer"],
        lambda state: {**state}["momentum_buffer"],
        lambda state: copy.copy(state)["momentum_buffer"],
        lambda state: copy.deepcopy(state)["momentum_buffer"],
        lambda state: pickle.loads(pickle.dumps(state))["momentum_buffer"],
        lambda state: state.setdefault("momentum_buffer"),
        lambda state: next(iter(state.values())),
        lambda state: next(iter(state.items()))[1],
        lambda state: copy.deepcopy(state).pop("momentum_buffer"),
        lambda state: copy.deepcopy(state).popitem()[1],
    ):
        state.hide()
        assert torch.equal(read(state), expected)
    assert repr(state) == repr({"momentum_buffer": expected})
    assert state.get("none") is None
    assert state.pop("none", 3) == 3
    state["mine"] = 7  # what others keep there
    train(optimizer, [param], range(1, 2))
    assert optimizer.state[param]["mine"] == 7
    state.clear()
    train(optimizer, [param], range(2, 3))
    assert list(optimizer.state[param]) == ["momentum_buffer"]


def test_parameters_of_any_layout(rng: np.random.Generator) -> None:
    """Codes are in the memory order of the parameter; state dicts say which, and load into any other."""
    layouts = {
        "contiguous": lambda: torch.empty(8, 40, 4, 5),
        "channels last": lambda: torch.empty(8, 40, 4, 5).contiguous(memory_format=torch.channels_last),
        "transposed": lambda: torch.empty(40, 8, 4, 5).transpose(0, 1),
        "gapped": lambda: torch.empty(8, 80, 4, 5)[:, ::2],
    }
    values = torch.randn(8, 40, 4, 5, generator=torch.Generator().manual_seed(3))

    def made(layout: str) -> tuple[Parameter, Any]:
        param = Parameter(layouts[layout]().copy_(values))
        return param, fastopt.torch.AdamW([param], state_dtype="float8")

    for layout in layouts:
        param, optimizer = made(layout)
        train(optimizer, [param], range(3))
        for name in ("exp_avg", "exp_avg_sq"):
            assert optimizer.state[param][name].stride() == torch.empty_like(param).stride()
        for other_layout in layouts:
            for encoded in (False, True):
                other, loaded = made(other_layout)
                loaded.load_state_dict(optimizer.state_dict(encoded=encoded))
                mine, theirs = optimizer.state[param]["exp_avg"], loaded.state[other]["exp_avg"]
                if mine.stride() == theirs.stride():
                    assert torch.equal(mine, theirs)
                torch.testing.assert_close(mine, theirs, rtol=2.0**-4, atol=2.0**-14 * float(mine.abs().max()))
        array = np.ones(values.shape, np.float32)
        numpys = fastopt.AdamW(array, state_dtype="float8")
        numpys.load_state_dict(optimizer.state_dict(encoded=True))
        shown = optimizer.state[param]["exp_avg"].numpy()
        np.testing.assert_allclose(numpys.state[0]["exp_avg"], shown, rtol=2.0**-4, atol=2.0**-14 * abs(shown).max())
        train(optimizer, [param], range(3, 4))
        param.data = param.data.clone(memory_format=torch.contiguous_format)  # the states follow
        expected = optimizer.state[param]["exp_avg"] * 0.9
        param.grad = torch.zeros_like(param)
        optimizer.step()
        shown = optimizer.state[param]["exp_avg"]
        assert shown.is_contiguous()
        torch.testing.assert_close(shown, expected, rtol=2.0**-3, atol=2.0**-13 * float(expected.abs().max()))


# --- memory -----------------------------------------------------------------------------------------------------------

SIZE = 1 << 23
PEAK = f"""
import sys, torch, fastopt.torch
def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))
def step(name, size, **options):
    param = torch.nn.Parameter(torch.ones(size))
    param.grad = torch.ones(size)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins anew
    before = status("VmRSS")
    optimizer = getattr(fastopt.torch, name)([param], state_dtype="float8", **options)
    optimizer.step()
    return (status("VmHWM") - before) / size
for name, options in (("Adam", {{}}), ("Adagrad", {{"initial_accumulator_value": 0.5}})):
    step(name, 5000, **options)
    print(step(name, {SIZE}, **options))
"""


def test_bytes_of_states() -> None:
    (param,) = parameters((256 * 100,), dtype=torch.bfloat16)
    optimizer = fastopt.torch.Adam([param], state_dtype="float8")
    train(optimizer, [param], range(2))
    codes = [state.codes for state in stored(optimizer, param).values() if isinstance(state, CodedState)]
    assert [each.untyped_storage().nbytes() for each in codes] == [256 * 100 + 100] * 2


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_states_are_never_larger_than_their_codes() -> None:
    """In the process's peak memory: construction and the first step, also where states do not begin with 0.

    It takes four seconds: another process imports torch.
    """
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    adam, adagrad = map(float, done.stdout.split())
    slack = (4 << 20) / SIZE
    # The lower bounds say that it measures anything; some memory may have been there before.
    assert 1.5 < adam < 2.1 + slack
    assert 0.5 < adagrad < 1.05 + slack


# --- saving and loading -----------------------------------------------------------------------------------------------


def through_file(state_dict: Any) -> Any:
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@by_case
@pytest.mark.parametrize("storage", ["float32", "bfloat16 masters"])
def test_training_goes_on_with_the_same_bits(case: Case, storage: str) -> None:
    options: dict[str, Any] = {"state_dtype": "float8", "stochastic_rounding": True, "seed": 4}
    dtype = torch.float32
    if storage == "bfloat16 masters":
        dtype, options["master_weights"] = torch.bfloat16, True
    params = parameters(dtype=dtype)
    optimizer = make(case, params, **options)
    train(optimizer, params, range(2))
    copies = []
    for encoded in (False, True):
        others = [Parameter(param.detach().clone()) for param in params]
        other = make(case, others, **{**options, "seed": 0})
        other.load_state_dict(through_file(optimizer.state_dict(encoded=encoded)))
        copies.append((other, others))
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        copies.append((copied, copied.param_groups[0]["params"]))
    train(optimizer, params, range(2, 4))
    for other, others in copies:
        train(other, others, range(2, 4))
        assert codecs(other, others[0]) == codecs(optimizer, params[0])
    for other, others in copies:
        assert_same(other, others, optimizer, params)


@pytest.mark.parametrize("before", [None, *FORMATS])
@pytest.mark.parametrize("after", [None, *FORMATS])
@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_state_dicts_load_into_any_format(before: Any, after: Any, encoded: bool, dtype: torch.dtype) -> None:
    params = parameters(dtype=dtype)
    optimizer = fastopt.torch.AdamW(params, state_dtype=before)
    train(optimizer, params, range(3))
    others = [Parameter(param.detach().clone()) for param in params]
    other = fastopt.torch.AdamW(others, state_dtype=after)
    saved = optimizer.state_dict(encoded=encoded)
    other.load_state_dict(saved)
    for mine, theirs in zip(params, others, strict=True):
        assert int(other.state[theirs]["step"]) == 3
        for name, codec in zip(("exp_avg", "exp_avg_sq"), NAMES, strict=True):
            expected = optimizer.state[mine][name].float()
            if after is not None and mine.ndim > 1:
                kind = codec if after == "float8" else after
                array = coded.decoded(kind, coded.encoded(kind, expected.numpy()), expected.shape)
                expected = torch.from_numpy(array)
            assert torch.equal(other.state[theirs][name].float(), expected)
    if encoded and before is not None:  # they share no memory
        before_step = optimizer.state[params[0]]["exp_avg"].clone()
        train(other, others, range(3, 4))
        assert torch.equal(optimizer.state[params[0]]["exp_avg"], before_step)


@by_case
def test_torch_and_numpy_load_state_dicts_and_back(case: Case) -> None:
    params = parameters()
    optimizer = make(case, params, state_dtype="float8")
    train(optimizer, params, range(2))
    theirs = getattr(TORCH, case.optimizer)(params, **torch_options(case.options, case.optimizer))
    theirs.load_state_dict(optimizer.state_dict())
    assert_same(theirs, params, optimizer, params)
    back = make(case, params, state_dtype="float8")
    back.load_state_dict(theirs.state_dict())
    assert_same(back, params, optimizer, params)
    arrays = [param.detach().numpy() for param in params]
    for encoded in (False, True):
        numpys = case.make(arrays, state_dtype="float8")
        numpys.load_state_dict(optimizer.state_dict(encoded=encoded))
        for index, param in enumerate(params):
            for key in case.spec.states({**case.spec.defaults, **case.options}):
                assert equal_bits(numpys.state[index][key], optimizer.state[param][key].numpy())
        back = make(case, params, state_dtype="float8")
        back.load_state_dict(numpys.state_dict(encoded=encoded))
        for param in params:
            for key in case.spec.states({**case.spec.defaults, **case.options}):
                assert equal_bits(back.state[param][key].numpy(), optimizer.state[param][key].numpy())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codec": "float7"}, "by the codec 'float7', which this version does not know"),
        ({"shape": [2, LARGE // 2]}, f"must be of its parameter's shape ({LARGE},), got (2, {LARGE // 2})"),
        ({"codes": torch.zeros(LARGE, dtype=torch.int16)}, "must have codes of dtype uint8"),
        ({"codes": torch.zeros(3, dtype=torch.uint8)}, "must have codes of dtype uint8 and shape (5140,)"),
        ({"order": [1]}, "must have an order of its 1 dimensions, got [1]"),
    ],
    ids=str,
)
def test_damaged_codes_are_refused(change: dict[str, Any], message: str) -> None:
    (param,) = parameters((LARGE,))
    optimizer = fastopt.torch.SGD([param], momentum=0.5, state_dtype="float8")
    train(optimizer, [param], range(1))
    saved = optimizer.state_dict(encoded=True)
    saved["state"][0]["momentum_buffer"] |= change
    before = optimizer.state[param]["momentum_buffer"].clone()
    with pytest.raises(ValueError, match=re.escape(message)):
        optimizer.load_state_dict(saved)
    assert torch.equal(optimizer.state[param]["momentum_buffer"], before)


def test_hooks_see_state_dicts_as_users_do() -> None:
    params = parameters()
    optimizer = fastopt.torch.Adam(params, state_dtype="float8")
    train(optimizer, params, range(1))
    seen = []
    optimizer.register_state_dict_post_hook(lambda _, saved: seen.append(type(saved["state"][0]["exp_avg"])))
    optimizer.register_load_state_dict_post_hook(lambda each: seen.append(type(each.state[params[0]]["exp_avg"])))
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.load_state_dict(optimizer.state_dict(encoded=True))
    assert seen == [Tensor, Tensor, dict, Tensor]


def test_files(tmp_path: Any) -> None:
    """They have float32, and going on from them gives the same bits; into states that are there, too."""
    for fresh in (True, False):
        params = parameters()
        optimizer = fastopt.torch.Adam(params, state_dtype="float8", stochastic_rounding=True)
        train(optimizer, params, range(2))
        fastopt.save(tmp_path / "run", optimizer)
        others = parameters()
        other = fastopt.torch.Adam(others, state_dtype="float8", stochastic_rounding=True)
        if not fresh:
            train(other, others, range(5, 6))
        fastopt.load(tmp_path / "run", other)
        for each, own in ((optimizer, params), (other, others)):
            train(each, own, range(2, 4))
        assert_same(optimizer, params, other, others)


# --- with everything else ---------------------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "max_grad_norm": {"max_grad_norm": 0.5},
    "clip_norm": {"clip_norm": 0.5},
    "nonfinite": {"nonfinite": "skip"},
    "zero_grads": {"zero_grads": True},
    "flatten": {"flatten": True},
}


@by_case
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("stochastic", [False, True], ids=["nearest", "stochastic"])
def test_options_give_the_bits_of_numpys_classes(case: Case, option: str, stochastic: bool, carry_in: CarryIn) -> None:
    carry_in(case.optimizer, torch.float64)
    params = parameters((70, 80), (37,), (LARGE,))
    arrays = [param.detach().numpy().copy() for param in params]
    options = {"state_dtype": "float8", "stochastic_rounding": stochastic, **OPTIONS[option]}
    optimizer = make(case, params, **options)
    options.pop("flatten", None)
    expected = case.make(arrays, **options)
    for step in range(4):
        set_gradients(params, step)
        if step == 2 and option == "nonfinite":
            params[0].grad[0] = torch.inf  # type: ignore[index]
        gradients = [param.grad.numpy().copy() for param in params]  # type: ignore[union-attr]
        expected.step(gradients)
        optimizer.step()
    for param, array in zip(params, arrays, strict=True):
        assert equal_bits(param.detach().numpy(), array)


def test_flattened_states() -> None:
    """Codes stay apart from the buffers of what is float32; parameters and gradients are in theirs."""
    params = parameters()
    optimizer = fastopt.torch.Adam(params, state_dtype={"exp_avg": "float8"}, flatten=True)
    assert [codecs(optimizer, param) for param in params] == [{"exp_avg": "float8"}] * 2  # from the start
    train(optimizer, params, range(2))
    (buffer,) = optimizer._host.buffers
    assert set(buffer.states) == {"exp_avg_sq"}
    assert params[0].untyped_storage().data_ptr() == params[1].untyped_storage().data_ptr()


def test_stepping_in_the_backward_pass() -> None:
    runs = []
    for in_backward in (False, True):
        torch.manual_seed(3)
        model = torch.nn.Linear(80, 60)
        optimizer = fastopt.torch.Adam(model.parameters(), state_dtype="float8")
        if in_backward:
            optimizer.step_in_backward()
            assert len(codecs(optimizer, model.weight)) == 2
        for step in range(3):
            model(torch.ones(2, 80) * (step + 1)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        runs.append((optimizer, list(model.parameters())))
    assert_same(*runs[0], *runs[1])


def test_centered_averages_stay_exact() -> None:
    """Also where `centered` is turned on later: the average goes on in float32."""
    (param,) = parameters((LARGE,))
    optimizer = fastopt.torch.RMSprop([param], momentum=0.5, state_dtype="float8")
    train(optimizer, [param], range(2))
    assert codecs(optimizer, param) == {"square_avg": "unsigned_float8", "momentum_buffer": "float8"}
    optimizer.param_groups[0]["centered"] = True
    train(optimizer, [param], range(2, 4))
    assert codecs(optimizer, param) == {"momentum_buffer": "float8"}
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        (own,) = copied.param_groups[0]["params"]
        train(copied, [own], range(4, 5))
        assert codecs(copied, own) == {"momentum_buffer": "float8"}
    other = fastopt.torch.RMSprop([param], momentum=0.5, state_dtype="float8")
    other.load_state_dict(optimizer.state_dict())
    assert_same(optimizer, [param], other, [param])


def test_initial_values_are_rounded() -> None:
    for value in (0.3, 0.0):
        (param,) = parameters((LARGE,))
        optimizer = fastopt.torch.Adagrad([param], initial_accumulator_value=value, state_dtype="float8")
        expected = coded.decoded("unsigned_float8", coded.filled("unsigned_float8", value, (LARGE,)), (LARGE,))
        assert equal_bits(optimizer.state[param]["sum"].numpy(), expected)
        assert optimizer.state[param]["step"] == 0


def test_momentum_that_is_turned_on_later() -> None:
    (param,) = parameters((LARGE,))
    optimizer = fastopt.torch.SGD([param], dampening=0.5, state_dtype="float8")
    train(optimizer, [param], range(1))
    optimizer.param_groups[0]["momentum"] = 0.9
    train(optimizer, [param], range(1, 2))
    gradient = param.grad
    assert gradient is not None
    torch.testing.assert_close(optimizer.state[param]["momentum_buffer"], gradient, rtol=2.0**-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_other_backends(backend: str) -> None:
    runs = []
    for each in ("cython", backend):
        params = parameters()
        optimizer = fastopt.torch.AdamW(params, state_dtype="float8", stochastic_rounding=True, backend=each)
        train(optimizer, params, range(3))
        runs.append((optimizer, params))
    assert_same(*runs[0], *runs[1])


def test_a_step_that_raises_leaves_no_states() -> None:
    params = parameters()
    optimizer = fastopt.torch.Adam(params, state_dtype="float8", nonfinite="raise")
    set_gradients(params, 0)
    params[1].grad[0] = torch.nan  # type: ignore[index]
    with pytest.raises(FloatingPointError):
        optimizer.step()
    assert not optimizer.state


def test_own_rules() -> None:
    @fastopt.rule(state=("first", "second"), hyper={"lr": 0.1}, unsigned=("second",))
    def Mine(param, grad, first, second, lr):  # type: ignore[no-untyped-def]
        first = first + grad
        second = second + grad * grad
        param = param - lr * first
        return param, first, second

    (param,) = parameters((LARGE,))
    optimizer = Mine.torch([param], state_dtype="float8")
    train(optimizer, [param], range(2))
    assert codecs(optimizer, param) == {"first": "float8", "second": "unsigned_float8"}


def described(optimizer: Any) -> str:
    file = io.StringIO()
    optimizer.describe(file)
    return file.getvalue()


def test_describe_says_bytes_and_rounding() -> None:
    (half,), (single,), (double,) = (
        parameters((256 * 20,), dtype=dtype) for dtype in (torch.bfloat16, torch.float32, torch.float64)
    )
    groups = [{"params": [half]}, {"params": [single], "state_dtype": "bfloat16"}]
    text = described(fastopt.torch.Adam(groups, state_dtype="float8", stochastic_rounding=True, seed=5))
    assert "Stored, and rounded at random (seed 5) once a step:\n    1 parameter, 4.008 bytes an element: " in text
    assert "param bfloat16, exp_avg float8, exp_avg_sq unsigned float8\n" in text
    assert "8 bytes an element: param float32, exp_avg bfloat16, exp_avg_sq bfloat16\n" in text
    text = described(fastopt.torch.Adam([half, single, double]))
    assert "6 bytes an element: param bfloat16, exp_avg bfloat16, exp_avg_sq bfloat16\n" in text
    assert "24 bytes an element: param float64, exp_avg float64, exp_avg_sq float64\n" in text
    text = described(fastopt.torch.Adam([half], master_weights=True))
    assert "12 bytes an element: param bfloat16, exp_avg float32, exp_avg_sq float32, param_rest the other" in text
    assert "Stored" not in described(fastopt.torch.Adam([single, double]))
    assert "grad is scaled so that it has a norm" in described(fastopt.torch.Adam([single], clip_norm=1.0))


def test_what_tuning_puts_back() -> None:
    runs = []
    for tries in (False, True):
        params = parameters()
        optimizer = fastopt.torch.Adam(params, state_dtype="float8", stochastic_rounding=True)
        train(optimizer, params, range(2))
        if tries:
            put_back = TorchView(optimizer).save()
            train(optimizer, params, range(7, 9))
            put_back()
        train(optimizer, params, range(2, 4))
        runs.append((optimizer, params))
    assert_same(*runs[0], *runs[1])


def test_the_guard_looks_at_numbers() -> None:
    params = parameters()
    optimizer = fastopt.torch.Adam(params, state_dtype="float8")
    train(optimizer, params, range(2))
    target = TorchTarget(optimizer)
    assert target.nonfinite_values() is None
    optimizer.state[params[0]]["exp_avg_sq"][3, 3] = torch.inf
    assert target.nonfinite_values() == 0
