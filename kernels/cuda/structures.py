"""The kernels' view of groups: groups whose plans differ only in numbers share a structure, and each program of a
structure is a variant of the update kernel. Parameters of a group that are stored in different formats have structures
of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..engine.plan import GroupPlan, OperandForm
from ..formulas.dialect import Function
from ..formulas.registry import Loop
from .table_format import COUNTS, NO_SUM, SEGMENT, SQUARES, VALUES

Pick = tuple[int, int]
"""(index of a stage, index of one of the stage's results)"""


@dataclass(frozen=True)
class Structure:
    """The kernels' view of a group."""

    stages: tuple[tuple[tuple[Function, ...], tuple[int, ...], tuple[int, ...], int], ...]
    """For each stage: the coefficient function with the functions that it calls, `Stage.positions`, `Stage.carried`,
    and the number of its arguments."""
    programs: tuple[tuple[str, tuple[tuple[Loop, tuple[int, ...], tuple[Pick, ...]], ...]], ...]
    operands: tuple[OperandForm, ...]
    sum: tuple[Function, ...]
    sum_of_squares: bool
    accumulator: int
    carried: tuple[Pick, ...]
    divisor: str = "update_divisor"
    """The argument of coefficient functions that divides a gradient when it is first read."""

    @staticmethod
    def of(plan: GroupPlan, forms: tuple[OperandForm, ...] | None = None) -> Structure:
        """The structure of a group, for segments whose operands have these forms, by default the group's."""
        return Structure(
            tuple((each.function, each.positions, each.carried, len(each.arguments)) for each in plan.stages),
            tuple(
                (name, tuple((each.loop, each.operands, each.pick) for each in operations))
                for name, operations in sorted(plan.programs.items())
            ),
            forms or plan.operands,
            plan.sum or (),
            plan.sum_of_squares,
            plan.accumulator,
            plan.carried,
            plan.divisor,
        )

    @property
    def picks(self) -> tuple[Pick, ...]:
        """The coefficients that the operations take, in their order in a row of the table of coefficients."""
        return tuple(
            dict.fromkeys(pick for _, operations in self.programs for _, _, picks in operations for pick in picks)
        )

    @property
    def sum_kind(self) -> int:
        return NO_SUM if not self.sum else SQUARES if self.sum_of_squares else COUNTS

    def offset(self, operand: int, element: str) -> str:
        """The offset, in bytes, of an element of an operand."""
        return f"{element} * {self.operands[operand].dtype.itemsize}"

    def is_code(self, operand: int) -> bool:
        """Whether the array of an operand holds codes, or the rest of codes."""
        form = self.operands[operand]
        return form.codec is not None or any(each.rest == operand for each in self.operands)

    @property
    def rounds_at_random(self) -> bool:
        return any(form.codec is not None and form.codec.stochastic for form in self.operands)

    def program(self, name: str) -> tuple[Any, ...]:
        return dict(self.programs).get(name, ())


def is_variant(structure: Structure, program: str, with_gradient: bool = True) -> bool:
    return bool(structure.program(program)) and (with_gradient or structure.accumulator >= 0)


PROGRAM_COLUMNS = {
    "update": ("update", True),
    "without_gradient": ("update", False),
    "gather": ("gather", True),
    "clear": ("clear", True),
    "swap": ("swap", True),
}
"""For each column of `table_format.GROUP` that names a variant: the program, and whether there is a gradient."""

STEP = ("update", "without_gradient", "gather", "clear")


def numbered_variants(structures: Sequence[Structure], columns: Sequence[str]) -> dict[tuple[int, str], int]:
    """The structures' variants, numbered from 1."""
    found = [
        (index, column)
        for index, structure in enumerate(structures)
        for column in columns
        if is_variant(structure, *PROGRAM_COLUMNS[column])
    ]
    return {each: number for number, each in enumerate(found, start=1)}


def coefficient_width(structures: Sequence[Structure]) -> int:
    """The number of coefficients in a row of the table of coefficients."""
    return max(1, *(len(each.picks) for each in structures))


def n_carried(structures: Sequence[Structure]) -> int:
    """The number of columns in the table of carried numbers; all structures carry the same numbers."""
    return max((len(each.carried) for each in structures), default=0)


def n_operands(structures: Sequence[Structure]) -> int:
    """The number of operand addresses in a row of the table of segments."""
    return max(len(each.operands) for each in structures)


def segment_bytes(structures: Sequence[Structure]) -> int:
    return 8 * (len(SEGMENT) - 1 + n_operands(structures))


def value_width(structures: Sequence[Structure]) -> int:
    """The number of columns in the table of values."""
    return len(VALUES) - 1 + max(1, *(sum(stage[3] for stage in each.stages) for each in structures))
