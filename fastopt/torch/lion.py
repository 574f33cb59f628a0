"""Lion as torch.optim would have it: plain PyTorch, on any device; `fastopt.torch.Lion` puts the native step on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT


class Lion(Optimizer):
    """Lion: the sign of a momentum, with decoupled weight decay.

    With g the gradient of a parameter p::

        p = p * (1 - lr * weight_decay)
        p = p - lr * sign(beta1 * m + (1 - beta1) * g)
        m = beta2 * m + (1 - beta2) * g

    Parameters
    ----------
    params: iterable of tensors or dicts
        As torch.optim's.
    lr: float or tensor of one element, default 1e-4
        The rate, per step; at least 0.
    betas: pair of floats, default (0.9, 0.99)
        How much of m counts in the step, and how much of it stays; each at least 0 and less than 1.
    weight_decay: float, default 0
        At least 0.
    foreach: bool, optional
        Whether one operation goes over all parameters of a group, with temporaries as large as they are; None is False.
    maximize: bool, default False
        Ascend.

    Raises
    ------
    ValueError
        A value is out of range.

    Notes
    -----
    A NaN leaves the parameter as it is, as its sign is 0 (the native step makes the parameter NaN).

    State: `step`, `exp_avg` (m). The authors' own keeps no `step`; its state dicts load, and count on from 0.

    Examples
    --------
    >>> import torch
    >>> from fastopt.torch.lion import Lion
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> optimizer = Lion([w], lr=0.25)
    >>> (w**2).sum().backward()
    >>> optimizer.step()
    >>> w.tolist()
    [0.75, 1.75]

    References
    ----------
    Chen et al., Symbolic discovery of optimization algorithms, NeurIPS 2023; github.com/google/automl, lion_pytorch.py.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        if not lr >= 0.0:
            raise ValueError(f"Invalid learning rate: {lr}")
        for index, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
        if not weight_decay >= 0.0:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "foreach": foreach, "maximize": maximize}
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("foreach", None)
            group.setdefault("maximize", False)
            for param in group["params"]:
                own = self.state.get(param, {})
                if own and not isinstance(own.get("step"), Tensor):
                    own["step"] = _count(float(own.get("step", 0)))

    def _init_group(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        exp_avgs: list[Tensor],
        steps: list[Tensor],
    ) -> None:
        for param in group["params"]:
            if param.grad is None:
                continue
            if param.grad.is_sparse:
                raise RuntimeError("Lion does not support sparse gradients")
            state = self.state[param]
            if not state:
                state["step"] = _count(0.0)
                state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
            params.append(param)
            grads.append(param.grad)
            exp_avgs.append(state["exp_avg"])
            steps.append(state["step"])

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient.

        Parameters
        ----------
        closure: callable, optional
            Evaluates the model anew and returns the loss; called once, with gradients enabled.

        Returns
        -------
        loss: what `closure` returned, else None
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params: list[Tensor] = []
            grads: list[Tensor] = []
            exp_avgs: list[Tensor] = []
            steps: list[Tensor] = []
            self._init_group(group, params, grads, exp_avgs, steps)
            beta1, beta2 = group["betas"]
            lr, weight_decay, maximize = float(group["lr"]), group["weight_decay"], group["maximize"]
            update = _update_all if group["foreach"] and params else _update_each
            update(params, grads, exp_avgs, lr, beta1, beta2, weight_decay, maximize)
            for step in steps:
                step += 1
        return loss


def _count(value: float) -> Tensor:
    dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32  # as torch's others
    return torch.tensor(value, dtype=dtype)


def _update_each(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    lr: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
    maximize: bool,
) -> None:
    for param, given, exp_avg in zip(params, grads, exp_avgs, strict=True):
        grad = -given if maximize else given
        param.mul_(1 - lr * weight_decay)
        param.add_(exp_avg.lerp(grad, 1 - beta1).sign_(), alpha=-lr)
        exp_avg.lerp_(grad, 1 - beta2)


def _update_all(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    lr: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
    maximize: bool,
) -> None:
    if maximize:
        grads = list(torch._foreach_neg(grads))
    torch._foreach_mul_(params, 1 - lr * weight_decay)
    updates = torch._foreach_lerp(exp_avgs, grads, 1 - beta1)
    torch._foreach_sign_(updates)
    torch._foreach_add_(params, updates, alpha=-lr)
    torch._foreach_lerp_(exp_avgs, grads, 1 - beta2)
