"""Files that are damaged, processes that are killed, interrupts: an error or the old state, never anything between."""

from __future__ import annotations

import collections
import errno
import functools
import json
import os
import random
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from checkpoint_runs import all_of, everything, gradients, params
from comparing import snapshot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interrupting import interrupted_at
from processes import in_a_fresh_process

import fastopt
from fastopt.checkpoints import files
from fastopt.checkpoints.changes import without_interrupts

KILLS = int(os.environ.get("FASTOPT_TEST_KILLS", 50))


def adam() -> fastopt.Optimizer:
    return fastopt.Adam(params())


# --- processes that are killed ----------------------------------------------------------------------------------------


def be_killed(folder: str, kills: int) -> None:
    """In a child: have children of it save one state after the other, kill them at random moments, look at the file."""
    path, counter = Path(folder) / "run.safetensors", {"n": 0}
    optimizer = fastopt.SGD(np.zeros(200_000, np.float32), momentum=0.5)
    optimizer.step(np.zeros(200_000, np.float32))
    arrays = optimizer.param_groups[0]["params"][0], optimizer.state[0]["momentum_buffer"]
    fastopt.save(path, optimizer, counter=counter)
    moments, leftovers, last = random.Random(1), 0, 0
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            while True:
                counter["n"] += 1
                for array in arrays:
                    array[:] = counter["n"]
                fastopt.save(path, optimizer, counter=counter)
        time.sleep(moments.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        leftovers += len(list(path.parent.iterdir())) > 1
        fastopt.load(path, optimizer, counter=counter)
        assert counter["n"] >= last
        assert all((array == counter["n"]).all() for array in arrays)
        last = counter["n"]
    fastopt.save(path, optimizer, counter=counter)
    print(leftovers, last, *os.listdir(folder))


def test_a_killed_process_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    code = f"import test_files; test_files.be_killed({str(tmp_path)!r}, {KILLS})"
    interrupted, saved, *names = in_a_fresh_process(code).split()
    assert int(interrupted) > 0, "no process was killed while it wrote"
    assert int(saved) > 0, "no process had time to save"
    assert names == ["run.safetensors"]


def test_files_that_are_being_written_are_not_removed(folder: Path) -> None:
    path = folder / "run.safetensors"
    with files._temporary_file(path) as (written, _):
        leftover, others = folder / ".run.safetensors.0a1b2c3d.tmp", folder / ".run.safetensors.mine.tmp"
        leftover.touch()
        others.touch()
        fastopt.save(path, adam())
        assert set(folder.iterdir()) == {path, written, others}
    assert set(folder.iterdir()) == {path, others}


@pytest.mark.parametrize("before", [False, True])
def test_a_file_that_cannot_be_written_leaves_the_old_one(before: bool, folder: Path) -> None:
    path, large = folder / "run.safetensors", {"a": np.ones(10_000)}
    if before:
        fastopt.save(path, adam())
    content = path.read_bytes() if before else None
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match=rf"{folder.name}/run\.safetensors") as error:
            fastopt.save(path, adam(), large=large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.errno == errno.EFBIG
    assert [each.read_bytes() for each in folder.iterdir()] == ([content] if before else [])


# --- damaged files ----------------------------------------------------------------------------------------------------


class Sound:
    """A place for damaged files, and the content of a sound one."""

    def __init__(self, path: Path) -> None:
        run = everything().steps(5)
        fastopt.save(path, run.optimizer, **run.others)
        self.path, self.content = path, path.read_bytes()

    def __repr__(self) -> str:
        return "Sound()"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    return Sound(tmp_path_factory.mktemp("damaged") / "run.safetensors")


def assert_refused_or_loaded(path: Path, content: bytes) -> bool:
    """Whether the content of a file is refused, with an error that names the file and after which nothing has changed.

    Else it is loaded as a whole.
    """
    path.write_bytes(content)
    run = everything().steps(2)
    before = all_of(run)
    message = None
    try:
        fastopt.load(path, run.optimizer, **run.others)
    except ValueError as error:
        message = str(error)
    if message is None:
        run.optimizer.step(gradients(5))
        return False
    assert str(path) in message
    assert all_of(run) == before
    return True


DAMAGE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@DAMAGE
@given(data=st.data())
def test_a_truncated_or_extended_file_is_refused(sound: Sound, data: st.DataObject) -> None:
    path, content = sound.path, sound.content
    length = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 20))
    assert assert_refused_or_loaded(path, content[:length])
    assert assert_refused_or_loaded(path, content + data.draw(st.binary(min_size=1, max_size=9)))


@DAMAGE
@given(data=st.data())
def test_a_header_of_other_bytes_is_refused_or_loaded_as_a_whole(sound: Sound, data: st.DataObject) -> None:
    path, content = sound.path, sound.content
    length = int.from_bytes(content[:8], "little")
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, 8 + length - 1))] = data.draw(st.integers(0, 255))
    assert_refused_or_loaded(path, bytes(damaged))


def nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """The places in JSON: (list or dict, index or key)."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from nodes(value[key])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["dict", "tuple", "float", "scalar", "array", "tensor", "x"]), inner, max_size=2
        )
    ),
    max_leaves=5,
)


def with_header(content: bytes, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> bytes:
    """A file with a changed header: of the format, and of what fastopt says in it."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    said = json.loads(header["__metadata__"]["fastopt"])
    change(header, said)
    if "fastopt" in header.get("__metadata__", ()):
        header["__metadata__"]["fastopt"] = json.dumps(said)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


@settings(DAMAGE, max_examples=200)
@given(data=st.data())
def test_a_header_of_other_values_is_refused_or_loaded_as_a_whole(sound: Sound, data: st.DataObject) -> None:
    path, content = sound.path, sound.content

    def change(header: dict[str, Any], said: dict[str, Any]) -> None:
        chosen = said if data.draw(st.integers(0, 4)) else {key: header[key] for key in header if key[0] != "_"}
        inside, key = data.draw(st.sampled_from(list(nodes(chosen))))
        if data.draw(st.booleans()):
            inside[key] = data.draw(JSON)
        else:
            del inside[key]

    assert_refused_or_loaded(path, with_header(content, change))


CHANGES: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], Any], str]] = {
    "newer format": (
        lambda header, said: said.update(format=2, version="9.9"),
        r"was written by a newer fastopt, version '9\.9' with format 2; version .* reads formats up to 1",
    ),
    "no format": (lambda header, said: said.pop("format"), "is damaged: KeyError"),
    "no metadata": (lambda header, said: header.pop("__metadata__"), r"was not written by fastopt\.save"),
    "nesting": (
        lambda header, said: said["parts"]["rng"].update(state=json.loads("[" * 900 + "]" * 900)),
        "rng: ",
    ),
    "arrays of nothing": (
        lambda header, said: said["parts"]["extra"].update(value={"dict": []}),
        r"has arrays that belong to nothing: \['extra\.history'\]",
    ),
    "unknown dtype": (
        lambda header, said: header["extra.history"].update(dtype="F64", shape=[2, 2]),
        r"extra\['history'\] is int64 of shape \(4,\) here, and float64 of shape \(2, 2\) in the file",
    ),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_errors_say_what_is_wrong(change: Callable[[Any, Any], Any], message: str, sound: Sound, folder: Path) -> None:
    path, run = folder / "run.safetensors", everything()
    path.write_bytes(with_header(sound.content, change))
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + message):
        fastopt.load(path, run.optimizer, **run.others)


def test_a_file_of_another_program_is_refused(folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.ones(2)}, folder / "a.safetensors")
    with pytest.raises(ValueError, match=r"a\.safetensors was not written by fastopt\.save"):
        fastopt.load(folder / "a.safetensors", adam())
    save_file({"a": np.ones(2)}, folder / "b.safetensors", metadata={"fastopt": "[" * 100_000})
    with pytest.raises(ValueError, match=r"b\.safetensors is damaged: RecursionError"):
        fastopt.load(folder / "b.safetensors", adam())


@given(
    arrays=st.dictionaries(
        st.text(min_size=1, max_size=5),
        st.tuples(st.sampled_from("?bhilBHILefdF"), st.lists(st.integers(0, 3))),
        max_size=9,
    )
)
@settings(DAMAGE, max_examples=30)
def test_the_package_reads_what_is_written(arrays: dict[str, tuple[str, list[int]]], tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    given_ = {name: np.ones(shape, dtype) for name, (dtype, shape) in arrays.items()}
    fastopt.save(tmp_path / "run.safetensors", adam(), x=given_)
    found = load_file(tmp_path / "run.safetensors")
    assert len(found) == 2 + len(arrays)
    again = {name: np.zeros_like(value) for name, value in given_.items()}
    fastopt.load(tmp_path / "run.safetensors", adam(), x=again)
    assert repr(again) == repr(given_)
    with safetensors.safe_open(tmp_path / "run.safetensors", "np") as opened:
        assert int.from_bytes((tmp_path / "run.safetensors").read_bytes()[:8], "little") % 8 == 0
        assert list(opened.metadata()) == ["fastopt"]


def test_saving_without_the_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for act in (fastopt.save, fastopt.load):
        with pytest.raises(ImportError, match=r"need the package safetensors: `pip install 'fastopt\[files\]'`"):
            act(folder / "run.safetensors", adam())


# --- interrupts -------------------------------------------------------------------------------------------------------


class Noted(Exception):
    """What the handler of a second signal raises."""


def note(number: int, frame: Any) -> None:
    raise Noted


@pytest.fixture
def second_signal() -> Iterator[None]:
    kept = signal.signal(signal.SIGUSR1, note)
    yield
    signal.signal(signal.SIGUSR1, kept)


@pytest.mark.usefixtures("no_garbage_collection", "second_signal")
def test_an_exception_anywhere_leaves_all_handlers_at_work() -> None:
    """Handlers are replaced one after the other; an exception in between may lose none of them."""

    def call() -> None:
        without_interrupts(lambda: None)

    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    _, places = interrupted_at(-1, call)
    for place in range(places):
        error, _ = interrupted_at(place + 1, call)
        assert error is not None
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(Noted):
            signal.raise_signal(signal.SIGUSR1)
    call()
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before


def test_all_deferred_signals_are_handled() -> None:
    """A handler that raises keeps none of the others from being called."""
    handled: list[object] = []

    def handler(number: int, frame: Any) -> None:
        handled.append(signal.Signals(number).name)
        raise Noted

    def call() -> None:
        for number in numbers:
            signal.raise_signal(number)
        handled.append("done")

    numbers = signal.SIGUSR1, signal.SIGUSR2
    kept = [signal.signal(number, handler) for number in numbers]
    try:
        with pytest.raises(Noted):
            without_interrupts(call)
    finally:
        for number, each in zip(numbers, kept, strict=True):
            signal.signal(number, each)
    assert handled == ["done", "SIGUSR1", "SIGUSR2"]


@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("backend", ["cython", "reference"])
def test_an_exception_anywhere_leaves_all_or_nothing(backend: str, folder: Path) -> None:
    """At some of thousands of places, and at all of the last ones, among which everything is written."""
    path = folder / "run.safetensors"

    def start(steps: int) -> fastopt.Optimizer:
        optimizer = fastopt.Adam(params(), lr=0.1, backend=backend)
        for step in range(steps):
            optimizer.step(gradients(step))
        return optimizer

    saved = start(3)
    fastopt.save(path, saved)
    outcomes = {name: snapshot(each) for name, each in (("before", start(1)), ("after", saved))}
    saved.step(gradients(9))
    stepped = {"after": snapshot(saved)}
    other = start(1)
    other.step(gradients(9))
    stepped["before"] = snapshot(other)
    _, places = interrupted_at(-1, lambda: fastopt.load(path, start(1)))
    found = set()
    for place in [*random.Random(1).sample(range(places), 60), *range(places - 250, places)]:
        optimizer = start(1)
        interrupted_at(place + 1, functools.partial(fastopt.load, path, optimizer))
        (name,) = (name for name, outcome in outcomes.items() if outcome == snapshot(optimizer))
        optimizer.step(gradients(9))
        assert snapshot(optimizer) == stepped[name], place
        found.add(name)
    assert found == {"before", "after"}


class Alarm(Exception):
    """What the handler raises."""


def ring(number: int, frame: Any) -> None:
    """Raise in `fastopt.load` and nowhere else, and ring again a little later."""
    while frame is not None:
        if frame.f_code is fastopt.load.__code__:
            signal.setitimer(signal.ITIMER_REAL, 1e-4)
            raise Alarm
        frame = frame.f_back


@pytest.mark.usefixtures("no_garbage_collection")
def test_signals_at_random_moments_leave_all_or_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything that can be in a file, and its own load_state_dict; one signal after the other."""
    # An alarm can come while a file is closed because it is freed. The hook that hears of it may not be Python code, as
    # pytest's is: the next alarm would come in there.
    monkeypatch.setattr(sys, "unraisablehook", collections.deque[Any](maxlen=0).append)
    path, saved, run = folder / "run.safetensors", everything().steps(5), everything().steps(3)
    fastopt.save(path, saved.optimizer, **saved.others)
    fastopt.save(folder / "before.safetensors", run.optimizer, **run.others)
    before, after = all_of(run), all_of(saved)
    kept, moments, outcomes = signal.signal(signal.SIGALRM, ring), random.Random(1), set()
    try:
        start = time.perf_counter()
        fastopt.load(path, run.optimizer, **run.others)
        duration = time.perf_counter() - start
        for _ in range(100):
            fastopt.load(folder / "before.safetensors", run.optimizer, **run.others)
            try:
                signal.setitimer(signal.ITIMER_REAL, moments.uniform(1e-5, duration))
                fastopt.load(path, run.optimizer, **run.others)
            except Alarm:
                outcomes.add(all_of(run) == after)
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert all_of(run) in (before, after)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, kept)
    assert outcomes == {True, False}
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
