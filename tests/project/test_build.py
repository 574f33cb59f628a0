"""The build: loud without OpenMP, serial when asked for, without the compiled module when asked for, and as a wheel.

It takes long: all modules are compiled, 45 seconds on one core. The wheel without OpenMP has those of that build which
do not depend on OpenMP.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("fastopt", "kernels", "examples", "bench", "pyproject.toml", "setup.py", "README.md", "LICENSE")


def copy_of_sources(folder: Path) -> Path:
    """What a build needs, without what was built here."""
    folder.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copy_of_sources(tmp_path / "checkout")


@pytest.fixture(scope="module")
def built_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout after `pip wheel`, with the wheel in `dist`."""
    folder = copy_of_sources(tmp_path_factory.mktemp("built") / "checkout")
    built = build_wheel(folder)
    assert built.returncode == 0, built.stderr
    return folder


def build_wheel(checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-build-isolation",
        "--no-deps",
        "-w",
        str(checkout / "dist"),
        ".",
    ]
    return subprocess.run(
        command, cwd=checkout, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600
    )


def python_with(wheel_folder: Path, folder: Path) -> Path:
    """An interpreter of a new environment that has this wheel, and this environment's other packages."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    target = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    (wheel,) = wheel_folder.glob("*.whl")
    shutil.unpack_archive(wheel, target, "zip")
    outside = [path for path in sys.path if path.endswith("site-packages")]
    # Our own editable installation is a finder in these folders' .pth files, which are not read for plain paths.
    (Path(target) / "outside.pth").write_text("\n".join(outside) + "\n")
    return python


def run(python: Path, code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), "-c", code],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


TRAIN = """
import numpy as np, fastopt
results = []
for backend in {backends}:
    w = np.linspace(-1, 1, 300_001, dtype=np.float32)
    optimizer = fastopt.Adam(w, backend=backend, n_threads=2)
    for _ in range(5):
        optimizer.step(w * 0.5)
    results.append(w.tobytes())
assert len(set(results)) == 1
print(fastopt.__file__, optimizer.backend)
fastopt.show_config()
"""


LOGISTIC = """
import os, numpy as np, fastopt, logistic
assert os.path.isfile(os.path.join(fastopt.get_include(), "fastopt", "updates_api.h"))
random = np.random.default_rng(0)
inputs = random.standard_normal((103, 7)).astype(np.float32)
targets = (inputs @ np.arange(-3, 4) > 0.5).astype(np.float32)
weights, others, grad = np.zeros((3, 8), np.float32)
assert logistic.train(inputs, targets, weights, 9, 10, 0.05) == 9 * 11
optimizer = fastopt.Adam(others, lr=0.05, grads=grad)
for _ in range(9):
    for first in range(0, 103, 10):
        last = min(first + 10, 103)
        logistic.gradient_of(inputs, targets, others, first, last, grad)
        optimizer.grad_scale = last - first
        optimizer.step()
assert weights.tobytes() == others.tobytes()
assert np.mean((inputs @ weights[:7] + weights[7] > 0) == targets) > 0.9
print(logistic.__file__)
"""


def check_the_cython_package(python: Path, folder: Path) -> None:
    """examples/cython_package is built against an installed fastopt, and trains with its bits."""
    shutil.copytree(ROOT / "examples" / "cython_package", folder)
    command = [str(python), "setup.py", "build_ext", "--inplace"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    result = run(python, LOGISTIC, folder)
    assert result.returncode == 0, result.stderr
    assert str(folder) in result.stdout


def test_a_wheel_works_outside_of_the_checkout(built_checkout: Path, tmp_path: Path) -> None:
    python = python_with(built_checkout / "dist", tmp_path / "venv")
    result = run(python, TRAIN.format(backends=("cython", "numba", "reference", "auto")), tmp_path)
    assert result.returncode == 0, result.stderr
    assert str(tmp_path / "venv") in result.stdout
    assert "cython" in result.stdout.splitlines()[0]
    check_the_cython_package(python, tmp_path / "package")
    in_root = run(python, "import fastopt", built_checkout)
    assert in_root.returncode != 0
    assert "start Python outside of the checkout's root" in in_root.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in compiler is a shell script")
def test_no_openmp_is_a_loud_error_unless_opted_out(built_checkout: Path, tmp_path: Path) -> None:
    checkout = shutil.copytree(built_checkout, tmp_path / "checkout", ignore=shutil.ignore_patterns("dist"))
    with_openmp = [path for path in (checkout / "build").rglob("*.so") if b"libgomp" in path.read_bytes()]
    assert [path.name.split(".")[0] for path in with_openmp] == ["engine"]
    for path in [*with_openmp, *(checkout / "build").rglob("engine.o")]:
        path.unlink()  # the others are not compiled again
    compiler = tmp_path / "cc"
    compiler.write_text(
        '#!/bin/sh\ncase "$*" in *-fopenmp*) echo "unrecognized option -fopenmp" >&2; exit 1;; esac\nexec cc "$@"\n'
    )
    compiler.chmod(0o755)
    failed = build_wheel(checkout, CC=str(compiler))
    assert failed.returncode != 0
    assert "cannot compile and link an OpenMP program" in failed.stdout + failed.stderr
    assert "FASTOPT_BUILD_OPENMP=0" in failed.stdout + failed.stderr
    built = build_wheel(checkout, CC=str(compiler), FASTOPT_BUILD_OPENMP="0")
    assert built.returncode == 0, built.stderr
    python = python_with(checkout / "dist", tmp_path / "venv")
    result = run(python, TRAIN.format(backends=("cython", "numba", "reference")), tmp_path)
    assert result.returncode == 0, result.stderr
    assert "built for one thread" in result.stdout
    modules = list((tmp_path / "venv").rglob("fastopt/**/*.so"))
    assert len(modules) > 5
    assert [path.name for path in modules if b"libgomp" in path.read_bytes()] == []


def test_without_the_compiled_module_numba_and_the_reference_work(checkout: Path, tmp_path: Path) -> None:
    built = build_wheel(checkout, FASTOPT_BUILD_EXTENSION="0")
    assert built.returncode == 0, built.stderr
    python = python_with(checkout / "dist", tmp_path / "venv")
    result = run(python, TRAIN.format(backends=("reference", "numba", "auto")), tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0].endswith("numba")
    asked = run(python, "import numpy, fastopt; fastopt.Adam(numpy.ones(3), backend='cython')", tmp_path)
    assert "backend 'cython': the compiled module cannot be loaded" in asked.stderr


def test_a_wrong_build_variable(checkout: Path) -> None:
    failed = build_wheel(checkout, FASTOPT_BUILD_OPENMP="no")
    assert failed.returncode != 0
    assert "FASTOPT_BUILD_OPENMP='no': expected 0 or 1" in failed.stdout + failed.stderr
