"""A process that lacks what Windows lacks, and refuses what Windows refuses: for tests that run on POSIX systems.

Nothing here has run on Windows. It finds imports and calls that only POSIX has, files that are renamed or removed while
they are open, folders that are opened, and line ends that would be translated.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import os
import signal
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

MODULES = ("fcntl", "grp", "pwd", "resource", "termios", "pty", "syslog", "_curses", "curses", "readline")
"""What cannot be imported."""

LOADED = (
    *("asyncio", "ctypes", "csv", "importlib.metadata", "multiprocessing.connection", "multiprocessing.context"),
    *("multiprocessing.popen_spawn_posix", "multiprocessing.resource_tracker", "multiprocessing.spawn"),
    *("multiprocessing.synchronize", "platform", "subprocess", "tempfile", "uuid", "webbrowser"),
    *("llvmlite.binding", "numba", "rich.console", "rich.progress", "rich.table", "safetensors.numpy"),
)
"""Not fastopt's, and as they are on this system."""

COMPILED = "fastopt.kernels.native"
"""Nor can the compiled module, which has no wheel for Windows."""

ATTRIBUTES: dict[Any, tuple[str, ...]] = {
    os: (
        *("fork", "forkpty", "register_at_fork", "sched_getaffinity", "sched_setaffinity", "sched_yield", "getuid"),
        *("geteuid", "getgid", "uname", "fchmod", "chown", "fchown", "killpg", "getpgid", "setsid", "posix_fadvise"),
        *("O_DIRECTORY", "O_CLOEXEC", "O_NOFOLLOW", "getloadavg", "sysconf", "nice", "wait", "mkfifo", "pread"),
    ),
    signal: (
        *("SIGKILL", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGQUIT", "SIGCHLD", "SIGSTOP"),
        *("alarm", "setitimer", "getitimer", "pthread_sigmask", "pthread_kill", "sigwait", "siginterrupt", "pause"),
    ),
}
BINARY = 0x8000
"""`os.O_BINARY`; the same bit is O_LARGEFILE on Linux, which changes nothing."""


class _Refuse(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name in MODULES or name == COMPILED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def _open_paths() -> set[str]:
    found = set()
    for each in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{each}"))
    return found


def _refuse_open_files(function: Any, *positions: int) -> Any:
    def refusing(*arguments: Any, **keywords: Any) -> Any:
        paths = [os.path.realpath(arguments[position]) for position in positions]
        if _open_paths().intersection(paths):
            raise PermissionError(13, "The process cannot access the file because it is being used", paths[0])
        return function(*arguments, **keywords)

    return refusing


def pretend() -> None:
    """Make this process so, before fastopt is imported and after everything that is not fastopt's."""
    import fcntl as real

    for name in LOADED:
        importlib.import_module(name)
    plain: Any = sys.modules
    plain["tempfile"]._bin_openflags |= BINARY
    plain["multiprocessing.resource_tracker"]._HAVE_SIGMASK = False
    assert not [name for name in sys.modules if name.split(".")[0] == "fastopt"]
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, _Refuse())
    for module, names in ATTRIBUTES.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    msvcrt: Any = types.ModuleType("msvcrt")
    msvcrt.LK_NBLCK = 2
    msvcrt.locking = lambda descriptor, mode, nbytes: real.flock(descriptor, real.LOCK_EX | real.LOCK_NB)
    sys.modules["msvcrt"] = msvcrt
    ctypes: Any = sys.modules["ctypes"]
    plain_library = ctypes.CDLL
    ctypes.CDLL = lambda name, *more, **keywords: plain_library(None if name == "ucrtbase" else name, *more, **keywords)
    plain_open = os.open

    def windows_open(path: Any, flags: int, *more: Any, **keywords: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", path)
        assert flags & BINARY or not flags & (os.O_WRONLY | os.O_RDWR), "line ends would be translated"
        return plain_open(path, flags, *more, **keywords)

    changed: Any = os
    changed.O_BINARY = BINARY
    changed.open = windows_open
    changed.replace = changed.rename = _refuse_open_files(os.replace, 0, 1)
    changed.unlink = changed.remove = _refuse_open_files(os.unlink, 0)
    sys.platform = "win32"


def work(folder: Path) -> None:
    """What a user does, on arrays."""
    import numpy as np

    import fastopt
    from fastopt.kernels import backends, floating_point
    from fastopt.kernels.numba import object_cache
    from fastopt.tuning.results import open_runs

    assert backends.compiled_module_error() is not None
    assert floating_point._by_c_library() is None
    assert floating_point.can_flush_denormals()
    os.environ.update(LOCALAPPDATA=str(folder / "local"))
    kept = os.environ.pop(object_cache.VARIABLE)
    assert object_cache.folder() == folder / "local" / "fastopt"
    os.environ[object_cache.VARIABLE] = kept

    tiny = np.full(4, 1e-40, np.float32)
    results = []
    for backend in ("auto", "numba", "reference"):
        param = np.linspace(-1, 1, 1000, dtype=np.float32)
        optimizer = fastopt.Adam({"w": param}, backend=backend, flush_denormals=True)
        for _ in range(3):
            optimizer.step({"w": 0.5 * param})
        results.append(param.tobytes())
        small = tiny.copy()
        fastopt.SGD(small, lr=1.0, backend=backend).step(np.zeros(4, np.float32))
        assert not small.any(), "denormals were kept"
        fastopt.save(folder / f"{backend}.safetensors", optimizer, run={"epoch": 3})  # and again, over the old file
        fastopt.save(folder / f"{backend}.safetensors", optimizer, run={"epoch": 4})
        copied = np.zeros(1000, np.float32)
        other, run = fastopt.Adam({"w": copied}, backend=backend), {"epoch": 0}
        fastopt.load(folder / f"{backend}.safetensors", other, run=run)
        assert run == {"epoch": 4}
        assert copied.tobytes() == results[-1]
    assert len(set(results)) == 1
    assert sorted(path.name for path in folder.glob("*.safetensors")) == sorted(
        f"{backend}.safetensors" for backend in ("auto", "numba", "reference")
    )
    assert not list(folder.glob(".*")), "temporary files are left"
    with open_runs(folder / "runs.jsonl", {"points": 1}) as (runs, _):
        assert runs == []
        second = open_runs(folder / "runs.jsonl", {"points": 1})
        with pytest.raises(RuntimeError, match="another sweep is writing"):
            second.__enter__()
    fastopt.show_config()


def tune() -> None:
    """Worker processes and the command; `os.open` and the like are the system's in the workers."""
    import tuning_cases

    from fastopt.command.main import main
    from fastopt.tuning import sweep

    found = sweep(tuning_cases.parabola, rates=[0.1, 0.5], seeds=1, workers=1)
    assert found.best is not None
    assert found.best.lr == 0.5
    for arguments in (["--version"], ["--help"], ["sweep", "--help"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert not end.value.code
