"""The layout of the tables that kernels read, shared by the code that fills them and the code that renders kernels."""

from __future__ import annotations

HEADER = (
    "counters",
    "steps",
    "pending",
    "numbers",
    "carried",
    "segments",
    "gradients",
    "settings",
    "groups",
    "values",
    "plan",
    "scaler",
    "variants",
    "coefficients",
    "chunks",
    "sum_blocks",
    "partials",
    "totals",
    "unusable",
    "n_segments",
    "n_chunks",
    "n_sum_blocks",
)
"""The header, int64: the addresses of the tables, then the numbers of rows of some of them. A kernel's only argument is
the address of the header."""

COUNTERS = ("accumulated", "calls", "iterations", "skipped", "consecutive", "declined")
"""int64: the first three are fields of `contract.Progress`. `skipped` counts the steps skipped because of unusable
gradients, `consecutive` only the latest ones in a row; `declined` says whether the last step was skipped."""

NUMBERS = ("grad_norm",)
"""float64."""

SEGMENT = ("group", "size", "first_sum_block", "n_sum_blocks", "frozen", "seed", "number", "operands")
"""int64, a row for each segment; the addresses of its operands come last (the gradient's address is in `gradients`).
`group` is a row of the table of groups; `seed` and `number` are for random bits."""

SETTINGS = ("lr_scale", "weight_decay")
"""float64, a row for each segment: fields of `contract.SegmentSettings`."""

GROUP = ("structure", "sum_kind", "update", "without_gradient", "gather", "clear", "swap")
"""int64, a row for each group and each structure in it: the structure (which chooses its coefficients), how its
gradient is added up, and the variant of the update kernel for each program."""

VALUES = ("lr", "clip_norm", "limit", "arguments")
"""float64, a row for each row of `GROUP`; the arguments of all its stages come last, one stage after the other."""

PLAN = ("max_grad_norm", "divisor", "accumulate_steps", "checks")
"""float64: fields of `plan.StepPlan`."""

SCALER = ("found_inf", "scale")
"""int64: addresses of two float32 numbers that the caller keeps on the device, or 0 for none. If the first number is
not 0, the step is left out; gradients are divided by the second number, as by `StepPlan.divisor`."""

NO_SUM, SQUARES, COUNTS = 0, 1, 2
"""Values of `sum_kind`."""

NOTHING = 0
"""The variant that does nothing."""

SEQUENTIAL = 64
"""The most partial sums of a segment that are added one by one, as on the CPU; more are added in `TREE` lanes."""

TREE = 256
