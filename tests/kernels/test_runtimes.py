"""fastopt beside torch and scikit-learn, which bring OpenMP runtimes of their own, and under threadpoolctl's limits."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cases import equal_bits
from processes import in_a_fresh_process, threads_during_steps

import fastopt
from fastopt.kernels import native

pytestmark = pytest.mark.slow  # many processes that import torch and scikit-learn

LIBRARIES = ("torch", "sklearn.cluster", "fastopt")


def work_together() -> None:
    """Threads of all three in turn, and then all at once; what they compute is right."""
    import torch
    from sklearn.cluster import KMeans

    native.set_thread_policy(1e-6, False)
    points = np.random.default_rng(0).standard_normal((3000, 8))
    centers: list[np.ndarray] = []

    def multiply() -> None:
        ones = torch.ones(400, 400)
        assert (ones @ ones == 400).all()
        assert (torch.ones(1_000_000) + 1).sum() == 2_000_000

    def cluster() -> None:
        centers.append(KMeans(4, n_init=1, random_state=0).fit(points).cluster_centers_)

    def step() -> None:
        gradient = np.linspace(-1, 1, 300_000)
        results = []
        for backend, n_threads in (("reference", 1), ("cython", 2)):
            results.append(np.ones_like(gradient))
            optimizer = fastopt.Adam(results[-1], grads=gradient, backend=backend, n_threads=n_threads)
            for _ in range(3):
                optimizer.step()
        assert equal_bits(results[0], results[1])

    everything: list[Callable[[], None]] = [multiply, cluster, step]
    for function in everything * 2:
        function()
    finished: list[str] = []

    def call(function: Callable[[], None]) -> None:
        function()
        finished.append(function.__name__)

    threads = [threading.Thread(target=call, args=(function,)) for function in everything]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(finished) == ["cluster", "multiply", "step"]
    assert all(np.allclose(each, centers[0]) for each in centers)

    # What is reported is what threadpoolctl finds, torch's runtime and scikit-learn's among it.
    from threadpoolctl import threadpool_info

    found = {Path(pool["filepath"]).resolve() for pool in threadpool_info() if pool["user_api"] == "openmp"}
    reported = fastopt.config.get_config()["openmp runtimes"]
    assert found == {Path(path).resolve() for path in reported}
    assert len(found) >= 2


@pytest.mark.parametrize("order", list(itertools.permutations(LIBRARIES)), ids=" ".join)
def test_torch_scikit_learn_and_fastopt_work_together(order: tuple[str, ...]) -> None:
    imports = "".join(f"import {name}\n" for name in order)
    in_a_fresh_process(f"{imports}import test_runtimes\ntest_runtimes.work_together()", OMP_NUM_THREADS="2")


LIMIT = "from threadpoolctl import threadpool_limits\nlimit = threadpool_limits(1, user_api='openmp')"
COUNT = "import test_runtimes\nprint(*test_runtimes.counts())"


def counts() -> tuple[int, int]:
    """How many threads there are to be, and how many a step used, up to two."""
    native.set_thread_policy(1e-6, False)
    alone = threads_during_steps(1)
    return fastopt.get_num_threads(), 1 + threads_during_steps(None, enough=alone + 1) - alone


# threadpoolctl limits the libraries that are loaded, in the thread that calls it.
LIMITED = {
    "not limited": (COUNT, "2 2"),
    "limited": (f"import fastopt\n{LIMIT}\n{COUNT}", "1 1"),
    "limited for some time": (f"import fastopt\n{LIMIT}\nlimit.restore_original_limits()\n{COUNT}", "2 2"),
    "limited before the import, torch's runtime loaded": (f"import torch\n{LIMIT}\nimport fastopt\n{COUNT}", "1 1"),
    "limited before the import, no runtime loaded": (f"{LIMIT}\nimport fastopt\n{COUNT}", "2 2"),
    "limited, but set_num_threads says two": (f"import fastopt\nfastopt.set_num_threads(2)\n{LIMIT}\n{COUNT}", "2 2"),
}


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="this system does not list threads")
@pytest.mark.parametrize("name", LIMITED)
def test_threadpoolctl_limits_steps(name: str) -> None:
    code, expected = LIMITED[name]
    assert in_a_fresh_process(code, OMP_NUM_THREADS="2").strip() == expected
