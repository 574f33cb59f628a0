"""What happens when a user assigns an option or a hyperparameter to an optimizer itself: an error that says where.

Without it, `optimizer.lr = 0.1` would be an attribute that nothing reads.
"""

from __future__ import annotations

from typing import Any

from ..definitions.hyperparameters import HYPERPARAMETERS
from ..definitions.specs import Spec
from .options import GROUP_OPTIONS, STEP_OPTIONS

NAMES_ELSEWHERE = {
    "learning_rate": "lr",
    "epsilon": "eps",
    "beta_1": "betas",
    "beta_2": "betas",
    "beta1": "betas",
    "beta2": "betas",
    "b1": "betas",
    "b2": "betas",
    "max_norm": "max_grad_norm",
    "global_clipnorm": "max_grad_norm",
    "gradient_accumulation_steps": "accumulate_steps",
    "loss_scale": "grad_scale",
    "loss_scale_factor": "grad_scale",
    "ema_momentum": "ema_decay",
    "use_ema": "ema_decay",
    "num_threads": "n_threads",
}
"""What other libraries call options and hyperparameters."""

READ_ONLY = {
    "param_groups": "its groups are; assign to param_groups[i][...], or call add_param_group()",
    "current_lr": "it follows from param_groups[i]['lr']; assign to that",
    "segments": "call set_segments()",
    "state": "its arrays can be written, and load_state_dict() replaces them",
    "averages_swapped_in": "call swap_averages()",
}
"""Properties without a setter, and what to do instead."""

ALIKE = 0.85
"""How alike a name must be to one that exists, by difflib's ratio, to be taken for a misspelling of it."""


def refusal(cls: type, spec: Spec, name: str, *, strict: bool) -> str | None:
    """The message for an assignment to this attribute, or None if the attribute is the user's own affair.

    Refused are the names of all options and hyperparameters, and, if `strict`, names that look like one. A class that
    has an attribute of this name decides by itself.
    """
    import inspect  # slow to load, and rarely needed

    has = inspect.getattr_static(cls, name, None)
    if has is not None:
        fixed = isinstance(has, property) and has.fset is None
        if fixed and name in READ_ONLY:
            return f"{cls.__name__}.{name} cannot be assigned: {READ_ONLY[name]}"
        return f"{cls.__name__}.{name} cannot be assigned{_where(cls, spec, name)}" if fixed else None
    if _is_known(spec, name):
        return f"{cls.__name__}.{name} cannot be assigned{_where(cls, spec, name)}"
    meant = _likely(cls, spec, name) if strict else None
    if meant is None:
        return None
    settable = isinstance(inspect.getattr_static(cls, meant, None), property)
    advice = f": assign to {cls.__name__}.{meant}" if settable else _where(cls, spec, meant)
    return f"{cls.__name__} has no attribute {name!r}; did you mean {meant!r}?{advice.removeprefix(':')}"


def _is_known(spec: Spec, name: str) -> bool:
    return name in spec.defaults or any(
        name in table for table in (HYPERPARAMETERS, GROUP_OPTIONS, STEP_OPTIONS, FIXED)
    )


FIXED = ("grads", "params")


def _where(cls: type, spec: Spec, name: str) -> str:
    """Where something is set, as the end of a message."""
    if name in spec.defaults or name in GROUP_OPTIONS:
        return f": each parameter group has its own; assign to param_groups[0][{name!r}], or to that of every group"
    if name in STEP_OPTIONS or name in FIXED:
        return f": it is an argument of {cls.__name__}(...), and fixed at construction"
    if name in HYPERPARAMETERS:
        return f": it is a hyperparameter of other optimizers ({spec.name} has {', '.join(spec.defaults)})"
    return ": it can only be read"


def _likely(cls: type, spec: Spec, name: str) -> str | None:
    """The name of an option or hyperparameter that this one looks like."""
    import difflib
    import inspect

    names = [*spec.defaults, *GROUP_OPTIONS, *STEP_OPTIONS, *FIXED, *NAMES_ELSEWHERE]
    names += [each for each in dir(cls) if isinstance(inspect.getattr_static(cls, each), property)]
    found: Any = difflib.get_close_matches(name, names, 1, ALIKE)
    return NAMES_ELSEWHERE.get(found[0], found[0]) if found else None
