"""Keeps compiled objects on disk for later processes, each under a key that identifies everything it was made from.

An entry never changes and never becomes stale: another rule, another version of its compiler or another processor has
another key. A complete file is renamed into place, so any number of processes can write at once. An incomplete file,
or one that another user could have written, is ignored. If the folder cannot be used, nothing is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from pathlib import Path

VARIABLE = "FASTOPT_CACHE_DIR"
"""Environment variable that names another folder; if it is empty, nothing is kept."""

_FORMAT = b"fastopt object 1\n"
_DIGEST_SIZE = hashlib.sha256().digest_size


def folder() -> Path | None:
    """The folder for entries; None if nothing is to be kept."""
    wanted = os.environ.get(VARIABLE)
    if wanted is not None:
        return Path(wanted).expanduser().absolute() if wanted else None
    if sys.platform == "darwin":
        base = Path("~/Library/Caches")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        return base.expanduser() / "fastopt"
    except RuntimeError:  # no home
        return None


def why_not() -> str | None:
    """Why nothing can be kept, or None if entries can be; creates the folder."""
    path = folder()
    if path is None:
        return f"{VARIABLE} is empty" if VARIABLE in os.environ else "there is no home folder"
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


def write(name: str, data: bytes) -> bool:
    """Keep an entry; returns whether that was possible."""
    path = folder()
    if path is None or why_not() is not None:
        return False
    import tempfile  # not needed if the entry exists

    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path, prefix=".")
        with open(handle, "wb") as file:
            file.write(_FORMAT + hashlib.sha256(data).digest() + data)
        os.replace(temporary, path / name)
    except OSError:  # a full disk, for example
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        return False
    return True
