"""A smoke test of an installed fastopt, which needs neither pytest nor a compiler: `python smoke.py`.

Run it outside of the checkout. `--backends` names the backends that must work, the first of which is what `auto` takes.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

import numpy as np

import fastopt
from fastopt.definitions.specs import SPECS

BACKENDS = ("cython", "numba", "reference")
SIZE = 100_003


def use_threads() -> None:
    """Let steps use the threads that they may, however small they are."""
    if fastopt.config.get_config()["compiled module"] == "yes":
        from fastopt.kernels import native

        native.set_thread_policy(1e-6, False)


def trained(name: str, backend: str, steps: int = 3) -> bytes:
    """The bits of parameters after a few steps on two threads."""
    w = np.linspace(-1, 1, SIZE, dtype=np.float32)
    optimizer = getattr(fastopt, name)(w, backend=backend, n_threads=2)
    for _ in range(steps):
        optimizer.step(w * 0.5)
    return w.tobytes()


def optimizers_agree(backends: tuple[str, ...]) -> None:
    """Every optimizer has the bits of the reference. Numba takes a second to compile a rule, and is asked for Adam."""
    for name in SPECS:
        expected = trained(name, "reference")
        for backend in backends:
            if backend != "numba" or name == "Adam":
                assert trained(name, backend) == expected, f"{name}: {backend} differs from the reference"


def auto_is(backend: str) -> None:
    assert fastopt.Adam(np.ones(SIZE)).backend == backend


def children_agree(backends: tuple[str, ...]) -> None:
    """A forked child steps on threads after its parent did, and the parent steps again."""
    compiled = [each for each in backends if each != "reference"]
    expected = trained("Adam", "reference")
    for _ in range(2):
        assert [trained("Adam", each) for each in compiled] == [expected] * len(compiled)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Since 3.12: there are threads. Just that is tried.
            child = os.fork()
        if not child:
            status = 1
            try:
                status = [trained("Adam", each) for each in compiled] != [expected] * len(compiled)
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0, "a forked child failed"


def declarations_are_there() -> None:
    """What Cython and C modules compile against."""
    folder = Path(fastopt.get_include()) / "fastopt"
    assert (folder / "updates.pxd").is_file()
    assert (folder / "updates_api.h").is_file()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    backends = tuple(parser.parse_args().backends)
    assert "site-packages" in fastopt.__file__, f"{fastopt.__file__} is not an installed fastopt"
    use_threads()
    auto_is(backends[0])
    optimizers_agree(backends)
    if hasattr(os, "fork"):
        children_agree(backends)
    if "cython" in backends:
        declarations_are_there()
    runtimes = [Path(path).name for path in fastopt.config.get_config()["openmp runtimes"]]
    print(
        f"Python {sys.version.split()[0]}, NumPy {np.__version__}: {', '.join(backends)} agree; {', '.join(runtimes)}"
    )


if __name__ == "__main__":
    main()
