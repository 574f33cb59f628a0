"""Stamps that make Numba's cache drop code compiled from an update that has changed since.

With `cache=True`, Numba caches a user's function together with the updates that it calls, and checks only the user's
file for changes. Therefore every update puts a stamp into the constants of its environment, which are pickled with the
cached code. Unpickling a stamp of another version raises OSError. Numba treats an OSError as a miss and compiles again.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

from numba import types
from numba.extending import intrinsic

from .._version import __version__
from ..kernels import constants, registers
from ..kernels.formulas import registry


@functools.cache
def digest() -> str:
    """A digest of all sources of compiled updates, except custom rules."""
    text = hashlib.sha256(f"{__version__} {registry.digest()}".encode())
    package, kernels = Path(__file__).parent.parent, Path(constants.__file__).parent
    folders = (package / "jit", package / "definitions", kernels / "numba", kernels / "render")
    modules = (Path(constants.__file__), Path(registers.__file__))
    for path in (*modules, *(path for folder in folders for path in sorted(folder.glob("*.py")))):
        text.update(path.read_bytes())
    return text.hexdigest()


class Stamp:
    """The version of an update: the digest, and the name of its rule. A custom rule's name changes with its content."""

    def __init__(self, digest: str, rule: str) -> None:
        self.digest = digest
        self.rule = rule

    def __reduce__(self) -> Any:
        return read_stamp, (self.digest, self.rule)


def read_stamp(found: str, rule: str) -> Stamp:
    """Read a stamp from a cache.

    Raises
    ------
    OSError
        The stamp is of another version.
    """
    if found != digest() or not (rule in registry.rules() or rule in registry.CUSTOM_RULES):
        raise OSError(f"compiled from another version of the update {rule!r}")
    return Stamp(found, rule)


def stamping(rule: str) -> Any:
    """A function that does nothing but put a stamp into the environment of its caller."""

    @intrinsic
    def stamp(typing_context: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            context.environment.consts.append(Stamp(digest(), rule))
            return context.get_dummy_value()

        return types.void(), generate

    return stamp
