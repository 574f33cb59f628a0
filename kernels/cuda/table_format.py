"""Where everything is in the tables that kernels read: one place for those who write them and those who render."""

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
"""What a kernel is given, as int64: the addresses of tables, then how many rows some have. A kernel's one argument is
the address of this."""

COUNTERS = ("accumulated", "calls", "iterations", "skipped", "consecutive", "declined")
"""int64: those of `plan.Progress`; how many steps were skipped because of gradients that cannot be used, in all and in
a row up to now; and whether the last was."""

NUMBERS = ("grad_norm",)
"""float64."""

SEGMENT = ("group", "size", "first_sum_block", "n_sum_blocks", "frozen", "operands")
"""int64, a row for each segment; the addresses of its operands come last (that of the gradient is in `gradients`)."""

SETTINGS = ("lr_scale", "weight_decay")
"""float64, a row for each segment: those of `contract.SegmentSettings`."""

GROUP = ("structure", "sum_kind", "update", "without_gradient", "gather", "clear", "swap")
"""int64, a row for each group: which coefficients it takes, how its gradient is added up, and which variant of the
update kernel each program is."""

VALUES = ("lr", "clip_norm", "limit", "arguments")
"""float64, a row for each group; the arguments of its stages, one after the other, come last."""

PLAN = ("max_grad_norm", "divisor", "accumulate_steps", "checks")
"""float64: of `plan.StepPlan`."""

SCALER = ("found_inf", "scale")
"""int64: addresses of float32 numbers that somebody else keeps on the device, or 0: where the first is not 0, the step
is left out; by the second, gradients are divided, as by `StepPlan.divisor`."""

NO_SUM, SQUARES, COUNTS = 0, 1, 2
"""Values of `sum_kind`."""

NOTHING = 0
"""The variant that does nothing."""

SEQUENTIAL = 64
"""So many partial sums of a segment are added one after the other, as on the CPU; more in as many lanes as `TREE`."""

TREE = 256
