"""A guard's target: one of torch.optim's or fastopt.torch's optimizers. Imported only if torch already is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from .target import Leaves, Target, choose_probes


def is_torch_optimizer(optimizer: Any) -> bool:
    return isinstance(optimizer, torch.optim.Optimizer)


class TorchTarget(Target):
    """An optimizer over torch's tensors; its gradients are the parameters' `.grad`."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self._chosen: list[tuple[int, int]] = []
        self._size = -1

    @property
    def _params(self) -> list[Any]:
        return [param for group in self.optimizer.param_groups for param in group["params"]]

    @property
    def names(self) -> list[Any]:
        names: list[Any] = []
        for group in self.optimizer.param_groups:
            names += group.get("param_names") or range(len(names), len(names) + len(group["params"]))
        return names

    @property
    def dimensions(self) -> list[int]:
        return [param.ndim for param in self._params]

    @property
    def rates(self) -> list[float]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    @property
    def clips(self) -> bool:
        limits = [getattr(self.optimizer, "max_grad_norm", None)]
        limits += [group.get(name) for group in self.optimizer.param_groups for name in ("clip_norm", "clip_value")]
        return any(limit is not None and limit < math.inf for limit in limits)

    @property
    def skips(self) -> bool:
        return False  # torch's never do, and fastopt.torch's do not tell

    def leaves(self, grads: Any) -> Leaves:
        if grads is not None:
            raise TypeError("the gradients of a torch optimizer are its parameters' .grad; call the guard without any")
        return [None if param.grad is None else param.grad.detach() for param in self._params]

    def norm(self, leaves: Leaves) -> float:
        present = [leaf for leaf in leaves if leaf is not None]
        return float(torch.nn.utils.get_total_norm(present)) if present else 0.0

    def nonfinite(self, leaves: Leaves) -> list[tuple[int, float]]:
        parts = [(index, _part_nonfinite(leaf)) for index, leaf in enumerate(leaves) if leaf is not None]
        return [(index, part) for index, part in parts if part]

    def nonfinite_values(self) -> int | None:
        for index, param in enumerate(self._params):
            states = [
                value for value in self.optimizer.state.get(param, {}).values() if isinstance(value, torch.Tensor)
            ]
            if any(_part_nonfinite(tensor) for tensor in (param.detach(), *states)):
                return index
        return None

    def probe(self, leaves: Leaves) -> np.ndarray | None:
        if len(leaves) != self._size:
            self._chosen, self._size = choose_probes([param.numel() for param in self._params]), len(leaves)
        found = [leaves[index] for index, _ in self._chosen]
        if any(leaf is None or leaf.layout != torch.strided for leaf in found):
            return None
        parts = [leaf.reshape(-1)[::stride] for leaf, (_, stride) in zip(found, self._chosen, strict=True)]
        # torch.cat copies: a gradient's own storage could not be resized once NumPy has seen it.
        return torch.cat([part.to("cpu", torch.float64) for part in parts]).numpy() if parts else None

    def step(self, grads: Any) -> bool:
        self.optimizer.step()
        return True

    def discard(self, leaves: Leaves) -> None:
        pass


def _part_nonfinite(tensor: Any) -> float:
    return float((~torch.isfinite(tensor)).sum()) / tensor.numel() if tensor.numel() else 0.0
