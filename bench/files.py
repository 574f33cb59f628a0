"""`python -m fastopt.bench.files [GIGABYTES] [FOLDER ...]`: the speed and memory of fastopt.save and fastopt.load.

Beside them it times numpy.save and numpy.load of one array of as many bytes, with the flush to the disk that
fastopt.save also does, and without. All take turns, in each folder, and files that are read come once from the disk
(`cold`) and once from memory (`warm`). Memory is the most that a process has beyond what it had before (anonymous
pages: not the pages of the file, which the system can drop), measured in a process of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

import fastopt

ROUNDS = 5
FOLDERS = ("/tmp", "/dev/shm")
STATUS = Path("/proc/self/status")


def optimizer_of(nbytes: int) -> fastopt.Optimizer:
    """An optimizer with a parameter and two states, of so many bytes together."""
    optimizer = fastopt.Adam(np.ones(nbytes // 12, np.float32))
    optimizer.step(np.ones(nbytes // 12, np.float32))
    return optimizer


def flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    os.fsync(descriptor)
    os.close(descriptor)


def forget(path: Path) -> None:
    """Have the system drop a file's pages, so that it is read from the disk; no effect in memory."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def seconds(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def times(folder: Path, nbytes: int) -> dict[str, list[float]]:
    """Seconds by name, a value for each round."""
    optimizer, array = optimizer_of(nbytes), np.ones(nbytes, np.uint8)
    ours, theirs = folder / "run.safetensors", folder / "run.npy"

    def save_and_flush() -> None:
        np.save(theirs, array)
        flush(theirs)

    found: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        turns: list[tuple[str, Callable[[], object]]] = [
            ("fastopt.save", lambda: fastopt.save(ours, optimizer)),
            ("numpy.save, flushed", save_and_flush),
            ("numpy.save", lambda: np.save(theirs, array)),
        ]
        for name, function in turns:
            found.setdefault(name, []).append(seconds(function))
        flush(theirs)
        for state in ("cold", "warm"):
            for name, path, function in (
                ("fastopt.load", ours, lambda: fastopt.load(ours, optimizer)),
                ("numpy.load", theirs, lambda: np.load(theirs)),
            ):
                if state == "cold":
                    forget(path)
                found.setdefault(f"{name}, {state}", []).append(seconds(function))
    return found


def anonymous_bytes() -> int:
    return next(int(line.split()[1]) * 1024 for line in STATUS.read_text().splitlines() if line.startswith("RssAnon:"))


def peak_of(function: Callable[[], object]) -> int:
    """The most memory in use during a call beyond that before it, looked at every millisecond."""
    before, most, done = anonymous_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.001):
            most = max(most, anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    function()
    done.set()
    watcher.join()
    return max(most, anonymous_bytes()) - before


def peaks(folder: Path, nbytes: int) -> dict[str, int]:
    """Bytes by name; in a fresh process."""
    path = folder / "run.safetensors"
    optimizer = optimizer_of(nbytes)
    small = optimizer_of(1200)
    fastopt.save(path, small)
    fastopt.load(path, small)  # what is imported and allocated once is not counted
    return {
        "fastopt.save": peak_of(lambda: fastopt.save(path, optimizer)),
        "fastopt.load": peak_of(lambda: fastopt.load(path, optimizer)),
    }


def main(arguments: list[str]) -> None:
    nbytes = int(float(arguments[0] if arguments else 1) * 1e9)
    for each in arguments[1:] or FOLDERS:
        with tempfile.TemporaryDirectory(dir=each) as name:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                more = pool.submit(peaks, Path(name), nbytes).result()
            found = times(Path(name), nbytes)
        print(f"{nbytes / 1e9:g} GB in {each}, median of {ROUNDS}:")
        for what, values in found.items():
            print(f"  {what:20} {statistics.median(values):7.3f} s ({min(values):.3f} to {max(values):.3f})")
        pairs = [
            ("fastopt.save", "numpy.save, flushed"),
            ("fastopt.save", "numpy.save"),
            ("fastopt.load, cold", "numpy.load, cold"),
            ("fastopt.load, warm", "numpy.load, warm"),
        ]
        for ours, theirs in pairs:
            ratios = [a / b for a, b in zip(found[ours], found[theirs], strict=True)]
            print(f"  {ours} / {theirs}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        for what, value in more.items():
            print(f"  {what}: {value / 1e6:.1f} MB of memory beyond the arrays")


if __name__ == "__main__":
    main(sys.argv[1:])
