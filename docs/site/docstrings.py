"""Docstrings are plain text with `code` and literal blocks: what is markup to Sphinx otherwise is escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import formulas
from docutils import nodes
from docutils.parsers.rst import roles
from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole

NAME = re.compile(r"[A-Za-z_][\w.]*(\(\))?")
EMPHASIS = r"(?<![\w*])\*{1,2}\w[^*]*\w\*{1,2}(?![\w*])"
MARKUP = re.compile(rf"{EMPHASIS}|(?P<plain>\*+|\||(?<=\w)_(?=\W|$))")
DEFAULT = re.compile(r"\bdefault\(((?:[^()]|\([^()]*\))*)\)")
ENTRY = re.compile(r"\w+(, \w+)+(?=:|$)")
JOINT = "\u200b"
PAGE = re.compile(r"docs/([\w-]+)\.md")


def code(name: str, rawtext: str, text: str, lineno: int, inliner: Any, options: Any = None, content: Any = ()) -> Any:
    """The role of `text`: a link if it names something that is documented, code in any case."""
    if NAME.fullmatch(text):
        return OBJECT("py:obj", rawtext, text, lineno, inliner, options or {}, content)
    return [nodes.literal(rawtext, text)], []


OBJECT = PyXRefRole()


def backslashed(match: re.Match[str]) -> str:
    return match[0] if match["plain"] is None else "".join(f"\\{each}" for each in match[0])


def escaped(line: str) -> str:
    """The line without markup other than code, strong and emphasised words, and with links to pages."""
    pieces = re.split(r"(``.*?``|`[^`]*`)", line)
    for index in range(0, len(pieces), 2):
        text = MARKUP.sub(backslashed, pieces[index])
        pieces[index] = PAGE.sub(r":doc:`/\1`", text)
    return "".join(pieces)


def plain_text(lines: Sequence[str]) -> list[str]:
    """A docstring's lines as reStructuredText with nothing but what docstrings have."""
    result: list[str] = []
    remaining = list(lines)
    inside_doctest = False
    while remaining:
        line = remaining.pop(0)
        inside_doctest = bool(line.strip()) and (inside_doctest or line.lstrip().startswith(">>>"))
        if inside_doctest:
            result.append(line)
        elif line.rstrip().endswith("::") and ".. " not in line:
            result += literal(escaped(line), remaining)
        else:
            result.append(escaped(line))
    return result


def literal(line: str, remaining: list[str]) -> list[str]:
    """A line that ends in `::` and the block after it, which is taken from `remaining`: formulas, or as it is."""
    indentation = len(line) - len(line.lstrip())
    block = []
    while remaining and (not remaining[0].strip() or len(remaining[0]) - len(remaining[0].lstrip()) > indentation):
        block.append(remaining.pop(0))
    formula = formulas.block([each for each in block if each.strip()])
    if formula is None:
        return [line, *block]
    margin = " " * indentation
    return [line.rstrip()[:-1], "", f"{margin}.. math::", "", f"{margin}   {formula}", ""]


def kept_together(lines: Sequence[str]) -> list[str]:
    """`lr, eps: float` as one entry: napoleon splits names at commas, and `separated` puts them back."""
    return [
        match[0].replace(", ", JOINT) + line[match.end() :] if (match := ENTRY.match(line)) else line for line in lines
    ]


def separated(app: Sphinx, doctree: nodes.document) -> None:
    for text in list(doctree.findall(nodes.Text)):
        if JOINT in text:
            text.parent.replace(text, nodes.Text(text.replace(JOINT, ", ")))


def skip(app: Sphinx, what: str, name: str, value: Any, skipped: bool, options: Any) -> bool | None:
    """What only fastopt uses: specs, and methods of schedules and constraints."""
    if name == "spec":
        return True
    internal = name in ("check", "formula", "numbers")
    owner = getattr(value, "__module__", "") or ""
    return True if internal and owner.startswith(("fastopt.schedules", "fastopt.constraints")) else None


def process(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    lines[:] = kept_together(plain_text(lines))


def signature(
    app: Sphinx, what: str, name: str, value: Any, options: Any, text: str | None, returns: str | None
) -> Any:
    """`lr=1e-3`, where the source has `lr=default(1e-3)`, which stands for the convention's default."""
    return (DEFAULT.sub(r"\1", text), returns) if text else None


def setup(app: Sphinx) -> dict[str, bool]:
    roles.register_canonical_role("fastopt-code", code)
    app.config.default_role = "fastopt-code"
    app.connect("autodoc-process-docstring", process, priority=100)  # before napoleon
    app.connect("autodoc-skip-member", skip)
    app.connect("doctree-read", separated)
    app.connect("autodoc-process-signature", signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
