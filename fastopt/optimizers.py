"""The optimizers: torch.optim's names, arguments, order and defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .optimizer import Optimizer
from .options import Options

if TYPE_CHECKING:  # typing has it from Python 3.11 only
    from typing_extensions import Unpack


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum.

    With g the gradient plus `weight_decay` times the parameter p, and t counting steps from 1::

        b = g                                    (t = 1)
        b = momentum * b + (1 - dampening) * g   (t > 1)
        p = p - lr * b                           (nesterov: p - lr * (g + momentum * b))

    and without momentum p = p - lr * g.

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr: float, default 1e-3
        The rate, per step; at least 0.
    momentum: float, default 0
        At least 0. Zero keeps no state.
    dampening: float, default 0
        Of all gradients but the first.
    weight_decay: float, default 0
        At least 0; added to the gradient.
    nesterov: bool, default False
        Needs a momentum and no dampening.
    decoupled_weight_decay: bool, default False
        Shrink the parameter by lr * weight_decay instead: p = p * (1 - lr * weight_decay) before the update.

    Notes
    -----
    State: `momentum_buffer`, when there is momentum. Bytes moved a float32 parameter: 12, with momentum 20.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.array([1.0, 2.0])
    >>> fastopt.SGD(p, lr=0.5).step(np.array([1.0, 1.0]))
    >>> p
    array([0.5, 1.5])

    References
    ----------
    torch.optim.SGD; Sutskever et al., On the importance of initialization and momentum in deep learning, 2013.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
            options,
        )


class Adam(Optimizer):
    """Adam: moving averages of the gradient and of its square, both corrected for their start at zero.

    With g the gradient plus `weight_decay` times the parameter p, and t counting steps from 1::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g^2
        p = p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)

    and with `amsgrad` the largest v so far in place of v.

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr: float, default 1e-3
        The rate, per step; at least 0.
    betas: pair of floats, default (0.9, 0.999)
        How much of the averages stays from one step to the next; each at least 0 and less than 1.
    eps: float, default 1e-8
        At least 0. With 0, a parameter that has had only zero gradients becomes NaN (0 / 0), as in torch.
    weight_decay: float, default 0
        At least 0; added to the gradient. See `AdamW` for the other kind.
    amsgrad: bool, default False
        Fixed by the states: it can be turned off later, not on.
    decoupled_weight_decay: bool, default False
        Shrink the parameter by lr * weight_decay instead: p = p * (1 - lr * weight_decay) before the update.

    Notes
    -----
    State: `step`, `exp_avg` (m), `exp_avg_sq` (v), and with amsgrad `max_exp_avg_sq`. Bytes moved a float32 parameter:
    28, with amsgrad 36. The corrections are computed in float64, and taken together with lr and eps before the loop, so
    results differ from torch's in the last bits.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p, g = np.zeros(3), np.zeros(3)
    >>> opt = fastopt.Adam(p, lr=0.1, grads=g)
    >>> g[:] = [1, -2, 0]
    >>> opt.step()
    >>> p.round(6)
    array([-0.1,  0.1,  0. ])
    >>> opt.state[0]["step"]
    1

    References
    ----------
    torch.optim.Adam; Kingma and Ba, Adam: a method for stochastic optimization, 2014, arXiv:1412.6980; Reddi et al., On
    the convergence of Adam and beyond, 2018 (amsgrad).
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
            options,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay.

    The parameter shrinks by lr * weight_decay before the update, and the averages do not see the decay::

        p = p * (1 - lr * weight_decay)
        p = p - (the update of Adam, from the gradient alone)

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr, betas, eps, amsgrad
        See `Adam`.
    weight_decay: float, default 1e-2
        At least 0.

    Notes
    -----
    State, bytes moved and rounding are `Adam`'s.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.array([1.0])
    >>> fastopt.AdamW(p, lr=0.1, weight_decay=0.5).step(np.array([0.0]))
    >>> p
    array([0.95])

    References
    ----------
    torch.optim.AdamW; Loshchilov and Hutter, Decoupled weight decay regularization, 2017, arXiv:1711.05101.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        Optimizer.__init__(
            self,
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "decoupled_weight_decay": True,
            },
            options,
        )


class RMSprop(Optimizer):
    """RMSprop: the gradient divided by the root of a moving average of its square.

    With g the gradient plus `weight_decay` times the parameter p::

        v = alpha * v + (1 - alpha) * g^2
        a = alpha * a + (1 - alpha) * g          (centered only)
        d = sqrt(v - a^2) + eps                  (not centered: sqrt(v) + eps)
        b = momentum * b + g / d                 (momentum only)
        p = p - lr * b                           (no momentum: p - lr * g / d)

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr: float, default 1e-2
        The rate, per step; at least 0.
    alpha: float, default 0.99
        How much of the averages stays from one step to the next (`rho` in Keras, `decay` in TensorFlow); at least 0.
    eps: float, default 1e-8
        At least 0; outside of the root, as in torch.
    weight_decay: float, default 0
        At least 0; added to the gradient.
    momentum: float, default 0
        At least 0. Zero keeps no buffer.
    centered: bool, default False
        Divide by the standard deviation. Where rounding makes the variance negative, it counts as 0; torch gives NaN.
    decoupled_weight_decay: bool, default False
        Shrink the parameter by lr * weight_decay instead: p = p * (1 - lr * weight_decay) before the update.

    Notes
    -----
    State: `step`, `square_avg` (v), `grad_avg` (a) when centered, `momentum_buffer` (b) with momentum. Bytes moved a
    float32 parameter: 20, and 8 more for each of the two.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.zeros(2)
    >>> fastopt.RMSprop(p, lr=0.1, alpha=0.75).step(np.array([1.0, -4.0]))
    >>> p.round(6)
    array([-0.2,  0.2])

    References
    ----------
    torch.optim.RMSprop; Tieleman and Hinton, lecture 6.5 of Neural networks for machine learning, 2012; centered:
    Graves, Generating sequences with recurrent neural networks, 2013, arXiv:1308.0850.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "alpha": alpha,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "centered": centered,
                "maximize": maximize,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
            options,
        )


class Adagrad(Optimizer):
    """Adagrad: the gradient divided by the root of the sum of all its squares so far.

    With g the gradient plus `weight_decay` times the parameter p, and t counting steps from 1::

        s = s + g^2
        p = p - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(s) + eps)

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr: float, default 1e-2
        The rate, per step; at least 0.
    lr_decay: float, default 0
        Per step, and the first step is not decayed; at least 0.
    weight_decay: float, default 0
        At least 0; added to the gradient.
    initial_accumulator_value: float, default 0
        What s starts with; at least 0.
    eps: float, default 1e-10
        At least 0.
    decoupled_weight_decay: bool, default False
        Shrink the parameter by lr * weight_decay instead (the rate before its decay).

    Notes
    -----
    State: `step`, `sum` (s). Bytes moved a float32 parameter: 20.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.zeros(2)
    >>> fastopt.Adagrad(p, lr=0.1).step(np.array([3.0, -4.0]))
    >>> p.round(6)
    array([-0.1,  0.1])

    References
    ----------
    torch.optim.Adagrad; Duchi, Hazan and Singer, Adaptive subgradient methods, JMLR 12, 2011.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "eps": eps,
                "maximize": maximize,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
            options,
        )


class Rprop(Optimizer):
    """Rprop: every parameter has a step size of its own, and only the sign of the gradient counts.

    For full batches: with mini-batches the signs are noise. With g the gradient and h the last one used, element by
    element::

        s = clip(s * (etas[1] if g * h > 0, etas[0] if g * h < 0, else 1), step_sizes[0], step_sizes[1])
        g = 0 where g * h < 0
        p = p - sign(g) * s
        h = g

    Parameters
    ----------
    params, maximize, options
        See `fastopt.Optimizer`.
    lr: float, default 1e-2
        The step size that every element starts with; at least 0. It counts before the first step only.
    etas: pair of floats, default (0.5, 1.2)
        The factors of the step size after a change of sign (between 0 and 1) and without (more than 1).
    step_sizes: pair of floats, default (1e-6, 50)
        The least and the largest step size.

    Notes
    -----
    State: `step`, `prev` (h), `step_size` (s). Bytes moved a float32 parameter: 28.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.zeros(2)
    >>> opt = fastopt.Rprop(p, lr=0.1)
    >>> opt.step(np.array([7.0, -1e-3]))
    >>> opt.step(np.array([5.0, 2e-3]))
    >>> p.round(6)
    array([-0.22,  0.1 ])

    References
    ----------
    torch.optim.Rprop; Riedmiller and Braun, A direct adaptive method for faster backpropagation learning, 1993.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            {"lr": lr, "etas": etas, "step_sizes": step_sizes, "maximize": maximize},
            options,
        )
