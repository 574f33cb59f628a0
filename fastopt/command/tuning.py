"""The commands `fastopt diagnose`, `fastopt range-test` and `fastopt sweep`: runs and output."""

from __future__ import annotations

import argparse
import contextlib
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..definitions.specs import SPECS
from ..tuning.choices import OptimizerChoice, choose_optimizer, logarithmic_grid
from ..tuning.diagnoses import diagnose
from ..tuning.plans import POINTS, Plan, make_plan
from ..tuning.range_tests import RangeTest, range_test
from ..tuning.results import OtherConfigurationError, write_file
from ..tuning.runs import SweepRun
from ..tuning.sources import (
    ProblemSource,
    Source,
    TrainingSource,
    check_settings_are_used,
    describe_optimizer,
    load_source,
)
from ..tuning.sweeps import Sweep, run_plan
from .arguments import CommandError, UsageError

QUICK_EPOCHS = 5


# --- what is shared ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _usage() -> Iterator[None]:
    """Report errors in this block as usage errors, in one line."""
    try:
        yield
    except ModuleNotFoundError:
        raise  # `main` reports missing packages of the extra
    except OtherConfigurationError as error:
        raise UsageError(f"{error} with --output, or delete this one") from None
    except (TypeError, ValueError, ImportError, OSError, RuntimeError) as error:
        raise UsageError(" ".join(str(error).split())) from None


def _chosen(arguments: argparse.Namespace) -> tuple[Source, OptimizerChoice]:
    """The source and the optimizer, checked."""
    source = load_source(arguments.problem)
    given = arguments.optimizer is not None or bool(arguments.settings)
    check_settings_are_used(source, epochs=getattr(arguments, "epochs", None) is not None, optimizer=given)
    return source, choose_optimizer(arguments.optimizer or "Adam", dict(arguments.settings))


def _epochs(arguments: argparse.Namespace, source: Source) -> int | None:
    """The number of epochs from the arguments; None for the problem's own."""
    takes_epochs = isinstance(source, ProblemSource) or (
        isinstance(source, TrainingSource) and "epochs" in source.takes
    )
    given: int | None = arguments.epochs
    return QUICK_EPOCHS if given is None and arguments.quick and takes_epochs else given


def _plot_path(arguments: argparse.Namespace, name: str) -> Path:
    path: Path = arguments.plot or arguments.output / f"{name}.png"
    return path


def _make_folders(arguments: argparse.Namespace, name: str) -> None:
    for folder in (arguments.output, _plot_path(arguments, name).parent):
        folder.mkdir(parents=True, exist_ok=True)


def _run_users_code(arguments: argparse.Namespace, run: Callable[[], Any]) -> Any:
    """Run users' code. An error is reported in one line, and its traceback is written to a file."""
    try:
        return run()
    except Exception as error:
        file = arguments.output / "error.txt"
        file.write_text(traceback.format_exc(), encoding="utf-8")
        summary = " ".join(traceback.format_exception_only(error)[-1].split())
        raise CommandError(f"{arguments.problem}: {summary} (traceback in {file})") from None


def _finish(arguments: argparse.Namespace, found: Any, name: str, sentences: list[str]) -> None:
    """Write the files, and print the table and conclusions."""
    from rich.console import Console

    data = arguments.output / f"{name}.json"
    write_file(data, found.to_json() + "\n")
    plot = found.plot(_plot_path(arguments, name))
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=1000)  # in files and pipes, do not wrap
    console.print(found.table())
    for sentence in sentences:
        console.print(sentence, highlight=False, markup=False)
    console.print(f"Plot in {plot}, data in {data}.", highlight=False, markup=False, style="dim")


@contextlib.contextmanager
def _progress(description: str, total: int | None) -> Iterator[Callable[[int, int | None, str], None]]:
    """A progress bar on standard error, if that is a terminal; yields a function (done, total, state) to move it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar_columns = BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.fields[state]}", markup=False)
    text = TextColumn("{task.description}", markup=False)
    console = Console(stderr=True)
    columns = text, *bar_columns, TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=total, state="")
        yield lambda done, total, state: bar.update(task, completed=done, total=total, state=state)


# --- the commands -----------------------------------------------------------------------------------------------------


def run_diagnose(arguments: argparse.Namespace) -> int:
    from ..tuning import plots, tables  # noqa: F401  # missing packages are reported before the work, not after it

    with _usage():
        source, choice = _chosen(arguments)
        epochs = _epochs(arguments, source)
        if epochs is not None and epochs < 3:
            raise UsageError(f"--epochs must be at least 3 for a reading, got {epochs}")
        if arguments.lr is None and not describe_optimizer(source, choice):
            raise UsageError(f"--lr is needed: {source.name} has an optimizer of its own, whose default is not known")
        lr = choice.default_lr if arguments.lr is None else arguments.lr
        _make_folders(arguments, "diagnosis")
    # Passing an optimizer counts as giving one, which a training function without such an argument refuses.
    optimizer = choice if isinstance(source, ProblemSource) or arguments.optimizer or arguments.settings else None
    with _progress(f"{source.name}, lr {lr:g}", epochs) as move:

        def on_epoch(epoch: int, metrics: Any) -> None:
            move(epoch, epochs, ", ".join(f"{name} {value:.4g}" for name, value in metrics.items() if name != "lr"))

        found = _run_users_code(
            arguments,
            lambda: diagnose(source, lr=lr, optimizer=optimizer, epochs=epochs, seed=arguments.seed, progress=on_epoch),
        )
    sentences = [f"Reading: {found.reading}. {_sentence(found.reason)}", f"Advice: {found.advice}."]
    _finish(arguments, found, "diagnosis", sentences + [_sentence(note) for note in (found.note,) if note])
    return 0


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def run_range_test(arguments: argparse.Namespace) -> int:
    from ..tuning import plots, tables  # noqa: F401

    points = arguments.points or (40 if arguments.quick else 100)
    with _usage():
        source, choice = _chosen(arguments)
        if not isinstance(source, ProblemSource):
            raise UsageError(
                f"{source.name} trains by itself; a range test needs a problem, whose rate it can set (see fastopt "
                "range-test --help)"
            )
        if points < 10:
            raise UsageError(f"--points must be at least 10, got {points}")
        logarithmic_grid(arguments.min_lr, arguments.max_lr, points)
        if not SPECS[choice.name].uses_lr:
            raise UsageError(f"lr is not used in the steps of {choice.name}: sweep it instead")
        _make_folders(arguments, "range-test")
    with _progress(source.name, points) as move:
        found: RangeTest = _run_users_code(
            arguments,
            lambda: range_test(
                source,
                optimizer=choice,
                min_lr=arguments.min_lr,
                max_lr=arguments.max_lr,
                points=points,
                method=arguments.method,
                seed=arguments.seed,
                progress=lambda step, lr, loss: move(step, points, f"lr {lr:.3g}, loss {loss:.4g}"),
            ),
        )
    heading = "" if found.suggestion is None else "Suggestion: "
    _finish(arguments, found, "range-test", [f"{heading}{found.reason[:1].upper()}{found.reason[1:]}."])
    return 0


def run_sweep(arguments: argparse.Namespace) -> int:
    from ..tuning import plots, tables  # noqa: F401

    with _usage():
        source, choice = _chosen(arguments)
        given = isinstance(source, ProblemSource) or arguments.optimizer or arguments.settings
        plan = make_plan(
            arguments.problem,
            min_lr=arguments.min_lr,
            max_lr=arguments.max_lr,
            points=arguments.points or (6 if arguments.quick else POINTS),
            seeds=arguments.seeds or (1 if arguments.quick else 3),
            optimizer=choice if given else None,
            epochs=_epochs(arguments, source),
            metric=arguments.metric,
            mode=arguments.mode,
            workers=arguments.workers,
            refine=arguments.refine,
        )
        _make_folders(arguments, "sweep")
        found, reused = _sweep(plan, arguments.output)
    if not any(run.status != "failed" for run in found.runs):
        raise CommandError(f"every run failed: {found.runs[0].error} (tracebacks in {arguments.output / 'sweep.json'})")
    sentences = _conclusions(found)
    if reused:
        sentences.append(
            f"{reused} of the {len(found.runs)} runs were in {arguments.output} from before; delete it if your code or "
            "data changed."
        )
    _finish(arguments, found, "sweep", sentences)
    return 0


def _sweep(plan: Plan, output: Path) -> tuple[Sweep, int]:
    """The sweep, and the number of its runs that were reused."""
    n_new = 0

    def on_run(run: SweepRun, done: int, total: int) -> None:
        nonlocal n_new
        n_new += 1
        move(done, total, f"lr {run.lr:.3g}, seed {run.seed}: {run.status}")

    try:
        with _progress(plan.name, len(plan.rates) * len(plan.seeds)) as move:
            found = run_plan(plan, output, on_run)
            return found, len(found.runs) - n_new
    except KeyboardInterrupt:
        message = f"the runs so far are in {output}, and the same command goes on with the others"
        raise KeyboardInterrupt(message) from None


def _conclusions(found: Sweep) -> list[str]:
    sentences = []
    if found.best is not None and found.region is not None:
        low, high = found.region
        about = f"; about as good from {low:.3g} to {high:.3g}" if low < high else ""
        sentences.append(f"Best: lr {found.best.lr:.3g}, {found.metric} {found.best.median:.4g}{about}.")
    return sentences + [_sentence(note) for note in found.notes]
