"""`import fastopt` loads NumPy and the compiled module, and nothing else of weight."""

from __future__ import annotations

import subprocess
import sys

HEAVY = (
    "numba",
    "llvmlite",
    "torch",
    "matplotlib",
    "rich",
    "scipy",
    "numpy.ma",
    "safetensors",
    "fastopt.checkpoints",
    "fastopt.command.demo",
    "fastopt.examples",
    "fastopt.schedules.plateau",
    "fastopt.schedules",
    "fastopt.tuning",
    "fastopt.keras",
    "fastopt.thinc",
    "keras",
    "thinc",
)


def modules_after(code: str) -> set[str]:
    program = f"{code}\nimport sys\nprint(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )


def test_import_is_cheap() -> None:
    code = "import numpy as np, fastopt\nw = np.ones(9, np.float32)\nfastopt.Adam(w).step(w.copy())"
    loaded = modules_after(code)
    assert not [name for name in HEAVY if name in loaded]
    assert "fastopt.kernels.native.engine" in loaded
    allowed = {"fastopt", "numpy", "cython_runtime"}
    new = {name.split(".")[0] for name in loaded - modules_after("import numpy")}
    third_party = {name for name in new if name not in sys.stdlib_module_names and not name.startswith("_cython")}
    assert third_party <= allowed


def test_the_reference_needs_no_numba() -> None:
    code = "import numpy as np, fastopt\nw = np.ones(9)\nfastopt.Adam(w, backend='reference').step(w.copy())"
    assert "numba" not in modules_after(code)


def test_public_names() -> None:
    import fastopt

    assert all(hasattr(fastopt, name) for name in fastopt.__all__)
    assert fastopt.__version__


def test_schedules_need_no_numba_until_asked_to_compile() -> None:
    code = "import fastopt\nfastopt.schedules.CosineDecay(0.1, 10)(3)\nfastopt.ReduceOnPlateau"
    assert "numba" not in modules_after(code)
