"""The folder of a run's files: a run goes on with its own, and takes none that holds what another run left."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..tuning.results import OtherConfigurationError, differences
from .arguments import UsageError, cannot, make_folder

Check = Callable[[Path], bool]
"""Whether a folder has files of the same run. Raises a ValueError that says which files of another run it has."""


def check_data(name: str, configuration: Mapping[str, Any]) -> Check:
    """A check by the file of data of a command that writes one such file."""

    def check(folder: Path) -> bool:
        path = folder / f"{name}.json"
        if not path.exists():
            return False
        try:
            found = dict(json.loads(path.read_text(encoding="utf-8"))["configuration"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"{path} was written by another program or version") from None
        if differ := differences(found, configuration):
            raise OtherConfigurationError(f"{path} has another result: {differ}")
        return True

    return check


def choose_folder(asked: Path | None, default: str, check: Check, overwrite: bool) -> tuple[Path, bool, str]:
    """The folder of a run, whether it has files of the same run, and a sentence if it is not the default one.

    Without `asked`, it is the default folder, or one with a number, such as "fastopt-sweep-2": one that has files of
    the same run, or else the first that has none of another.

    Raises
    ------
    UsageError
        The folder that was asked for has files of another run, and they are not to be overwritten.
    """
    if overwrite:
        return asked or Path(default), False, ""
    if asked is not None:
        try:
            return asked, check(asked), ""
        except ValueError as error:
            raise UsageError(f"{error}; give another folder with --output, or --overwrite") from None
    free, other = None, None
    for number in itertools.count(1):
        folder = Path(default if number == 1 else f"{default}-{number}")
        try:
            has_same = check(folder)
        except ValueError as error:
            other = other or error
            continue
        if has_same or not folder.exists():
            chosen = folder if has_same or free is None else free
            break
        free = free or folder
    said = "" if chosen == Path(default) else f"{chosen} is the folder of this run: {other}."
    return chosen, has_same, said


def check_writable(folder: Path, option: str) -> None:
    """Make a folder, and raise a UsageError if nothing can be written there: now, rather than after the work."""
    try:
        make_folder(folder)
    except OSError as error:
        raise UsageError(f"{cannot('write to the folder', folder, error)}; give another with {option}") from None
