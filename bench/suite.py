"""Runs the suite, or some of its cases, with pytest, from any folder, with the user's pytest settings ignored."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_benchmark.plugin

if TYPE_CHECKING:
    from rich.progress import Progress

FOLDER = Path(__file__).resolve().parent

ISOLATED = (
    "-c",
    os.devnull,
    f"--rootdir={FOLDER}",
    f"--confcutdir={FOLDER}",
    f"--ignore={FOLDER / 'test_pairs.py'}",  # measures nothing; timed cases are checked anyway
    "-p",
    "no:cacheprovider",
    "-p",
    pytest_benchmark.plugin.__name__,
)
"""Only the settings, the conftest.py and the files of the suite."""

ENVIRONMENT = {
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "PYTEST_ADDOPTS": None,
    "PYTEST_PLUGINS": None,
    "PYTEST_XDIST_WORKER": None,
}
"""Disables the plugins of the user, which may reorder tests, or run them in several processes."""


@contextlib.contextmanager
def environment(variables: dict[str, str | None]) -> Iterator[None]:
    """Set or remove environment variables within this context."""
    before = {name: os.environ.get(name) for name in variables}

    def put(values: dict[str, str | None]) -> None:
        for name, value in values.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    put(variables)
    try:
        yield
    finally:
        put(before)


@dataclass
class Ended:
    """How a run ended, and the messages of pytest about it."""

    exit_code: int
    said: str

    @property
    def error(self) -> str:
        """The last complaint of pytest, in one line."""
        lines = [line.strip() for line in self.said.splitlines() if line.strip()]
        complaints = [line for line in lines if line.startswith(("ERROR", "INTERNALERROR"))]
        last = (complaints or lines or ["pytest failed"])[-1]
        return last.removeprefix("INTERNALERROR>").removeprefix("ERROR:").strip()


def run(options: list[str], *plugins: object, cases: Sequence[str] = ()) -> Ended:
    """In this process; `cases` are names as pytest has them, none for all."""
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as storage, environment(ENVIRONMENT):
        named = [f"{FOLDER}/{name}" for name in cases] or [str(FOLDER)]
        arguments = [*named, *ISOLATED, f"--benchmark-storage=file://{storage}", *options]
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = pytest.main(arguments, list(plugins))
    return Ended(int(code), said.getvalue())


@dataclass
class Progressing:
    """Shows the progress of a run.

    It draws only between cases: a bar that redraws itself would take processor time from the measurements.
    """

    progress: Progress
    say: Callable[[str], None]
    every_case: bool
    """Whether each case gets its own line, because there is no bar to redraw."""

    interrupted: bool = False
    done: int = 0
    total: int = 0
    task: Any = None

    def start(self, name: str) -> None:
        if self.task is None:
            self.task = self.progress.add_task("", total=self.total)
        self.progress.update(self.task, description=name)
        self.progress.refresh()
        if self.every_case:
            self.say(f"{self.done + 1:,} of {self.total:,}: {name}")

    def finish(self) -> None:
        self.done += 1
        if self.task is not None:
            self.progress.update(self.task, completed=self.done)
            self.progress.refresh()


@dataclass(eq=False)  # pytest 8.0 keeps plugins in sets
class Collecting:
    """A plugin that collects the tests that would run."""

    items: list[Any] = field(default_factory=list)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.items = list(session.items)
