"""The commands `fastopt diagnose`, `fastopt range-test` and `fastopt sweep`: their arguments, and what they show."""

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
from ..tuning.plans import MAX_LR, MIN_LR, MODES, POINTS, Plan, make_plan
from ..tuning.range_tests import SUGGESTIONS, RangeTest, range_test
from ..tuning.results import OtherConfigurationError, write_file
from ..tuning.runs import SweepRun
from ..tuning.sources import (
    BUNDLED,
    ProblemSource,
    Source,
    TrainingSource,
    check_settings_are_used,
    describe_optimizer,
    load_source,
)
from ..tuning.sweeps import Sweep, run_plan
from .arguments import CommandError, UsageError, natural_number, positive_integer, positive_number, setting

PROBLEM_HELP = "a bundled problem, or your own module:function"

OWN_CODE = """\
your own code:
  PROBLEM is module:function: my_training:train is the function train in the file my_training.py
  of the current directory, or in a package that is installed.
"""

TRAINING_OF_EPOCHS = """\
  A function that takes lr trains by itself. It yields metrics after each epoch, or returns all
  of them, as Keras' model.fit does; it may also take epochs, and optimizer:

      def train(lr, seed):
          ...
          for epoch in range(10):
              ...
              yield {"loss": 0.3, "val_loss": 0.4}
"""

TRAINING = """\
  A function that takes lr trains by itself, and returns the final loss or a dict of metrics, or
  those of each epoch; it may also take epochs, and optimizer:

      def train(lr, seed):
          ...
          return {"loss": 0.3, "val_loss": 0.4}
"""

PROBLEM_CODE = """\
  {begin} makes a problem, of which fastopt runs the loop:

      class Line:
          epochs = 10

          def __init__(self, seed):
              self.x = np.random.default_rng(seed).normal(size=(50, 32))
              self.params = {{"slope": np.zeros(1)}}

          def batches(self, epoch):
              return self.x

          def loss_and_gradients(self, x):
              error = (self.params["slope"] - 3) * x
              return np.mean(error**2), {{"slope": np.mean(2 * error * x, keepdims=True)}}
"""


def plot_path(value: str) -> Path:
    from ..tuning.plots import check_path

    try:
        return check_path(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# --- arguments --------------------------------------------------------------------------------------------------------

SEED_HELP = "of the weights and the batches (%(default)s)"


def _add_shared(parser: argparse.ArgumentParser, output: str, own_code: str, examples: str) -> None:
    listed = "".join(f"  {name:<12}{summary}\n" for name, summary in BUNDLED.items())
    parser.epilog = f"bundled problems:\n{listed}\n{OWN_CODE}\n{own_code}\nexamples:\n{examples}"
    parser.add_argument(
        "problem", nargs="?", default="digits-mlp", metavar="PROBLEM", help=f"{PROBLEM_HELP} (%(default)s)"
    )
    parser.add_argument("--optimizer", metavar="NAME", help=f"one of {', '.join(SPECS)} (Adam)")
    parser.add_argument(
        "--set", action="append", type=setting, default=[], metavar="NAME=VALUE", dest="settings",
        help="a hyperparameter or option of the optimizer, such as betas=0.9,0.99; can be repeated",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path(output), metavar="DIR", help="where files go (%(default)s)")
    parser.add_argument("--plot", type=plot_path, metavar="FILE", help="the plot: PNG, SVG or PDF (in DIR, a PNG)")
    parser.add_argument("--quick", action="store_true", help="less of everything: a few seconds")


def add_diagnose_arguments(parser: argparse.ArgumentParser) -> None:
    examples = (
        "  fastopt diagnose --lr 1e-3        # too high, too low, oscillating, premature, diverged or good?\n"
        "  fastopt diagnose digits --optimizer SGD --set momentum=0.9 --lr 0.1 --epochs 20\n"
        "  fastopt diagnose my_training:train --lr 3e-4 --plot curves.svg\n"
    )
    own_code = TRAINING_OF_EPOCHS + "\n" + PROBLEM_CODE.format(begin="A function or class that does not take lr")
    _add_shared(parser, "fastopt-diagnose", own_code, examples)
    parser.add_argument(
        "--lr",
        type=positive_number,
        metavar="RATE",
        help="the rate of each step (the optimizer's default)",
    )
    parser.add_argument("--epochs", type=positive_integer, metavar="N", help="at least 3 (the problem's own)")
    parser.add_argument("--seed", type=natural_number, default=0, metavar="N", help=SEED_HELP)


def add_range_test_arguments(parser: argparse.ArgumentParser) -> None:
    examples = (
        "  fastopt range-test\n"
        "  fastopt range-test char-rnn --optimizer RMSprop --set alpha=0.95 --points 200\n"
        "  fastopt range-test my_training:make_problem --min-lr 1e-6 --max-lr 1 --method minimum\n"
    )
    own_code = PROBLEM_CODE.format(begin="The function, or class,")
    _add_shared(parser, "fastopt-range-test", own_code, examples)
    parser.add_argument("--min-lr", type=positive_number, default=1e-7, metavar="RATE", help="first rate (%(default)s)")
    parser.add_argument("--max-lr", type=positive_number, default=10.0, metavar="RATE", help="last rate (%(default)s)")
    parser.add_argument("--points", type=positive_integer, metavar="N", help="how many steps (100; --quick: 40)")
    parser.add_argument(
        "--method", choices=SUGGESTIONS, default="steepest", metavar="NAME",
        help=f"which suggestion, {' or '.join(SUGGESTIONS)} (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=natural_number, default=0, metavar="N", help=SEED_HELP)


def add_sweep_arguments(parser: argparse.ArgumentParser) -> None:
    examples = (
        "  fastopt sweep\n"
        "  fastopt sweep digits --optimizer SGD --set momentum=0.9 --min-lr 1e-3 --max-lr 10\n"
        "  fastopt sweep my_training:train --seeds 5 --metric val_accuracy --workers 4 --refine 5\n\n"
        "A sweep that was interrupted goes on when the same command is given again, and one with more points, seeds\n"
        "or wider bounds uses the runs that are there.\n"
    )
    own_code = TRAINING + "\n" + PROBLEM_CODE.format(begin="A function or class that does not take lr")
    _add_shared(parser, "fastopt-sweep", own_code, examples)
    parser.add_argument(
        "--min-lr", type=positive_number, default=MIN_LR, metavar="RATE", help="lowest rate (%(default)s)"
    )
    parser.add_argument(
        "--max-lr", type=positive_number, default=MAX_LR, metavar="RATE", help="highest rate (%(default)s)"
    )
    parser.add_argument("--points", type=positive_integer, metavar="N", help=f"how many rates ({POINTS}; --quick: 6)")
    parser.add_argument("--seeds", type=positive_integer, metavar="N", help="runs at each rate (3; --quick: 1)")
    parser.add_argument("--epochs", type=positive_integer, metavar="N", help="by default the problem's own")
    parser.add_argument("--metric", metavar="NAME", help="what rates are compared by (val_loss, or else loss)")
    parser.add_argument("--mode", choices=MODES, default="auto", help="whether a low or a high metric is good (auto)")
    parser.add_argument(
        "--workers", type=natural_number, metavar="N", help="processes at a time; 0: only this one (one for each core)"
    )
    parser.add_argument(
        "--refine", type=natural_number, default=0, metavar="N", help="more rates around the best afterwards (0)"
    )


QUICK_EPOCHS = 5


# --- what is shared ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _usage() -> Iterator[None]:
    """Errors within are the arguments' fault, and one line."""
    try:
        yield
    except ModuleNotFoundError:
        raise  # of a package of the extra, which the command line reports
    except OtherConfigurationError as error:
        raise UsageError(f"{error} with --output, or delete this one") from None
    except (TypeError, ValueError, ImportError, OSError, RuntimeError) as error:
        raise UsageError(" ".join(str(error).split())) from None


def _chosen(arguments: argparse.Namespace) -> tuple[Source, OptimizerChoice]:
    """What is to be trained and by what, checked."""
    source = load_source(arguments.problem)
    given = arguments.optimizer is not None or bool(arguments.settings)
    check_settings_are_used(source, epochs=getattr(arguments, "epochs", None) is not None, optimizer=given)
    return source, choose_optimizer(arguments.optimizer or "Adam", dict(arguments.settings))


def _epochs(arguments: argparse.Namespace, source: Source) -> int | None:
    """The epochs that were asked for; None for the problem's own."""
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
    """Call what may raise anything; an error is one line, and its traceback a file."""
    try:
        return run()
    except Exception as error:
        file = arguments.output / "error.txt"
        file.write_text(traceback.format_exc(), encoding="utf-8")
        summary = " ".join(traceback.format_exception_only(error)[-1].split())
        raise CommandError(f"{arguments.problem}: {summary} (traceback in {file})") from None


def _finish(arguments: argparse.Namespace, found: Any, name: str, sentences: list[str]) -> None:
    """Write the files, and print the table and what it means."""
    from rich.console import Console

    data = arguments.output / f"{name}.json"
    write_file(data, found.to_json() + "\n")
    plot = found.plot(_plot_path(arguments, name))
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=1000)  # in a file or pipe tables are as wide as they are, and a sentence is a line
    console.print(found.table())
    for sentence in sentences:
        console.print(sentence, highlight=False, markup=False)
    console.print(f"Plot in {plot}, data in {data}.", highlight=False, markup=False, style="dim")


@contextlib.contextmanager
def _progress(description: str, total: int | None) -> Iterator[Callable[[int, int | None, str], None]]:
    """A progress bar on the standard error stream if that is a terminal; gives what moves it: (done, total, state)."""
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
    from ..tuning import plots, tables  # noqa: F401  # their packages are found missing before the work, not after it

    with _usage():
        source, choice = _chosen(arguments)
        epochs = _epochs(arguments, source)
        if epochs is not None and epochs < 3:
            raise UsageError(f"--epochs must be at least 3 for a reading, got {epochs}")
        if arguments.lr is None and not describe_optimizer(source, choice):
            raise UsageError(f"--lr is needed: {source.name} has an optimizer of its own, whose default is not known")
        lr = choice.default_lr if arguments.lr is None else arguments.lr
        _make_folders(arguments, "diagnosis")
    # As an argument, an optimizer counts as given; a training function that takes none keeps its own.
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
    """The sweep, and how many of its runs were there before."""
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
