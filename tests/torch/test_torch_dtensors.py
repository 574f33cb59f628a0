"""DTensor parameters: a step is one of their shards, with the same bits as of plain tensors."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import Case, equal_bits, own_rate
from custom_momentum import Anchored, Momentum
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.nn import Parameter
from torch_cases import AFTER, BEFORE, INFOS, make, parameters, train
from torch_peers import IN_TORCH, TORCH
from torch_shards import assert_same_shards, local, mesh_of, set_gradients, sharded, train_shards, whole, world

import fastopt.torch
from fastopt.definitions.specs import SPECS

by_backend = pytest.mark.parametrize("backend", ["cython", "numba", "reference"])


@pytest.fixture(autouse=True, scope="module")
def _world() -> Iterator[None]:
    with world(3, 1):
        yield


def both(
    name: str = "Adam", dtype: torch.dtype = torch.float32, without: str = "", **options: Any
) -> tuple[Any, Any, Any, Any]:
    """An optimizer of DTensors, its parameters, one of plain tensors, and its parameters."""
    plain = {key: param for key, param in parameters(dtype).items() if key != without}
    params = sharded(plain, mesh_of(3))
    cls = getattr(fastopt.torch, name)
    return cls(params.values(), **options), params, cls(plain.values(), **options), plain


# --- the same bits as plain tensors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [case for case in IN_TORCH if not case.has_sums], ids=str)
def test_shards_have_the_bits_of_plain_tensors(case: Case) -> None:
    plain = parameters(torch.float32)
    params = sharded(plain, mesh_of(3), "matrix", "empty")
    mine, other = make(fastopt.torch, case, params), make(fastopt.torch, case, plain)
    for steps in (BEFORE, AFTER):
        train_shards(mine, params, steps)
        train(other, plain, steps)
        assert_same_shards(mine, params, other, plain)


@by_backend
@pytest.mark.parametrize("sizes", [(3,), (3, 1), (1, 3)], ids=str)
def test_backends_and_meshes(backend: str, sizes: tuple[int, ...]) -> None:
    plain = parameters(torch.float64)
    params = sharded(plain, mesh_of(*sizes), "vector")
    mine, other = (fastopt.torch.NAdam(each.values(), backend=backend) for each in (params, plain))
    train_shards(mine, params, BEFORE)
    train(other, plain, BEFORE)
    assert_same_shards(mine, params, other, plain)


@pytest.mark.parametrize("backend", ["numba", "reference"])
@pytest.mark.parametrize(("rule", "options"), [(Momentum, {"nesterov": True}), (Anchored, {})])
def test_custom_rules(backend: str, rule: Any, options: dict[str, Any]) -> None:
    plain = parameters(torch.float32)
    params = sharded(plain, mesh_of(3))
    mine, other = (rule.torch(each.values(), backend=backend, **options) for each in (params, plain))
    for steps in (BEFORE, AFTER):
        train_shards(mine, params, steps)
        train(other, plain, steps)
        assert_same_shards(mine, params, other, plain)


@pytest.mark.parametrize("name", INFOS)
def test_steps_find_nothing_to_do_before_the_native_call(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is all that makes them fast: gradients are new, as from every backward pass, and no state is held."""
    param = Parameter(whole(torch.ones(5), mesh_of(3)))
    optimizer = getattr(fastopt.torch, name)([param])
    for _ in range(2):
        param.grad = whole(torch.ones(5), mesh_of(3))
        optimizer.step()
    assert optimizer.states_seen == 0
    monkeypatch.setattr(optimizer._stepper, "settle", None)
    for _ in range(2):
        # A gradient with the parameter's own spec, as of fully_shard.
        param.grad = DTensor(torch.ones(5), param._spec, requires_grad=False)  # type: ignore[attr-defined, call-arg]
        before = local(param).clone()
        optimizer.step()
        assert (local(param) != before).all()


@pytest.mark.parametrize("name", [name for name in INFOS if SPECS[name].in_torch and name != "Rprop"])
def test_torchs_class_agrees(name: str) -> None:
    """On the same DTensors, which torch's Rprop cannot step. The largest difference that was seen is 2.4e-7."""
    params = {"a": torch.randn(4, 3), "b": torch.randn(2)}
    mine, theirs = ({key: Parameter(whole(each.clone(), mesh_of(3))) for key, each in params.items()} for _ in "12")
    optimizer = getattr(fastopt.torch, name)(mine.values(), lr=0.01)
    other = getattr(TORCH, name)(theirs.values(), lr=0.01)
    for step in range(3):
        for each in (mine, theirs):
            set_gradients(each, step)
        optimizer.step()
        other.step()
    for key in params:
        torch.testing.assert_close(local(mine[key]), local(theirs[key]), rtol=0, atol=1e-6)
    saved = copy.deepcopy((optimizer.state_dict(), other.state_dict()))
    other.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    for step in range(3, 5):
        for each in (mine, theirs):
            set_gradients(each, step)
        optimizer.step()
        other.step()
    for key in params:
        torch.testing.assert_close(local(mine[key]), local(theirs[key]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"state_dtype": "bfloat16"},
        {"state_dtype": {"exp_avg": "float8", "exp_avg_sq": "bfloat16"}},
        {"clip_value": 0.5},
        {"zero_grads": True},
        {"n_threads": 1, "flush_denormals": False},
    ],
    ids=str,
)
def test_options(options: dict[str, Any]) -> None:
    without = "transposed" if options.get("zero_grads") else ""  # whose gradients have other strides
    mine, params, other, plain = both(without=without, **options)
    for steps in (BEFORE, AFTER):
        train_shards(mine, params, steps)
        train(other, plain, steps)
        assert_same_shards(mine, params, other, plain)
    gradients = [param.grad for param in params.values() if param.grad is not None]
    assert all(isinstance(each, DTensor) for each in gradients)
    assert any(local(each).any() for each in gradients) != bool(options.get("zero_grads"))


@pytest.mark.parametrize("options", [{}, {"master_weights": True}], ids=str)
def test_halves(options: dict[str, Any]) -> None:
    mine, params, other, plain = both("AdamW", torch.bfloat16, **options)
    for steps in (BEFORE, AFTER):
        train_shards(mine, params, steps)
        train(other, plain, steps)
        assert_same_shards(mine, params, other, plain)
    if options.get("master_weights"):
        for copied, expected in zip(mine.master_params(), other.master_params(), strict=True):
            assert isinstance(copied, DTensor)
            assert copied.dtype == torch.float32
            assert equal_bits(local(copied).numpy(), expected.numpy())


@by_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["rows", "transposed", "channels last", "row"])
def test_random_bits_are_those_of_the_whole(backend: str, dtype: torch.dtype, layout: str) -> None:
    """So that training goes on with the same bits in any number of processes."""
    mesh, placements = mesh_of(3), [Shard(1 if layout == "transposed" else 0)]
    values = torch.randn(1 if layout == "row" else 1000, 7, 3, 2).to(dtype)
    if layout == "transposed":
        values = values.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "channels last":
        values = values.contiguous(memory_format=torch.channels_last)

    def distributed(tensor: torch.Tensor) -> DTensor:
        shard = tensor.chunk(3, placements[0].dim)
        own = shard[1] if len(shard) > 1 else tensor[:0]
        return DTensor.from_local(own, mesh, placements, shape=tensor.shape, stride=tensor.stride())

    plain, param = Parameter(values.clone()), Parameter(distributed(values.clone()))
    options: dict[str, Any] = {"state_dtype": {"exp_avg": "bfloat16"}, "stochastic_rounding": True, "lr": 0.01}
    mine, other = (fastopt.torch.Adam([each], backend=backend, **options) for each in (param, plain))
    for step in range(3):
        torch.manual_seed(step)
        plain.grad = torch.randn(values.shape).to(dtype).as_strided(values.shape, values.stride())
        param.grad = distributed(plain.grad)
        mine.step()
        other.step()
    assert torch.equal(local(param), local(distributed(plain.detach())))
    for key, value in other.state[plain].items():
        if key != "step":
            assert torch.equal(local(mine.state[param][key]), local(distributed(value)))


def test_whether_states_are_compressed_depends_on_the_whole() -> None:
    """Else a checkpoint would not be that of other numbers of processes."""
    mesh = mesh_of(3)
    large = Parameter(whole(torch.ones(2000), mesh))  # of 5,998 in all
    small = Parameter(whole(torch.ones(1000), mesh))
    optimizer = fastopt.torch.Adam([large, small], state_dtype="float8")
    for param in (large, small):
        param.grad = whole(torch.ones(len(local(param))), mesh)
    optimizer.step()
    saved = optimizer.state_dict(encoded=True)["state"]
    assert saved[0]["exp_avg"]["codec"] == "float8"
    assert isinstance(saved[1]["exp_avg"], DTensor)


# --- what changes between steps --------------------------------------------------------------------------------------


@by_backend
def test_states_and_shards_that_are_replaced(backend: str) -> None:
    mine, params, other, plain = both(backend=backend)
    train_shards(mine, params, BEFORE)
    train(other, plain, BEFORE)
    held = mine.state[params["vector"]]["exp_avg"]
    other.state[plain["vector"]]["exp_avg"] = torch.ones(1037)
    held._local_tensor = torch.ones(1037)
    with torch.no_grad():
        plain["matrix"].fill_(3.0)
    params["matrix"]._local_tensor = torch.full((5, 7), 3.0)
    plain["convolution"].data = plain["convolution"].data.contiguous()
    local(params["convolution"])  # which must not keep what is there now
    params["convolution"]._local_tensor = params["convolution"]._local_tensor.contiguous()
    train_shards(mine, params, AFTER)
    train(other, plain, AFTER)
    assert_same_shards(mine, params, other, plain)


def test_a_state_that_is_held_is_looked_at() -> None:
    mine, params, *_ = both()
    train_shards(mine, params, BEFORE)
    assert mine.states_seen == 0
    for held in (mine.state[params["vector"]]["exp_avg"], mine.state[params["vector"]]["exp_avg"]._local_tensor):
        mine.step()
        assert mine.states_seen == 1, type(held)
    del held
    mine.state  # noqa: B018  # reading it lets the next step look again
    mine.step()
    assert mine.states_seen == 0


def test_late_groups_and_missing_gradients() -> None:
    plain = parameters(torch.float32)
    params = sharded(plain, mesh_of(3))
    first = ("vector", "matrix", "scalar")
    mine, other = (fastopt.torch.AdamW([each[name] for name in first]) for each in (params, plain))
    for step in (0, 1):
        set_gradients(params, step)
        for name, param in plain.items():
            param.grad = None if params[name].grad is None else local(params[name].grad)
        mine.step()
        other.step()
        for optimizer in (mine, other):
            optimizer.zero_grad()
            optimizer.step()
    for optimizer, each in ((mine, params), (other, plain)):
        rest = [each[name] for name in each if name not in first]
        optimizer.add_param_group({"params": rest, **own_rate(type(optimizer).__name__, 0.1)})
    train_shards(mine, params, AFTER)
    train(other, plain, AFTER)
    assert_same_shards(mine, params, other, plain)


@by_backend
def test_version_counters(backend: str) -> None:
    """Of the DTensor and of its shard: autograd notices a change of either."""
    mesh = mesh_of(3)
    params = [Parameter(whole(torch.ones(2), mesh)) for _ in range(2)]
    optimizer = fastopt.torch.Adam(params, backend=backend, zero_grads=True)
    params[0].grad = gradient = whole(torch.ones(2), mesh)
    through_whole, through_shard = params[0].square(), params[0].to_local().square()
    before = [(each._version, each._local_tensor._version) for each in (*params, gradient)]  # type: ignore[attr-defined]
    optimizer.step()
    after = [(each._version, each._local_tensor._version) for each in (*params, gradient)]  # type: ignore[attr-defined]
    assert [[b - a for a, b in zip(*pair, strict=True)] for pair in zip(before, after, strict=True)] == [
        [1, 1],
        [0, 0],
        [1, 1],
    ]
    for loss in (through_whole.to_local().sum(), through_shard.sum()):
        with pytest.raises(RuntimeError, match=r"modified (by an )?inplace"):
            loss.backward()


def test_a_gradient_that_is_still_under_way() -> None:
    """It is waited for."""
    functional = torch.distributed._functional_collectives
    mesh = mesh_of(3)
    param = Parameter(whole(torch.ones(2), mesh))
    optimizer = fastopt.torch.SGD([param], lr=1.0)
    for step in range(3):
        param.grad = whole(torch.ones(2), mesh)
        param.grad._local_tensor = functional.AsyncCollectiveTensor(torch.full((2,), 0.25))  # type: ignore[attr-defined]
        optimizer.step()
        assert local(param).tolist() == [0.75 - 0.25 * step] * 2


# --- copies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in INFOS if not SPECS[name].has_sums])
def test_copies_and_state_dicts_go_on_with_the_same_bits(name: str) -> None:
    mine, params, other, plain = both(name, without="gapped")  # of which torch copies no DTensor
    train_shards(mine, params, BEFORE)
    train(other, plain, BEFORE)
    loaded = getattr(fastopt.torch, name)(params.values())
    loaded.load_state_dict(mine.state_dict())
    copies = [(loaded, params), copy.deepcopy((mine, params)), pickle.loads(pickle.dumps((mine, params)))]
    train(other, plain, AFTER)
    for optimizer, own in reversed(copies):
        train_shards(optimizer, own, AFTER)
        assert_same_shards(optimizer, own, other, plain)


@pytest.mark.parametrize("encoded", [False, True])
def test_states_in_fewer_bits_are_saved_and_copied(encoded: bool) -> None:
    options: dict[str, Any] = {"state_dtype": {"exp_avg": "float8", "exp_avg_sq": "bfloat16"}}
    mine, params, other, plain = both(without="gapped", **options)
    train_shards(mine, params, BEFORE)
    train(other, plain, BEFORE)
    assert isinstance(mine.state[params["vector"]]["exp_avg"], DTensor)
    loaded = fastopt.torch.Adam(params.values(), **options)
    loaded.load_state_dict(mine.state_dict(encoded=encoded))
    copies = [(loaded, params), copy.deepcopy((mine, params)), pickle.loads(pickle.dumps((mine, params)))]
    train(other, plain, AFTER)
    for optimizer, own in reversed(copies):
        train_shards(optimizer, own, AFTER)
        assert_same_shards(optimizer, own, other, plain)


# --- errors ----------------------------------------------------------------------------------------------------------


def _elsewhere() -> Any:
    return whole(torch.ones(2), mesh_of(1, 3))


@by_backend
@pytest.mark.parametrize(
    ("gradient", "error", "message"),
    [
        (lambda: whole(torch.ones(4), mesh_of(3), [Partial()]), ValueError, "and .Partial.sum.,.; .*redistribute"),
        (lambda: whole(torch.ones(4), mesh_of(3), [Replicate()]), ValueError, "and .Replicate.*redistribute"),
        (_elsewhere, ValueError, "must be on its parameter's mesh"),
        (lambda: torch.ones(4), TypeError, "must be a DTensor with its parameter's mesh and placements"),
    ],
)
def test_gradients_that_lie_elsewhere(backend: str, gradient: Any, error: type[Exception], message: str) -> None:
    named = {"first": Parameter(torch.ones(3)), "second": Parameter(whole(torch.ones(2), mesh_of(3)))}
    optimizer = fastopt.torch.Adam(named.items(), backend=backend)
    for steps in range(2):  # as the first gradient, and after others
        named["first"].grad = torch.ones(3)
        named["second"].grad = gradient()
        before = [named["first"].detach().clone(), local(named["second"]).clone()]
        with pytest.raises(error, match=f"gradient of parameter 'second'.*({message})"):
            optimizer.step()
        assert torch.equal(named["first"].detach(), before[0])
        assert torch.equal(local(named["second"]), before[1])
        assert [each["step"] for each in optimizer.state.values()] == [steps] * 2 * bool(steps)
        named["second"].grad = whole(torch.ones(2), mesh_of(3))
        optimizer.step()


@by_backend
def test_a_gradient_that_processes_have_yet_to_add_up(backend: str) -> None:
    """Of a parameter that all processes have, as SequenceParallel leaves it."""
    param = Parameter(whole(torch.ones(2), mesh_of(3), [Replicate()]))
    optimizer = fastopt.torch.Adam([param], backend=backend)
    for kind in (Partial(), Replicate(), Partial()):
        param.grad = whole(torch.ones(2), mesh_of(3), [kind])
        before = local(param).clone()
        if kind == Replicate():
            optimizer.step()
            assert (local(param) != before).all()
            continue
        with pytest.raises(ValueError, match=r"params\[0\] must have .*and \(Partial\(sum\),\); .*redistribute"):
            optimizer.step()
        assert torch.equal(local(param), before)


def test_a_gradient_that_is_a_dtensor_of_a_plain_parameter() -> None:
    param = Parameter(torch.ones(4))
    optimizer = fastopt.torch.Adam([param])
    param.grad = whole(torch.ones(2), mesh_of(3))
    with pytest.raises(TypeError, match=r"the gradient of params\[0\] is a DTensor, and its parameter is not"):
        optimizer.step()


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        (lambda: torch.ones(2), TypeError, "must be a DTensor, as its parameter is, got a plain tensor"),
        (lambda: whole(torch.ones(2), mesh_of(3), [Replicate()]), ValueError, "must have its parameter's shape"),
        (lambda: whole(torch.ones(2), mesh_of(3), [Partial()]), ValueError, "yet to add it up"),
    ],
)
def test_states_that_lie_elsewhere(state: Any, error: type[Exception], message: str) -> None:
    param = Parameter(whole(torch.ones(2), mesh_of(3)))
    optimizer = fastopt.torch.Adam([param])
    param.grad = whole(torch.ones(2), mesh_of(3))
    optimizer.step()
    optimizer.state[param]["exp_avg"] = state()
    before = local(param).clone()
    with pytest.raises(error, match=f"'exp_avg' in the state of params.0.*{message}"):
        optimizer.step()
    assert torch.equal(local(param), before)


def test_parameters_that_are_to_be_added_up() -> None:
    param = Parameter(whole(torch.ones(2), mesh_of(3), [Partial()]))
    with pytest.raises(ValueError, match=r"params\[0\] has the placements \(Partial\(sum\),\), so that processes"):
        fastopt.torch.Adam([param])


def test_parameters_of_other_dtypes_and_devices() -> None:
    for shard, error in ((torch.ones(2, dtype=torch.complex64), TypeError), (torch.ones(2, device="meta"), ValueError)):
        with pytest.raises(error, match=r"params\[0\] is (torch.complex64|on meta)"):
            fastopt.torch.Adam([Parameter(whole(shard, mesh_of(3)))])


@pytest.mark.parametrize("flag", ["capturable", "differentiable"])
def test_flags_that_a_native_step_does_not_support(flag: str) -> None:
    param = Parameter(whole(torch.ones(2), mesh_of(3)))
    with pytest.raises(ValueError, match=f"does not support {flag}=True"):
        fastopt.torch.Adam([param], **{flag: True})


def test_a_sparse_gradient() -> None:
    param = Parameter(whole(torch.ones(2, 3), mesh_of(3)))
    optimizer = fastopt.torch.Adam([param])
    param.grad = whole(torch.ones(2, 3), mesh_of(3))
    param.grad._local_tensor = torch.ones(2, 3).to_sparse()  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match=r"does not support sparse .* the gradient of params\[0\] is"):
        optimizer.step()
    assert torch.equal(local(param), torch.ones(2, 3))


def test_a_subclass_of_dtensor_is_refused() -> None:
    class Other(DTensor):
        pass

    param = Parameter(whole(torch.ones(2), mesh_of(3)))
    other = Other(param._local_tensor, param._spec, requires_grad=True)  # type: ignore[attr-defined, call-arg]
    with pytest.raises(TypeError, match=r"is a Other; use torch\.optim"):
        fastopt.torch.Adam([other])


def test_flatten_is_refused() -> None:
    param = Parameter(whole(torch.ones(2), mesh_of(3)))
    with pytest.raises(ValueError, match=r"to other memory, and params\[0\] is a DTensor"):
        fastopt.torch.Adam([param], flatten=True)


def test_shards_in_main_memory_of_a_mesh_of_an_accelerator() -> None:
    """As those of CPUOffloadPolicy: a step, states too, stays where they are."""
    mesh = mesh_of(3)
    mesh._device_type = "cuda"
    param = Parameter(DTensor(torch.ones(2), whole(torch.ones(2), mesh_of(3))._spec, requires_grad=False))  # type: ignore[call-arg]
    param._spec.mesh = mesh  # type: ignore[attr-defined]
    optimizer = fastopt.torch.Adam([param], state_dtype={"exp_avg": "bfloat16"})
    param.grad = DTensor(torch.ones(2), param._spec, requires_grad=False)  # type: ignore[attr-defined, call-arg]
    optimizer.step()
    assert {local(each).device.type for each in optimizer.state[param].values()} == {"cpu"}
    assert optimizer.state[param]["exp_avg_sq"].device_mesh.device_type == "cuda"


def test_modes_see_shards() -> None:
    """DTensors have no rule for what a step does, and need none."""
    seen = []

    class Mode(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append((str(function), [type(each) for each in args[0]] if args else []))
            return function(*args, **(kwargs or {}))

    mine, params, *_ = both()
    train_shards(mine, params, BEFORE)
    with Mode():
        mine.step()
    assert [name for name, _ in seen] == ["fastopt.step.default"]
    assert set(seen[0][1]) <= {torch.Tensor, Parameter}


def test_sums_need_all_shards_in_one_engine() -> None:
    """Since processes exchange them once a step."""
    params = [Parameter(whole(torch.ones(5, dtype=dtype), mesh_of(3))) for dtype in (torch.float32, torch.float64)]
    for param in params:
        param.grad = torch.ones_like(param)
    with pytest.raises(ValueError, match=r"LAMB: adding up DTensors needs .* of one dtype .*params\[1\]"):
        fastopt.torch.LAMB(params).step()
    assert all(local(param).eq(1).all() for param in params)
