"""The build: it says in one line what is missing, is serial or without the compiled module when asked for, and compiles
no more than has changed.

The first test compiles all modules, 30 seconds on one core, unless they have been compiled from the same text in this
checkout, with the NumPy and Cython of this environment.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from building import ROOT, build_editable, build_wheel, copy_of_sources, python_with, run, start

pytestmark = pytest.mark.slow

needs_scripts = pytest.mark.skipif(sys.platform != "linux", reason="stand-in compilers are shell scripts")

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
    built = start([str(python), "setup.py", "build_ext", "--inplace"], folder)
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


def copy_of(built_checkout: Path, folder: Path) -> Path:
    return shutil.copytree(built_checkout, folder, ignore=shutil.ignore_patterns("dist"))


def script(path: Path, text: str) -> str:
    """A program that stands in for the compiler."""
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


def cannot_compile(words: str) -> str:
    """A compiler that fails where a file or an argument has these words."""
    return f"""
for each; do case $each in
    {words}) echo "cc: no" >&2; exit 1;;
    *.c) if grep -qe '{words}' "$each"; then echo "cc: no $each" >&2; exit 1; fi;;
esac; done
exec cc "$@"
"""


INSTALL = "apt install gcc python3-dev`; Fedora: `dnf install gcc python3-devel`; macOS: `xcode-select --install"
BROKEN = {
    "no compiler": (None, "the C compiler `/nonexistent/cc` is not there. Install one", INSTALL),
    "a compiler that may not run": ("/", "cannot run (Permission denied). Install one", INSTALL),
    "a compiler that fails": ("exit 1", "cannot compile and link a program. Install one", INSTALL),
    "no Python.h": (cannot_compile("Python.h"), "does not find Python.h", "apt install python3-dev"),
    "no OpenMP": (cannot_compile("-fopenmp"), "an OpenMP program with -fopenmp -fopenmp", "FASTOPT_BUILD_OPENMP=0"),
}
"""What is wrong with the compiler: a script in its place, and words of the line that says so."""


@needs_scripts
@pytest.mark.parametrize("name", BROKEN)
def test_what_a_build_needs_is_said_in_the_last_line(name: str, built_checkout: Path, tmp_path: Path) -> None:
    stand_in, problem, cure = BROKEN[name]
    checkout = copy_of(built_checkout, tmp_path / "checkout")
    compiler = "/nonexistent/cc" if stand_in is None else stand_in
    if stand_in not in (None, "/"):
        compiler = script(tmp_path / "cc", stand_in)
    failed = start([sys.executable, "setup.py", "build"], checkout, CC=compiler)
    assert failed.returncode == 1
    last = failed.stderr.splitlines()[-1]
    assert last.startswith("fastopt cannot be built: ")
    assert problem in last
    assert cure in last
    assert last.endswith("or set FASTOPT_BUILD_EXTENSION=0 to build without the compiled module.")
    assert "Traceback" not in failed.stderr
    assert "copying" not in failed.stdout


def test_pip_shows_what_is_missing_under_few_lines(built_checkout: Path, tmp_path: Path) -> None:
    failed = build_wheel(copy_of(built_checkout, tmp_path / "checkout"), CC="/nonexistent/cc")
    assert failed.returncode != 0
    log = re.search(r"output\]\n(.*)\[end of output\]", failed.stdout + failed.stderr, re.DOTALL)
    assert log
    lines = [line.strip() for line in log[1].splitlines() if line.strip()]
    assert lines[-1].startswith("fastopt cannot be built: the C compiler `/nonexistent/cc` is not there.")
    assert len(lines) < 20


def test_a_folder_that_cannot_be_written(checkout: Path) -> None:
    (checkout / "build").write_text("a file where the folder should be")
    failed = start([sys.executable, "setup.py", "build"], checkout)
    assert failed.returncode == 1
    (line,) = failed.stderr.splitlines()
    assert line.startswith(f"fastopt cannot be built in {checkout}: {checkout / 'build'}")
    assert line.endswith("copy the checkout to where you may write.")


def test_without_openmp_when_asked_for(built_checkout: Path, tmp_path: Path) -> None:
    checkout = copy_of(built_checkout, tmp_path / "checkout")
    built = build_wheel(checkout, FASTOPT_BUILD_OPENMP="0")
    assert built.returncode == 0, built.stdout + built.stderr
    python = python_with(checkout / "dist", tmp_path / "venv")
    result = run(python, TRAIN.format(backends=("cython", "numba", "reference")), tmp_path)
    assert result.returncode == 0, result.stderr
    assert "built for one thread" in result.stdout
    modules = list((tmp_path / "venv").rglob("fastopt/**/*.so"))
    assert len(modules) > 5
    assert [path.name for path in modules if b"libgomp" in path.read_bytes()] == []


NOTES = """
echo "$@" >> {folder}/log
case "$*" in
    *--version) cat {folder}/version; exit;;
    *-fopenmp*) if [ -f {folder}/no_openmp ]; then exit 1; fi;;
esac
while [ $# -gt 0 ]; do if [ "$1" = -o ]; then echo compiled > "$2"; fi; shift; done
"""
"""A compiler that notes what it is told, and writes a word in place of what it should."""


@needs_scripts
def test_what_has_been_compiled_is_not_compiled_again(built_checkout: Path, tmp_path: Path) -> None:
    checkout = copy_of(built_checkout, tmp_path / "checkout")
    log, version = tmp_path / "log", tmp_path / "version"
    version.write_text("cc 1.0")
    compiler = script(tmp_path / "cc", NOTES.format(folder=tmp_path))

    def compiled(**environment: str) -> list[str]:
        """The modules that a build compiles."""
        log.write_text("")
        environment = {"CC": compiler, "LDFLAGS": "-L/where/libraries/are", **environment}
        built = start([sys.executable, "setup.py", "-q", "build"], checkout, **environment)
        assert built.returncode == 0, built.stdout + built.stderr
        return sorted(re.findall(r"-c \S+/(\w+)\.c\b", log.read_text()))

    every = compiled()
    links = [line for line in log.read_text().splitlines() if " -c " not in line and "--version" not in line]
    assert len(links) == 3 + len(every)  # what is tried, and the modules
    assert [line for line in links if "-L/where/libraries/are" not in line] == []
    assert {"_coefficients", "engine", "native_walk", "updates"} < set(every)
    assert compiled() == []
    (tmp_path / "no_openmp").touch()
    assert compiled(FASTOPT_BUILD_OPENMP="0") == ["engine"]
    (tmp_path / "no_openmp").unlink()
    version.write_text("cc 2.0")
    assert compiled() == every
    header = checkout / "kernels" / "native" / "machine.h"
    before = header.stat()
    header.write_text(header.read_text() + "/* other text */\n")
    os.utime(header, (before.st_atime, before.st_mtime))  # Text counts, and no date.
    assert compiled() == every
    kept = [path.name.partition("-")[2] for path in (checkout / "build" / "compiled").iterdir()]
    assert {kept.count(name) for name in kept} == {3}  # not that of `built_checkout`, the oldest


EVERYTHING_ELSE = """
import numpy as np, torch, fastopt, fastopt.torch
results = []
for backend in ("auto", "numba", "reference"):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(9, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
    optimizer = fastopt.torch.Adam(network.parameters(), lr=0.01, backend=backend)
    for _ in range(4):
        optimizer.zero_grad()
        network(torch.ones(3, 9)).square().mean().backward()
        fastopt.torch.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    results.append([param.tolist() for param in network.parameters()])
assert results[0] == results[1] == results[2]
optimizer = fastopt.Adam(np.ones(5, np.float32))
optimizer.step(np.ones(5, np.float32))
fastopt.save("run.safetensors", optimizer)
fastopt.load("run.safetensors", fastopt.Adam(np.ones(5, np.float32)))

@fastopt.rule(state=(), hyper=dict(lr=0.1))
def plain(param, grad, lr):
    param = param - lr * grad
    return param

for backend in ("auto", "reference"):
    w = np.ones(3)
    plain(w, backend=backend).step(w.copy())
    assert (w == 0.9).all()
from fastopt.command.main import main
main(["describe", "Adam"])
"""


def test_without_the_compiled_module_numba_and_the_reference_work(checkout: Path, tmp_path: Path) -> None:
    """Run beside a checkout named fastopt, which is not taken for the package."""
    removed = checkout / "build" / "lib" / "fastopt" / "removed.py"
    removed.parent.mkdir(parents=True)
    removed.write_text("# left by an earlier build")
    built = build_wheel(checkout, FASTOPT_BUILD_EXTENSION="0")
    assert built.returncode == 0, built.stderr
    (wheel,) = (checkout / "dist").glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith((".so", ".pyd", ".dylib", ".o"))]
    python = python_with(checkout / "dist", tmp_path / "venv")
    assert not list((tmp_path / "venv").rglob("removed.py"))
    result = run(python, TRAIN.format(backends=("reference", "numba", "auto")), tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(tmp_path / "venv"))
    assert result.stdout.splitlines()[0].endswith("numba")
    (tmp_path / "everything_else.py").write_text(EVERYTHING_ELSE)
    more = run(python, "import everything_else", tmp_path)
    assert more.returncode == 0, more.stderr
    assert "exp_avg" in more.stdout
    asked = run(python, "import numpy, fastopt; fastopt.Adam(numpy.ones(3), backend='cython')", tmp_path)
    assert "backend 'cython': the compiled module cannot be loaded" in asked.stderr


def test_a_wrong_build_variable(checkout: Path) -> None:
    failed = build_wheel(checkout, FASTOPT_BUILD_OPENMP="no")
    assert failed.returncode != 0
    assert "FASTOPT_BUILD_OPENMP='no': expected 0 or 1" in failed.stdout + failed.stderr


def test_an_editable_installation_is_found_beside_and_in_the_checkout(tmp_path: Path) -> None:
    """Beside a folder named fastopt, which Python could take for a package without modules, too."""
    checkout = copy_of_sources(tmp_path / "fastopt")
    built = build_editable(checkout, FASTOPT_BUILD_EXTENSION="0")
    assert built.returncode == 0, built.stdout + built.stderr
    python = python_with(checkout / "editable", tmp_path / "venv")
    for folder in (tmp_path, checkout, tmp_path / "venv"):
        result = run(python, "import fastopt\nprint(fastopt.__file__, fastopt.Adam.__module__)", folder)
        assert result.returncode == 0, result.stderr
        assert result.stdout.split() == [str(checkout / "fastopt" / "__init__.py"), "fastopt.optimizers.adam"]
