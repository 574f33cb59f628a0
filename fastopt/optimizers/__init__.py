"""The optimizers: torch.optim's names, arguments, order and defaults.

Each row of the table of specs is a class in the module of its name in small letters. Type checkers and editors read
`__init__.pyi`, which `setup.py` writes from the same table.
"""

from importlib import import_module as _import_module

from ..definitions.specs import SPECS

for _name in SPECS:
    globals()[_name] = getattr(_import_module(f".{_name.lower()}", __name__), _name)

__all__ = sorted(SPECS)
