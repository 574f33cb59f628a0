"""The step on a CUDA device: two launches, and one or two more if gradients are summed first; none of them waits."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..constants import GRAD
from ..engine.base import EngineBase, check_apart
from ..engine.contract import EngineInputs
from ..engine.plan import GroupPlan, OperandForm, Segment, StepPlan
from . import memory
from .availability import is_simulated, require_cuda
from .kernels import kernel
from .launches import LAUNCH_SHAPE
from .render_prepare import before_swap_source, prepare_source
from .render_sums import sums_source
from .render_update import update_source
from .structures import STEP, Structure
from .table_format import COUNTERS, NUMBERS
from .tables import Tables
from .words import machine

Launch = Callable[[int], None]


EMPTY = 16
"""A placeholder address for a gradient without elements, which has no address."""


class CudaEngine(EngineBase):
    """Implements `contract.DeviceEngine`; its loops, sums and coefficient functions are formulas.

    Parameters
    ----------
    inputs: `contract.EngineInputs`
        Parameters and states are contiguous device arrays (`memory.as_array`, `memory.empty`); `settings`, `records`
        and `progress` hold NumPy arrays.

    Attributes
    ----------
    stream: int, a stream of Numba, CuPy, torch or cuda.core
        The stream on which all kernels are launched; 0, the default, is the legacy default stream.
    skipped, consecutive: int
        The number of steps skipped because of unusable gradients: `skipped` counts all of them, `consecutive` only the
        latest ones in a row. Both are as of the last `fetch()`.

    Notes
    -----
    The records of segments and the counts of `progress` live on the device. The host's copies are correct after
    `fetch()`. Between fetches, the host counts its copy of `progress` itself, as if no step were skipped and no CUDA
    graph replayed. A new engine starts from the host's copies: call `fetch()` before making another engine of the same
    arrays.

    A step launches these kernels, in order: the sums over gradients (if anything is clipped by a norm or checked); one
    block that decides what the step does and computes every coefficient; if gradients are checked, the count of
    unusable elements (which returns at once when all can be used); and the update of everything. No launch waits. With
    bound gradients and unchanged hyperparameters nothing is copied, so a step can be captured into a CUDA graph. If
    gradients are checked and `plan.waits`, a step waits before the update, to report unusable gradients before anything
    is written.
    """

    def __init__(self, inputs: EngineInputs) -> None:
        require_cuda()
        if any(each.rows for each in inputs.plans):
            raise ValueError(
                "backend='cuda' has no constraints on rows or whole parameters (L2Ball, L1Ball, Simplex, GroupLasso); "
                "use another backend, or those on single elements (Box, NonNegative, L1, L2, ElasticNet)"
            )
        if any(each.sums for each in inputs.plans):
            raise ValueError(
                "backend='cuda' has no optimizers that add up whole parameters before they update them; use another "
                "backend, with parameters in main memory"
            )
        super().__init__(inputs)
        segments = self.segments
        self.skipped = self.report.skipped  # a new engine continues the count
        self.consecutive = self.report.consecutive_after(int(self.progress.calls[0])) if self.skipped else 0
        self.addresses = [0] * len(segments)
        self.accepted_directly: list[bool] = []
        params = [segment.param for segment in segments if segment.param.size]
        self.device = machine.device_of(params[0]) if params else 0
        self.forms = [(segment.forms or self.plans[segment.group].operands)[GRAD] for segment in segments]
        self.shapes = [tuple(segment.param.shape) for segment in segments]
        self.direct = [False] * len(segments)
        """Whether the gradient of a segment whose gradients are stored in fewer bits is of the engine's dtype."""
        self.written = sorted(
            (memory.address(array), memory.address(array) + memory.nbytes(array))
            for segment in segments
            for array in (segment.param, *segment.states)
            if array.size
        )
        structures: dict[Structure, int] = {}
        rows: dict[tuple[int, int], int] = {}
        self.rows = [
            [
                rows.setdefault((segment.group, structures.setdefault(each, len(structures))), len(rows))
                for each in self.structures_of(segment)
            ]
            for segment in segments
        ]
        """For each segment the rows of the table of groups with gradients as they are stored, and of float32."""
        if not structures:
            rows = {(0, structures.setdefault(Structure.of(inputs.plans[0]), 0)): 0}
        self.structures = list(structures)
        self.rounds = any(each.rounds_at_random for each in self.structures)
        self.adds = any(each.sum for each in self.structures)
        self.shape = LAUNCH_SHAPE
        total = sum(int(segment.param.size) for segment in segments)
        self.chunk = self.shape.chunk_for(total)
        row_of = [each[0] for each in self.rows]
        self.tables = Tables(
            self.dtype, self.structures, list(rows), row_of, segments, self.settings, self.plan, self.chunk
        )
        for index, each in enumerate(inputs.plans):
            self.tables.set_group(index, each)
        self.changed = {"values"}
        self.kernels = self.make_kernels()
        self.launches: dict[int, dict[str, Launch]] = {}
        self.stream = 0
        self.send()

    def structures_of(self, segment: Segment) -> list[Structure]:
        """The structures that a segment can have: with gradients as they are stored, and of the engine's dtype."""
        plan = self.plans[segment.group]
        found = [Structure.of(plan, segment.forms)]
        if segment.forms and segment.forms[GRAD].codec:
            read = OperandForm(segment.forms[GRAD].name, self.dtype)
            found.append(Structure.of(plan, (*segment.forms[:GRAD], read, *segment.forms[GRAD + 1 :])))
        return found

    # --- kernels ----------------------------------------------------------------------------------------------------

    def make_kernels(self) -> dict[str, tuple[Any, int]]:
        """Each kernel that a step launches, and its number of blocks."""
        real, structures, shape = self.dtype.name, self.structures, self.shape
        many = machine.multiprocessors() * shape.blocks_per_multiprocessor
        reading = max(1, min(many, -(-self.tables.n_sum_blocks // max(1, shape.threads // 32))))
        updating = max(1, min(self.tables.n_chunks, many if is_simulated() else shape.most_blocks))
        found = {
            "prepare": (kernel(prepare_source(structures, real, self.plan.clipping), "prepare", real), 1),
            "update": (kernel(update_source(structures, real, STEP, self.chunk), "update", real), updating),
        }
        if self.adds:
            found["sums"] = (kernel(sums_source(structures, real, shape.threads), "sums", real), reading)
        if self.plan.checks:
            counting = sums_source(structures, real, shape.threads, self.plan.unusable)
            found["counts"] = (kernel(counting, "sums", real), reading)
        return found

    @property
    def stream(self) -> Any:
        return self._given_stream

    @stream.setter
    def stream(self, stream: Any) -> None:
        known = machine.as_stream(stream)
        handle = machine.handle_of(known)
        if handle not in self.launches:
            self.launches[handle] = {
                name: machine.configured(each, blocks, self.shape.threads, known)
                for name, (each, blocks) in self.kernels.items()
            }
        self._given_stream, self._stream, self._launch = stream, known, self.launches[handle]

    # --- changes made by the host -----------------------------------------------------------------------------------

    def set_hyperparameters(self, index: int, plan: GroupPlan, /) -> None:
        super().set_hyperparameters(index, plan)
        self.tables.set_group(index, plan)
        self.changed.add("values")

    def set_lr(self, index: int, lr: float, /) -> None:
        super().set_lr(index, lr)
        self.tables.set_lr(index, lr)
        self.changed.add("values")

    def set_scale(self, plan: StepPlan, /) -> None:
        super().set_scale(plan)
        self.tables.set_step_plan(plan)
        self.changed |= {"plan", "segments"} if self.rounds else {"plan"}

    def settings_changed(self) -> None:
        self.tables.set_settings(self.settings)
        self.changed |= {"settings", "segments"}

    def set_scaler(self, found_inf: int, scale: int) -> None:
        """Set the addresses of two float32 numbers on the device, 0 for none; they take effect at the next step.

        If the number at `found_inf` is not 0 during a step, that step is left out: it writes and counts nothing. Steps
        divide gradients by the number at `scale`, in addition to the divisor of the plan.
        """
        known = self.tables.scaler.tolist()
        if known != [found_inf, scale]:
            self.tables.scaler[:] = found_inf, scale
            self.changed.add("scaler")

    def upload(self) -> None:
        """Copy changed tables to the device, in the order of the stream, without waiting.

        A step calls this itself; a replayed CUDA graph does not, so call it before the replay.
        """
        while self.changed:
            name = self.changed.pop()
            machine.upload(self.tables.alive[name], self.tables.host[name].reshape(-1), self._stream)

    def send(self) -> None:
        """Copy the host's step counts and progress to the device; waits for the device."""
        progress, records = self.progress, self.records
        known = {"accumulated": progress.accumulated[0], "calls": progress.calls[0]}
        known |= {"iterations": progress.iterations[0], "skipped": self.skipped, "consecutive": self.consecutive}
        counters = np.array([known.get(name, 0) for name in COUNTERS], np.int64)
        numbers = np.concatenate([progress.grad_norm, records.carried.reshape(-1)])
        memory.copy(self.tables.counters, np.concatenate([counters, records.steps, records.pending]).astype(np.int64))
        memory.copy(self.tables.numbers, numbers.astype(np.float64))

    def fetch(self) -> None:
        """Copy step counts, progress and the other counts on the device to the host; waits for the device."""
        if self.replaced:  # the arrays belong to the engine in its place
            return
        n, first = len(self.segments), len(COUNTERS)
        words, numbers = memory.to_host(self.tables.counters), memory.to_host(self.tables.numbers)
        known = dict(zip(COUNTERS, words[:first].tolist(), strict=True))
        self.records.steps[...] = words[first : first + n]
        self.records.pending[...] = words[first + n :] != 0
        self.records.carried[...] = numbers[len(NUMBERS) :].reshape(self.records.carried.shape)
        for name in ("accumulated", "calls", "iterations"):
            getattr(self.progress, name)[0] = known[name]
        self.progress.grad_norm[0] = numbers[NUMBERS.index("grad_norm")]
        skipped, self.skipped, self.consecutive = self.skipped, known["skipped"], known["consecutive"]
        counts = self.unusable() if self.skipped != skipped else []
        self.report.fetched(self.skipped, self.consecutive, known["calls"], counts)

    def unusable(self) -> list[tuple[int, int]]:
        """(segment, number of unusable elements in its gradient) of the last skipped step; waits for the device."""
        counts = memory.to_host(self.tables.alive["unusable"])[: self.tables.n_sum_blocks]
        bounds = self.tables.first_sum_block
        sums = [int(counts[begin:end].sum()) for begin, end in itertools.pairwise(bounds)]
        return [(index, count) for index, count in enumerate(sums) if count]

    # --- gradients --------------------------------------------------------------------------------------------------

    def address_of(self, index: int, gradient: Any) -> int:
        """The address of a gradient, after checking the gradient."""
        interface = memory.interface_of(gradient)
        shape, form = self.shapes[index], self.forms[index]
        direct = form.codec is not None and interface is not None and interface["typestr"] == self.dtype.str
        dtype = self.dtype if direct else form.dtype
        if (
            interface is None
            or (tuple(interface["shape"]), interface["typestr"]) != (shape, dtype.str)
            or not memory.is_contiguous_interface(interface)
            or (self.plan.clears and interface["data"][1])
            or interface.get("mask") is not None
        ):
            self.reject(index, gradient)
            either = f"{form.dtype} or {self.dtype}" if form.codec else form.dtype
            expected = f"{'writable ' if self.plan.clears else ''}contiguous array of {either}"
            raise TypeError(
                f"gradient {index} must be a {expected} on the device, of shape {shape}, got {type(gradient).__name__}"
            )
        begin = int(interface["data"][0])
        itemsize = dtype.itemsize
        if begin % itemsize:
            self.reject(index, gradient)
            raise ValueError(f"gradient {index} must be aligned to {itemsize} bytes, got {begin:#x}")
        if begin and begin != self.addresses[index] and machine.device_at(begin) != self.device:
            self.reject(index, gradient)
            raise ValueError(f"gradient {index} must be on cuda:{self.device}, got cuda:{machine.device_at(begin)}")
        end = begin + self.segments[index].param.size * itemsize
        position = bisect.bisect_left(self.written, (end,)) - 1
        if begin < end and position >= 0 and self.written[position][1] > begin:
            self.reject(index, gradient)
            raise ValueError(f"gradient {index} shares memory with a parameter or state, which the step writes")
        self.accepted_directly[index] = direct
        return begin or EMPTY

    def accept_gradients(self, gradients: list[Any]) -> None:
        """Check gradients and take their addresses; nothing is changed when one will not do."""
        self.accepted_directly = list(self.direct)
        addresses = [
            0 if gradient is None else self.address_of(index, gradient) for index, gradient in enumerate(gradients)
        ]
        if self.plan.clears:
            sizes = [
                segment.param.size * (self.dtype if direct else form.dtype).itemsize
                for segment, form, direct in zip(self.segments, self.forms, self.accepted_directly, strict=True)
            ]
            check_apart(each for each in zip(addresses, sizes, strict=True) if each[0])
        self.gradients = list(gradients)
        self.set_direct(self.accepted_directly)
        self.set_addresses(addresses)

    def set_addresses(self, addresses: list[int]) -> None:
        """Use the gradients at these addresses, 0 for none, without checking them."""
        if addresses != self.addresses:
            self.addresses = addresses
            self.tables.gradients[:] = self.addresses
            self.changed.add("gradients")

    def set_direct(self, direct: Sequence[bool]) -> None:
        """Say which gradients of segments that store them in fewer bits are of the engine's dtype."""
        if direct != self.direct:
            self.direct = list(direct)
            found = [
                self.tables.set_row(index, rows[each])
                for index, (rows, each) in enumerate(zip(self.rows, direct, strict=True))
            ]
            if any(found):
                self.changed.add("segments")

    # --- a step -----------------------------------------------------------------------------------------------------

    def step_at(self, addresses: Sequence[int | None], direct: Sequence[bool] = ()) -> None:
        """`step` with the addresses of gradients, None for no gradient: for callers who have checked the gradients.

        `direct` says which gradients of segments that store them in fewer bits are of the engine's dtype.
        """
        if direct:
            self.set_direct(direct)
        known = [0 if each is None else each or EMPTY for each in addresses]
        self.alone(lambda: self.launch_step(known))

    def run_step(self, gradients: list[Any] | None, prepare: Callable[[], None] | None) -> None:
        self.check_not_swapped()
        if prepare is not None:
            if self.plan.checks:  # Only the device knows which steps were skipped.
                self.fetch()
            prepare()
        if gradients is not None:
            self.accept_gradients(gradients)
        self.launch_step(self.addresses)

    def launch_step(self, addresses: list[int]) -> None:
        """Launch all kernels of a step, with gradients at these addresses."""
        self.set_addresses(addresses)
        if self.changed:
            self.upload()
        launch, header = self._launch, self.tables.header
        if self.adds:
            launch["sums"](header)
        launch["prepare"](header)
        declined = False
        if self.plan.checks:
            launch["counts"](header)
            declined = self.plan.waits and self.is_declined()
        launch["update"](header)
        if not declined:
            self.count()

    def finish(self, prepare: Callable[[], None], restore: Callable[[], None], /) -> None:
        gradients, addresses, direct = self.gradients, self.addresses, self.direct

        def restore_all() -> None:
            self.gradients = gradients
            self.set_direct(direct)
            self.set_addresses(addresses)
            restore()
            self.upload()  # for CUDA graphs, which read the tables that are on the device

        super().finish(prepare, restore_all)

    def count(self) -> None:
        """Update the counts that the host keeps itself."""
        progress = self.progress
        accumulated = int(progress.accumulated[0]) + 1
        final = accumulated >= self.plan.accumulate_steps
        progress.calls[0] += 1
        progress.iterations[0] += final
        progress.accumulated[0] = 0 if final else accumulated

    def is_declined(self) -> bool:
        """Whether this step is skipped; waits for the device, and reports unusable gradients, which may raise."""
        machine.synchronize(self._stream)
        if not memory.to_host(self.tables.counters[: len(COUNTERS)])[COUNTERS.index("declined")]:
            return False
        self.report(self.unusable(), int(self.progress.calls[0]))
        return True

    def run_swap(self) -> None:
        if "swap" not in self.kernels:
            source = update_source(self.structures, self.dtype.name, ("swap",), self.chunk)
            self.kernels["swap"] = (kernel(source, "update", self.dtype.name), self.kernels["update"][1])
            if any(picks for each in self.structures for _, _, picks in each.program("swap")):
                source = before_swap_source(self.structures, self.dtype.name)
                self.kernels["before swap"] = (kernel(source, "prepare", self.dtype.name), 1)
        self.upload()
        for name in ("before swap", "swap"):
            if name in self.kernels:
                if name not in self._launch:
                    self._launch[name] = machine.configured(*self.kernels[name], self.shape.threads, self._stream)
                self._launch[name](self.tables.header)
        self.progress.swapped[0] = not self.progress.swapped[0]
