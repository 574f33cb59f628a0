"""The command `fastopt`: a table of subcommands, each with its arguments and the function that it runs.

Exit codes: 0 success, 1 failure, 2 unusable arguments, 130 interrupted. Errors are one line on the standard error
stream.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from .._version import __version__
from ..config import show_config
from .arguments import CommandError, UsageError, natural_number, png_path, positive_integer, setting, text_file

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
    from ..bench import command

    command.add_arguments(parser)


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
    try:
        words = sys.argv[1:] if argv is None else argv
        chosen = next((word for word in words if word in COMMANDS), None)  # options before it take no value
        arguments, unknown = make_parser(chosen).parse_known_args(words)
        if unknown:  # argparse's own error refers to the help of all commands
            raise UsageError(f"unrecognized arguments: {' '.join(unknown)} (see fastopt {chosen} --help)")
        exit_code = COMMANDS[arguments.command].run(arguments)
        sys.stdout.flush()
        return exit_code
    except BrokenPipeError:  # the reader, such as `head`, has ended; keep Python from noticing at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UsageError as error:
        message, code = str(error), 2
    except CommandError as error:
        message, code = str(error), 1
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRA:
            raise
        distribution, extra = EXTRA[package]
        message, code = f"{distribution} is not installed: `pip install 'fastopt[{extra}]'` installs it", 1
    except KeyboardInterrupt as error:
        message, code = ": ".join(["interrupted", *map(str, error.args)]), 130
    print(f"fastopt: error: {message}", file=sys.stderr)
    return code
