"""Programs that a fresh process runs up to the end of its first step: a table of fastopt and its peers."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PROGRAM = """
import time
import numpy
params, grads = numpy.zeros(1000, numpy.float32), numpy.ones(1000, numpy.float32)
start = time.perf_counter()
{imports}
imported = time.perf_counter()
{first_step}
stepped = time.perf_counter()
print(imported - start, stepped - start, float(params[0]))
"""
"""Prints the seconds of the import, the seconds up to the end of the first step, and a parameter after the step."""

EXPECTED, TOLERANCE = -1e-3, 1e-8
"""Adam's first step moves a parameter by its learning rate against the gradient's sign, whatever eps is."""

TIMEOUT = 600
"""Seconds; building an extension takes minutes on a slow machine."""


@dataclass(frozen=True)
class ColdStart:
    """A way to make one step of Adam with `grads`; it leaves the result in `params`."""

    name: str
    package: str
    imports: str
    first_step: str
    cache: str | None = None
    """The environment variable that names the folder where compiled code is kept for the next process."""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def absent(self) -> str | None:
        found = importlib.util.find_spec(self.package) is not None
        return None if found else f"{self.package} is not installed"

    def run(self, folder: Path) -> tuple[float, float] | str:
        """The seconds of the import and of import and first step, or why neither exists. Caches are in the folder."""
        program = PROGRAM.format(imports=self.imports, first_step=self.first_step)
        variables = {**os.environ, **self.environment} | ({} if self.cache is None else {self.cache: str(folder)})
        variables.pop("PYTHONDONTWRITEBYTECODE", None)  # Python's own compiling is not what a second process pays.
        ended = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            capture_output=True,
            text=True,
            cwd=folder,
            env=variables,
            timeout=TIMEOUT,
        )
        if ended.returncode != 0:
            said = ended.stderr.strip().splitlines()
            return said[-1] if said else f"the process ended with {ended.returncode}"
        imported, stepped, param = map(float, ended.stdout.split()[-3:])
        assert abs(param - EXPECTED) < TOLERANCE, f"WRONG: {self.name} made {param} of a parameter, not {EXPECTED}"
        return imported, stepped


FASTOPT = "fastopt.Adam(params, grads=grads, backend={backend!r}).step()"

TENSORS = """
param = torch.nn.Parameter(torch.from_numpy(params))
param.grad = torch.from_numpy(grads)
"""

TORCH = TENSORS + "torch.optim.Adam([param]).step()"

COMPILED = (
    TENSORS
    + """
optimizer = torch.optim.Adam([param])
torch.compile(optimizer.step)()
"""
)

DEEPSPEED = TENSORS + "DeepSpeedCPUAdam([param]).step()"

BITSANDBYTES = TENSORS + "bitsandbytes.optim.Adam([param]).step()"

KERAS = """
param = keras.Variable(params)
keras.optimizers.Adam(1e-3).apply([keras.ops.convert_to_tensor(grads)], [param])
params = keras.ops.convert_to_numpy(param)
"""

OPTAX = """
optimizer = optax.adam(1e-3)
def step(params, state, grads):
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state
params = jax.numpy.asarray(params)
params, state = jax.jit(step, donate_argnums=(0, 1))(params, optimizer.init(params), jax.numpy.asarray(grads))
jax.block_until_ready(params)
"""

THINC = "params, _ = thinc.optimizers.Adam(1e-3, use_averages=False, grad_clip=0.0)((0, 'params'), params, grads)"

CUSTOM = "CustomAdam(params, grads=grads).step()"

NJIT = """
@numba.njit
def step(params, grads, mean, mean_square, lr, beta1, beta2, eps, steps):
    for i in range(params.size):
        mean[i] = beta1 * mean[i] + (1 - beta1) * grads[i]
        mean_square[i] = beta2 * mean_square[i] + (1 - beta2) * grads[i] ** 2
        corrected = mean_square[i] / (1 - beta2**steps)
        params[i] -= lr * mean[i] / (1 - beta1**steps) / (corrected**0.5 + eps)
step(params, grads, numpy.zeros_like(params), numpy.zeros_like(params), 1e-3, 0.9, 0.999, 1e-8, 1)
"""

COLD_STARTS = (
    ColdStart("fastopt", "fastopt", "import fastopt", FASTOPT.format(backend="auto")),
    ColdStart("fastopt, numba", "fastopt", "import fastopt", FASTOPT.format(backend="numba"), "FASTOPT_CACHE_DIR"),
    ColdStart(
        "custom rule", "fastopt", "from fastopt.bench.custom_rules import CustomAdam", CUSTOM, "FASTOPT_CACHE_DIR"
    ),
    ColdStart("numba njit", "numba", "import numba", NJIT),
    ColdStart("thinc", "thinc", "import thinc.optimizers", THINC),
    ColdStart("torch", "torch", "import torch", TORCH),
    ColdStart("torch compile", "torch", "import torch", COMPILED, "TORCHINDUCTOR_CACHE_DIR"),
    ColdStart("bitsandbytes", "bitsandbytes", "import torch, bitsandbytes", BITSANDBYTES),
    ColdStart(
        "DeepSpeed CPUAdam",
        "deepspeed",
        "import torch; from deepspeed.ops.adam import DeepSpeedCPUAdam",
        DEEPSPEED,
        "TORCH_EXTENSIONS_DIR",
        {"DS_ACCELERATOR": "cpu"},
    ),
    ColdStart("Keras on torch", "keras", "import keras", KERAS, environment={"KERAS_BACKEND": "torch"}),
    ColdStart("optax, jit", "optax", "import jax, optax", OPTAX, environment={"JAX_PLATFORMS": "cpu"}),
)
