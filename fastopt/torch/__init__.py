"""torch.optim's optimizers with fastopt's native step: `from fastopt.torch import Adam`, and nothing else changes.

>>> import torch
>>> from fastopt.torch import Adam
>>> model = torch.nn.Linear(3, 2)
>>> optimizer = Adam(model.parameters(), lr=1e-3)
>>> model(torch.ones(1, 3)).sum().backward()
>>> optimizer.step()

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

from . import optimizers
from .backward import step_in_backward
from .base import NativeOptimizer
from .clipping import clip_grad_norm_, clip_grad_value_
from .optimizers import *
from .state_dicts import convert_state_dict

__all__ = [
    "NativeOptimizer",
    "clip_grad_norm_",
    "clip_grad_value_",
    "convert_state_dict",
    "step_in_backward",
]
__all__ += optimizers.__all__
