"""Options, fixtures and the summary of `pytest bench/`."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from . import machine, measure
from .clock import CLOCK
from .measure import Record, Settings
from .memory import give_memory_back
from .outcomes import OUTCOMES, Outcomes
from .selection import LARGEST, LEFT_OUT_OF_QUICK, Extent, keeps


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastopt benchmarks")
    group.addoption("--quick", action="store_true", help=f"few cases, up to {LARGEST:,} parameters, and few repeats")
    group.addoption("--all", action="store_true", help="every case, not only what a reader needs")
    group.addoption("--threads", type=int, default=2, help="threads of fastopt and of its peers (default: 2)")
    group.addoption(
        "--seconds", type=float, help="about how long to measure each side of a case (default: 0.25; quick: 0.05)"
    )
    group.addoption("--peers", metavar="NAMES", default="", help="only these peers, such as 'torch fused,optax'")
    group.addoption("--results", metavar="FILE", help="write all that was found as JSON; bench.report reads it")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Outcomes(config), OUTCOMES)
    config.option.benchmark_quiet = True  # the tables below say more than pytest-benchmark's own


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "compare" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.benchmark(timer=CLOCK.now))
    extent = Extent.of(config)
    if extent is Extent.USUAL and any("::" in argument for argument in config.args):
        return  # they were named
    kept = [item for item in items if is_kept(item, extent)]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


def is_kept(item: pytest.Item, extent: Extent) -> bool:
    case = getattr(item, "callspec", None)
    if case is None:
        return keeps(extent, item.name, "", 0)
    workload = case.params.get("workload")
    return keeps(extent, item.name.split("[")[0], case.id, workload.size if workload else 0)


@pytest.fixture(scope="session")
def quick(pytestconfig: pytest.Config) -> bool:
    return bool(pytestconfig.getoption("--quick"))


@pytest.fixture(scope="session")
def settings(pytestconfig: pytest.Config, quick: bool) -> Settings:
    seconds = pytestconfig.getoption("--seconds")
    default = 0.05 if quick else 0.25
    peers = tuple(filter(None, pytestconfig.getoption("--peers").split(",")))
    left_out = LEFT_OUT_OF_QUICK if quick else ()
    return Settings(pytestconfig.getoption("--threads"), default if seconds is None else seconds, peers, left_out)


def outcomes(config: pytest.Config) -> Outcomes:
    found = config.pluginmanager.get_plugin(OUTCOMES)
    assert isinstance(found, Outcomes)
    return found


@pytest.fixture
def record(pytestconfig: pytest.Config, benchmark: BenchmarkFixture) -> Callable[[Record], None]:
    """Puts a record into pytest-benchmark's JSON and into the summary."""
    load = machine.Load()

    def keep(found: Record) -> None:
        found["busy"] = load.processors()
        benchmark.extra_info.update(found)
        outcomes(pytestconfig).results.records.append(found)

    return keep


@pytest.fixture
def compare(
    benchmark: BenchmarkFixture, settings: Settings, record: Callable[[Record], None]
) -> Iterator[Callable[..., None]]:
    """`measure.compare`, recorded; fails where a result is wrong."""

    def run(*arguments: Any, **keywords: Any) -> None:
        found = measure.compare(benchmark, settings, *arguments, **keywords)
        record(found)
        wrong = {name: result["wrong"] for name, result in found["peers"].items() if "wrong" in result}
        if wrong:
            pytest.fail(f"WRONG: {found['subject']} disagrees with {wrong}", pytrace=False)

    yield run
    give_memory_back()


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info["described"] = outcomes(config).describe()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    results = outcomes(config).results
    if not results.records:
        return
    from rich.console import Console

    from . import terminal

    text = io.StringIO()
    console = Console(file=text, width=terminal.WIDTH, force_terminal=terminalreporter.hasmarkup)
    terminal.print_summary(results, console)
    terminalreporter.write("\n" + text.getvalue())
