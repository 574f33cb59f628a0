"""Errors of the command line, and types for argparse that its subcommands share."""

from __future__ import annotations

import argparse
import ast
import contextlib
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class ReportedError(Exception):
    """An error that is reported in one line, its message; before it the details, lines such as a user's traceback."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class UsageError(ReportedError):
    """The arguments are not usable."""


class CommandError(ReportedError):
    """A command failed."""


WHAT_TO_DO = {
    FileNotFoundError: "make its folder first",
    IsADirectoryError: "give the name of a file",
    FileExistsError: "a file has this name",
    NotADirectoryError: "a file has the name of one of its folders",
}
"""What the user can do about an error of the operating system, where its own words do not say it."""


def cannot(verb: str, path: str | Path, error: OSError, otherwise: str = "") -> str:
    """That something cannot be done with a path, why, and what to do about it."""
    advice = WHAT_TO_DO.get(type(error), otherwise)
    return f"cannot {verb} {path}: {error.strerror or error}" + (f" ({advice})" if advice else "")


def positive_integer(value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {value!r}")
    return int(value)


def natural_number(value: str) -> int:
    if not value.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {value!r}")
    return int(value)


def setting(value: str) -> tuple[str, Any]:
    """NAME=VALUE, where the value is a number, True, False, None, a word, or several of these separated by commas."""
    name, separator, words = value.partition("=")
    if not separator or not name.isidentifier() or not words:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {value!r}")
    with contextlib.suppress(ValueError, SyntaxError):
        return name, ast.literal_eval(words)
    return name, words


def make_folder(path: Path) -> None:
    """Make a folder, unless it is there, and raise an OSError if nothing can be written into it."""
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
        pass


def refuse_options(settings: Mapping[str, Any], options: Mapping[str, str]) -> None:
    """Raise a UsageError if --set gives what has an option of its own; `options` says which, by name."""
    for name, value in settings.items():
        if name in options:
            raise UsageError(f"--set {name}={value}: give this with {options[name]}")


def text_file(value: str) -> tuple[str, str]:
    """The name and the content of a file."""
    path = Path(value)
    try:
        return path.name, path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise argparse.ArgumentTypeError(
            f"{value} is not text in UTF-8: {error.reason} at byte {error.start}"
        ) from None
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {value}: {error.strerror}") from None


def writable(value: str) -> Path:
    """The path of a file that can be written. It is opened now as a check, because it is only written minutes later."""
    path = Path(value)
    is_new = not path.exists()
    try:
        path.open("ab").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise argparse.ArgumentTypeError(cannot("write", value, error, "give another place")) from None
    return path


def png_path(value: str) -> Path:
    if Path(value).suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"cannot write {value}: expected a name that ends in .png")
    return writable(value)


def positive_number(value: str) -> float:
    with contextlib.suppress(ValueError):
        number = float(value)
        if 0 < number < math.inf:
            return number
    raise argparse.ArgumentTypeError(f"expected a number above 0, got {value!r}")
