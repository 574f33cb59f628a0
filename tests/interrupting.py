"""Interrupts at every place where Python looks for signals, one after the other."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def interrupted_at(place: int, function: Callable[[], Any]) -> tuple[KeyboardInterrupt | None, int]:
    """Call it, and raise at the so-many-th place where Python looks for signals, or nowhere at -1.

    Returns the exception, or None if the call came to its end, and the number of places that came.
    """
    seen = 0

    def raise_there(frame: Any, event: str, argument: Any) -> None:
        nonlocal seen
        seen += event in ("call", "c_return")
        if seen == place:
            raise KeyboardInterrupt

    try:
        sys.setprofile(raise_there)
        function()
    except KeyboardInterrupt as error:
        return error, seen
    finally:
        sys.setprofile(None)
    return None, seen
