"""What parameters can be held to after each update: projections onto sets, and proximal steps of penalties.

An optimizer takes one of each, as `projection=` and `prox=`, for all groups or for one. They are done in the same pass
over memory as the update: first the proximal step, then the projection.

A *row* is `param[i]`, flattened, for each i of the leading axis; a parameter of one dimension or none is a single row.
With `per="param"` the whole parameter is one. A projection and a prox that both have a `per` must have the same.
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
    """Check a number of a constraint, and make it a float."""
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
    """How a constraint on rows is computed: names of a coefficient function, a sum and an operation."""

    function: str
    argument: str  # the constraint's attribute that the function gets
    sum: str
    loop: str
    start: float = 0.0
    iterates: bool = False


class Constraint:
    """`row` says how rows are computed; without it, elements are taken one by one, with these `numbers`."""

    row: ClassVar[RowKind | None] = None
    per: Per

    @property
    def structure(self) -> Hashable:
        """All but the numbers: two constraints of the same structure are computed by the same operations."""
        return "elements" if self.row is None else (self.row, self.per)

    def numbers(self) -> dict[str, float]:
        return {}


class Projection(Constraint):
    """The nearest point of a set, for `projection=`."""


class Prox(Constraint):
    """A proximal step, for `prox=`: argmin over x of |x - p|^2 / 2 + rate * penalty(x).

    The rate is that of the update, element by element: `lr` for SGD, lr / (sqrt(v) + eps) with the bias corrections for
    Adam and its relatives, the step size for Rprop. So the steps minimise loss + penalty. Momentum of SGD and RMSprop
    adds gradients up to g / (1 - momentum): beside it a penalty counts (1 - momentum) times.
    """


@dataclass(frozen=True)
class Box(Projection):
    """low <= p <= high, element by element.

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
    """p >= 0, element by element; what is negative becomes 0 exactly."""

    low: float = field(default=0.0, init=False)
    high: float = field(default=math.inf, init=False)


@dataclass(frozen=True)
class L2Ball(Projection):
    """|p|_2 <= radius: p * min(1, radius / |p|_2). Per row it is the max-norm constraint of dropout's paper.

    References
    ----------
    Srivastava et al., Dropout, 2014, section 5.1; Keras' `MaxNorm`, which takes the norm along an axis of its choice.
    """

    radius: float = 1.0
    per: Per = "param"
    row = RowKind("l2_ball", "radius", "square", "scale")

    def __post_init__(self) -> None:
        _number(self, "radius", positive=True)
        _per(self, self.per)


@dataclass(frozen=True)
class L1Ball(Projection):
    """sum |p| <= radius: sign(p) * max(|p| - t, 0), with the least t >= 0 that satisfies it.

    References
    ----------
    Duchi et al., Efficient projections onto the l1-ball, 2008; t is found by Michelot's iteration.
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

    With SGD this is TensorFlow 1's ProximalGradientDescentOptimizer, with Adagrad its ProximalAdagradOptimizer. What
    is nearer to zero than rate * l1 becomes zero exactly.

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
    """Penalty strength * |p|_2, not squared: p * max(0, 1 - lr * strength / |p|_2); a row that is too short becomes 0.

    The rate is `lr` for every optimizer (times the parameter's `lr_scale`): rates that differ within a row have no such
    closed form.

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
