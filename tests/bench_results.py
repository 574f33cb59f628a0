"""Results of a run that never was: fourteen peers, every kind of outcome, the same numbers each time."""

from __future__ import annotations

from typing import Any

from fastopt.bench.results import Record, Results

SIZES = tuple(10**power for power in range(3, 9))
VARIANTS = ("SGD momentum", "Adam", "AdamW", "RMSprop", "Adagrad", "Rprop")
FACTORS = {
    "torch default": 9.0,
    "torch foreach": 6.0,
    "torch fused": 1.2,
    "torch compile": 1.4,
    "DeepSpeed CPUAdam": 1.1,
    "DeepSpeed CPUAdagrad": 1.3,
    "bitsandbytes": 3.0,
    "bitsandbytes 8-bit": 0.7,
    "optax": 2.0,
    "Keras": 12.0,
    "thinc": 4.0,
    "NumPy": 10.0,
    "numba.njit": 1.5,
    "numba.njit parallel": 0.9,
}
ABSENT = "Nobody's optimizer"
BYTES = 28


def nanoseconds(size: int) -> float:
    return 0.2 + 600 / size + (0.4 if size > 10**6 else 0)


def result(name: str, size: int, ours: float) -> Record:
    ratio = FACTORS[name] * (1 + 30_000 / size)
    seconds = ours * ratio
    found: Record = {"seconds": seconds, "first_seconds": 40 * seconds, "bytes_per_second": BYTES * size / seconds}
    found |= {"ratio": ratio, "ratio_min": 0.9 * ratio, "ratio_max": 1.2 * ratio}
    if size >= 10**5:
        found["fraction"] = 0.9 / ratio
    if "8-bit" in name:
        found["approximate"] = True
    return found


def comparison(variant: str, size: int) -> Record:
    seconds = 1e-9 * size * nanoseconds(size)
    peers = {name: result(name, size, seconds) for name in FACTORS}
    if variant == "Rprop":
        for name in ("torch fused", "DeepSpeed CPUAdam"):
            peers[name] = {"unavailable": f"{name} has no Rprop"}
        peers["thinc"] = {"wrong": "tensor 0, element 3: 0.5 and nan"}
    if variant == "AdamW":
        peers["DeepSpeed CPUAdagrad"] = {"unavailable": "DeepSpeed CPUAdagrad has no AdamW | only Adagrad"}
    peers[ABSENT] = {"unavailable": "nobody is not installed"}
    record: Record = {
        "section": "Flat tensors",
        "name": f"{variant}, {size:,}",
        "variant": variant,
        "workload": f"{size:,}",
        "parameters": size,
        "threads": 2,
        "subject": "fastopt",
        "checked": True,
        "seconds": seconds,
        "first_seconds": 3 * seconds,
        "bytes_per_second": BYTES * size / seconds,
        "busy": 0.5 if (variant, size) == ("Adam", 1000) else 0.0,
        "peers": peers,
    }
    if size >= 10**5:
        record["roofline"] = {"seconds": 0.9 * seconds}
        record |= {"fraction": 0.9, "fraction_min": 0.85, "fraction_max": 0.97}
    return record


def results(variants: tuple[str, ...] = VARIANTS, sizes: tuple[int, ...] = SIZES) -> Results:
    records: list[dict[str, Any]] = [comparison(variant, size) for size in sizes for variant in variants]
    beside = {"fastopt cython": {"seconds": 1.5e-6, "ratio": 0.5, "ratio_min": 0.4, "ratio_max": 0.6}}
    itself = comparison("Adam", 10**5) | {"section": "Numba and Cython", "subject": "fastopt numba", "peers": beside}
    values = {"import and first step": (70.0, "ms")}
    records += [itself, {"section": "Start and memory", "name": "start", "values": values, "busy": 0.0}]
    return Results(
        records,
        machine={"processor": "A processor", "threads asked for": "2", "torch": "2.13.0"},
        left_out={"test_peers.py::test_flat_tensor[100_000_000-Adam]": "not enough memory"},
        failures={"test_start.py::test_start": "assert 2 == 1"},
        datetime="2026-11-21T12:00:00+00:00",
    )
