"""Constraints on parameters after each update: projections onto sets and proximal steps for penalties.

An optimizer takes one of each, as `projection=` and `prox=`, for all groups or for one. They run in the same pass over
memory as the update: first the proximal step, then the projection.

A *row* is `param[i]`, flattened, for each index i of the leading axis; a parameter with fewer than two dimensions is a
single row. With `per="param"` the constraint applies to the whole parameter. A projection and a prox that both have
`per` must have the same.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, get_args

from .checks import real_number

Per = Literal["param", "row"]

__all__ = ["L1", "L2", "Box", "ElasticNet", "GroupLasso", "L1Ball", "L2Ball", "NonNegative", "Simplex"]


def _number(owner: Any, name: str, *, positive: bool = False) -> None:
    """Check an argument of a constraint and convert it to a float."""
    value = getattr(owner, name)
    number = real_number(f"{type(owner).__name__}: {name}", value)
    if not (number > 0 if positive else number >= 0) or math.isinf(number):
        bound = "> 0" if positive else ">= 0"
        raise ValueError(f"{type(owner).__name__}: {name} must be finite and {bound}, got {value!r}")
    object.__setattr__(owner, name, number)


def _per(owner: Any, value: Any) -> None:
    if not isinstance(value, str) or value not in get_args(Per):
        raise ValueError(f"{type(owner).__name__}: per must be 'param' or 'row', got {value!r}")


class RowKind(NamedTuple):
    """The parts of a constraint on rows: the names of a coefficient function, a sum and an operation."""

    function: str
    argument: str  # the attribute of the constraint that the function gets
    sum: str
    loop: str
    start: float = 0.0
    iterates: bool = False


class Constraint:
    """Constraints on rows have `row`; element-wise ones have `numbers`."""

    row: ClassVar[RowKind | None] = None
    per: Per

    @property
    def structure(self) -> Hashable:
        """All but the numbers: two constraints of the same structure are computed by the same operations."""
        return "elements" if self.row is None else (self.row, self.per)

    def numbers(self) -> dict[str, float]:
        return {}


class Projection(Constraint):
    """Maps a parameter to the nearest point of a set; for `projection=`."""


class Prox(Constraint):
    """A proximal step, for `prox=`: argmin over x of |x - p|^2 / 2 + rate * penalty(x).

    The rate is that of the update, for each element: `lr` for SGD, lr / (sqrt(v) + eps) with bias corrections for Adam
    and its relatives, the step size for Rprop. The steps therefore minimise loss + penalty. Momentum in SGD and RMSprop
    accumulates gradients to g / (1 - momentum), so a penalty then weighs (1 - momentum) times as much.
    """


@dataclass(frozen=True)
class Box(Projection):
    """low <= p <= high, for each element.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.array([0.5, -0.5])
    >>> fastopt.SGD(p, lr=1.0, projection=fastopt.constraints.Box(-1, 1)).step(np.array([2.0, 0.0]))
    >>> p
    array([-1. , -0.5])
    """

    low: float = -math.inf
    high: float = math.inf

    def numbers(self) -> dict[str, float]:
        return {"low": self.low, "high": self.high}

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            object.__setattr__(self, name, real_number(f"Box: {name}", getattr(self, name)))
        if not self.low <= self.high or self.low == math.inf or self.high == -math.inf:
            raise ValueError(
                "Box: low must be at most high, with a finite number between them, "
                f"got low={self.low!r}, high={self.high!r}"
            )


@dataclass(frozen=True)
class NonNegative(Box):
    """p >= 0, for each element; negative elements become exactly 0."""

    low: float = field(default=0.0, init=False)
    high: float = field(default=math.inf, init=False)


@dataclass(frozen=True)
class L2Ball(Projection):
    """|p|_2 <= radius: p * min(1, radius / |p|_2). With `per="row"` it is the max-norm constraint of [1]_.

    References
    ----------
    .. [1] Srivastava et al., Dropout, 2014, section 5.1. Keras' `MaxNorm` takes the norm along any axis.
    """

    radius: float = 1.0
    per: Per = "param"
    row = RowKind("l2_ball", "radius", "square", "scale")

    def __post_init__(self) -> None:
        _number(self, "radius", positive=True)
        _per(self, self.per)


@dataclass(frozen=True)
class L1Ball(Projection):
    """sum |p| <= radius: sign(p) * max(|p| - t, 0), with the smallest t >= 0 that satisfies it.

    References
    ----------
    Duchi et al., Efficient projections onto the l1-ball, 2008. Michelot's iteration finds t.
    """

    radius: float = 1.0
    per: Per = "param"
    row = RowKind("l1_ball", "radius", "magnitude_above", "soften", start=-1.0, iterates=True)

    def __post_init__(self) -> None:
        _number(self, "radius", positive=True)
        _per(self, self.per)


@dataclass(frozen=True)
class Simplex(Projection):
    """p >= 0 and sum p = total: max(p - t, 0), with the t that satisfies it.

    References
    ----------
    Michelot, A finite algorithm for finding the projection of a point onto the canonical simplex of R^n, 1986.
    """

    total: float = 1.0
    per: Per = "param"
    row = RowKind("simplex", "total", "above", "lower", start=-math.inf, iterates=True)

    def __post_init__(self) -> None:
        _number(self, "total", positive=True)
        _per(self, self.per)


@dataclass(frozen=True)
class ElasticNet(Prox):
    """Penalty l1 * |p|_1 + l2 / 2 * |p|_2^2: sign(p) * max(|p| - rate * l1, 0) / (1 + rate * l2).

    With SGD this is TensorFlow 1's ProximalGradientDescentOptimizer, with Adagrad its ProximalAdagradOptimizer.
    Elements closer to zero than rate * l1 become exactly zero.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> p = np.array([3.0, 0.5, -3.0])
    >>> fastopt.SGD(p, lr=1.0, prox=fastopt.constraints.ElasticNet(l1=1.0, l2=1.0)).step(np.zeros(3))
    >>> p
    array([ 1.,  0., -1.])
    """

    l1: float = 0.0
    l2: float = 0.0

    def numbers(self) -> dict[str, float]:
        return {"l1": self.l1, "l2": self.l2}

    def __post_init__(self) -> None:
        _number(self, "l1")
        _number(self, "l2")


@dataclass(frozen=True)
class L1(ElasticNet):
    """Penalty l1 * |p|_1 (the lasso): sign(p) * max(|p| - rate * l1, 0), with exact zeros."""

    def __init__(self, l1: float) -> None:
        object.__setattr__(self, "l1", l1)
        object.__setattr__(self, "l2", 0.0)
        self.__post_init__()


@dataclass(frozen=True)
class L2(ElasticNet):
    """Penalty l2 / 2 * |p|_2^2 (ridge): p / (1 + rate * l2)."""

    def __init__(self, l2: float) -> None:
        object.__setattr__(self, "l1", 0.0)
        object.__setattr__(self, "l2", l2)
        self.__post_init__()


@dataclass(frozen=True)
class GroupLasso(Prox):
    """Penalty strength * |p|_2, not squared: p * max(0, 1 - lr * strength / |p|_2); short rows become 0.

    The rate is `lr` for every optimizer (times the parameter's `lr_scale`), because there is no closed form for rates
    that differ within a row.

    References
    ----------
    Yuan and Lin, Model selection and estimation in regression with grouped variables, 2006.
    """

    strength: float = 0.0
    per: Per = "row"
    row = RowKind("group_lasso", "strength", "square", "scale")

    def __post_init__(self) -> None:
        _number(self, "strength")
        _per(self, self.per)


PROJECTIONS = (Box, L2Ball, L1Ball, Simplex)
PROXES = (ElasticNet, GroupLasso)
