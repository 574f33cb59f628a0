"""Links in Markdown pages: relative ones lead to files of the repository, which is not there where the pages are shown.

`setup.py` uses this for README on PyPI, and `pages.py` for what the site shows of other folders.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

LINK = re.compile(r'(?P<before>\]\(|src=")(?P<target>[^)\s"]+)(?=\)|")')
CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


@functools.cache
def metadata() -> dict[str, Any]:
    """The table `project` of pyproject.toml."""
    import tomllib

    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def repository() -> str:
    """The address of the repository, which stands in pyproject.toml alone."""
    return str(metadata()["urls"]["Repository"])


def with_links(text: str, new_target: Callable[[str], str]) -> str:
    """The page with `new_target(target)` for each relative target outside of blocks of code."""

    def replaced(match: re.Match[str]) -> str:
        target = match["target"]
        return match["before"] + (target if re.match(r"[a-z]+:|#", target) else new_target(target))

    pieces = re.split(f"({CODE.pattern})", text, flags=CODE.flags)
    return "".join(piece if CODE.fullmatch(piece) else LINK.sub(replaced, piece) for piece in pieces)
