"""Whether objects are freed as soon as nobody refers to them, without waiting for the garbage collector."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class Watched:
    """Weak references to objects, by a name for each."""

    def __init__(self) -> None:
        self.references: dict[str, weakref.ref[Any]] = {}

    def add(self, name: str, item: Any) -> None:
        self.references[f"{name} {len(self.references)}"] = weakref.ref(item)

    def add_all(self, name: str, items: Iterable[Any]) -> None:
        for item in items:
            self.add(name, item)

    def alive(self) -> list[str]:
        return [name for name, reference in self.references.items() if reference() is not None]


@contextmanager
def without_garbage_collection() -> Iterator[Watched]:
    """Objects that are added to what this yields must be dead at its end, while no garbage is collected."""
    watched = Watched()
    gc.disable()
    try:
        yield watched
        assert watched.references
        alive = watched.alive()
        assert not alive, f"still alive: {alive}"
    finally:
        gc.enable()
