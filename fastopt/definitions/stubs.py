"""`.pyi` files, for type checkers and editors, of the classes that are made from the table of specs.

`setup.py` writes them beside `optimizers/__init__.py` and `torch/optimizers.py`; they are packaged, never committed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from .specs import CAUTION, SPECS, Spec

_HEADER = "# Written by setup.py from the table of specs (definitions/stubs.py); never edited, never committed.\n"


def stubs() -> Mapping[str, str]:
    """The text of each file, by its path in the package."""
    return {"optimizers/__init__.pyi": _optimizers(), "torch/optimizers.pyi": _torch_classes()}


def _optimizers() -> str:
    imports = [f"from .{name.lower()} import {name} as {name}" for name in sorted(SPECS, key=str.lower)]
    return "\n".join((_HEADER, *imports, "", _exported()))


def _torch_classes() -> str:
    parts = [
        _HEADER,
        "from typing import Any",
        "",
        "import torch",
        "from torch import Tensor",
        "from torch.optim.optimizer import ParamsT",
        "",
        "from .averaging import AveragingOptimizer",
        "from .base import NativeOptimizer",
        "from .plain import PlainOptimizer",
        "",
        *map(_torch_class, SPECS.values()),
        _exported(),
    ]
    return "\n".join(parts)


def _torch_class(spec: Spec) -> str:
    if spec.in_torch:
        return f"class {spec.name}(NativeOptimizer, torch.optim.{spec.name}): ...\n"
    by_keyword = ("maximize", *CAUTION)
    values = [(name, spec.defaults[name]) for name in spec.arguments if name not in by_keyword]
    arguments = [f"        {name}: {_type(name, value)} = {_default(value)}," for name, value in values]
    return "\n".join(
        (
            f"class {spec.name}({'AveragingOptimizer, ' * (spec.average is not None)}NativeOptimizer, PlainOptimizer):",
            "    def __init__(",
            "        self,",
            "        params: ParamsT,",
            *arguments,
            "        *,",
            "        foreach: bool | None = None,",
            *(f"        {name}: bool = False," for name in by_keyword if name in spec.defaults),
            "        **options: Any,",
            "    ) -> None: ...\n",
        )
    )


def _type(name: str, value: object) -> str:
    if isinstance(value, tuple):
        return f"tuple[{', '.join(['float'] * len(value))}]"
    if value is None:
        return "float | None"
    return "float | Tensor" if name == "lr" else type(value).__name__


def _default(value: object) -> str:
    return "..." if value == math.inf else repr(value)


def _exported() -> str:
    return "\n".join(("__all__ = [", *(f'    "{name}",' for name in sorted(SPECS)), "]", ""))
