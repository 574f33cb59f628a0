"""What is public: the modules and their names, which the reference has to document. docs/policies.md says the same."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

MODULES = (
    "fastopt",
    "fastopt.constraints",
    "fastopt.guard",
    "fastopt.jit",
    "fastopt.keras",
    "fastopt.rules",
    "fastopt.schedules",
    "fastopt.thinc",
    "fastopt.torch",
    "fastopt.tuning",
)
"""The modules that a user may import from."""


WITH_EXTRAS = ("fastopt.keras", "fastopt.thinc")
"""Those of them that import what neither the site nor the core tests need: they are read, not imported."""


def names_of(module_name: str) -> list[str]:
    """The public names of a module; modules among them are listed by themselves, in `MODULES`."""
    if module_name in WITH_EXTRAS:
        path = ROOT.joinpath(*module_name.split("."), "__init__.py")
        (names,) = re.findall(r"^__all__ = (\[.*?\])$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        return sorted(ast.literal_eval(names))
    module = importlib.import_module(module_name)
    if module_name == "fastopt.jit":  # which makes its functions when they are asked for
        return sorted(dir(module))
    return sorted(name for name in module.__all__ if not inspect.ismodule(getattr(module, name)))


def public_names() -> list[str]:
    """Every public name, with its module."""
    return [f"{module}.{name}" for module in MODULES for name in names_of(module)]


def c_functions() -> list[tuple[str, str]]:
    """The functions of `fastopt.updates`: (name, declaration)."""
    import fastopt

    text = (Path(fastopt.__file__).parent / "updates.pxd").read_text()
    return [(name, line) for line, name in re.findall(r"^cdef (void (\w+)\(.*\)) noexcept nogil$", text, re.MULTILINE)]
