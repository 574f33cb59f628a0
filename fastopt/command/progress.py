"""Progress bars."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


@contextlib.contextmanager
def shown_while(bar: Progress) -> Iterator[Progress]:
    """Show a progress bar, unless it is disabled: rich before 14.2 writes the end of a line even then."""
    if bar.disable:
        yield bar
        return
    with bar:
        yield bar
