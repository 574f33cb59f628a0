"""Keeps compiled objects on disk for later processes, each under a key that identifies everything it was made from.

An entry never changes and never becomes stale: another rule, another version of its compiler or another processor has
another key. A complete file is renamed into place, so any number of processes can write at once. An incomplete file,
or one that another user could have written, is ignored. If the folder cannot be used, nothing is kept. What a process
that was killed while it wrote has left is removed by a later one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from pathlib import Path

VARIABLE = "FASTOPT_CACHE_DIR"
"""Environment variable that names another folder; if it is empty, nothing is kept."""

_FORMAT = b"fastopt object 1\n"
_DIGEST_SIZE = hashlib.sha256().digest_size
_TEMPORARY = ".part-"
_LEFT_AFTER = 3600.0
"""The age in seconds from which a temporary file is what a killed process has left; writing one takes far less."""


class _NoFolderError(Exception):
    """Its message says why there is no folder for entries."""


def _find_folder() -> Path:
    wanted = os.environ.get(VARIABLE)
    try:
        if wanted is not None:
            if not wanted:
                raise _NoFolderError(f"{VARIABLE} is empty")
            return Path(wanted).expanduser().absolute()
        if sys.platform == "darwin":
            base = Path("~/Library/Caches")
        elif sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local")
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
        return base.expanduser().absolute() / "fastopt"
    except (RuntimeError, OSError) as error:  # no such home; relative to a folder that was deleted
        named = "there is no home folder" if wanted is None else f"{VARIABLE}={wanted!r} names no folder"
        raise _NoFolderError(f"{named} ({error})") from None


def folder() -> Path | None:
    """The folder for entries; None if nothing is to be kept."""
    try:
        return _find_folder()
    except _NoFolderError:
        return None


def why_not() -> str | None:
    """Why nothing can be kept, or None if entries can be; creates the folder."""
    try:
        path = _find_folder()
    except _NoFolderError as error:
        return str(error)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(os.stat(path)):
            return f"{path} belongs to, or can be written to by, another user"
    except OSError as error:
        return str(error)
    return None if os.access(path, os.W_OK | os.X_OK) else f"{path} cannot be written to"


def _is_ours(status: os.stat_result) -> bool:
    """Whether only this user and root can have written there, so that its code is safe to run."""
    return not hasattr(os, "getuid") or (status.st_uid in (os.getuid(), 0) and not status.st_mode & 0o022)


def key(*parts: str) -> str:
    """The key of an object that is made from these texts."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(b"%d\n" % len(encoded))
        digest.update(encoded)
    return digest.hexdigest()


def read(name: str) -> bytes | None:
    """The entry of a key, or None if there is no entry that can be trusted."""
    path = folder()
    if path is None:
        return None
    try:
        if not _is_ours(os.stat(path)):
            return None
        with open(path / name, "rb") as file:
            if not _is_ours(os.fstat(file.fileno())):
                return None
            content = file.read()
    except OSError:
        return None
    start = len(_FORMAT) + _DIGEST_SIZE
    data = content[start:]
    return data if content[:start] == _FORMAT + hashlib.sha256(data).digest() else None


def _remove_left(path: Path) -> None:
    """Remove the temporary files of processes that were killed."""
    for left in path.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _LEFT_AFTER:
                left.unlink()


def write(name: str, data: bytes) -> bool:
    """Keep an entry; returns whether that was possible."""
    path = folder()
    if path is None or why_not() is not None:
        return False
    import tempfile  # not needed if the entry exists

    temporary = None
    try:
        _remove_left(path)
        handle, temporary = tempfile.mkstemp(dir=path, prefix=_TEMPORARY)
        with open(handle, "wb") as file:
            file.write(_FORMAT + hashlib.sha256(data).digest() + data)
        os.replace(temporary, path / name)
    except OSError:  # a full disk, for example
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        return False
    return True
