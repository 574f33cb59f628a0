"""The updates of `fastopt.jit`: the bits of the optimizers, in any `@njit` function, checked, vectorised, cached."""

from __future__ import annotations

import math
import pickle
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import cases
import numba
import numpy as np
import pytest
from numba.core import serialize
from storages import HALVES

import fastopt
from fastopt import jit
from fastopt.definitions.conventions import spec_of
from fastopt.definitions.signatures import Signature, signature, signatures
from fastopt.jit import making, modes, render, stamps, states
from fastopt.kernels.formulas import registry
from fastopt.kernels.python import reference
from fastopt.rules import sqrt

STEPS = 6


def corrections(step, lr, beta, eps):
    step_size = lr / (1 - beta**step)
    square = beta**2
    return step_size, beta, square, eps


@fastopt.rule(state={"exp_avg": 0, "square_avg": "start"}, hyper={"lr": 0.01, "beta": 0.9, "eps": 1e-8, "start": 0.5},
              coefficients=corrections)  # fmt: skip
def Custom(param, grad, exp_avg, square_avg, step_size, beta, square, eps):
    exp_avg = beta * exp_avg + (1 - beta) * grad
    square_avg = square * square_avg + (1 - square) * grad * grad
    param = param - step_size * exp_avg / (sqrt(square_avg) + eps)
    return param, exp_avg, square_avg


def of_case(case: cases.Case) -> Signature:
    options = dict(case.options)
    return signature(spec_of(case.optimizer, options.pop("convention", "torch")), options)


def gradients(shape: Any, dtype: Any) -> list[np.ndarray]:
    random = np.random.default_rng(7)
    return [cases.random_gradient(random, shape, dtype) for _ in range(STEPS)]


def compare(
    functions: Any, cls: Any, options: dict[str, Any], shape: Any, dtype: Any, step: str = "step", **numbers: float
) -> None:
    """Several steps of both: the same parameter and the same state, bit by bit."""
    param = np.random.default_rng(3).standard_normal(shape).astype(dtype)
    other = param.copy()
    optimizer = cls(other, **options)
    state = functions.state(param)
    for grad in gradients(shape, dtype):
        getattr(functions, step)(param, grad, state, **numbers)
        optimizer.step(grad)
    assert cases.equal_bits(param, other)
    kept = optimizer.state[0]
    assert kept["step"] == state.step[0] == STEPS
    for name in set(state._fields) - {"step"}:
        assert cases.equal_bits(getattr(state, name), np.atleast_1d(kept[name])), name


COMPILED = list(
    {
        (of_case(case).rule, of_case(case).spec.coefficients): case for case in cases.VARIANTS if not case.has_sums
    }.values()
)
"""One for each rule with each coefficient function of PyTorch's."""


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.exhaustive if case.options else pytest.mark.slow) for case in COMPILED],
    ids=str,
)
def test_the_bits_of_the_optimizers(case: cases.Case) -> None:
    functions = jit.functions(getattr(fastopt, case.optimizer), **case.options)
    for size in (1, 37, 1030):
        compare(functions, getattr(fastopt, case.optimizer), case.options, size, np.float32)


@pytest.mark.parametrize(
    "name", ["Adam", pytest.param("NAdam", marks=pytest.mark.slow), pytest.param("Rprop", marks=pytest.mark.slow)]
)
def test_float64_shapes_and_threads(name: str) -> None:
    cls = getattr(fastopt, name)
    functions = jit.functions(cls)
    compare(functions, cls, {}, (13, 7), np.float64)
    assert functions.parallel.py_func.__globals__["number_of_parts"](300_001, 0.3) == numba.get_num_threads()
    compare(functions, cls, {}, 300_001, np.float64, "parallel")
    compare(functions, cls, {}, 19, np.float64, "parallel")


def test_a_rule_of_ones_own() -> None:
    functions = jit.functions(Custom, beta=0.8)
    compare(functions, Custom, {"beta": 0.8}, 1030, np.float32)
    with pytest.raises(ValueError, match="no other framework"):
        jit.functions(Custom, convention="keras")


@pytest.mark.parametrize("beta", [0.5544049551926724, 0.8])
def test_powers_are_those_of_the_c_library(beta: float) -> None:
    """The square of the first is another number by multiplication."""
    assert (math.pow(beta, 2.0) == beta * beta) is (beta == 0.8)
    for backend in ("reference", "numba"):
        compare(jit.functions(Custom), Custom, {"beta": beta, "backend": backend}, 300, np.float64, beta=beta)


def plain_functions(given: Signature, dtype: Any) -> dict[str, Any]:
    """The rendered source, run by Python over NumPy's arrays."""

    def elements(*arguments: Any) -> None:
        *streams, first, last, numbers = arguments
        count = len(registry.loop(given.rule).coefficients)
        loop = reference.loop(given.rule, np.dtype(dtype))
        loop([each[first:last] for each in streams], [dtype(number) for number in numbers[:count]])

    namespace = {
        "inline": lambda function: function,
        "parallel": lambda function: function,
        "quiet": lambda function, arguments: function(*arguments),
        "check_arrays": lambda arrays: None,
        "check_state": lambda state: None,
        "stamp": lambda: None,
        "mode_of_updates": lambda: 0,
        "set_mode": lambda mode: mode,
        "leave_mode": lambda before, mode: None,
        "pinned": lambda number: number,
        "float64": float,
        "int64": int,
        "np": np,
        "messages": [message for _, message, _ in render.conditions(given)],
        "State": making.state_class(given.rule, render.state_fields(given)),
        **{f"coefficients_{name}": reference.coefficient_function(name) for name in render.stages_called(given)},
    }
    exec(render.python_source(given), namespace)
    namespace["elements"] = elements
    return namespace


@pytest.mark.parametrize(
    "case", [case for case in (*cases.CASES, *cases.CONVENTION_CASES) if not case.has_sums], ids=str
)
def test_every_convention_without_compiling(case: cases.Case) -> None:
    functions = plain_functions(of_case(case), np.float32)
    param = np.random.default_rng(3).standard_normal(50).astype(np.float32)
    other = param.copy()
    optimizer = case.make(other, backend="reference", flush_denormals=False)
    state = functions["state"](param)
    for grad in gradients(50, np.float32):
        with np.errstate(all="ignore"):
            functions["step"](param, grad, state)
        optimizer.step(grad)
    assert cases.equal_bits(param, other)


@numba.njit(fastmath=True, nogil=True)
def in_a_loop(param, grads, lr, scale):
    """Of a user: with other flags, keyword arguments and a schedule."""
    state = jit.adam_state(param)
    for i in range(grads.shape[0]):
        jit.adam(param, grads[i], state, lr=lr(i), beta1=0.8, maximize=True, weight_decay=0.1, grad_scale=scale)
    return state


@numba.njit
def with_arrays(param, grads, exp_avg, exp_avg_sq):
    for i in range(grads.shape[0]):
        jit.adam_update(param, grads[i], exp_avg, exp_avg_sq, i + 1, 0.02)


def test_in_a_users_own_loop() -> None:
    grads = np.array(gradients(45, np.float32))
    param, other = np.ones((2, 45), np.float32)
    schedule = fastopt.schedules.PolynomialDecay(0.1, 4)
    state = in_a_loop(param, grads, schedule.jit, 4)
    optimizer = fastopt.Adam(other, lr=schedule, betas=(0.8, 0.999), maximize=True, weight_decay=0.1, grad_scale=4.0)
    for grad in grads:
        optimizer.step(grad)
    assert cases.equal_bits(param, other)
    assert cases.equal_bits(state.exp_avg_sq, optimizer.state[0]["exp_avg_sq"])
    assert type(state) is jit.AdamState


def test_arrays_and_a_step_in_place_of_a_state() -> None:
    grads = np.array(gradients(45, np.float32))
    param, other, exp_avg, exp_avg_sq = np.zeros((4, 45), np.float32)
    with_arrays(param, grads, exp_avg, exp_avg_sq)
    optimizer = fastopt.Adam(other, lr=0.02)
    for grad in grads:
        optimizer.step(grad)
    assert cases.equal_bits(param, other)
    assert cases.equal_bits(exp_avg, optimizer.state[0]["exp_avg"])


class Mine(NamedTuple):
    """A user's own state, with more in it."""

    losses: np.ndarray
    momentum_buffer: np.ndarray
    step: np.ndarray


def test_a_state_of_ones_own() -> None:
    param = np.ones(3)
    state = Mine(np.zeros(9), np.zeros(3), np.zeros(1, np.int64))
    jit.sgd_momentum(param, np.ones(3), state, 0.9, lr=0.5)
    assert param.tolist() == [0.5] * 3
    assert state.momentum_buffer.tolist() == [1.0] * 3
    assert state.step[0] == 1


# --- checks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)
def test_arrays_of_16_bits_are_refused_by_name(half: Any) -> None:
    """In calls from Python, before anything is compiled; an @njit function gets Numba's own error for them."""
    wide, narrow = np.ones(4, np.float32), np.ones(4, half)
    state = jit.adam_state(wide)
    message = "{} must be an array of float32 or float64, got dtype " + half.name
    for name, call in {
        "param": lambda: jit.adam_state(narrow),
        "param must": lambda: jit.adam_update(narrow, narrow, narrow, narrow, 1),
        "grad": lambda: jit.adam(wide, narrow, state),
        "grad must": lambda: jit.adam_parallel(wide, narrow, state),
        "exp_avg_sq": lambda: jit.adam_update(wide, wide, wide, narrow, 1),
        "exp_avg_sq must": lambda: jit.adam_update_parallel(wide, wide, wide, narrow, 1),
        "state.exp_avg": lambda: jit.adam(wide, wide, state._replace(exp_avg=narrow)),
    }.items():
        with pytest.raises(TypeError, match=message.format(name.removesuffix(" must"))):
            call()
    assert wide.tolist() == [1.0] * 4
    assert state.step[0] == 0


@pytest.mark.parametrize("name", ["state_dtype", "master_weights", "stochastic_rounding", "seed", "max_grad_norm"])
@pytest.mark.parametrize("optimizer", [fastopt.Adam, Custom])
def test_options_of_the_class_are_refused_by_name(optimizer: Any, name: str) -> None:
    with pytest.raises(
        TypeError, match=rf"{optimizer.__name__} has no argument '{name}' here: .* no options of the class"
    ):
        jit.functions(optimizer, **{name: True})


W = np.ones((4, 5))
STATE = (np.zeros(1, np.int64),)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((W.astype(int), W), "param must be an array of float32 or float64, got dtype int64"),
        ((W, W.astype(np.float32)), "grad must have the dtype of param, float64, got float32"),
        ((W[:, ::2], W), "param must be a C-contiguous array"),
        ((W, W.T), "grad must be a C-contiguous array"),
        ((W, W.ravel()), "grad must have the shape of param, of 2 axes, got 1"),
        ((W, 1.0), "grad must be an array, got float64"),
        ((np.broadcast_to(W, W.shape), W), "param must be writable|param must be a C-contiguous array"),
    ],
)
def test_arrays_that_will_not_do(arguments: tuple[Any, Any], message: str) -> None:
    with pytest.raises(numba.TypingError, match=message):
        jit.sgd_update(*arguments, 1)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ((np.zeros(1, np.int64),), "state must be a NamedTuple with the fields step, got UniTuple"),
        (Mine(W, W, np.zeros(1)), "state.step must be an array of one int64, got array"),
        (NamedTuple("Other", [("count", Any)])(W), "state must have the fields step, got a NamedTuple with count"),
    ],
)
def test_states_that_will_not_do(state: Any, message: str) -> None:
    with pytest.raises(numba.TypingError, match=message):
        jit.sgd(W, W, state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "invalid lr, expected lr >= 0, got.*-1"),
        ({"lr": float("nan")}, "invalid lr"),
        ({"beta2": 1.0}, "invalid beta2, expected 0 <= beta2 < 1"),
        ({"grad_scale": 0.0}, "invalid grad_scale, expected grad_scale > 0"),
        ({"eps": -1e-8}, "invalid eps"),
    ],
)
def test_numbers_that_will_not_do(options: dict[str, float], message: str) -> None:
    param = np.ones(4)
    state = jit.adam_state(param)
    with pytest.raises(ValueError, match=message):
        jit.adam(param, param.copy(), state, **options)
    assert param.tolist() == [1.0] * 4
    assert state.step[0] == 0


def test_shapes_and_steps_that_will_not_do() -> None:
    param, other = np.ones(4), np.ones(5)
    with pytest.raises(ValueError, match=r"exp_avg must have the shape of param; its size is.*5"):
        jit.adam_update(param, param.copy(), other, param.copy(), 1)
    with pytest.raises(ValueError, match=r"invalid step, expected step >= 1, got.*0"):
        jit.adam_update(param, param.copy(), param.copy(), param.copy(), 0)
    with pytest.raises(ValueError, match="initial_accumulator_value >= 0"):
        jit.adagrad_state(param, -1.0)
    assert param.tolist() == [1.0] * 4


@pytest.mark.parametrize("length", [0, 2])
@pytest.mark.parametrize("name", ["step", "mu_product"])
def test_numbers_of_a_state_have_one_element(name: str, length: int) -> None:
    param = np.ones(4)
    state = jit.nadam_state(param)
    state = state._replace(**{name: np.ones(length, getattr(state, name).dtype)})
    with pytest.raises(ValueError, match=rf"state.{name} must be an array of one number; its size is.*{length}"):
        jit.nadam(param, param.copy(), state)
    assert param.tolist() == [1.0] * 4
    assert not state.exp_avg.any()


USUAL = {
    "beta1": 0.5,
    "beta2": 0.5,
    "beta3": 0.5,
    "etaminus": 0.5,
    "etaplus": 1.5,
    "step_size_min": 0.0,
    "step_size_max": 2.0,
}


@pytest.mark.parametrize("given", signatures().values(), ids=lambda given: given.name)
def test_bounds_are_those_of_the_classes(given: Signature) -> None:
    for name in given.hyperparameters:
        bound = given.bound(name)
        if bound is None:
            assert given.is_flag(name)
            continue
        owner = next(known for each, known in given.spec.hyperparameters.items() if name in given.spec.parts(each))
        for value in (-1.0, 0.0, 0.4, 1.0, 1.5, float("nan")):
            parts = tuple({**USUAL, name: value}[part] for part in owner.spread)
            try:
                owner.convert(parts or value)
                refused = False
            except ValueError:
                refused = True
            assert eval(bound, {name: value}) is not refused, (name, value)


def test_what_functions_refuses() -> None:
    with pytest.raises(TypeError, match="optimizer must be a class of fastopt"):
        jit.functions("Adam")
    with pytest.raises(TypeError, match="Adam has no argument 'alpha'"):
        jit.functions(fastopt.Adam, alpha=1.0)
    with pytest.raises(ValueError, match="unknown convention for Adam: 'jax'"):
        jit.functions(fastopt.Adam, convention="jax")
    with pytest.raises(ValueError, match="Invalid learning rate: -1"):
        jit.functions(fastopt.Adam, lr=-1.0)
    with pytest.raises(TypeError, match="lr must be a number"):
        jit.functions(fastopt.Adam, lr=fastopt.schedules.Constant(0.1))
    with pytest.raises(AttributeError, match="no attribute 'adamm'"):
        _ = jit.adamm


def test_asking_again_compiles_nothing_again() -> None:
    made = jit.functions(fastopt.Adam, betas=(0.5, 0.9))
    assert jit.functions(fastopt.Adam, betas=(0.5, 0.9)) is made
    assert jit.functions(fastopt.Adam, betas=(0.5, 0.8)) is not made
    assert jit.functions(fastopt.AdamW, betas=(0.5, 0.9)) is not made


def test_names() -> None:
    assert {"adam", "adam_state", "adam_update", "adamw_amsgrad", "sgd_nesterov_parallel", "functions"} <= set(dir(jit))
    for name in dir(jit):
        assert getattr(jit, name).__doc__, name
    assert "lr >= 0" in jit.adam.__doc__


# --- denormals --------------------------------------------------------------------------------------------------------


@numba.njit
def halved(x):
    return x * 0.5


@pytest.mark.skipif(not modes.BITS, reason="not known how on this processor")
def test_denormals_are_flushed_and_restored() -> None:
    tiny = np.float64(3e-308)
    assert halved(tiny) > 0
    mode = jit.flush_denormals()
    try:
        assert halved(tiny) == 0
    finally:
        jit.restore_denormals(mode)
    assert halved(tiny) > 0
    param, grad = np.ones(8, np.float32), np.full(8, 1e-42, np.float32)
    flushed, kept = param.copy(), param.copy()
    functions = jit.functions(fastopt.SGD, flush_denormals=False, momentum=0.9)
    states = jit.sgd_momentum_state(flushed), functions.state(kept)
    jit.sgd_momentum(flushed, grad, states[0], 0.9)
    functions.step(kept, grad, states[1])
    assert not states[0].momentum_buffer.any()
    assert states[1].momentum_buffer.all()
    assert halved(tiny) > 0


# --- what is compiled -------------------------------------------------------------------------------------------------


def llvm_of(function: Any) -> str:
    """The code of a compiled function, without that of others which it calls."""
    (llvm,) = function.inspect_llvm().values()
    own = re.search(
        rf"\ndefine [^\n]*{len(function.__name__)}{function.__name__}[^\n]*\{{\n(.*?)\n\}}", llvm, re.DOTALL
    )
    assert own is not None
    return own[1]


def counting_blocks(code: str) -> list[str]:
    """Blocks that count references, which takes atomic operations. Numba before 0.66 counts those of the message of an
    error, too, where it allocates the message."""
    return [block for block in code.split("\n\n") if "NRT_incref" in block and "NRT_Allocate" not in block]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="looks for x86-64 instructions")
def test_the_loop_is_vectorised_and_counts_no_references() -> None:
    functions = making.make(signatures()["adam"])  # which nothing else has compiled
    param = np.ones(4, np.float32)
    functions.step(param, param.copy(), functions.state(param))
    functions.update(param, param.copy(), param.copy(), param.copy(), 1)
    (assembly,) = functions.step.inspect_asm().values()
    for operation in ("div", "sqrt", "mul"):
        assert re.search(rf"\bv?{operation}ps\b.*%[xyz]mm", assembly), operation
    assert "fmadd" not in assembly
    own = llvm_of(functions.update)
    assert "pow" in own  # the update itself, inlined
    assert counting_blocks(own) == []


def test_counted_references_are_seen() -> None:
    @numba.njit
    def kept(array: Any) -> Any:
        return array

    kept(np.ones(3))
    assert counting_blocks(llvm_of(kept))


SCRIPT = """
import sys
import numba, numpy as np
from fastopt import jit

@numba.njit(cache=True)
def train(param, grad, steps):
    state = jit.adam_state(param)
    for _ in range(steps):
        jit.adam(param, grad, state, lr=0.01)

if __name__ == "__main__":
    param = np.linspace(-1, 1, 100, dtype=np.float32)
    train(param, param * 2, 10)
    print(sum(train.stats.cache_hits.values()), param.tobytes().hex())
"""


@pytest.mark.slow
def test_a_cached_function_is_found_again_unless_the_update_has_changed(tmp_path: Path) -> None:
    (tmp_path / "training.py").write_text(SCRIPT)
    changed = "import runpy, fastopt.jit.stamps as s; s.digest = lambda: 'other'; "
    changed += "runpy.run_path('training.py', run_name='__main__')"

    def run(*command: str) -> list[str]:
        result = subprocess.run(
            [sys.executable, "-W", "error", *command], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return result.stdout.split()

    first, second, after_a_change = run("training.py"), run("training.py"), run("-c", changed)
    assert [int(each[0]) for each in (first, second, after_a_change)] == [0, 1, 0]
    assert first[1] == second[1] == after_a_change[1]


def test_a_stamp_of_another_rule_is_refused() -> None:
    assert stamps.read_stamp(stamps.digest(), "adam").rule == "adam"
    with pytest.raises(OSError, match="another version of the update 'gone_1234'"):
        stamps.read_stamp(stamps.digest(), "gone_1234")


def test_a_cached_state_of_a_rule_that_has_changed_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    state = jit.functions(Custom).state(np.ones(3))
    name = type(state).__name__
    pickled = serialize.dumps(numba.typeof(state))
    assert pickle.loads(pickled) == numba.typeof(state)
    monkeypatch.delattr(states, name)
    assert pickle.loads(pickled) != numba.typeof(state)
    with pytest.raises(AttributeError):
        _ = states.other


def test_numba_is_loaded_with_jit_only() -> None:
    code = "import sys, fastopt; assert 'numba' not in sys.modules; fastopt.jit; assert 'numba' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_masked_arrays_are_refused() -> None:
    """As parameters and as gradients; not taken for arrays without their mask."""
    masked = np.ma.masked_greater(np.ones(3), 0)
    state = jit.sgd_state(np.ones(3))
    jit.sgd(np.ones(3), np.ones(3), state)  # compiled for arrays
    for param, gradient in ((np.ones(3), masked), (masked, np.ones(3))):
        with pytest.raises(numba.TypingError, match=r"numpy.ma.MaskedArray"):
            jit.sgd(param, gradient, state)
    assert (masked.data == 1).all()
