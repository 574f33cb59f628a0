"""A build warns of public names that have no entry in the reference, and therefore fails."""

from __future__ import annotations

import importlib
from typing import Any

from names import WITH_EXTRAS, c_functions, public_names
from sphinx.application import Sphinx
from sphinx.util import logging


def value_of(name: str) -> Any:
    module, _, own = name.rpartition(".")
    return getattr(importlib.import_module(module), own)


def check(app: Sphinx, environment: Any) -> None:
    entries = set(environment.domains.python_domain.objects)
    public = public_names()
    left_out = [name for name in public if name not in entries]
    importable = [name for name in public if not name.startswith(tuple(f"{module}." for module in WITH_EXTRAS))]
    documented = {id(value_of(name)) for name in importable if name in entries}
    missing = [name for name in left_out if name not in importable or id(value_of(name)) not in documented]
    c_entries = {name for name, *_ in environment.domains.c_domain.get_objects()}
    missing += [f"fastopt.updates.{name}" for name, _ in c_functions() if name not in c_entries]
    for name in missing:
        logging.getLogger(__name__).warning("%s is public and not in the reference", name)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
