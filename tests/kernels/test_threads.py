"""Thread counts: asked for, found, honoured; the GIL is released."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from processes import in_a_fresh_process

import fastopt
from fastopt.kernels import cpu, native


def threads_in_subprocess(code: str = "", **environment: str) -> int:
    program = f"import os\n{code}\nimport fastopt\nprint(fastopt.get_num_threads())"
    inherited = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    result = subprocess.run(
        [sys.executable, "-c", program], env={**inherited, **environment}, capture_output=True, text=True, check=True
    )
    return int(result.stdout)


def test_set_and_get() -> None:
    fastopt.set_num_threads(3)
    assert fastopt.get_num_threads() == 3
    fastopt.set_num_threads(None)
    assert fastopt.get_num_threads() >= 1


def test_omp_num_threads_is_honoured() -> None:
    assert threads_in_subprocess(OMP_NUM_THREADS="1") == 1
    assert threads_in_subprocess(OMP_NUM_THREADS="5") == 5


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no processor affinity")
def test_affinity_is_honoured() -> None:
    first = min(os.sched_getaffinity(0))
    assert threads_in_subprocess(f"os.sched_setaffinity(0, {{{first}}})") == 1
    assert threads_in_subprocess() == cpu.available_cpus()


BINDINGS: list[dict[str, str]] = [
    {"OMP_PROC_BIND": "true"},
    {"OMP_PROC_BIND": "close"},
    {"OMP_PROC_BIND": "spread", "OMP_PLACES": "threads"},
    {"OMP_PLACES": "cores"},
    {"GOMP_CPU_AFFINITY": "0-1"},
    {"KMP_AFFINITY": "compact"},
]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no processor affinity")
@pytest.mark.parametrize("binding", BINDINGS, ids=str)
def test_all_processors_are_used_where_openmp_binds_its_threads(binding: dict[str, str]) -> None:
    """It binds the first thread to one processor before fastopt can count."""
    expected = min(2, cpu.available_cpus()) if "GOMP_CPU_AFFINITY" in binding else cpu.available_cpus()
    assert threads_in_subprocess(**binding) == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no processor affinity")
def test_places_that_are_fewer_are_honoured() -> None:
    first = min(os.sched_getaffinity(0))
    assert threads_in_subprocess(OMP_PLACES=f"{{{first}}}", OMP_PROC_BIND="true") == 1


def test_threadpoolctl_limits_us() -> None:
    code = "import fastopt, threadpoolctl\nlimit = threadpoolctl.threadpool_limits(1, user_api='openmp')"
    assert threads_in_subprocess(code) == 1


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/x\n0::/y\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
            },
            2.0,
        ),
        ({"proc/self/cgroup": "2:cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n"}, None),
        ({}, None),
    ],
)
def test_cgroup_quotas(tmp_path: Path, files: dict[str, str], expected: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu.cgroup_quota(tmp_path) == expected
    counts = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = math.inf if expected is None else math.ceil(expected)
    assert cpu.available_cpus(str(tmp_path)) == min(counts or 1, quota)


def threads_chosen(times_on_two: list[float]) -> list[int]:
    """What is chosen, one step after the other, when a step takes 1 on one thread and this on two."""
    choice = native.ThreadChoice()
    used = []
    for time in times_on_two:
        used.append(choice.choose(2))
        choice.learn(used[-1], 2, 1.0 if used[-1] == 1 else time)
    return used


def steps_on_many_threads(counts: tuple[int, ...] = (1, 4)) -> None:
    """Every program of a step, on four threads each, with the bits of one thread."""
    native.set_thread_policy(1e-6, False)
    for options in ({}, {"max_grad_norm": 0.5, "accumulate_steps": 2, "ema_decay": 0.5, "nonfinite": "skip"}):
        found = []
        for n_threads in counts:
            param, grad = np.ones(20_000), np.linspace(-1, 1, 20_000)
            optimizer = fastopt.AdamW(param, grads=grad, n_threads=n_threads, **options)  # type: ignore[arg-type]
            for _ in range(4):
                optimizer.step()
            found.append(param)
        assert all((each == found[0]).all() for each in found)


NO_MORE_MEMORY = """if True:
    import resource
    from pathlib import Path
    import test_threads
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (24 << 20)  # too little for the stack of one more thread
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    test_threads.steps_on_many_threads()
"""

NO_MORE_THREADS = """if True:
    import os, resource
    import test_threads
    test_threads.steps_on_many_threads((1,))  # reads files that another user may not be allowed to
    os.setresuid(65533, 65533, 65533)
    resource.setrlimit(resource.RLIMIT_NPROC, (2, 2))
    test_threads.steps_on_many_threads()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits as on Linux")
def test_threads_that_cannot_be_created_are_done_without() -> None:
    in_a_fresh_process(NO_MORE_MEMORY, OMP_STACKSIZE="64M", OPENBLAS_NUM_THREADS="1")
    if os.getuid() == 0:  # A limit on the number of processes counts for other users alone.
        in_a_fresh_process(NO_MORE_THREADS, OPENBLAS_NUM_THREADS="1")


@pytest.mark.parametrize("size", ["32k", "16k"])
def test_small_stacks_are_enough(size: str) -> None:
    in_a_fresh_process("import test_threads\ntest_threads.steps_on_many_threads()", OMP_STACKSIZE=size)


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("", 0),
        ("32", 32 << 10),
        ("100B", 100),
        (" 32 k ", 32 << 10),
        ("8M", 8 << 20),
        ("1G", 1 << 30),
        ("-1", 0),
        ("x", 0),
    ],
)
def test_openmps_stack_size(monkeypatch: pytest.MonkeyPatch, text: str, nbytes: int) -> None:
    monkeypatch.setenv("OMP_STACKSIZE", text)
    assert cpu.openmp_stack_bytes() == nbytes


WARM_AND_PROBE = [2, 2, 1, 1]


def test_threads_that_pay_are_used_but_for_a_probe_now_and_then() -> None:
    used = threads_chosen([9.0] * 2 + [0.6] * 1000)
    assert used[:4] == WARM_AND_PROBE
    assert used[4:] == ([2] * 256 + [1] * 2) * 3 + [2] * (1002 - 4 - 3 * 258)


SETTLED = [0.6] * 8


def test_threads_that_do_not_pay_are_given_up_for_a_while() -> None:
    used = threads_chosen([9.0] * 2 + [0.6] * 2 + SETTLED + [5.0] + [0.6] + [5.0] * 40 + [0.6] * 30)
    assert used[:14] == WARM_AND_PROBE + [2] * 10, "one slow step is forgiven"
    assert used[14:54] == [2] * 2 + [1] * 16 + [2] * 3 + [1] * 19, "two are not, and the second pause is longer"
    assert used[54:] == [1] * 13 + [2] * 17, "threads are tried again"


def test_threads_may_wake_and_fill_their_caches_before_they_are_judged() -> None:
    waking = [30.0, 3.0, 2.0, 2.0, 1.5]
    used = threads_chosen([9.0] * 2 + [1.0] * 2 + waking + [0.6] * 100)
    assert used[4:] == [2] * 105


def test_threads_that_never_get_faster_are_given_up_once_they_have_settled() -> None:
    used = threads_chosen([9.0] * 2 + [1.0] * 2 + [1.5] * 10 + [0.6] * 4)
    assert used[4:] == [2] * 10 + [1] * 4


def test_pauses_grow_while_threads_do_not_pay() -> None:
    used = threads_chosen([9.0] * 2 + [1.02] * 4000)
    runs = [len(list(run)) for n_threads, run in itertools.groupby(used[4:]) if n_threads == 1]
    assert runs[:7] == [16, 32, 64, 128, 256, 512, 1024]


@pytest.mark.parametrize("backend", ["cython", "numba"])
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.usefixtures("threads_always")
def test_the_gil_is_released(backend: str, n_threads: int) -> None:
    param, gradient = np.ones((2, 5_000_000), np.float32)
    optimizer = fastopt.Adam(param, grads=gradient, backend=backend, n_threads=n_threads)
    optimizer.step()
    ticks, inside, stop = 0, 0, threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not stop.is_set():
            ticks += 1

    # With a switch interval this long, another thread runs only while this one has let go of the GIL.
    before = sys.getswitchinterval()
    thread = threading.Thread(target=tick)
    sys.setswitchinterval(0.5)
    try:
        thread.start()
        for _ in range(3):
            start = ticks
            optimizer.step()
            inside += ticks - start
    finally:
        stop.set()
        sys.setswitchinterval(before)
        thread.join()
    assert inside > 0
