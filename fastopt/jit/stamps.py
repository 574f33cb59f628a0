"""So that Numba's cache forgets what was compiled from an update that has changed since.

With `cache=True`, Numba keeps a user's function together with the updates that it calls, and looks only at the user's
own file to see whether that is out of date. Every update puts a stamp among the constants of its environment, which
are pickled with what is cached. A stamp of another version raises OSError when it is read, and Numba takes an OSError
to mean that there is nothing in the cache: it compiles again.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

from numba import types
from numba.extending import intrinsic

from .._version import __version__
from ..kernels.formulas import registry


@functools.cache
def digest() -> str:
    """Of everything that compiled updates come from, but for custom rules."""
    text = hashlib.sha256(f"{__version__} {registry.digest()}".encode())
    folder = Path(__file__).parent
    for path in (*sorted(folder.glob("*.py")), folder.parent / "definitions" / "signatures.py"):
        text.update(path.read_bytes())
    return text.hexdigest()


class Stamp:
    """What an update was compiled from: the digest, and the name of its rule, which for a custom rule is another
    one for another content."""

    def __init__(self, digest: str, rule: str) -> None:
        self.digest = digest
        self.rule = rule

    def __reduce__(self) -> Any:
        return read_stamp, (self.digest, self.rule)


def read_stamp(found: str, rule: str) -> Stamp:
    """The stamp, when it is read from a cache.

    Raises
    ------
    OSError
        It is of another version.
    """
    if found != digest() or not (rule in registry.rules() or rule in registry.CUSTOM_RULES):
        raise OSError(f"compiled from another version of the update {rule!r}")
    return Stamp(found, rule)


def stamping(rule: str) -> Any:
    """A function that does nothing, and puts a stamp into the environment of the function that calls it."""

    @intrinsic
    def stamp(typing_context: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            context.environment.consts.append(Stamp(digest(), rule))
            return context.get_dummy_value()

        return types.void(), generate

    return stamp
