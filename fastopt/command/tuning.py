"""The commands `fastopt diagnose`, `fastopt range-test` and `fastopt sweep`: runs and output."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..definitions.specs import SPECS
from ..tuning.choices import OptimizerChoice, choose_optimizer, logarithmic_grid
from ..tuning.diagnoses import diagnose
from ..tuning.plans import POINTS, Plan, make_plan
from ..tuning.range_tests import RangeTest, range_test
from ..tuning.results import check_runs, write_file
from ..tuning.runs import SweepRun
from ..tuning.sources import (
    ProblemSource,
    Source,
    TrainingSource,
    check_settings_are_used,
    describe_optimizer,
    load_source,
)
from ..tuning.sweeps import JSON_FILE, RUNS_FILE, Sweep, run_plan
from ..tuning.tracebacks import users_traceback
from .arguments import CommandError, UsageError, cannot, refuse_options
from .folders import Check, check_data, check_writable, choose_folder
from .progress import shown_while

QUICK_EPOCHS = 5


# --- what is shared ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _usage() -> Iterator[None]:
    """Report errors in this block as usage errors, in one line; before it the traceback of a user's module."""
    try:
        yield
    except ModuleNotFoundError:
        raise  # `main` reports missing packages of the extra
    except OSError as error:
        if error.filename is None:
            raise  # from writing the output, which `main` reports
        raise UsageError(cannot("use", error.filename, error)) from None
    except (TypeError, ValueError, ImportError, RuntimeError) as error:
        details = users_traceback(error.__cause__) if isinstance(error, ImportError) and error.__cause__ else ""
        raise UsageError(" ".join(str(error).split()), details) from None


def _chosen(arguments: argparse.Namespace) -> tuple[Source, OptimizerChoice]:
    """The source and the optimizer, checked."""
    names = vars(arguments).keys() - {"command", "problem", "settings"}
    options = {name: f"--{name.replace('_', '-')}" for name in names}
    refuse_options(dict(arguments.settings), {"lr": "--min-lr and --max-lr", **options})
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


@dataclass(frozen=True)
class Files:
    """The files of a run, and what is said about them.

    Attributes
    ----------
    folder, name, plot: the folder, the name of its file of data without the suffix, and the path of the plot.
    configuration: what the run depends on.
    sentences: on the choice of the folder.
    overwrite: whether what another run left there is dropped.
    """

    folder: Path
    name: str
    plot: Path
    configuration: dict[str, Any]
    sentences: list[str]
    overwrite: bool

    @property
    def data(self) -> Path:
        return self.folder / f"{self.name}.json"


def _files(
    arguments: argparse.Namespace, name: str, configuration: Mapping[str, Any], check: Check | None = None
) -> Files:
    """Choose and make the folder of a run; `check` tells whether one has files of the same run."""
    used = dict(json.loads(json.dumps(configuration)))
    default = f"fastopt-{arguments.command}"
    check = check or check_data(name, used)
    folder, has_same, said = choose_folder(arguments.output, default, check, arguments.overwrite)
    plot = arguments.plot or folder / f"{name}.png"
    check_writable(folder, "--output")
    check_writable(plot.parent, "--plot")
    if plot.is_dir():
        raise UsageError(f"cannot write {plot}: it is a folder; give the name of a file with --plot")
    if plot.exists() and not os.access(plot, os.W_OK):
        raise UsageError(f"cannot write {plot}: it is read-only; give another file with --plot")
    sentences = [said] if said else []
    if has_same and name != "sweep":
        sentences.append(f"This replaces the result of the same command from before in {folder}.")
    return Files(folder, name, plot, used, sentences, arguments.overwrite)


def _configuration(source: Source, choice: OptimizerChoice, **more: Any) -> dict[str, Any]:
    """What a result depends on, with names as in the file of a sweep's runs."""
    settings = {name: repr(value) for name, value in choice.hyperparameters.items()}
    return {"problem": source.name, "optimizer": choice.name, "hyperparameters": settings, **more}


def _run_users_code(arguments: argparse.Namespace, files: Files, run: Callable[[], Any]) -> Any:
    """Run users' code. An error is reported with the user's part of its traceback; all of it is written to a file."""
    try:
        return run()
    except (Exception, SystemExit) as error:
        file = files.folder / "error.txt"
        file.write_text(traceback.format_exc(), encoding="utf-8")
        summary = " ".join(traceback.format_exception_only(error)[-1].split())
        message = f"{arguments.problem}: {summary} (whole traceback in {file})"
        raise CommandError(message, users_traceback(error)) from None


def _finish(files: Files, found: Any, sentences: list[str]) -> None:
    """Write the files, and print the table and conclusions, which are there even if the files cannot be written."""
    from rich.console import Console

    problem = ""
    try:
        values = {"configuration": files.configuration, **json.loads(found.to_json())}
        write_file(files.data, json.dumps(values, indent=2, allow_nan=False) + "\n")
        found.plot(files.plot)
    except OSError as error:
        problem = cannot("write", error.filename or files.folder, error)
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=1000)  # in files and pipes, do not wrap
    console.print(found.table())
    for sentence in sentences:
        console.print(sentence, highlight=False, markup=False)
    if problem:
        raise CommandError(problem)
    for sentence in (*files.sentences, f"Plot in {files.plot}, data in {files.data}."):
        console.print(sentence, highlight=False, markup=False, style="dim")


@contextlib.contextmanager
def _progress(description: str, total: int | None) -> Iterator[Callable[[int, int | None, str], None]]:
    """A progress bar on standard error, if that is a terminal; yields a function (done, total, state) to move it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar_columns = BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.fields[state]}", markup=False)
    text = TextColumn("{task.description}", markup=False)
    console = Console(stderr=True)
    columns = text, *bar_columns, TimeRemainingColumn()
    made = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with shown_while(made) as bar:
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
        files = _files(
            arguments,
            "diagnosis",
            _configuration(source, choice, lr=lr, epochs=epochs, seed=arguments.seed),
        )
    # Passing an optimizer counts as giving one, which a training function without such an argument refuses.
    optimizer = choice if isinstance(source, ProblemSource) or arguments.optimizer or arguments.settings else None
    with _progress(f"{source.name}, lr {lr:g}", epochs) as move:

        def on_epoch(epoch: int, metrics: Any) -> None:
            move(epoch, epochs, ", ".join(f"{name} {value:.4g}" for name, value in metrics.items() if name != "lr"))

        found = _run_users_code(
            arguments,
            files,
            lambda: diagnose(source, lr=lr, optimizer=optimizer, epochs=epochs, seed=arguments.seed, progress=on_epoch),
        )
    sentences = [f"Reading: {found.reading}. {_sentence(found.reason)}", f"Advice: {found.advice}."]
    _finish(files, found, sentences + [_sentence(note) for note in (found.note,) if note])
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
        grid = {"min_lr": arguments.min_lr, "max_lr": arguments.max_lr, "points": points}
        more = {"method": arguments.method, "seed": arguments.seed}
        files = _files(arguments, "range-test", _configuration(source, choice, **grid, **more))
    with _progress(source.name, points) as move:
        found: RangeTest = _run_users_code(
            arguments,
            files,
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
    _finish(files, found, [f"{heading}{found.reason[:1].upper()}{found.reason[1:]}."])
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
        files = _files(arguments, "sweep", plan.configuration, lambda folder: _has_runs(folder, plan.configuration))
        found, reused = _sweep(plan, files)
    if not any(run.status != "failed" for run in found.runs):
        first = found.runs[0]
        raise CommandError(f"every run failed: {first.error} (tracebacks in {files.data})", first.traceback)
    sentences = _conclusions(found)
    if reused:
        sentences.append(
            f"{reused} of the {len(found.runs)} runs were in {files.folder} from before; if your code or data changed, "
            "give --overwrite."
        )
    _finish(files, found, sentences)
    return 0


def _has_runs(folder: Path, configuration: Mapping[str, Any]) -> bool:
    """Whether a folder has runs of the same sweep."""
    if (folder / JSON_FILE).exists() and not (folder / RUNS_FILE).exists():
        raise ValueError(f"{folder / JSON_FILE} is a result whose runs are not there")
    return check_runs(folder / RUNS_FILE, configuration)


def _sweep(plan: Plan, files: Files) -> tuple[Sweep, int]:
    """The sweep, and the number of its runs that were reused."""
    n_new = 0

    def on_run(run: SweepRun, done: int, total: int) -> None:
        nonlocal n_new
        n_new += 1
        move(done, total, f"lr {run.lr:.3g}, seed {run.seed}: {run.status}")

    try:
        with _progress(plan.name, len(plan.rates) * len(plan.seeds)) as move:
            found = run_plan(plan, files.folder, on_run, anew=files.overwrite)
            return found, len(found.runs) - n_new
    except KeyboardInterrupt:
        message = f"the runs so far are in {files.folder}, and the same command goes on with the others"
        raise KeyboardInterrupt(message) from None


def _conclusions(found: Sweep) -> list[str]:
    sentences = []
    if found.best is not None and found.region is not None:
        low, high = found.region
        about = f"; about as good from {low:.3g} to {high:.3g}" if low < high else ""
        sentences.append(f"Best: lr {found.best.lr:.3g}, {found.metric} {found.best.median:.4g}{about}.")
    return sentences + [_sentence(note) for note in found.notes]
