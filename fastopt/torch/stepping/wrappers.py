"""Optimizers that see a share of the gradients: what takes all of them together would be wrong there, and silently."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...definitions.specs import Spec
from .hyperparameters import n_sums

NEED_ALL_GRADIENTS: dict[str, Any] = {"max_grad_norm": None, "nonfinite": "propagate"}
"""Options that are decided by all gradients together, and the values with which they are not."""

CURES = {
    "max_grad_norm": "clip before the step, with {clip}",
    "nonfinite": "look for it before the step, in the norm that {clip} returns",
}
ZERO = "torch.distributed.optim.zero_redundancy_optimizer"


def check_options(owner: str, options: Mapping[str, Any], groups: Sequence[dict[str, Any]]) -> None:
    """Check that no option needs more gradients than this process has; `owner` is the optimizer's name for messages.

    Raises
    ------
    ValueError
        One does.
    """
    wanted = [name for name, harmless in NEED_ALL_GRADIENTS.items() if options.get(name, harmless) != harmless]
    if not wanted:
        return
    sharded = [param for group in groups for param in group["params"] if is_flattened(param)]
    if sharded:
        where, clip = "FullyShardedDataParallel", "the module's clip_grad_norm_"
    elif _is_made_by_zero():
        where, clip = "ZeroRedundancyOptimizer", "fastopt.torch.clip_grad_norm_(module.parameters(), max_norm)"
    else:
        return
    cure = CURES[wanted[0]].format(clip=clip)
    raise ValueError(
        f"{owner}: {wanted[0]}={options[wanted[0]]!r} goes by all gradients together, but under {where} each process "
        f"has an optimizer of some of them; {cure}"
    )


def check_sums(owner: str, spec: Spec, groups: Sequence[dict[str, Any]]) -> None:
    """Check that this process has all that the rules of an optimizer add up; `owner` is its name for messages.

    Raises
    ------
    ValueError
        It has not.
    """
    if any(n_sums(spec, group) and any(map(is_flattened, group["params"])) for group in groups):
        raise ValueError(
            f"{spec.that_adds(owner)} adds up whole parameters, but under FullyShardedDataParallel each process has "
            "parts of them"
        )
    if spec.has_sums_over_all and _is_made_by_zero():
        raise ValueError(
            f"{owner} adds something up over all parameters, but under ZeroRedundancyOptimizer each process has an "
            "optimizer of some of them"
        )


def is_flattened(param: Tensor) -> bool:
    """Whether a parameter is one of FullyShardedDataParallel's: a flat one, or what this process has of one."""
    return bool(getattr(param, "_fsdp_flattened", False))


def _is_made_by_zero() -> bool:
    """Whether a ZeroRedundancyOptimizer is making an optimizer of its share of the parameters just now."""
    module = sys.modules.get(ZERO)
    if module is None:
        return False
    code = module.ZeroRedundancyOptimizer._init_local_optimizer.__code__
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
