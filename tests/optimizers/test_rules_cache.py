"""What is kept of compiled rules from one process to the next: used when it is whole and ours, never stale."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import in_a_fresh_process

import fastopt
from fastopt.kernels import backends
from fastopt.kernels.formulas import coefficients, registry
from fastopt.kernels.numba import loops as numba_loops
from fastopt.kernels.numba import machine_code, object_cache

RULE = """
import sys, numpy as np, fastopt

def rates(step, lr, beta):
    lr = lr * {factor} / (1 - beta**step)
    return lr, beta

@fastopt.rule(state=("exp_avg",), hyper=dict(lr=1.0, beta=0.5), coefficients=rates)
def Mine(param, grad, exp_avg, lr, beta):
    exp_avg = beta * exp_avg + (1 - beta) * grad
    return param - lr * exp_avg, exp_avg

w = np.zeros(100)
opt = Mine(w)
opt.step(np.linspace(0, 1, 100)); opt.step(np.linspace(1, 2, 100))
print(w.tobytes().hex(), "numba" in sys.modules)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return tmp_path / "program.py"


def run(program: Path, cache: Path | str, factor: float = 1.0, **environment: str) -> tuple[str, bool]:
    """The parameters' bits, and whether Numba was loaded: whether anything was compiled."""
    program.write_text(RULE.format(factor=factor))
    result = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "FASTOPT_CACHE_DIR": str(cache), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    bits, loaded = result.stdout.split()
    return bits, loaded == "True"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The parameters' bits of a run, and the cache that it left."""
    folder = tmp_path_factory.mktemp("kept")
    bits, _ = run(folder / "program.py", folder / "cache")
    return bits, folder / "cache"


def test_the_second_process_compiles_nothing_and_gives_the_same_bits(program: Path, tmp_path: Path) -> None:
    cache = tmp_path / "new" / "cache"
    cold, warm = run(program, cache), run(program, cache)
    assert cold == (warm[0], True)
    assert not warm[1]
    # A loop, and coefficients, which are Python's in the first steps without the compiled module.
    assert len(list(cache.iterdir())) == (2 if backends.compiled_module_error() is None else 1)
    assert not [each for each in cache.iterdir() if each.stat().st_mode & 0o077]
    assert not cache.stat().st_mode & 0o077


@pytest.mark.slow
def test_a_changed_rule_is_compiled_anew_and_a_rule_changed_back_is_not(program: Path, tmp_path: Path) -> None:
    first = run(program, tmp_path / "cache", 1.0)
    second = run(program, tmp_path / "cache", 2.0)
    assert second[1]
    assert first[0] != second[0]
    assert run(program, tmp_path / "cache", 1.0) == (first[0], False)


@pytest.mark.slow
def test_another_processor_has_its_own_entries(kept: tuple[str, Path], program: Path, tmp_path: Path) -> None:
    bits, cache = kept[0], shutil.copytree(kept[1], tmp_path / "cache")
    plain = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    assert run(program, cache) == (bits, False)
    assert run(program, cache, **plain) == (bits, True)
    assert run(program, cache, **plain) == (bits, False)
    assert run(program, cache, NUMBA_ENABLE_AVX="0") == (bits, True)
    assert len(list((tmp_path / "cache").iterdir())) == 6


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut short", "other content", "empty", "writable by others", "a folder"])
def test_entries_that_are_not_whole_or_not_ours_are_as_good_as_none(
    damage: str, kept: tuple[str, Path], program: Path, tmp_path: Path
) -> None:
    bits, cache = kept[0], shutil.copytree(kept[1], tmp_path / "cache")
    for path in list(cache.iterdir()):
        data = path.read_bytes()
        match damage:
            case "cut short":
                path.write_bytes(data[:-7])
            case "other content":
                path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
            case "empty":
                path.write_bytes(b"")
            case "writable by others":
                path.chmod(0o666)
            case "a folder":
                path.unlink()
                path.mkdir()
    assert run(program, cache) == (bits, True)
    if damage != "a folder":
        assert run(program, cache) == (bits, False)  # replaced by good ones


def test_a_folder_that_others_can_write_to_is_not_used(kept: tuple[str, Path], program: Path, tmp_path: Path) -> None:
    bits, cache = kept[0], shutil.copytree(kept[1], tmp_path / "cache")
    cache.chmod(0o777)
    assert run(program, cache) == (bits, True)


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["", "/proc/nothing/here", "file"])
def test_where_nothing_can_be_kept_it_is_compiled_each_time(
    cache: str, kept: tuple[str, Path], program: Path, tmp_path: Path
) -> None:
    if cache == "file":
        (tmp_path / "file").touch()
        cache = str(tmp_path / "file")
    assert [run(program, cache) for _ in range(2)] == [(kept[0], True)] * 2


@pytest.mark.slow
def test_processes_at_once_do_not_disturb_each_other(program: Path, tmp_path: Path) -> None:
    program.write_text(RULE.format(factor=1.0))
    environment = {**os.environ, "FASTOPT_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, str(program)]
    children = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = {child.communicate(timeout=100)[0].split()[0] for child in children}
    assert [child.returncode for child in children] == [0] * 4
    assert len(outputs) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_without_a_home_or_a_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(object_cache.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert object_cache.folder() == tmp_path / "fastopt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    if sys.platform != "darwin":
        assert object_cache.folder() == tmp_path / ".cache" / "fastopt"
    monkeypatch.setattr(Path, "expanduser", lambda self: (_ for _ in ()).throw(RuntimeError("no home")))
    assert object_cache.folder() is None
    assert object_cache.read("0" * 64) is None
    assert not object_cache.write("0" * 64, b"")


@pytest.mark.skipif(os.name != "posix", reason="homes of other users, and deleted folders, as on Unix")
def test_a_folder_that_cannot_be_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is kept, and `show_config` says why."""
    gone = tmp_path / "gone"
    (tmp_path / "a file").write_text("")

    def check(variable: str, value: str, reason: str) -> None:
        monkeypatch.setenv(variable, value)
        assert reason in str(object_cache.why_not()), value
        assert object_cache.read("0" * 64) is None
        assert not object_cache.write("0" * 64, b"")
        assert reason in fastopt.config.get_config()["compiled rules in"]

    check(object_cache.VARIABLE, "~nosuchuser/x", "FASTOPT_CACHE_DIR='~nosuchuser/x' names no folder")
    check(object_cache.VARIABLE, str(tmp_path / "a file" / "x"), "Not a directory")
    with monkeypatch.context() as inside:
        gone.mkdir()
        inside.chdir(gone)
        gone.rmdir()
        check(object_cache.VARIABLE, "relative", "FASTOPT_CACHE_DIR='relative' names no folder")
        inside.delenv(object_cache.VARIABLE)
        if sys.platform != "darwin":
            check("XDG_CACHE_HOME", "relative", "there is no home folder")
        inside.chdir("/")


def test_what_killed_processes_left_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(object_cache.VARIABLE, str(tmp_path))
    code = """if True:
        import os
        from fastopt.kernels.numba import object_cache
        os.replace = lambda *paths: os._exit(0)  # killed just before the file gets its name
        object_cache.write("0" * 64, b"first")
    """
    in_a_fresh_process(code)
    (left,) = tmp_path.iterdir()
    assert object_cache.write("1" * 64, b"second")
    assert left in tmp_path.iterdir(), "another process may be writing to it"
    old = left.stat().st_mtime - 2 * object_cache._LEFT_AFTER
    os.utime(left, (old, old))
    assert object_cache.write("2" * 64, b"third")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1" * 64, "2" * 64]
    assert object_cache.read("1" * 64) == b"second"


def test_another_compiler_has_another_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The key covers every module beside the source of a loop that decides what is compiled."""
    folder = Path(numba_loops.__file__).parent
    copied = tmp_path / "numba"
    shutil.copytree(folder, copied)
    monkeypatch.setattr(numba_loops, "__file__", str(copied / "loops.py"))
    digests = []
    for path in [copied / "__init__.py", *sorted(copied.glob("*.py"))]:
        path.write_text(path.read_text() + "\n# changed\n")
        digests.append(numba_loops._compiler_digest.__wrapped__())
    assert len(set(digests)) == len(digests) >= 5


def test_show_config_says_where(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fastopt.show_config()
    assert str(object_cache.folder()) in capsys.readouterr().out
    monkeypatch.setenv(object_cache.VARIABLE, "")
    fastopt.show_config()
    assert "none (FASTOPT_CACHE_DIR is empty)" in capsys.readouterr().out


def test_the_built_in_loops_of_numba_are_kept_too(tmp_path: Path) -> None:
    code = """if True:
        import sys, numpy as np, fastopt
        w = np.zeros(100)
        fastopt.Adam(w, backend="numba").step(np.ones(100))
        print("numba" in sys.modules)
    """
    environment = {"FASTOPT_CACHE_DIR": str(tmp_path)}
    assert [in_a_fresh_process(code, **environment).strip() for _ in range(2)] == ["True", "False"]


RUNTIME = {"pow", "powf", "sqrt", "sqrtf", "floor", "floorf", "memcpy", "memset", "memmove"}
"""What an object may call: all of it is in every process."""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nm") is None, reason="nm, of binutils, reads what an object needs")
def test_objects_need_nothing_of_python_or_numba(tmp_path: Path) -> None:
    """A loader that does not find what an object calls ends the process."""
    found: set[str] = set()
    loops = ["adam", "rprop", "adadelta", "clip_values", "average_and_overwrite"]
    texts = [numba_loops.loop_text(name, real) for name in loops for real in registry.REALS]
    texts += [numba_loops.coefficients_text(name) for name in ("nadam", "radam_optax", "rmsprop_optax")]
    for text in texts:
        (tmp_path / "object.o").write_bytes(machine_code.emit(text))
        output = subprocess.run(
            ["nm", "--undefined-only", "object.o"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        found |= {line.split()[-1] for line in output.splitlines()}
    assert found - {"_GLOBAL_OFFSET_TABLE_"} <= RUNTIME
    assert "pow" in found


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in registry.coefficient_functions() if hasattr(coefficients, name)])
def test_coefficients_by_numba_are_those_of_the_compiled_module(name: str) -> None:
    import ctypes

    if backends.compiled_module_error() is not None:
        pytest.skip("there is no compiled module to compare with")
    from fastopt.kernels import native

    function = registry.coefficient_function(name)
    if not function.returned_names:
        pytest.skip("called by others")
    rng = np.random.default_rng(3)
    form = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
    for step in (1.0, 2.0, 7.0, 1e6):
        values = np.array([step if each == "step" else rng.uniform(0, 1) for each in function.arguments])
        results = []
        for address in (numba_loops.coefficient_function(name), native.coefficient_function(name)):
            out = np.zeros(len(function.returns))
            form(address)(values.ctypes.data, out.ctypes.data)
            results.append(out)
        assert np.array_equal(*results, equal_nan=True)
