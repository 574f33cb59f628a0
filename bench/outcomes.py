"""A pytest plugin that collects measurements, skipped cases and failures as `Results`."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from . import machine
from .results import BUSY, EARLY, MEASURED, Results
from .selection import Extent

OUTCOMES = "fastopt benchmarks"
"""The plugin's name."""


class Outcomes:
    def __init__(self, config: pytest.Config) -> None:
        self.config, self.load, self.results = config, machine.Load(), Results()
        self.environment = machine.environment()

    def describe(self, ended: bool = False) -> dict[str, str]:
        option = self.config.getoption
        seconds = option("--seconds")
        described = {
            MEASURED: ", ".join(
                [
                    *([Extent.of(self.config).value] if option("--quick") or not option("keyword") else []),
                    *([f"cases that fit {option('keyword')!r}"] if option("keyword") else []),
                    *([f"peers {option('--peers')}"] if option("--peers") else []),
                    *([] if seconds is None else [f"{seconds:g} s a side"]),
                    *([] if ended else [EARLY]),
                ]
            ),
            **machine.describe(option("--threads")),
            "environment": self.environment,
        }
        return described | {BUSY: f"{self.load.processors():.2f} on average"}

    def _keep(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        name = report.nodeid.rpartition("/")[2]
        if isinstance(report, pytest.TestReport):
            self.results.took[name] = self.results.took.get(name, 0.0) + report.duration
        if report.skipped and isinstance(report.longrepr, tuple):
            self.results.left_out[name] = report.longrepr[2].removeprefix("Skipped: ")
        elif report.failed:
            self.results.failures[name] = reason(report)

    pytest_runtest_logreport = _keep
    pytest_collectreport = _keep

    def pytest_runtest_logfinish(self) -> None:
        """A run that is killed leaves what it has found."""
        self.save(self.results.machine or self.describe())

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self.save(self.describe(ended=exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)))

    def save(self, described: dict[str, str]) -> None:
        path = self.config.getoption("--results")
        if path and not self.config.getoption("collectonly"):
            self.results.machine = described
            self.results.save(Path(path))


def reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why a test failed, in one line."""
    with contextlib.suppress(AttributeError):
        return str(report.longrepr.reprcrash.message).splitlines()[0]  # type: ignore[union-attr]
    lines = [line.strip() for line in report.longreprtext.splitlines() if line.strip()]
    return lines[-1].removeprefix("E ").strip() if lines else "failed"
