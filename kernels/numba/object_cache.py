"""Compiled objects kept on disk from one process to the next, by a key that says all that they were made from.

An entry is never changed and never stale: another rule, another version of what compiles it or another processor has
another key. Entries appear whole, by renaming, so that any number of processes can write at once. A file that is not
whole, or that another user could have written, is as good as none; where the folder cannot be used, nothing is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from pathlib import Path

VARIABLE = "FASTOPT_CACHE_DIR"
"""Names another folder; set to nothing, nothing is kept."""

_FORMAT = b"fastopt object 1\n"
_DIGEST_SIZE = hashlib.sha256().digest_size


def folder() -> Path | None:
    """Where entries are kept; None where nothing is to be."""
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
    """Why nothing can be kept, or None where it can; makes the folder."""
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
    """Nobody else (but root) can have put code there that we would run."""
    return not hasattr(os, "getuid") or (status.st_uid in (os.getuid(), 0) and not status.st_mode & 0o022)


def key(*parts: str) -> str:
    """The key of what is made from these texts."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(b"%d\n" % len(encoded))
        digest.update(encoded)
    return digest.hexdigest()


def read(name: str) -> bytes | None:
    """The entry of a key, or None where there is none that can be trusted."""
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
    """Keep an entry; whether that was possible."""
    path = folder()
    if path is None or why_not() is not None:
        return False
    import tempfile  # not needed where the entry is there

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
