"""One safetensors file: written beside the old one and put in its place as a whole; read through a memory map.

The package `safetensors` checks a file's header and length when the file is opened. It would copy each array that is
read through it, so arrays are views of a memory map instead. Files are written here, in its format: its own writer does
not flush them to the disk, and leaves files of unknown names behind when the process is killed.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import io
import json
import mmap
import os
import secrets
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .leaves import DTYPES, NAMES, Leaf

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

ON_WINDOWS = fcntl is None

MADV_POPULATE_READ = 22
"""Linux' advice to read all pages now; Python's mmap does not name it."""

BLOCK = 1 << 24
"""The bytes that are written at a time."""

HEADER_LENGTH = 8
"""The bytes at the beginning of a file that hold the length of its header."""

ITEMSIZES = {code: 2 if name == "bfloat16" else 1 if name.startswith("float8") else np.dtype(name).itemsize
             for name, code in DTYPES.items()}  # fmt: skip


def safetensors() -> Any:
    """The package.

    Raises
    ------
    ImportError
        It is not installed.
    """
    try:
        import safetensors
    except ImportError as error:
        raise ImportError(
            "fastopt.save and fastopt.load need the package safetensors: `pip install 'fastopt[files]'`"
        ) from error
    return safetensors


def target_of(path: Any) -> Path:
    """The file that a path names, behind symbolic links.

    Raises
    ------
    TypeError, OSError
        It is no path, a folder, or in a folder that does not exist.
    """
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise TypeError(f"path must be a string or a path, got {path!r} of type {type(path).__name__}")
    if not os.fspath(path):
        raise ValueError("path must name a file, got an empty one")
    target = Path(os.path.realpath(os.fsdecode(path)))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "path must name a file, not a folder", os.fsdecode(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "path must be in a folder that exists", os.fsdecode(path))
    return target


# --- writing --------------------------------------------------------------------------------------------------------


def write(target: Path, leaves: Mapping[str, Leaf], metadata: Mapping[str, str]) -> None:
    """Write arrays and text to a file. Whenever the process ends, the old file or the new one is there, whole.

    Raises
    ------
    OSError
        The file cannot be written. The old one is unchanged, and nothing is left beside it.
    """
    order = sorted(leaves, key=lambda name: (-ITEMSIZES[DTYPES[leaves[name].dtype]], name))  # so that all are aligned
    header = _header({name: leaves[name] for name in order}, metadata)
    _remove_leftovers(target)
    with _temporary_file(target) as (temporary, file):
        try:
            _write_all(file.fileno(), [header, *(leaves[name].data.reshape(-1).view(np.uint8) for name in order)])
            os.fsync(file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(target)) from error  # not the temporary file's name
        if ON_WINDOWS:  # it renames no open file
            file.close()
        os.replace(temporary, target)
    if not ON_WINDOWS:  # it opens no folder
        _flush_folder(target.parent)


def _write_all(descriptor: int, pieces: Iterable[Any]) -> None:
    """Write bytes and arrays of bytes; the disk begins with the first block while the next is written."""
    begin = 0
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            written = os.write(descriptor, rest[:BLOCK])
            if hasattr(os, "posix_fadvise"):  # starts writing, on Linux; fsync alone takes half as long again
                os.posix_fadvise(descriptor, begin, written, os.POSIX_FADV_DONTNEED)
            begin, rest = begin + written, rest[written:]


def _header(leaves: Mapping[str, Leaf], metadata: Mapping[str, str]) -> bytes:
    """The beginning of a file: the length of what follows, and JSON with the place of every array."""
    described: dict[str, Any] = {"__metadata__": dict(metadata)}
    begin = 0
    for name, leaf in leaves.items():
        end = begin + leaf.data.nbytes
        described[name] = {"dtype": DTYPES[leaf.dtype], "shape": leaf.shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_LENGTH)
    return len(text).to_bytes(HEADER_LENGTH, "little") + text


@contextlib.contextmanager
def _temporary_file(target: Path) -> Iterator[tuple[Path, io.FileIO]]:
    """A new file beside the target, which is locked as long as it is written; it is removed if it was not renamed."""
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    file = io.FileIO(temporary, "x")
    try:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # on file systems without locks, leftovers stay
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if mode is not None and not ON_WINDOWS:
            os.fchmod(file.fileno(), mode)
        yield temporary, file
    finally:
        if ON_WINDOWS:  # it removes no open file
            file.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        file.close()


def _remove_leftovers(target: Path) -> None:
    """Remove the files of processes that were killed while they wrote: those that nobody holds a lock of."""
    if fcntl is None:
        return
    pattern = str(target.with_name(f".{glob.escape(target.name)}.{'[0-9a-f]' * 8}.tmp"))
    for leftover in glob.glob(pattern):
        with contextlib.suppress(OSError):
            descriptor = os.open(leftover, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(leftover)
            finally:
                os.close(descriptor)


def _flush_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot
            raise
    finally:
        os.close(descriptor)


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stored:
    """A file that is open.

    Attributes
    ----------
    metadata: its text by name.
    leaves: its arrays by name, views of the memory map.
    """

    metadata: dict[str, str]
    leaves: dict[str, Leaf]


def read(path: Any) -> Stored:
    """Open a file, check its header and length, and have all of it in memory.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is not a whole safetensors file, or has a dtype that fastopt does not know.
    """
    package = safetensors()
    target = target_of(path)
    with open(target, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < HEADER_LENGTH:
            raise ValueError(f"{target} is not a safetensors file: it has {size} bytes")
        length = int.from_bytes(file.read(HEADER_LENGTH), "little")
        try:
            # Not by its path, where another process may put another file meanwhile: on Windows, not while it is open.
            name = str(target) if ON_WINDOWS else f"/dev/fd/{file.fileno()}"
            with package.safe_open(name, "np") as opened:
                metadata = dict(opened.metadata() or {})
                slices = {name: opened.get_slice(name) for name in opened.offset_keys()}
                found = [(name, each.get_dtype(), tuple(each.get_shape())) for name, each in slices.items()]
        except (package.SafetensorError, UnicodeDecodeError) as error:
            raise ValueError(f"{target} is not a whole safetensors file: {error}") from error
        unknown = sorted({dtype for _, dtype, _ in found} - set(ITEMSIZES))
        if unknown:
            raise ValueError(f"{target} has arrays of dtype {', '.join(unknown)}, which fastopt does not save")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _read_ahead(mapped, target)
    # The package has checked that arrays follow one another without gaps, up to the end of the file.
    data, begin, leaves = np.frombuffer(mapped, np.uint8), HEADER_LENGTH + length, {}
    for name, dtype, shape in found:
        nbytes = int(np.prod(shape, dtype=object)) * ITEMSIZES[dtype]
        leaves[name] = Leaf(NAMES[dtype], shape, data[begin : begin + nbytes])
        begin += nbytes
    if begin != size:
        raise ValueError(f"{target} is not a whole safetensors file: it has {size} bytes, its header says {begin}")
    return Stored(metadata, leaves)


def _read_ahead(mapped: mmap.mmap, target: Path) -> None:
    """Read all pages, where the system can: what cannot be read is an error now, and a fatal signal later."""
    if sys.platform != "linux":
        return
    try:
        mapped.madvise(MADV_POPULATE_READ)
    except OSError as error:
        if error.errno != errno.EINVAL:  # Linux before 5.14 does not know it
            raise OSError(error.errno, f"cannot be read: {error.strerror}", str(target)) from error
