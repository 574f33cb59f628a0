"""torch.optim's optimizers with fastopt's native step: `from fastopt.torch import Adam`, and nothing else changes.

>>> import torch
>>> from fastopt.torch import Adam
>>> model = torch.nn.Linear(3, 2)
>>> optimizer = Adam(model.parameters(), lr=1e-3)
>>> model(torch.ones(1, 3)).sum().backward()
>>> optimizer.step()

The module can stand for all of torch.optim: names that fastopt does not have, such as `LBFGS` and `lr_scheduler`, are
torch's own. `NATIVE` lists the classes whose step is fastopt's.

>>> from fastopt import torch as optim  # was: from torch import optim
>>> optimizer = optim.SGD(model.parameters(), lr=0.1)
>>> scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=30)
>>> "SGD" in optim.NATIVE, "LBFGS" in optim.NATIVE
(True, False)

Each class is a subclass of torch's of the same name: arguments, errors, `param_groups`, `state`, hooks, state dicts,
schedulers and gradient scalers are torch's own. Optimizers that torch.optim does not have are torch.optim.Optimizers in
its form. `step` is fastopt's: one native call that updates all parameters in their own memory.
"""

try:
    import torch
except ImportError as error:
    raise ImportError(f"fastopt.torch needs PyTorch ({error}): pip install 'fastopt[torch]'") from error

if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
    raise ImportError(f"fastopt.torch needs PyTorch 2.10 or later, this is {torch.__version__}")

from typing import TYPE_CHECKING, Any

from . import optimizers
from .backward import step_in_backward
from .base import NativeOptimizer
from .clipping import clip_grad_norm_, clip_grad_value_
from .optimizers import *
from .state_dicts import convert_state_dict

__all__ = [
    "NATIVE",
    "NativeOptimizer",
    "clip_grad_norm_",
    "clip_grad_value_",
    "convert_state_dict",
    "step_in_backward",
]
__all__ += optimizers.__all__

NATIVE: tuple[str, ...] = tuple(optimizers.__all__)
"""The names of the optimizers whose step is fastopt's; others that this module has are torch's own."""

if TYPE_CHECKING:
    from torch.optim import LBFGS as LBFGS
    from torch.optim import Adafactor as Adafactor
    from torch.optim import Muon as Muon
    from torch.optim import Optimizer as Optimizer
    from torch.optim import SparseAdam as SparseAdam
    from torch.optim import lr_scheduler as lr_scheduler
    from torch.optim import swa_utils as swa_utils


def __getattr__(name: str) -> Any:
    """What torch.optim has and fastopt does not."""
    if name in torch.optim.__all__:
        return getattr(torch.optim, name)
    raise AttributeError(f"module 'fastopt.torch' has no attribute {name!r}, and neither has torch.optim")


def __dir__() -> list[str]:
    return sorted({*globals(), *torch.optim.__all__})
