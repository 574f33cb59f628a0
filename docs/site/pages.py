"""Pages that are written at each build: the examples, the command line, compiled updates, and files of other folders.

They are not committed: docs/examples/, docs/project/ and docs/api/generated/.
"""

from __future__ import annotations

import ast
import os
import posixpath
import subprocess
import sys
from pathlib import Path

from docstrings import plain_text
from links import ROOT, repository, with_links
from names import c_functions
from sphinx.application import Sphinx

DOCS = ROOT / "docs"

PROJECT = {
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "bench/README.md": "benchmarking",
    ".github/SECURITY.md": "security",
}
"""Pages of other folders, and their names in docs/project/."""


def site_target(target: str, folder: str) -> str:
    """Where a link from a page in `folder` of the repository leads on the site; an absolute path in docs/ or a URL."""
    path, hash_sign, anchor = target.partition("#")
    file = posixpath.normpath(posixpath.join(folder, path))
    anchor = hash_sign + anchor
    if file.startswith("docs/"):
        return file.removeprefix("docs") + anchor
    if file in PROJECT:
        return f"/project/{PROJECT[file]}.md{anchor}"
    if file == "README.md" and not anchor:
        return "/index.md"
    if file.startswith("examples/") and file.endswith(".py") and "/" not in file.removeprefix("examples/"):
        return f"/{file.removesuffix('.py')}.md"
    return f"{repository()}/{'tree' if (ROOT / file).is_dir() else 'blob'}/main/{file}{anchor}"


def write(path: Path, text: str) -> None:
    """Write a page unless it is so already, so that only what has changed is built again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def example(file: Path) -> str:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    lead, _, rest = (ast.get_docstring(tree) or "").partition("\n")
    text = "\n".join(plain_text(rest.strip().splitlines()))
    lines = f"{tree.body[0].end_lineno + 1}-"
    code = f"```{{literalinclude}} ../../examples/{file.name}\n:language: python\n:lines: {lines}\n```"
    return f"# {file.stem}\n\n**{lead}**\n\n```{{eval-rst}}\n{text}\n```\n\n{code}\n"


def command_line() -> str:
    sections = ["# The command line\n\n`fastopt`, or `python -m fastopt`, has these subcommands:\n"]
    for command in ((), *((each,) for each in subcommands())):
        shown = subprocess.run(
            [sys.executable, "-m", "fastopt", *command, "--help"],
            capture_output=True,
            text=True,
            check=True,
            cwd=DOCS,
            env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
        ).stdout
        name = " ".join(("fastopt", *command))
        sections.append((f"## {name}\n\n" if command else "") + f"```text\n{shown.rstrip()}\n```\n")
    return "\n".join(sections)


def subcommands() -> list[str]:
    from fastopt.command.main import COMMANDS

    return list(COMMANDS)


def compiled_updates() -> str:
    functions = "\n".join(f".. c:function:: {declaration}\n" for _, declaration in c_functions())
    return f"""# fastopt.updates: C functions

`from fastopt.updates cimport adam_float32` in Cython, or `updates_api.h` in C; [the guide](/your-loop.md#cython) says
how. Each does one update of `size` elements in place, on the thread that calls it, with the bits of the optimizers'.
They allocate nothing and check nothing. States start at zero unless the guide says otherwise; `step` counts updates
from 1.

```{{eval-rst}}
{functions}```
"""


def jit_functions() -> dict[str, str]:
    """A page for the updates of each rule, by its name, and the page that lists them."""
    from fastopt.definitions.signatures import signatures
    from fastopt.jit.render import state_fields
    from fastopt.jit.states import state_class

    pages = {}
    for name, signature in signatures().items():
        functions = [name + suffix for suffix in ("", "_state", "_update", "_parallel", "_update_parallel")]
        body = "\n".join(f".. autofunction:: fastopt.jit.{each}\n" for each in functions)
        state = state_class(signature.rule, state_fields(signature)).__name__
        pages[name] = (
            f"# jit.{name}\n\n```{{eval-rst}}\n.. currentmodule:: fastopt.jit\n\n{body}\n"
            f".. autoclass:: fastopt.jit.{state}\n   :no-index:\n```\n"
        )
    return pages


def of_another_folder(name: str) -> str:
    """A page of the repository with links that work on the site."""
    folder = posixpath.dirname(name)
    return with_links((ROOT / name).read_text(encoding="utf-8"), lambda target: site_target(target, folder))


def write_pages(app: Sphinx) -> None:
    for name, page in PROJECT.items():
        write(DOCS / "project" / f"{page}.md", of_another_folder(name))
    for file in sorted((ROOT / "examples").glob("*.py")):
        if file.stem != "__init__":
            write(DOCS / "examples" / f"{file.stem}.md", example(file))
    write(DOCS / "api" / "generated" / "command.md", command_line())
    write(DOCS / "api" / "generated" / "updates.md", compiled_updates())
    for name, text in jit_functions().items():
        write(DOCS / "api" / "generated" / f"jit.{name}.md", text)


def rewrite(app: Sphinx, name: str, content: list[str]) -> None:
    """Links from docs/ to other folders, and from generated pages, lead to pages of the site or to the repository."""
    folder = posixpath.join("docs", posixpath.dirname(name))

    def new_target(target: str) -> str:
        inside = target.startswith("/") or posixpath.normpath(posixpath.join(folder, target)).startswith("docs/")
        return target if inside else site_target(target, folder)

    content[0] = with_links(content[0], new_target)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write_pages, priority=100)  # before autosummary looks for pages
    app.connect("source-read", rewrite)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
