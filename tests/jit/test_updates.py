"""`fastopt.updates`: every C function has the bits of the optimizers, from Cython, from C, and through its address."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest

import fastopt
from fastopt.definitions.signatures import Signature, signatures
from fastopt.kernels import backends
from fastopt.kernels.render import updates_source as render_updates

if backends.compiled_module_error() is None:  # With an error, conftest.py lets none but .ci/without-extension go on.
    from fastopt import updates  # type: ignore[attr-defined]
else:
    pytest.skip("needs the compiled module", allow_module_level=True)

PACKAGE = Path(fastopt.get_include()) / "fastopt"
STEPS = 5
SOME = {"lr": 0.02, "eps": 1e-6, "weight_decay": 0.03, "momentum": 0.9, "dampening": 0.3, "lr_decay": 0.1, "beta1": 0.8}
"""Other values than the defaults."""

TYPES = {
    "float *": ctypes.c_void_p,
    "float const *": ctypes.c_void_p,
    "double *": ctypes.c_void_p,
    "double const *": ctypes.c_void_p,
    "Py_ssize_t": ctypes.c_ssize_t,
    "int64_t": ctypes.c_int64,
    "double": ctypes.c_double,
    "int": ctypes.c_int,
}


def c_function(name: str) -> Any:
    """A function by its address, with the argument types that it was compiled with."""
    capsule = updates.__pyx_capi__[name]
    get_name, get_pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    declared = get_name(capsule)
    arguments = re.fullmatch(r"void \((.*)\)", declared.decode())
    assert arguments is not None
    types = [TYPES[each] for each in arguments[1].split(", ")]
    return ctypes.CFUNCTYPE(None, *types)(get_pointer(capsule, declared))


def class_options(given: Signature, numbers: dict[str, float]) -> dict[str, Any]:
    """Numbers as coefficient functions see them -> the arguments of the class."""
    switches = (name for name in given.spec.variants if name in given.fixed and given.is_flag(name))
    options: dict[str, Any] = {name: bool(given.fixed[name]) for name in switches}
    for name in given.spec.defaults:
        parts = given.spec.hyperparameters[name].spread
        if parts:
            options[name] = tuple(numbers[part] for part in parts)
        elif name in numbers:
            options[name] = bool(numbers[name]) if given.is_flag(name) else numbers[name]
    return options | {"grad_scale": numbers["grad_scale"]}


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("given", signatures().values(), ids=lambda given: given.name)
def test_the_bits_of_the_optimizers(given: Signature, dtype: Any) -> None:
    function = c_function(f"{given.name}_{np.dtype(dtype).name}")
    numbers = {name: default if default is not None else 0.0 for name, default in given.arguments.items()}
    numbers |= {name: value for name, value in SOME.items() if name in numbers} | {"grad_scale": 4.0, "maximize": 1.0}
    random = np.random.default_rng(3)
    for size in (1, 37, 1030):
        param = random.standard_normal(size).astype(dtype)
        other = param.copy()
        optimizer = getattr(fastopt, given.spec.name)(other, **class_options(given, numbers))
        states = []
        for name in given.states:
            start = given.initial.get(name, 0.0)
            value = {**given.initial_arguments, **SOME}[start] if isinstance(start, str) else start
            states.append(np.full(size, value if start == "lr" else 0.0, dtype))
        if "lr" in given.initial.values():
            optimizer.param_groups[0]["lr"] = SOME["lr"]
        carried = {name: np.full(1, start) for name, start in given.spec.carried.items()}
        for step in range(1, STEPS + 1):
            grad = cases.random_gradient(random, size, dtype)
            addresses = [each.ctypes.data for each in (param, grad, *states)]
            values = [int(each) if given.is_flag(name) else each for name, each in numbers.items()]
            function(*addresses, size, step, *(each.ctypes.data for each in carried.values()), *values)
            optimizer.step(grad)
        assert cases.equal_bits(param, other)
        for name, state in zip(given.states, states, strict=True):
            assert cases.equal_bits(state, optimizer.state[0][name]), name
        for name, number in carried.items():
            assert number[0] == optimizer.state[0][name]


def test_what_is_installed_is_what_is_rendered() -> None:
    text = (PACKAGE / "updates.pxd").read_text(encoding="utf-8")
    assert text == render_updates.updates_pxd(signatures().values()), "build again"
    declared = re.findall(r"^cdef void (\w+)\(", text, re.MULTILINE)
    assert set(declared) == set(updates.__pyx_capi__)
    assert len(declared) == 2 * len(signatures())


C_SOURCE = """
#include <Python.h>
#include "fastopt/updates_api.h"

int descend(double *param, const double *grad, long long step) {
    if (import_fastopt__updates() < 0) return -1;
    sgd_float64(param, grad, 3, step, 0.5, 0.0, 0, 0, 1.0);
    return 0;
}
"""


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_from_c(tmp_path: Path) -> None:
    (tmp_path / "user.c").write_text(C_SOURCE)
    include = [f"-I{fastopt.get_include()}", f"-I{sysconfig.get_path('include')}"]
    undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    command = ["cc", "-shared", "-fPIC", "-w", *undefined, *include, "user.c", "-o", "user.so"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    library = ctypes.PyDLL(str(tmp_path / "user.so"))
    library.descend.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_longlong]
    param, grad = np.ones(3), np.full(3, 0.5)
    assert library.descend(param.ctypes.data, grad.ctypes.data, 1) == 0
    assert param.tolist() == [0.75] * 3


@pytest.mark.parametrize("pointer", ["unsigned short", "float"])
def test_cython_refuses_pointers_to_16_bits(pointer: str, tmp_path: Path) -> None:
    """The two dtypes that there are have types of C, so that the compiler tells them from arrays of bfloat16."""
    source = f"from fastopt.updates cimport sgd_float32\ncdef {pointer} param\n"
    (tmp_path / "user.pyx").write_text(source + "sgd_float32(&param, &param, 1, 1, 0.1, 0, 0, 0, 1)\n")
    command = [sys.executable, "-m", "cython", "-3", "-I", fastopt.get_include(), "user.pyx"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (pointer == "float"), done.stderr
    assert pointer == "float" or "Cannot assign type 'unsigned short *' to 'float *'" in done.stderr
