"""The command `fastopt`: a table of subcommands, each with its arguments and the function that it runs.

Exit codes: 0 success, 1 failure (also if the output cannot be written), 2 unusable arguments, 130 interrupted. Errors
are one line on the standard error stream, after the user's traceback if an error comes from the user's code.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from .._version import __version__
from ..config import show_config
from .arguments import (
    ReportedError,
    UsageError,
    cannot,
    natural_number,
    png_path,
    positive_integer,
    refuse_options,
    setting,
    text_file,
)

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

EXTRA = {
    "rich": ("rich", "cli"),
    "matplotlib": ("matplotlib", "cli"),
    "threadpoolctl": ("threadpoolctl", "cli"),
    "sklearn": ("scikit-learn", "cli"),
    "pytest": ("pytest", "bench"),
    "pytest_benchmark": ("pytest-benchmark", "bench"),
}
"""Modules that some subcommands need, with their packages and the extras that install them."""


class Parser(argparse.ArgumentParser):
    """A parser that raises its errors, so that all errors are reported in one place, as one line."""

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        print(message, end="", file=file or sys.stderr)  # argparse's own ignores that it cannot be written

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


# --- subcommands ------------------------------------------------------------------------------------------------------


def add_demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--text", type=text_file, metavar="FILE", help="a text in UTF-8; default Python's documentation"
    )
    parser.add_argument(
        "--plot",
        type=png_path,
        metavar="PNG",
        default="fastopt-demo.png",
        help="file for the plot of the losses (%(default)s)",
    )
    parser.add_argument("--seed", type=natural_number, default=0, help="for weights and sample (%(default)s)")
    parser.add_argument("--epochs", type=positive_integer, help="epochs of RMSprop")
    parser.add_argument("--comparison-epochs", type=positive_integer, help="epochs of the other optimizers")
    parser.add_argument("--quick", action="store_true", help="a small network and little text: a few seconds")


def run_demo(arguments: argparse.Namespace) -> int:
    from ..examples.char_rnn import TextTooShortError
    from . import demo

    try:
        demo.run_demo(
            arguments.text,
            arguments.plot,
            seed=arguments.seed,
            epochs=arguments.epochs,
            comparison_epochs=arguments.comparison_epochs,
            quick=arguments.quick,
        )
    except TextTooShortError as error:
        raise UsageError(f"the text is too short: {error}") from None
    return 0


def add_describe_arguments(parser: argparse.ArgumentParser) -> None:
    from ..definitions.conventions import FRAMEWORKS
    from ..definitions.specs import SPECS

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "examples:\n"
        "  fastopt describe RMSprop --convention keras\n"
        "  fastopt describe Adam --convention optax --set nesterov=True --set lr=3e-4\n"
    )
    parser.add_argument("optimizer", metavar="OPTIMIZER", choices=SPECS, help=f"one of {', '.join(SPECS)}")
    parser.add_argument("--convention", default="torch", help=f"one of {', '.join(FRAMEWORKS)} (%(default)s)")
    parser.add_argument(
        "--set", action="append", type=setting, default=[], metavar="NAME=VALUE", dest="settings",
        help="a hyperparameter or option, such as betas=0.9,0.99; can be repeated",
    )  # fmt: skip


def run_describe(arguments: argparse.Namespace) -> int:
    import numpy as np

    from .. import optimizers

    refuse_options(dict(arguments.settings), {"convention": "--convention"})
    try:
        create = getattr(optimizers, arguments.optimizer)
        create(np.zeros(1), convention=arguments.convention, **dict(arguments.settings)).describe()
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from None
    return 0


def run_config(arguments: argparse.Namespace) -> int:
    show_config()
    return 0


def add_tuning_arguments(name: str) -> Callable[[argparse.ArgumentParser], None]:
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        from . import tuning_arguments

        getattr(tuning_arguments, f"add_{name}_arguments")(parser)

    return add_arguments


def run_tuning(name: str) -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        from . import tuning as commands

        exit_code: int = getattr(commands, f"run_{name}")(arguments)
        return exit_code

    return run


def add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    from ..bench import arguments

    arguments.add_arguments(parser)


def run_bench(arguments: argparse.Namespace) -> int:
    from ..bench import command

    return command.run(arguments)


@dataclass(frozen=True)
class Command:
    """A subcommand. `run` and `add_arguments` import what they need, so that other subcommands do not load it."""

    summary: str
    run: Callable[[argparse.Namespace], int]
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None


COMMANDS = {
    "bench": Command("measure steps beside PyTorch, optax, Keras and other peers", run_bench, add_bench_arguments),
    "config": Command("print versions, instruction set and threads for a bug report", run_config),
    "demo": Command("train a small text model with each optimizer", run_demo, add_demo_arguments),
    "describe": Command(
        "print an optimizer's exact update under a framework's convention", run_describe, add_describe_arguments
    ),
    "diagnose": Command(
        "train at one rate and read the curve: too high, too low, good",
        run_tuning("diagnose"),
        add_tuning_arguments("diagnose"),
    ),
    "range-test": Command(
        "raise the rate during one short run and suggest one",
        run_tuning("range_test"),
        add_tuning_arguments("range_test"),
    ),
    "sweep": Command(
        "train at many rates with several seeds and find the best",
        run_tuning("sweep"),
        add_tuning_arguments("sweep"),
    ),
}
"""The subcommands by name, in alphabetical order. A summary is one line of `fastopt --help`."""


def make_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """The parser, with the arguments of the chosen command only."""
    listed = "".join(f"  {name:<12}{command.summary}\n" for name, command in COMMANDS.items())
    parser = Parser(
        "fastopt",
        description="Fused, in-place optimizer updates on the CPU, and tools to choose a learning rate.",
        epilog=f"commands:\n{listed}",  # argparse's own list breaks lines after long names
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fastopt {__version__}")
    subparsers = parser.add_subparsers(
        dest="command", metavar="command", required=True, help="one of those below; COMMAND --help has its options"
    )
    for name, command in COMMANDS.items():
        description = f"{command.summary[:1].upper()}{command.summary[1:]}."
        subparser = subparsers.add_parser(
            name, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name == chosen:
            command.add_arguments(subparser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, by default that of this process, and return the exit code."""
    if sys.stdout is None:  # closed, as by `>&-` in a shell
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # until the process ends
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:  # also after --help, which ends with a SystemExit
            sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has ended
        _discard_output()
        return 1
    except OSError as error:  # such as a full disk
        _discard_output()
        return _report(f"cannot write the output: {error.strerror or error}", 1)


def _run(words: Sequence[str]) -> int:
    try:
        chosen = next((word for word in words if word in COMMANDS), None)  # options before it take no value
        arguments, unknown = make_parser(chosen).parse_known_args(words)
        if unknown:  # argparse's own error refers to the help of all commands
            raise UsageError(f"unrecognized arguments: {' '.join(unknown)} (see fastopt {chosen} --help)")
        return COMMANDS[arguments.command].run(arguments)
    except ReportedError as error:
        return _report(str(error), 2 if isinstance(error, UsageError) else 1, error.details)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRA:
            raise
        distribution, extra = EXTRA[package]
        return _report(f"{distribution} is not installed: `pip install 'fastopt[{extra}]'` installs it", 1)
    except OSError as error:
        if error.filename is None:
            raise  # from writing the output
        return _report(cannot("use", error.filename, error), 1)
    except KeyboardInterrupt as error:
        return _report(": ".join(["interrupted", *map(str, error.args)]), 130)


def _report(message: str, exit_code: int, details: str = "") -> int:
    with contextlib.suppress(OSError):  # where nobody can be told, the exit code tells
        print(f"{details}fastopt: error: {message}", file=sys.stderr, flush=True)
    return exit_code


def _discard_output() -> None:
    """Send what is left to nowhere, to keep Python from failing to write it at its exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
