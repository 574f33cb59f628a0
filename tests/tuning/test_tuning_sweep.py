"""Sweeps: what is best, runs that diverge, raise or die, and results that outlive their program."""

from __future__ import annotations

import csv
import functools
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tuning_cases
from tuning_cases import parabola

import fastopt
from fastopt.tuning import OtherConfigurationError, RatePoint, Sweep, SweepRun, sweep
from fastopt.tuning.plans import make_plan
from fastopt.tuning.pool import THREAD_VARIABLES, Died, run_jobs
from fastopt.tuning.sweeps import CSV_FILE, JSON_FILE, RUNS_FILE, run_plan


def without_times(found: Sweep) -> list[SweepRun]:
    return [replace(run, seconds=0.0) for run in found.runs]


def same(one: Sweep, other: Sweep) -> bool:
    """Compared as text, in which NaN is NaN."""
    return repr(without_times(one)) == repr(without_times(other))


# --- what is best -----------------------------------------------------------------------------------------------------


@pytest.mark.blas
@pytest.mark.parametrize(
    ("problem", "optimizer", "low", "high"),
    [("digits", "SGD", 0.3, 10), ("digits-mlp", "Adam", 1e-3, 0.05), ("diabetes", "SGD", 2e-3, 0.2)],
)
def test_the_best_rate_of_real_problems(problem: str, optimizer: str, low: float, high: float) -> None:
    found = sweep(problem, optimizer=optimizer, min_lr=1e-5, max_lr=100, points=8, seeds=2, workers=0)
    assert found.best is not None
    assert low < found.best.lr < high
    assert found.metric == "val_loss"
    assert found.edge == ""
    medians = [point.median for point in found.points]
    index = found.points.index(found.best)
    assert medians[: index + 1] == sorted(medians[: index + 1], reverse=True)  # a U


class Pull:
    """A parameter that is pulled to other places in turn; its own value is held out."""

    epochs = 2

    def __init__(self) -> None:
        self.params = {"w": np.zeros(1)}

    def batches(self, epoch: int) -> range:
        return range(5)

    def loss_and_gradients(self, batch: int) -> tuple[float, Any]:
        return 1.0, {"w": self.params["w"] - batch}

    def evaluate(self) -> dict[str, float]:
        return {"loss": self.params["w"].item()}


def test_of_schedule_free_optimizers_the_average_is_held_out() -> None:
    (run,) = sweep(Pull, optimizer="ScheduleFreeSGD", rates=[0.3], seeds=1, workers=0).runs
    param = np.zeros(1)
    optimizer = fastopt.ScheduleFreeSGD(param, lr=0.3)
    for _ in range(2):
        for batch in range(5):
            optimizer.step(param - batch)
    trained = param.item()
    optimizer.eval()
    assert run.metrics["val_loss"] == param.item() != trained


def test_diverged_runs_are_marked_and_are_never_best() -> None:
    found = sweep(parabola, rates=[0.01, 0.1, 0.5, 1.2, 3], seeds=2, workers=0)
    assert [point.diverged for point in found.points] == [0, 0, 0, 2, 2]
    assert [run.status for run in found.runs[-4:]] == ["diverged"] * 4
    assert found.best is not None
    assert (found.best.lr, found.best.median) == (0.5, 1.0)
    assert found.points[-1].median == math.inf
    assert found.region == (0.1, 0.5)


def point(lr: float, *losses: float | None) -> list[SweepRun]:
    """Runs at a rate; infinite losses are diverged runs, None are failed ones."""

    def run(seed: int, loss: float | None) -> SweepRun:
        if loss is None:
            return SweepRun(lr, seed, "failed", error="KeyError: 3")
        return SweepRun(lr, seed, "completed" if math.isfinite(loss) else "diverged", {"loss": loss})

    return [run(seed, loss) for seed, loss in enumerate(losses)]


SUMMARIES = [
    ("in the middle", [(0.1, 3), (1, 1), (10, 2)], 1, (1, 1), ""),
    ("lowest", [(0.1, 1), (1, 2), (10, 3)], 0.1, (0.1, 0.1), "lowest"),
    ("highest", [(0.1, 3), (1, 2), (10, 1)], 10, (10, 10), "highest"),
    ("highest but for divergence", [(0.1, 3), (1, 1), (10, math.inf)], 1, (1, 1), ""),
    ("within 5 %", [(0.01, 9), (0.1, 1.04), (1, 1), (10, 1.06)], 1, (0.1, 1), ""),
    ("within the spread", [(0.1, 2), (1, 1, 1, 4), (10, 5)], 1, (0.1, 1), ""),
    ("one seed diverged", [(0.1, 2, 2, 2), (1, 1, 1, math.inf), (10, 3, 3, 3)], 0.1, (0.1, 0.1), "lowest"),
    ("one seed failed", [(0.1, 2, 2), (1, 1, None), (10, 3, 3)], 1, (1, 1), ""),
    ("all diverged", [(0.1, math.inf), (1, math.inf)], None, None, ""),
]


@pytest.mark.parametrize(
    ("points", "best", "region", "edge"), [case[1:] for case in SUMMARIES], ids=[case[0] for case in SUMMARIES]
)
def test_summaries(points: list[Any], best: float | None, region: Any, edge: str) -> None:
    found = Sweep("p", "SGD", "loss", "min", tuple(run for each in points for run in point(*each)))
    assert (None if found.best is None else found.best.lr) == best
    assert found.region == region
    assert found.edge == edge
    mirrored = tuple(replace(run, metrics={name: -value for name, value in run.metrics.items()}) for run in found.runs)
    other = Sweep("p", "SGD", "loss", "max", mirrored)
    assert (None if other.best is None else other.best.lr) == best
    assert other.region == region
    extend = [note for note in found.notes if "extend the grid" in note]
    assert len(extend) == (edge != "")


ACCURACIES = [0.93, 0.9655, 0.967, 0.9652, 0.8]

REGIONS = [
    # In a metric's own terms, 5 % of 3.3 % of errors is 0.165 %.
    ("val_accuracy", "max", [[value] for value in ACCURACIES], (0.01, 0.1)),
    ("accuracy in per cent", "max", [[100 * value] for value in ACCURACIES], (0.01, 0.1)),
    ("error_rate", "min", [[1 - value] for value in ACCURACIES], (0.01, 0.1)),
    ("r2", "max", [[-3.0], [0.49], [0.5], [0.474], [0.0]], (0.01, 0.1)),
    ("val_loss", "min", [[0.2], [0.105], [0.1], [0.106], [0.3]], (0.01, 0.1)),
    # The seeds count where no value is perfect, or the tolerance is less than their spread.
    ("val_accuracy", "max", [[0.93, 0.94], [0.94, 0.95], [0.93, 0.97], [0.9, 0.91], [0.8, 0.8]], (0.001, 0.1)),
    ("loss", "min", [[-3.0], [-3.99], [-4.0], [-3.9], [1.0]], (0.1, 0.1)),
    ("loss", "min", [[-3.0, -3.0], [-3.5, -3.9], [-4.0, -3.5], [-3.0, -3.9], [1.0, 1.0]], (0.01, 0.1)),
    ("reward", "max", [[90.0], [99.0], [100.0], [99.9], [50.0]], (0.1, 0.1)),
    ("log_likelihood", "max", [[-9.0], [-4.2], [-4.0], [-4.3], [-5.0]], (0.01, 0.1)),
]


@pytest.mark.parametrize(
    ("metric", "mode", "values", "region"), REGIONS, ids=[f"{case[0]} {len(case[2][0])}" for case in REGIONS]
)
def test_about_as_good_is_in_the_terms_of_the_metric(
    metric: str, mode: str, values: list[list[float]], region: tuple[float, float]
) -> None:
    rates = [0.001, 0.01, 0.1, 1.0, 10.0]
    runs = [
        SweepRun(lr, seed, "completed", {metric: value})
        for lr, row in zip(rates, values, strict=True)
        for seed, value in enumerate(row)
    ]
    found = Sweep("p", "SGD", metric, mode, tuple(runs))
    assert found.best is not None
    assert found.region == region
    assert any("one seed" in note for note in found.notes) == (len(values[0]) == 1)


@pytest.mark.parametrize("values", list(itertools.permutations([math.nan, 1.0, 2.0])))
def test_a_seed_whose_metric_is_not_a_number_is_the_worst_seed(values: tuple[float, ...]) -> None:
    runs = [SweepRun(0.1, seed, "completed", {"loss": value}) for seed, value in enumerate(values)]
    low, high = RatePoint.of(0.1, runs, "loss", "min"), RatePoint.of(0.1, runs, "loss", "max")
    assert (low.low, low.median, low.high) == (1.0, 2.0, math.inf)
    assert (high.low, high.median, high.high) == (-math.inf, 1.0, 2.0)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("where", range(3))
def test_a_metric_that_is_not_a_number_is_the_worst(mode: str, where: int) -> None:
    values = [2.0, 2.0, 2.0]
    values[where] = math.nan
    runs = [SweepRun(rate, 0, "completed", {"loss": value}) for rate, value in zip((0.1, 1, 10), values, strict=True)]
    found = Sweep("p", "SGD", "loss", mode, tuple(runs))
    assert found.best is not None
    assert found.best.median == 2.0
    assert found.region is not None
    assert (0.1, 1, 10)[where] not in found.region


@pytest.mark.parametrize(("metric", "mode"), [("accuracy", "max"), ("loss", "min"), ("val_loss", "min")])
def test_metrics_and_their_direction(metric: str, mode: str) -> None:
    found = sweep(parabola, rates=[0.1, 0.5, 0.9], seeds=1, metric=metric, workers=0)
    assert found.mode == mode
    assert found.best is not None
    assert found.best.lr == 0.5
    other = "max" if mode == "min" else "min"
    worst = sweep(parabola, rates=[0.1, 0.5, 0.91], seeds=1, metric=metric, mode=other, workers=0)
    assert worst.best is not None
    assert worst.best.lr == 0.91


def test_refinement_runs_more_rates_around_the_best() -> None:
    calls = []
    found = sweep(
        parabola,
        min_lr=1e-3,
        max_lr=0.9,
        points=4,
        refine=3,
        seeds=2,
        workers=0,
        progress=lambda *each: calls.append(each),
    )
    coarse = sweep(parabola, min_lr=1e-3, max_lr=0.9, points=4, seeds=2, workers=0)
    new = {run.lr for run in found.runs} - {run.lr for run in coarse.runs}
    assert coarse.best is not None
    assert len(new) == 3
    assert all(coarse.points[-2].lr < rate < coarse.points[-1].lr for rate in new)
    assert [done for _, done, _ in calls] == list(range(1, 15))
    assert [total for *_, total in calls] == [8] * 8 + [14] * 6


# --- processes --------------------------------------------------------------------------------------------------------


def test_results_do_not_depend_on_the_number_of_workers() -> None:
    keywords: dict[str, Any] = {"optimizer": "SGD", "rates": [0.01, 1], "seeds": 2, "epochs": 2}
    found = [sweep("digits-mlp", workers=workers, **keywords) for workers in (0, 2)]
    assert same(found[0], found[1])


def test_workers_use_one_thread_each_and_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    found = sweep(tuning_cases.threads, rates=[0.1], seeds=1, workers=1)
    assert found.runs[0].metrics == {"loss": 1.0, "blas": 1.0}
    assert {name: os.environ.get(name) for name in THREAD_VARIABLES} == before


def test_a_worker_that_dies_is_a_failed_run() -> None:
    found = sweep(tuning_cases.ends_its_process, rates=[0.001, 0.002, 0.01, 0.1], seeds=1, workers=2)
    assert [run.status for run in found.runs] == ["failed", "failed", "completed", "completed"]
    assert found.runs[0].error == "the worker process ended with exit code 7"
    assert found.runs[1].error == "the worker process was killed by SIGKILL"
    assert found.best is not None
    assert found.best.lr == 0.01


@pytest.mark.parametrize("workers", [0, 1])
def test_a_function_that_raises_is_a_failed_run(workers: int, tmp_path: Path) -> None:
    target = tuning_cases.raises_at_a_tenth
    found = sweep(target, rates=[0.01, 0.1, 1], seeds=2, workers=workers, output=tmp_path)
    assert [run.status for run in found.runs] == ["completed"] * 2 + ["failed"] * 2 + ["completed"] * 2
    assert found.runs[2].error == "KeyError: 'no data for seed 0'"
    values = json.loads((tmp_path / JSON_FILE).read_text())
    assert "in raises_at_a_tenth" in values["runs"][2]["traceback"]
    assert found.notes[-1] == "2 of 6 runs failed, the first: KeyError: 'no data for seed 0'"


def test_a_function_that_exits_is_a_failed_run() -> None:
    assert sweep(tuning_cases.exits, rates=[0.1], seeds=1, workers=0).runs[0].error == "SystemExit: enough"


def test_a_worker_that_cannot_begin_is_an_error(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text("from fastopt.tuning import sweep\nsweep('digits', rates=[0.1], seeds=1, epochs=1, workers=1)\n")
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 1
    assert "RuntimeError: a worker process ended before it could begin, with exit code 1" in result.stderr


def test_workers_end_when_the_caller_stops() -> None:
    results = run_jobs(sleep_and_tell, [0.0, 60.0], 2)
    number, pid = next(results)
    assert number == 0
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < 30
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def sleep_and_tell(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def test_the_name_of_a_signal() -> None:
    assert str(Died(-15)) == "the worker process was killed by SIGTERM"
    assert str(Died(-999)) == "the worker process ended with exit code -999"


# --- results that outlive their program -------------------------------------------------------------------------------


class StopError(Exception):
    pass


def stop_after(count: int, error: type[BaseException] = StopError) -> Callable[[SweepRun, int, int], None]:
    def progress(run: SweepRun, done: int, total: int) -> None:
        if done == count:
            raise error

    return progress


KEYWORDS: Mapping[str, Any] = {"rates": [0.01, 0.1, 0.5, 2], "seeds": 2, "workers": 0}


@pytest.mark.parametrize("error", [StopError, KeyboardInterrupt])
def test_a_sweep_that_was_stopped_goes_on(tmp_path: Path, error: type[BaseException]) -> None:
    whole = sweep(parabola, **KEYWORDS)
    with pytest.raises(error):
        sweep(parabola, output=tmp_path, progress=stop_after(3, error), **KEYWORDS)
    assert len(json.loads((tmp_path / JSON_FILE).read_text())["runs"]) == 3
    later = []
    found = sweep(parabola, output=tmp_path, progress=lambda run, done, total: later.append(done), **KEYWORDS)
    assert later == [4, 5, 6, 7, 8]
    assert same(found, whole)
    assert len((tmp_path / RUNS_FILE).read_text().splitlines()) == 1 + 8
    rows = list(csv.DictReader((tmp_path / CSV_FILE).read_text().splitlines()))
    assert [float(row["lr"]) for row in rows] == [run.lr for run in found.runs]
    assert [float(row["val_loss"]) for row in rows] == [run.metrics["val_loss"] for run in found.runs]


@pytest.mark.parametrize("cut", [1, 7, 200])
def test_a_line_that_was_not_finished_is_run_again(tmp_path: Path, cut: int) -> None:
    whole = sweep(parabola, output=tmp_path, **KEYWORDS)
    path = tmp_path / RUNS_FILE
    path.write_bytes(path.read_bytes()[:-cut])
    done = []
    found = sweep(parabola, output=tmp_path, progress=lambda run, *_: done.append(run.key), **KEYWORDS)
    assert same(found, whole)
    assert done == [(2, 1)]
    assert len(path.read_text().splitlines()) == 1 + 8


def test_a_header_that_was_not_finished_is_written_again(tmp_path: Path) -> None:
    sweep(parabola, output=tmp_path, **KEYWORDS)
    path = tmp_path / RUNS_FILE
    header = path.read_bytes().split(b"\n")[0]
    path.write_bytes(header[:20])
    sweep(parabola, output=tmp_path, **KEYWORDS)
    assert path.read_bytes().startswith(header + b"\n")


def test_more_rates_and_seeds_use_what_is_there(tmp_path: Path) -> None:
    done: list[tuple[float, int]] = []
    for rates, seeds in (([0.1, 0.5], 1), ([0.05, 0.1, 0.5], 2), ([0.5], 1)):
        done.clear()
        found = sweep(
            parabola,
            rates=rates,
            seeds=seeds,
            workers=0,
            output=tmp_path,
            progress=lambda run, *_: done.append(run.key),
        )
        assert [run.key for run in found.runs] == [(rate, seed) for rate in rates for seed in range(seeds)]
        if seeds == 2:
            assert done == [(0.05, 0), (0.05, 1), (0.1, 1), (0.5, 1)]
    assert done == []
    assert len(json.loads((tmp_path / JSON_FILE).read_text())["runs"]) == 1


def test_failed_runs_are_repeated(tmp_path: Path) -> None:
    target, done = tuning_cases.raises_at_a_tenth, []
    for _ in range(2):
        done.clear()
        found = sweep(
            target,
            rates=[0.01, 0.1],
            seeds=1,
            workers=0,
            output=tmp_path,
            progress=lambda run, *_: done.append(run.key),
        )
    assert done == [(0.1, 0)]
    assert [run.status for run in found.runs] == ["completed", "failed"]


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"epochs": 3}, "another sweep: epochs None, not 3; give another folder"),
        ({"target": tuning_cases.threads}, "problem 'tuning_cases:parabola', not 'tuning_cases:threads'"),
    ],
)
def test_results_of_another_configuration_are_refused(tmp_path: Path, changed: dict[str, Any], match: str) -> None:
    sweep(parabola, output=tmp_path, **KEYWORDS)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OtherConfigurationError, match=match):
        sweep(changed.pop("target", parabola), output=tmp_path, **KEYWORDS, **changed)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_plan_that_runs_anew_drops_what_is_there(tmp_path: Path) -> None:
    sweep(parabola, output=tmp_path, **KEYWORDS)
    plan = make_plan(tuning_cases.threads, rates=[0.1], seeds=1, workers=1)
    run_plan(plan, tmp_path, anew=True)
    assert len((tmp_path / RUNS_FILE).read_text().splitlines()) == 1 + 1
    (tmp_path / RUNS_FILE).write_text("no runs")
    found = run_plan(plan, tmp_path, anew=True)
    assert same(run_plan(plan, tmp_path), found)


def test_results_of_other_hyperparameters_are_refused(tmp_path: Path) -> None:
    keywords: dict[str, Any] = {"rates": [0.1], "seeds": 1, "workers": 0, "epochs": 1, "output": tmp_path}
    sweep("diabetes", optimizer=fastopt.SGD, **keywords)
    sweep("diabetes", optimizer="SGD", **keywords)  # the same
    for optimizer in ("Adam", functools.partial(fastopt.SGD, momentum=0.9)):
        with pytest.raises(OtherConfigurationError):
            sweep("diabetes", optimizer=optimizer, **keywords)


@pytest.mark.parametrize("content", [b"hello\n", b"hello", b"{}\n", b'{"format": 9, "configuration": {}}\n', b"[]\n"])
def test_other_files_are_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RUNS_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=r"runs\.jsonl is not a file of a sweep's runs"):
        sweep(parabola, output=tmp_path, **KEYWORDS)
    assert [path.name for path in tmp_path.iterdir()] == [RUNS_FILE]
    assert (tmp_path / RUNS_FILE).read_bytes() == content


DEEP = b"[" * 100_000 + b"]" * 100_000
RUN = b'{"lr": 0.1, "seed": 0, "status": "completed", "metrics": {"loss": 1.0}, "epochs": [], "seconds": 1.0}'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"lr": 0.1', b'"lr": [0.1]'),
        (b'"lr": 0.1', b'"lr": {}'),
        (b'"lr": 0.1', b'"lr": "0.1"'),
        (b'"lr": 0.1', b'"lr": null'),
        (b'"lr": 0.1', b'"lr": true'),
        (b'"lr": 0.1', b'"lr": ' + DEEP),
        (b'"seed": 0', b'"seed": [0]'),
        (b'"seed": 0', b'"seed": 0.5'),
        (b'"seconds": 1.0', b'"seconds": "1.0"'),
        (b'"completed"', b'["completed"]'),
        (b'{"loss": 1.0}', b"[1.0]"),
        (b'"loss": 1.0', b'"loss": [1.0]'),
        (b'"loss": 1.0', b'"loss": 1' + b"0" * 400),
        (b'"epochs": []', b'"epochs": 1'),
        (b'"epochs": []', b'"epochs": [1]'),
        (b'"configuration": {', b'"configuration": [], "other": {'),
        (b'"configuration": {', b'"configuration": 1, "other": {'),
        (b'"configuration": {', b'"configuration": {"deep": ' + DEEP + b", "),
    ],
    ids=lambda text: text[:30].decode(),
)
def test_a_damaged_file_is_left_alone(tmp_path: Path, old: bytes, new: bytes) -> None:
    sweep(parabola, output=tmp_path, **KEYWORDS)
    header = (tmp_path / RUNS_FILE).read_bytes().splitlines()[0]
    content = header + b"\n" + RUN + b"\n"
    assert old in content
    content = content.replace(old, new)
    (tmp_path / RUNS_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=r"runs\.jsonl is not a file of a sweep's runs") as caught:
        sweep(parabola, output=tmp_path, **KEYWORDS)
    assert not isinstance(caught.value, OtherConfigurationError)
    assert (tmp_path / RUNS_FILE).read_bytes() == content


def test_two_sweeps_do_not_write_to_one_file(tmp_path: Path) -> None:
    def progress(run: SweepRun, done: int, total: int) -> None:
        sweep(parabola, output=tmp_path, **KEYWORDS)

    with pytest.raises(RuntimeError, match="another sweep is writing to"):
        sweep(parabola, output=tmp_path, progress=progress, **KEYWORDS)


def test_a_sweep_that_was_killed_goes_on(tmp_path: Path) -> None:
    """SIGKILL at any moment: what stands in the file is whole, and the rest is run later."""
    keywords = "rates=[0.01, 0.1, 0.5, 2], seeds=2, workers=0"
    program = (
        "import time, tuning_cases\nfrom fastopt.tuning import sweep\n"
        f"sweep(tuning_cases.parabola, {keywords}, output={str(tmp_path)!r}, progress=lambda *_: time.sleep(0.2))"
    )
    child = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[1])
    path, deadline = tmp_path / RUNS_FILE, time.monotonic() + 60
    while time.monotonic() < deadline and (not path.exists() or path.read_bytes().count(b"\n") < 3):
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    finished = path.read_bytes().count(b"\n") - 1
    assert 2 <= finished < 8
    assert not (tmp_path / JSON_FILE).exists()
    done = []
    found = sweep(parabola, output=tmp_path, progress=lambda run, *_: done.append(run.key), **KEYWORDS)
    assert len(done) == 8 - finished
    assert same(found, sweep(parabola, **KEYWORDS))


def test_it_runs_in_other_threads_than_the_main_one() -> None:
    found: list[Sweep] = []
    thread = threading.Thread(target=lambda: found.append(sweep(parabola, rates=[0.1], seeds=1, workers=1)))
    thread.start()
    thread.join()
    assert found[0].runs[0].status == "completed"


# --- forms of training functions --------------------------------------------------------------------------------------


def test_a_function_that_takes_an_optimizer() -> None:
    optimizer = functools.partial(fastopt.SGD, momentum=0.5)
    found = sweep(tuning_cases.with_optimizer, optimizer=optimizer, rates=[0.01, 0.1], seeds=[3], epochs=2, workers=0)
    assert found.optimizer == "SGD(momentum=0.5)"
    assert [len(run.epochs) for run in found.runs] == [2, 2]
    expected = tuning_cases.with_optimizer(functools.partial(optimizer, lr=0.1), 3, 2)
    assert found.runs[1].epochs == expected


def test_to_json_table_and_plot(tmp_path: Path) -> None:
    found = sweep(parabola, rates=[0.01, 0.1, 0.5, 1.2, 3], seeds=2, workers=0)
    values = json.loads(found.to_json(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert values["best_lr"] == 0.5
    assert values["points"][-1]["median"] is None
    assert found.table().row_count == 5
    assert b"<svg" in found.plot(tmp_path / "sweep.svg").read_bytes()
    assert repr(found) == "Sweep(tuning_cases:parabola, best_lr=0.5, metric='val_loss', 10 runs)"
    nothing = sweep(tuning_cases.always_raises, rates=[0.1], seeds=1, workers=0)
    assert nothing.best is None
    assert nothing.notes[0] == "no best rate: every run failed"
    nothing.plot(tmp_path / "nothing.png")


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "error", "match"),
    [
        ({"rates": []}, ValueError, "rates must have at least one rate, got none"),
        ({"rates": [0.1, -1]}, ValueError, "rates must be finite and > 0, got -1"),
        ({"points": 1}, ValueError, "points must be at least 2"),
        ({"min_lr": 1, "max_lr": 1}, ValueError, "min_lr must be less than max_lr, got 1 and 1"),
        ({"seeds": 0}, ValueError, "seeds must be at least 1"),
        ({"seeds": []}, ValueError, "seeds must have at least one seed, got none"),
        ({"seeds": [-1]}, ValueError, "seeds must be at least 0"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1"),
        ({"workers": -1}, ValueError, "workers must be at least 0"),
        ({"refine": -1}, ValueError, "refine must be at least 0"),
        ({"mode": "low"}, ValueError, "mode must be one of 'auto', 'min', 'max', got 'low'"),
        ({"metric": 3}, TypeError, "metric must be a string, got 3"),
        ({"metric": "auc"}, ValueError, "unknown metric: 'auc' .expected one of loss, val_loss, accuracy"),
        ({"optimizer": "SGD"}, ValueError, "optimizer has no effect"),
        ({"target": lambda lr: 1.0}, TypeError, "must be importable in other processes.*or use workers=0"),
        ({"target": tuning_cases.Quadratic()}, TypeError, "each run must start anew"),
    ],
)
def test_bad_sweeps(keywords: dict[str, Any], error: type[Exception], match: str, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    workers = {"workers": 0} if keywords.keys() & {"metric"} else {}
    with pytest.raises(error, match=match):
        sweep(keywords.pop("target", parabola), output=folder, **workers, **keywords)
    assert folder.exists() == (keywords == {"metric": "auc"})  # known after the first run


def test_a_wrong_return_value_is_an_error_that_says_so() -> None:
    found = sweep(tuning_cases.not_a_problem, rates=[0.1], seeds=1, workers=0)
    assert found.runs[0].error.startswith("TypeError: tuning_cases:not_a_problem must return a problem with params")
