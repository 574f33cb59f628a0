"""`python -m fastopt.bench.training_memory`: what training keeps in memory that evaluation does not. Linux only.

Each row is a fresh process: a transformer is built, reads a batch, computes gradients, and takes two steps of Adam.
What the process has more of physical memory after each of these is printed, in bytes for each parameter; `--plot FILE`
draws it. `--quick` takes a small network, whose numbers mean little.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import fastopt

from . import memory
from .peers.bitsandbytes import quieten
from .storage_networks import Shape, transformer

CHARACTERS = 100
SHAPE = Shape(width=512, layers=6, heads=8, context=128, batch=8)
QUICK_SHAPE = Shape(width=128, layers=2, context=64, batch=2)

KINDS = ("weights", "gradients", "states", "average", "activations")
PEAK = "at most"


def as_array(tensor: Any) -> np.ndarray:
    """The memory of a tensor as NumPy has it, also of bfloat16."""
    import torch

    if tensor.dtype is torch.bfloat16:
        dtype = importlib.import_module("ml_dtypes").bfloat16
        return np.asarray(tensor.detach().view(torch.uint16).numpy()).view(dtype)
    return np.asarray(tensor.detach().numpy())


def ours(params: list[Any], **options: Any) -> Callable[[], None]:
    """A step of fastopt.Adam over the memory of torch's parameters."""
    optimizer = fastopt.Adam([as_array(param) for param in params], **options)
    return lambda: optimizer.step([as_array(param.grad) for param in params])


def theirs(params: list[Any], package: str, name: str, **options: Any) -> Callable[[], None]:
    quieten()
    step: Callable[[], None] = getattr(importlib.import_module(package), name)(params, **options).step
    return step


@dataclass(frozen=True)
class Row:
    """A way to train, or none: then the network only reads. `dtype`: of weights and gradients."""

    name: str
    optimizer: Callable[..., Callable[[], None]] | None = None
    dtype: str = "float32"
    options: Mapping[str, Any] = field(default_factory=dict)
    average: bool = False
    package: str = "ml_dtypes"


FLOAT8 = {"state_dtype": "float8", "stochastic_rounding": True}
ROWS = (
    Row("evaluation", None),
    Row("evaluation, bfloat16", None, "bfloat16"),
    Row("Adam", ours),
    Row("Adam and an average of weights", ours, options={"ema_decay": 0.999}, average=True),
    Row("float8 states", ours, options=FLOAT8),
    Row("bfloat16, float32 states", ours, "bfloat16", {"stochastic_rounding": True}),
    Row("bfloat16, master weights", ours, "bfloat16", {"master_weights": True}),
    Row("bfloat16, master weights, float8 states", ours, "bfloat16", {"master_weights": True, **FLOAT8}),
    Row("bfloat16, float8 states", ours, "bfloat16", FLOAT8),
    Row("torch: Adam", functools.partial(theirs, package="torch.optim", name="Adam"), options={"fused": True}),
    Row(
        "bitsandbytes: 8-bit states",
        functools.partial(theirs, package="bitsandbytes.optim", name="Adam8bit"),
        package="bitsandbytes",
    ),
)


def forget_gradients(params: list[Any]) -> None:
    for param in params:
        param.grad = None


def growth(before: int) -> int:
    memory.give_memory_back()
    return memory.resident_bytes() - before


def measure(name: str, shape: Shape) -> dict[str, float]:
    """Bytes for each parameter, by kind; in a fresh process, whose libraries a small network has loaded before."""
    small = Shape(width=32, layers=1, heads=4, context=shape.context, batch=2)
    (row,) = (each for each in ROWS if each.name == name)
    _measure(row, small)
    return _measure(row, shape)


def _measure(row: Row, shape: Shape) -> dict[str, float]:
    import torch

    torch.set_num_threads(2)
    numbers = torch.randint(0, CHARACTERS, (shape.batch, shape.context))
    start = growth(0)
    network = transformer(CHARACTERS, shape).to(getattr(torch, row.dtype))
    params = list(network.parameters())
    found = {"weights": growth(start)}
    size = sum(param.numel() for param in params)

    def loss() -> Any:
        scores = network(numbers)
        return torch.nn.functional.cross_entropy(scores.flatten(0, 1).float(), numbers.flatten())

    memory.CLEAR.write_text(memory.RESET_PEAK)
    if row.optimizer is None:
        with torch.no_grad():
            loss()
        peak = memory.most_resident_bytes() - start
        found |= {"activations": peak - found["weights"], PEAK: peak}
        return {kind: count / size for kind, count in found.items()}
    loss().backward()  # what libraries allocate once for networks of this size is not counted
    forget_gradients(params)
    before = growth(0)
    result = loss()
    found["activations"] = growth(before)
    result.backward()
    del result
    found["gradients"] = growth(before)
    before = growth(0)
    step = row.optimizer(params, lr=1e-3, **row.options)
    for _ in range(2):
        step()
    found["states"] = growth(before)
    if row.average:
        found["average"] = 4 * size
        found["states"] -= found["average"]
    forget_gradients(params)
    memory.give_memory_back()
    memory.CLEAR.write_text(memory.RESET_PEAK)
    loss().backward()
    step()
    found[PEAK] = memory.most_resident_bytes() - start
    return {kind: count / size for kind, count in found.items()}


Found = dict[str, dict[str, float]]


def measure_all(quick: bool) -> Found:
    shape = QUICK_SHAPE if quick else SHAPE
    found: Found = {}
    for row in ROWS:
        if importlib.util.find_spec(row.package) is not None:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                found[row.name] = pool.submit(measure, row.name, shape).result()
    return found


def table(found: Found) -> str:
    """Markdown: a column for each kind of memory."""
    columns = (*KINDS, PEAK)
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    for name, kinds in found.items():
        cells = [f"{kinds[kind]:.1f}" if kind in kinds else "" for kind in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


COLORS = ("#0072b2", "#56b4e9", "#d55e00", "#e69f00", "0.8")


def draw(found: Found, path: Path) -> None:
    """A bar for each row, in parts."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from .plots import SETTINGS, save

    with rc_context(SETTINGS):
        figure = Figure(figsize=(8, 0.3 * len(found) + 1.2), layout="constrained")
        axes = figure.add_subplot(xlabel="bytes for each parameter")
        for place, kinds in enumerate(found.values()):
            left = 0.0
            for kind, color in zip(KINDS, COLORS, strict=True):
                width = max(kinds.get(kind, 0.0), 0.0)
                axes.barh(place, width, left=left, color=color, height=0.7, label=kind if place == 0 else None)
                if width >= 0.9:
                    white = "white" if kind in ("weights", "states") else "black"
                    axes.text(left + width / 2, place, f"{width:.1f}", ha="center", va="center", color=white, size=7.5)
                left += width
        axes.set_yticks(range(len(found)), list(found))
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        figure.legend(loc="outside upper center", ncols=len(KINDS), frameon=False)
    save(figure, path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m fastopt.bench.training_memory", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small network")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the table")
    options = parser.parse_args(arguments)
    if reason := memory.unavailable():
        parser.exit(1, f"{parser.prog}: {reason}\n")
    found = measure_all(options.quick)
    print(table(found))
    if options.plot is not None:
        draw(found, options.plot)


if __name__ == "__main__":
    main()
