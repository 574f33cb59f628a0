"""Copies and pickles: what they share, and memory that is read-only where they are read."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, PLAIN, Case, equal_bits
from comparing import snapshot

import fastopt
from fastopt.schedules import ExponentialDecay
from fastopt.step.options import STEP_OPTIONS

JOBLIB = """
import sys
import joblib
import numpy as np
import fastopt

def train(optimizer):
    try:
        optimizer.step(np.ones(1000))
    except ValueError as error:
        return str(error)
    return optimizer.param_groups[0]["params"][0][:3].tolist()

if __name__ == "__main__":

    optimizer = fastopt.SGD(np.zeros(1000), lr=1.0)
    for given, expected in (({"max_nbytes": 10}, None), ({"max_nbytes": None}, [-1.0] * 3),
                            ({"max_nbytes": 10, "mmap_mode": "c"}, [-1.0] * 3)):
        (found,) = joblib.Parallel(n_jobs=2, **given)([joblib.delayed(train)(optimizer)])
        if expected is None:
            assert 'max_nbytes=None' in found and 'mmap_mode="c"' in found, found
        else:
            assert found == expected, found
"""


def read_only_pickle(value: Any) -> Any:
    """Unpickled with the buffers out of band, in memory that cannot be written to."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(pickled, buffers=[bytes(each) for each in buffers])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", [{"ema_decay": 0.5}, {"lr": ExponentialDecay(0.5, 3, 0.5)}], ids=repr)
def test_read_only_parameters_are_an_error_in_the_step(backend: str, options: dict[str, Any]) -> None:
    grads = {"W": np.ones(3), "b": np.ones(2)}
    optimizer = fastopt.Adam({"W": np.ones(3), "b": np.ones(2)}, backend=backend, **options)
    optimizer.step(grads)
    copied = read_only_pickle(optimizer)
    before = snapshot(copied)
    writes = [lambda: copied.step(grads), copied.apply_changes]
    writes += [copied.swap_averages] if "ema_decay" in options else []
    for _ in range(2):
        for write in writes:
            with pytest.raises(ValueError, match=r"params\['W'\] is read-only: .*max_nbytes=None .* mmap_mode=\"c\""):
                write()
        copied.load_state_dict(copied.state_dict())  # all that writes only states goes on
    assert snapshot(copied) == before
    twin = copy.deepcopy(pickle.loads(pickle.dumps(copied)))
    for each in (twin, optimizer):
        each.step(grads)
    assert snapshot(twin) == snapshot(optimizer)


@pytest.mark.parametrize("backend", BACKENDS)
def test_read_only_gradients_are_an_error_only_where_they_are_zeroed(backend: str) -> None:
    for zero_grads in (False, True):
        param, gradient = np.ones(3), np.ones(3)
        optimizer = fastopt.SGD(param, lr=1.0, grads=gradient, zero_grads=zero_grads, backend=backend)
        buffers: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(optimizer, protocol=5, buffer_callback=buffers.append)
        # The parameter comes first.
        given = [bytearray(each) if index == 0 else bytes(each) for index, each in enumerate(buffers)]
        copied = pickle.loads(pickled, buffers=given)
        copied_param = copied.param_groups[0]["params"][0]
        assert copied_param.flags.writeable
        if zero_grads:
            with pytest.raises(ValueError, match="grads is read-only"):
                copied.step()
        else:
            copied.step()
            assert copied_param.tolist() == [0, 0, 0]


def test_parameters_that_become_writable_are_stepped() -> None:
    memory = bytearray(np.ones(3).tobytes())
    buffers: list[pickle.PickleBuffer] = []
    optimizer = fastopt.SGD(np.ones(3), lr=1.0, grads=np.ones(3))
    pickled = pickle.dumps(optimizer, protocol=5, buffer_callback=buffers.append)
    copied = pickle.loads(pickled, buffers=[memory, *map(bytes, buffers[1:])])
    param = copied.param_groups[0]["params"][0]
    param.flags.writeable = False
    copied.load_state_dict(copied.state_dict())  # looks again
    with pytest.raises(ValueError, match="params is read-only"):
        copied.step()
    param.flags.writeable = True
    copied.step()
    copied.step()
    assert param.tolist() == [-1, -1, -1]


def test_read_only_parameters_in_joblibs_workers(tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    (tmp_path / "script.py").write_text(JOBLIB)
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, check=True, timeout=300)


# --- copy.copy --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_a_shallow_copy_shares_the_parameters_alone(case: Case) -> None:
    param, gradient = np.ones(3), np.ones(3)
    options: dict[str, Any] = {"max_grad_norm": 2.0, "nonfinite": "skip", "accumulate_steps": 2, "ema_decay": 0.5}
    optimizer = case.make(param, grads=gradient, **case.possible(options))
    for _ in range(3):
        optimizer.step()
    before = snapshot(optimizer)
    copied = copy.copy(optimizer)
    assert copied.param_groups[0]["params"][0] is param
    assert snapshot(copied) == before
    copied.grad_scale = 4.0
    copied.max_grad_norm = 8.0
    copied.param_groups[0]["lr"] = 0.125
    kept = param.copy()
    copied.step()
    gradient[:] = np.nan
    copied.step()
    param[:] = kept
    copied.set_segments(0, frozen=True)
    assert (optimizer.grad_scale, optimizer.max_grad_norm) == (1.0, 2.0)
    assert not optimizer.segments[0].frozen
    assert (optimizer.skipped_steps, copied.skipped_steps) == (0, 1)
    assert optimizer.iterations == 1
    assert snapshot(optimizer) == before
    optimizer.swap_averages()
    assert not copied.averages_swapped_in


def test_a_pickle_of_an_optimizer_alone_has_parameters_of_its_own() -> None:
    """As the documentation says: what is to stay together is pickled together."""
    param = np.ones(3)
    optimizer = fastopt.SGD(param, lr=1.0)
    alone = pickle.loads(pickle.dumps(optimizer))
    alone.step(np.ones(3))
    assert param.tolist() == [1, 1, 1]
    together, other = pickle.loads(pickle.dumps((optimizer, param)))
    together.step(np.ones(3))
    assert other.tolist() == [0, 0, 0]
    assert equal_bits(alone.param_groups[0]["params"][0], other)


@pytest.mark.parametrize("name", STEP_OPTIONS)
def test_a_pickle_of_an_earlier_version_lacks_later_options(name: str) -> None:
    optimizer = fastopt.Adam(np.ones(3), ema_decay=0.5)
    optimizer.step(np.ones(3))
    state = optimizer.__getstate__()
    if name != "ema_decay":  # without which there is no average
        del state["construction"].options[name]
    earlier = fastopt.Adam.__new__(fastopt.Adam)
    earlier.__setstate__(pickle.loads(pickle.dumps(state)))
    for each in (optimizer, earlier):
        each.step(np.ones(3))
    assert equal_bits(earlier.state[0]["param_average"], optimizer.state[0]["param_average"])
