"""The same bits from every backend, number of threads, NumPy's optimizers and two processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cases import Case, equal_bits
from torch_cases import (
    INFOS,
    STEPS,
    as_arrays,
    assert_same_bits,
    make,
    numpy_groups,
    parameters,
    train,
    train_numpy,
)
from torch_peers import NATIVE, CarryIn
from torch_workers import JOBS, SHARDED_STEPS, shard

import fastopt
import fastopt.torch
from fastopt.definitions.specs import SPECS


@pytest.mark.parametrize("case", NATIVE, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.exhaustive)], ids=str)
@pytest.mark.usefixtures("threads_always")
def test_backends_threads_and_numpy_give_the_same_bits(case: Case, dtype: torch.dtype, carry_in: CarryIn) -> None:
    carry_in(case.optimizer, torch.float64)
    arrays = as_arrays(parameters(dtype))
    expected = case.make(numpy_groups(arrays, case.optimizer))
    train_numpy(expected, arrays, parameters(dtype), range(STEPS))
    for backend, n_threads in (("cython", 1), ("cython", 2), ("numba", 2), ("reference", 1)):
        params = parameters(dtype)
        optimizer = make(fastopt.torch, case, params, backend=backend, n_threads=n_threads)
        train(optimizer, params, range(STEPS))
        assert_same_bits(optimizer, params, expected, arrays)


# --- torch.distributed.optim -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_zero_redundancy_optimizer(tmp_path: Path) -> None:
    """States spread over two processes: the same bits as in one."""
    torch.multiprocessing.spawn(shard, (str(tmp_path), 2), 2)
    results = torch.load(tmp_path / "results.pt", weights_only=True)
    assert JOBS.keys() == {name for name in INFOS if not SPECS[name].has_sums_over_all}
    for name, (options, _) in JOBS.items():
        values, saved = results[name]
        params = parameters(torch.float32, plain=True)
        optimizer = getattr(fastopt.torch, name)(list(params.values()), lr=0.01, **options)
        train(optimizer, params, range(SHARDED_STEPS))
        for key, param in params.items():
            assert equal_bits(param.detach().numpy(), values[key].numpy()), f"{name}: {key}"
        expected = optimizer.state_dict()["state"]
        assert saved["state"].keys() == expected.keys()
        for index, state in expected.items():
            assert saved["state"][index].keys() == state.keys()
            for key, value in state.items():
                assert equal_bits(saved["state"][index][key].numpy(), value.numpy()), f"{name}: {key} of {index}"
