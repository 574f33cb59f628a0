# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: binding=True, embedsignature=True
"""The native step: one call over a table of segments, split over OpenMP threads by elements.

The engine knows addresses, sizes and scalars. A loop (see `formulas`) is the address of code compiled by the C compiler
or by Numba; so is a coefficient function. The engine does all checks and computes all coefficients before it writes the
first element, and nothing can fail after that.
"""

from libc.math cimport isfinite, isnan, sqrt
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memset

cimport cython
cimport numpy as cnp

cnp.import_array()

cdef extern from "machine.h":
    ctypedef unsigned long long floating_point_mode
    const int FASTOPT_OPENMP
    const unsigned long long FLUSH_BITS
    int omp_get_max_threads() noexcept nogil
    int omp_get_num_threads() noexcept nogil
    int omp_get_thread_num() noexcept nogil
    floating_point_mode enter_mode(int flush) noexcept nogil
    void leave_mode(floating_point_mode caller) noexcept nogil
    int forked
    void watch_forks()
    int call_from_new_thread(void *(*function)(void *) noexcept nogil, void *argument) noexcept nogil
    void note_finished(int *finished) noexcept nogil
    void await_finished(const int *finished, int n_threads) noexcept nogil
    int possible_threads(int wanted) noexcept nogil
    void note_team(int n_threads) noexcept nogil
    void set_thread_stack(size_t nbytes)
    int openmp_processors()
    int supports_v3()
    int supports_v4()
    int is_intel()
    int is_x86_64()
    double nanoseconds() noexcept nogil
    void prefetch_line(const void *) noexcept nogil

from cython.parallel cimport parallel

from ..constants import PROGRAMS as PROGRAM_NAMES
from ..engine.contract import BUSY, REPLACED, SHARED, SWAPPED, Replaced
from numpy import dtype as np_dtype

from ..engine.plan import OperandForm as PlannedForm
from ..engine.plan import check_operands
from ..engine.host_memory import is_masked, owners, resized_message, with_owners
from ..formulas.storage import FORMATS

watch_forks()

include "constants.pxi"
include "codec_keys.pxi"
include "table.pxi"
include "threads.pxi"
include "pieces.pxi"
include "watched_arrays.pxi"
include "plans.pxi"


def set_forked():
    """Say that this process was forked before the engine was loaded."""
    global forked
    forked = 1


def describe():
    """The features compiled in, and the abilities of the processor."""
    return {
        "openmp": FASTOPT_OPENMP,
        "openmp_processors": openmp_processors(),
        "can_flush_denormals": FLUSH_BITS != 0,
        "x86_64": bool(is_x86_64()),
        "x86_64_v3": bool(supports_v3()),
        "x86_64_v4": bool(supports_v4()),
        "intel": bool(is_intel()),
    }


cdef Py_ssize_t lcm(Py_ssize_t a, Py_ssize_t b) noexcept:
    """The least common multiple."""
    cdef Py_ssize_t x = a, y = b
    while y:
        x, y = y, x % y
    return a // x * b


cdef Py_ssize_t prefetch_distance = 0


def set_prefetch_distance(Py_ssize_t elements):
    global prefetch_distance
    prefetch_distance = elements


# --- The engine -----------------------------------------------------------------------------------------------------

@cython.final
cdef class Lock:
    """Whether an optimizer is in the middle of a step, or of being saved or changed; only used with the GIL held."""


@cython.final
cdef class Engine:
    """Steps parameters together; it holds parameters, gradients and states as addresses.

    Parameters
    ----------
    inputs: `contract.EngineInputs`
        Loops, sums and coefficient functions are addresses.
    """

    def __cinit__(self, inputs):
        cdef Py_ssize_t index, k
        cdef list plans = inputs.plans, segments = inputs.segments
        check_operands(plans, segments, inputs.dtype)
        settings, records, progress, plan = inputs.settings, inputs.records, inputs.progress, inputs.plan
        self.lock = Lock() if inputs.lock is None else inputs.lock
        self.n_segments = len(segments)
        self.n_groups = len(plans)
        self.itemsize = inputs.dtype.itemsize
        self.alive = [segments]
        self.settings = settings
        self.lr_scale = <double *>self.address(settings.lr_scale)
        self.weight_decay = <double *>self.address(settings.weight_decay)
        self.frozen = self.address(settings.frozen)
        self.settings_changed()
        self.records = records
        self.steps = <int64_t *>self.address(records.steps)
        self.pending = self.address(records.pending)
        self.carried = <double *>self.address(records.carried)
        self.n_carried = records.carried.shape[1]
        if self.n_carried > MAX_CARRIED:
            raise ValueError(f"too many carried numbers for the engine: {self.n_carried}")
        self.accumulated = <int64_t *>self.address(progress.accumulated)
        self.calls = <int64_t *>self.address(progress.calls)
        self.swapped = self.address(progress.swapped)
        self.grad_norm = <double *>self.address(progress.grad_norm)
        self.iterations = <int64_t *>self.address(progress.iterations)
        self.common = <double *>self.address(progress.common)
        self.n_common = progress.common.shape[0]
        self.report = inputs.report
        self.exchange = inputs.exchange
        self.exchange_sums = inputs.exchange_sums
        self.together = self.exchange is not None or self.exchange_sums is not None
        self.choice = ThreadChoice()
        self.nanoseconds_per_thread = NANOSECONDS_PER_THREAD
        self.adaptive = adaptive
        self.arrays = WatchedArrays(
            segments,
            [(segment.forms or plans[segment.group].operands)[GRAD].dtype for segment in segments],
            inputs.dtype,
            plan.clears,
            inputs.reject,
        )
        self.table = <Table *>calloc(1, sizeof(Table))
        if not self.table:
            raise MemoryError("no memory for the table of segments")
        self.table.itemsize = self.itemsize
        self.table.groups = <Group *>calloc(max(self.n_groups, 1), sizeof(Group))
        self.table.segments = <Segment *>calloc(max(self.n_segments, 1), sizeof(Segment))
        self.table.active = <Active *>calloc(max(self.n_segments, 1), sizeof(Active))
        self.table.coefficients = <Coefficients *>calloc(max(self.n_segments, 1), sizeof(Coefficients))
        self.next_carried = <double *>calloc(max(self.n_segments * self.n_carried, 1), sizeof(double))
        self.next_common = <double *>calloc(MAX_COMMON, sizeof(double))
        if not (
            self.table.groups and self.table.segments and self.table.active and self.table.coefficients
            and self.next_carried and self.next_common
        ):
            raise MemoryError("no memory for the table of segments")
        self.set_step_plan(plan)
        for index in range(self.n_groups):
            read_group(&self.table.groups[index], plans[index])
            self.adds = self.adds or plans[index].sum is not None
            self.clips = self.clips or plans[index].clip_norm > 0
            if len(plans[index].carried) != self.n_carried:
                raise ValueError(f"expected {self.n_carried} carried numbers, got {len(plans[index].carried)}")
            if len(plans[index].common) != self.n_common:
                raise ValueError(f"expected {self.n_common} common numbers, got {len(plans[index].common)}")
        for index in range(self.n_segments):
            self.table.segments[index].group = segments[index].group
            self.table.segments[index].size = cnp.PyArray_SIZE(segments[index].param)
            self.table.segments[index].numel = segments[index].whole_size
            self.table.segments[index].row = segments[index].row
            self.table.segments[index].operands[PARAM] = self.address(segments[index].param)
            if 2 + len(segments[index].states) > MAX_OPERANDS:
                raise ValueError(f"too many states for the engine: {len(segments[index].states)}")
            for k, state in enumerate(segments[index].states):
                self.table.segments[index].operands[2 + k] = self.address(state)
        self.set_partials()
        self.set_sums()
        self.set_layouts(plans, segments)
        for index in range(self.n_groups):
            if (self.n_layouts or not works_in_place(&self.table.groups[index])) and not reserve_scratch(self.table, 1):
                raise MemoryError("no memory for the blocks that a step works on")

    def __dealloc__(self):
        if self.table:
            free(self.table.groups)
            free(self.table.segments)
            free(self.table.active)
            free(self.table.coefficients)
            free(self.table.partials)
            free(self.table.scratch_memory)
            free(self.table.keys)
            free(self.table.term_partials)
            free(self.table.first_term)
        free(self.table)
        free(self.next_carried)
        free(self.next_common)
        free(self.sums)
        free(self.layouts)

    cdef char *address(self, cnp.ndarray array):
        """The address of an array, which is kept alive as long as this engine."""
        self.alive.append(array)
        return <char *>cnp.PyArray_DATA(array)

    cdef int set_partials(self) except -1:
        """Allocate the partial sums of every segment, if gradients are added up."""
        cdef Py_ssize_t index, n_partials = 0
        for index in range(self.n_segments):
            self.table.segments[index].first_partial = n_partials
            n_partials += (self.table.segments[index].size + SUM_BLOCK - 1) // SUM_BLOCK
        if self.adds or self.together:  # where other processes decline a step, unusable elements are counted
            self.table.partials = <double *>calloc(max(n_partials, 1), sizeof(double))
            if not self.table.partials:
                raise MemoryError("no memory for partial sums")
        return 0

    cdef int set_sums(self) except -1:
        """Allocate the sums of rules and their partial sums, if a rule has some."""
        cdef Py_ssize_t index, n_blocks = 0
        cdef int each
        cdef bint has_sums = False
        for index in range(self.n_groups):
            has_sums = has_sums or self.table.groups[index].n_sums > 0
            for each in range(self.table.groups[index].n_sums):
                self.sums_over_all = self.sums_over_all or self.table.groups[index].over_all[each]
        if not has_sums:
            return 0
        self.table.first_term = <Py_ssize_t *>calloc(max(self.n_segments, 1), sizeof(Py_ssize_t))
        self.sums = <double *>calloc(max(self.n_segments * MAX_SUMS, 1), sizeof(double))
        if not (self.table.first_term and self.sums):
            raise MemoryError("no memory for partial sums")
        for index in range(self.n_segments):
            self.table.first_term[index] = n_blocks
            n_blocks += (self.table.segments[index].size + BLOCK - 1) // BLOCK
        self.table.term_partials = <double *>calloc(max(n_blocks * MAX_SUMS, 1), sizeof(double))
        if not self.table.term_partials:
            raise MemoryError("no memory for partial sums")
        return 0

    cdef int set_layouts(self, list plans, list segments) except -1:
        """Note which segments have codecs, and where threads may split each segment."""
        cdef Py_ssize_t index, k
        cdef Segment *segment
        cdef Layout *layout
        distinct = list(dict.fromkeys([each.forms for each in segments if each.forms is not None]))
        self.n_layouts = len(distinct)
        self.layouts = <Layout *>calloc(max(self.n_layouts, 1), sizeof(Layout))
        if not self.layouts:
            raise MemoryError("no memory for the table of segments")
        for index, forms in enumerate(distinct):
            read_layout(&self.layouts[index], forms)
        if any([each.codec is not None and each.codec.stochastic for forms in distinct for each in forms]):
            self.table.keys = <uint32_t *>calloc(self.n_segments * MAX_OPERANDS, sizeof(uint32_t))
            if not self.table.keys:
                raise MemoryError("no memory for the table of segments")
        positions = {forms: index for index, forms in enumerate(distinct)}
        for index in range(self.n_segments):
            segment = &self.table.segments[index]
            segment.boundary = segment.row if segment.row else BOUNDARY
            segment.number = segments[index].number
            segment.offset = <uint32_t>(<uint64_t>segments[index].offset)
            if segments[index].forms is None:
                continue
            if len(segments[index].forms) != 2 + len(segments[index].states):
                raise ValueError(f"expected the forms of {2 + len(segments[index].states)} operands")
            layout = &self.layouts[<Py_ssize_t>positions[segments[index].forms]]
            segment.layout = layout
            if layout.block > 1:
                segment.boundary = lcm(layout.block, segment.boundary)
            if self.table.keys:
                segment.keys = self.table.keys + index * MAX_OPERANDS
        return 0

    cdef void set_keys(self) noexcept:
        """Make the keys of the random bits of this step."""
        cdef Py_ssize_t k, index
        cdef int operand
        cdef Segment *segment
        cdef uint32_t key, shared = combined_key_word(0, <uint32_t>self.seed)
        shared = combined_key_word(shared, <uint32_t>(self.seed >> 32))
        for k in range(self.table.n_active):
            index = self.table.active[k].segment
            segment = &self.table.segments[index]
            if segment.layout == NULL:
                continue
            key = combined_key_word(shared, <uint32_t>(self.steps[index] + 1))
            key = combined_key_word(key, <uint32_t>segment.number)
            for operand in range(segment.layout.n_operands):
                if segment.layout.forms[operand].stochastic:
                    segment.keys[operand] = combined_key_word(key, <uint32_t>operand)

    cdef int set_step_plan(self, plan) except -1:
        self.table.flush = plan.flush_denormals
        self.n_threads = plan.n_threads
        self.accumulate_steps = plan.accumulate_steps
        self.max_grad_norm = plan.max_grad_norm
        self.clipping = <coefficient_function><uintptr_t>(plan.clipping or 0)
        self.divisor = plan.divisor
        self.checks = plan.checks
        self.unusable = <sum_function><uintptr_t>(plan.unusable or 0)
        self.clears = plan.clears
        self.clips = plan.max_grad_norm > 0
        self.seed = plan.seed
        return 0

    def set_hyperparameters(self, Py_ssize_t index, plan):
        """Set a group's hyperparameters to those of this plan; they take effect at the next step."""
        read_hyperparameters(&self.table.groups[index], plan)
        self.clips = self.clips or plan.clip_norm > 0

    def set_lr(self, Py_ssize_t index, double lr):
        """Set the learning rate of a group; it takes effect at the next step."""
        self.table.groups[index].lr = lr

    def set_scale(self, plan):
        """Set the divisor, the largest norm and the length of an accumulation; they count from the next step."""
        self.max_grad_norm = plan.max_grad_norm
        self.divisor = plan.divisor
        self.accumulate_steps = plan.accumulate_steps

    def settings_changed(self):
        """Use the changed settings; they take effect at the next step."""
        settings = self.settings
        self.uniform = bool((settings.lr_scale == 1).all() and (settings.weight_decay != settings.weight_decay).all())

    cdef double cost(self, Py_ssize_t segment) noexcept:
        """The nanoseconds that an update of a segment takes on one thread, in cache."""
        return self.table.segments[segment].size * self.table.groups[self.table.segments[segment].group].cost

    cdef bint has_gradient(self, Py_ssize_t segment) noexcept:
        """Whether the step under way has a gradient for this segment."""
        return self.table.segments[segment].operands[GRAD] != NULL

    cdef int take_gradients(self) except -1:
        """Check everything that can have changed since the addresses of gradients were accepted, and use them."""
        self.arrays.check()
        if self.clears:
            self.arrays.check_apart()
        self.commit_gradients()
        return 0

    cdef void commit_gradients(self) noexcept:
        cdef Py_ssize_t index
        for index in range(self.n_segments):
            self.table.segments[index].operands[GRAD] = self.arrays.accepted[index]
        if self.n_layouts:
            for index in range(self.n_segments):
                self.table.segments[index].direct_gradient = self.arrays.direct[index]

    def bind(self, list gradients):
        """Check gradients once and use them in every step that receives no other gradients."""
        self.arrays.watch([gradient for gradient in gradients if gradient is not None])  # first: it runs Python
        self.arrays.accept(gradients)
        self.commit_gradients()
        self.bound = True

    cdef int claim(self) except -1:
        if self.lock.busy:
            raise RuntimeError(BUSY)
        self.lock.busy = True
        return 0

    cdef void release(self) noexcept:
        self.lock.busy = False

    cdef unsigned long long enter(self) noexcept:
        """Enter the floating-point mode of a step; returns the caller's, for `leave`."""
        return enter_mode(self.table.flush)

    cdef void leave(self, unsigned long long caller) noexcept:
        """Return to the caller's floating-point mode."""
        leave_mode(caller)

    cdef int check_can_step(self) except -1:
        """Raise if another engine has replaced this one, or while parameters are exchanged with their averages."""
        if self.replaced:
            raise Replaced(REPLACED)
        if self.swapped[0]:
            raise RuntimeError(SWAPPED)
        return 0

    def alone(self, function):
        """The result of `function()`, with other threads' steps kept out; raises if a step is under way.

        No signal handler runs between compiled instructions, so none can run between the claim and the `try`.
        """
        self.claim()
        try:
            return function()
        finally:
            self.lock.busy = False

    def step(self, list gradients=None, prepare=None):
        """One step of every segment that has a gradient; all errors are raised before the first write.

        The engine first calls `prepare()`, with other threads kept out, to set the rates of this step.
        """
        self.claim()
        try:
            self.check_can_step()
            if prepare is not None:
                prepare()
            if gradients is not None:
                self.arrays.accept(gradients)
                self.commit_gradients()
                self.given = gradients
            self.arrays.check()  # last: no Python runs between this and the first write
            self.advance()
        finally:
            if self.given is not None:
                self.given = None
            self.lock.busy = False

    def finish(self, prepare, restore):
        """A step without new gradients, between `prepare()` and `restore()`, with other threads kept out."""
        cdef Py_ssize_t index
        self.claim()
        try:
            self.check_can_step()
            try:
                prepare()
                for index in range(self.n_segments):
                    self.table.segments[index].operands[GRAD] = NULL
                self.arrays.check()  # last: no Python runs between this and the first write
                self.advance()
            finally:
                self.commit_gradients()
                restore()
        finally:
            self.lock.busy = False

    def fetch(self):
        """Bring the given arrays up to date: nothing to do, because the engine counts in them."""

    def send(self):
        """Go on from the given arrays, which were written: nothing to do, because the engine reads them."""

    def upload(self):
        """Copy changes to the device on which steps run: nothing to do, because steps run here."""

    def swap(self):
        """Exchange every parameter with its average."""
        cdef floating_point_mode caller
        self.claim()
        try:
            if self.replaced:
                raise Replaced(REPLACED)
            self.arrays.check()
            caller = enter_mode(self.table.flush)
            self.list_active(SWAP)
            self.compute_coefficients(False)
            self.run(affordable_threads(self.work, self.nanoseconds_per_thread, self.n_threads))
            leave_mode(caller)
            self.swapped[0] = not self.swapped[0]
        finally:
            self.lock.busy = False

    cdef int advance(self) except -1:
        """A step with the gradients that were committed, in a floating-point mode of its own."""
        if self.together:
            return self.advance_together()
        cdef floating_point_mode caller = enter_mode(self.table.flush)
        cdef Outcome outcome = self.advance_in_mode()
        leave_mode(caller)
        if outcome == MOVED:
            self.arrays.check()
        elif outcome == DECLINED:
            self.decline()
        return 0

    cdef int advance_together(self) except -1:
        """A step for which sums are added to those of other processes; they decide together whether it is done."""
        cdef Py_ssize_t k, index
        cdef int n_threads
        cdef bint usable
        cdef list totals = []
        cdef floating_point_mode caller
        self.list_active(UPDATE)
        n_threads = affordable_threads(self.work, self.nanoseconds_per_thread, self.n_threads)
        if self.exchange is not None:
            caller = enter_mode(self.table.flush)
            self.add_up_gradients(n_threads)
            usable = not self.checks or self.all_usable()
            leave_mode(caller)
            for k in range(self.table.n_active):
                index = self.table.active[k].segment
                totals.append((index, self.table.segments[index].total))
            added = self.exchange(totals, usable)
            self.arrays.check()  # other threads could run meanwhile
            if added is None:
                self.decline()
                return 0
            totals, self.exchanged = added
            for k in range(self.table.n_active):
                self.table.segments[self.table.active[k].segment].total = totals[k]
        if self.exchange_sums is not None:
            caller = enter_mode(self.table.flush)
            self.add_up_terms(n_threads)
            leave_mode(caller)
            if not self.add_up_terms_together():
                self.decline()
                return 0
        caller = enter_mode(self.table.flush)
        self.compute_coefficients(True)
        self.table.backwards = True
        self.run(n_threads)
        self.table.backwards = False
        self.count(True)
        leave_mode(caller)
        return 0

    cdef Outcome advance_in_mode(self) noexcept:
        cdef int affordable, n_threads
        cdef double start = 0.0
        cdef bint learning, final = self.accumulated[0] + 1 >= self.accumulate_steps
        self.list_active(UPDATE if final else GATHER)
        affordable = affordable_threads(self.work, self.nanoseconds_per_thread, self.n_threads)
        n_threads = affordable
        learning = self.adaptive and affordable > 1
        if learning:
            n_threads = self.choice.choose(affordable)
            start = nanoseconds()
        if self.adds and (final or self.checks):
            if self.accumulate_steps > 1:
                self.compute_coefficients(False)
            self.add_up_gradients(n_threads)
            if self.shared and self.arrays.moved() != NULL:  # by another thread, which had the GIL meanwhile
                return MOVED
            if self.checks and not self.all_usable():
                return DECLINED
        if final and self.sums != NULL:
            if not self.update_by_sums(n_threads):
                return MOVED
        else:
            self.compute_coefficients(final)
            self.table.backwards = self.adds and final  # Start with what was added up last: it is still in a cache.
            self.run(n_threads)
            self.table.backwards = False
        if learning:
            self.choice.learn(n_threads, affordable, (nanoseconds() - start) / self.work)
        self.count(final)
        return DONE

    cdef void list_active(self, int program) noexcept:
        """List the segments that this call works on, and compute their work."""
        cdef Py_ssize_t index, n_active = 0, total = 0
        cdef double work = 0.0, nbytes = 0.0, reading = 0.0
        cdef bint accumulates = self.accumulate_steps > 1
        cdef Segment *segment
        cdef Group *group
        self.table.program = program
        for index in range(self.n_segments):
            segment = &self.table.segments[index]
            if accumulates:
                segment.pending = self.pending[index]
            if program != SWAP:
                if self.frozen[index]:
                    continue
                if segment.operands[GRAD] == NULL and not (segment.pending and program == UPDATE):
                    continue
            group = &self.table.groups[segment.group]
            self.table.active[n_active].segment = index
            self.table.active[n_active].offset = total
            total += segment.size
            work += segment.size * group.cost
            if group.sum != NULL:
                reading += segment.size * NANOSECONDS_TO_ADD
            if group.n_sums and program == UPDATE:
                work += segment.size * group.cost
            if segment.layout == NULL:
                nbytes += segment.size * group.element_bytes
            else:
                work += segment.size * segment.layout.cost
                nbytes += segment.size * segment.layout.element_bytes
            n_active += 1
        self.table.n_active = n_active
        self.table.total = total
        self.table.beyond_cache = nbytes > PREFETCH_BYTES
        self.table.prefetch = prefetch_distance if self.table.beyond_cache else 0
        self.work = work + reading
        self.reading = reading

    cdef void add_up_gradients(self, int n_threads) noexcept:
        """Compute the sum of each active segment, from partial sums in a fixed order."""
        cdef Py_ssize_t k, block, n_blocks
        cdef Segment *segment
        cdef double total
        self.total_of_squares = 0.0
        self.table.adding = True
        self.run(min(n_threads, affordable_threads(self.reading, self.nanoseconds_per_thread, self.n_threads)))
        self.table.adding = False
        for k in range(self.table.n_active):
            segment = &self.table.segments[self.table.active[k].segment]
            n_blocks = (segment.size + SUM_BLOCK - 1) // SUM_BLOCK
            total = 0.0
            for block in range(n_blocks):
                total += self.table.partials[segment.first_partial + block]
            segment.total = total
            self.total_of_squares += total

    cdef bint update_by_sums(self, int n_threads) noexcept:
        """Add up the terms of rules, and update; False, and nothing is written, if an array was moved meanwhile.

        Where no sum is over all segments, those that fit into a cache together are updated before the next are added up.
        """
        cdef Active *active = self.table.active
        cdef Py_ssize_t n_active = self.table.n_active, total = self.table.total
        cdef Py_ssize_t first, last = 0
        cdef bint at_once = self.sums_over_all or self.n_carried > 0, moved = False
        if n_active == 0:
            self.compute_coefficients(True)  # and the norm
        while last < n_active and not moved:
            first = last
            self.table.active = &active[first]
            self.table.total = 0
            while last < n_active and (last == first or at_once or self.fits(active[last].segment)):
                active[last].offset = self.table.total
                self.table.total += self.table.segments[active[last].segment].size
                last += 1
            self.table.n_active = last - first
            self.add_up_terms(n_threads)
            moved = first == 0 and self.shared and self.arrays.moved() != NULL
            if not moved:
                self.compute_coefficients(True)
                self.table.backwards = True  # Start with what was added up last.
                self.run(n_threads)
                self.table.backwards = False
        self.table.active, self.table.n_active, self.table.total = active, n_active, total
        return not moved

    cdef bint fits(self, Py_ssize_t index) noexcept:
        """Whether a segment fits into a cache beside those that are to be updated together."""
        cdef Segment *segment = &self.table.segments[index]
        cdef double nbytes = self.table.groups[segment.group].element_bytes
        if segment.layout != NULL:
            nbytes = segment.layout.element_bytes
        return nbytes * <double>(self.table.total + segment.size) <= BYTES_IN_CACHE

    cdef void add_up_terms(self, int n_threads) noexcept:
        """Compute the sums of the rule of each active segment, from partial sums in a fixed order."""
        cdef Py_ssize_t k, index, block, n_blocks
        cdef int each
        cdef Group *group
        cdef double *partials
        cdef double *sums
        cdef double over_all[MAX_SUMS]
        cdef int program = self.table.program
        for k in range(self.table.n_active):
            for each in range(MAX_SUMS):
                self.sums[self.table.active[k].segment * MAX_SUMS + each] = 0.0
        self.table.program = TERMS
        self.compute_coefficients(True)
        self.table.adding = True
        self.run(n_threads)
        self.table.adding = False
        self.table.program = program
        for each in range(MAX_SUMS):
            over_all[each] = 0.0
        for k in range(self.table.n_active):
            index = self.table.active[k].segment
            group = &self.table.groups[self.table.segments[index].group]
            n_blocks = (self.table.segments[index].size + BLOCK - 1) // BLOCK
            sums = self.sums + index * MAX_SUMS
            partials = self.table.term_partials + self.table.first_term[index] * MAX_SUMS
            for each in range(group.n_sums):
                for block in range(n_blocks):
                    sums[each] += partials[block * MAX_SUMS + each]
                over_all[each] += sums[each]
        if self.exchange_sums is not None:  # which has them from all processes
            return
        for k in range(self.table.n_active):
            index = self.table.active[k].segment
            group = &self.table.groups[self.table.segments[index].group]
            for each in range(group.n_sums):
                if group.over_all[each]:
                    self.sums[index * MAX_SUMS + each] = over_all[each]

    cdef bint add_up_terms_together(self) except -1:
        """Add the sums of rules to those of other processes; False if one of them declines the step."""
        cdef Py_ssize_t k, index
        cdef int each
        cdef Group *group
        cdef list own, found = []
        for k in range(self.table.n_active):
            index = self.table.active[k].segment
            group = &self.table.groups[self.table.segments[index].group]
            own = []
            for each in range(group.n_sums):
                own.append(self.sums[index * MAX_SUMS + each])
            found.append((index, own))
        added = self.exchange_sums(found)
        self.arrays.check()  # other threads could run meanwhile
        if added is None:
            return False
        found, over_all = added
        for k in range(self.table.n_active):
            index = self.table.active[k].segment
            group = &self.table.groups[self.table.segments[index].group]
            for each in range(group.n_sums):
                self.sums[index * MAX_SUMS + each] = over_all[each] if group.over_all[each] else found[k][each]
        return True

    cdef bint all_usable(self) noexcept:
        cdef Py_ssize_t k
        cdef Segment *segment
        for k in range(self.table.n_active):
            segment = &self.table.segments[self.table.active[k].segment]
            if self.table.groups[segment.group].sum_of_squares:
                if not isfinite(segment.total):
                    return False
            elif segment.total > 0:
                return False
        return True

    cdef int decline(self) except -1:
        """Report unusable gradients (which may raise), and leave everything but gradients unchanged."""
        cdef Py_ssize_t k, index
        cdef floating_point_mode caller = enter_mode(self.table.flush)
        self.table.counting = self.unusable
        self.add_up_gradients(self.table.n_threads)
        self.table.counting = NULL
        leave_mode(caller)
        counts = []
        for k in range(self.table.n_active):
            index = self.table.active[k].segment
            if self.table.segments[index].total > 0:
                counts.append((index, int(self.table.segments[index].total)))
        self.report(counts, self.calls[0])
        if self.clears:
            if self.given is not None:  # what has just run can have changed them
                self.arrays.accept(self.given)
                self.commit_gradients()
            self.arrays.check()
            caller = enter_mode(self.table.flush)
            self.table.program = CLEAR
            self.compute_coefficients(False)
            self.run(self.table.n_threads)
            leave_mode(caller)
        return 0

    cdef double clip_coefficient(self, Group *group, Py_ssize_t segment, double total) noexcept:
        """The clip coefficient of a segment's gradient; `total` is the sum of squares over all gradients."""
        cdef double arguments[3]
        cdef double result[1]
        if self.max_grad_norm > 0:
            arguments[0] = total
            arguments[2] = self.max_grad_norm
        elif group.clip_norm > 0:
            arguments[0] = self.table.segments[segment].total
            arguments[2] = group.clip_norm
        else:
            return 1.0
        arguments[1] = self.divisor
        self.clipping(arguments, result)
        return result[0]

    cdef void compute_coefficients(self, bint added) noexcept:
        """Compute the coefficients of all active segments; segments with equal coefficients share them.

        `added` is whether gradients were added up for this update; clipping needs their sum.
        """
        cdef Py_ssize_t index, k, n_shared = 0
        cdef Py_ssize_t last = 0
        cdef Segment *segment
        cdef int group = -1
        cdef double values[N_ENGINE_ARGUMENTS]
        cdef int64_t count = -1
        cdef double total = 0.0, clip_coefficient = 1.0
        cdef bint clips = self.clips and added
        cdef bint uniform = self.uniform and (not clips or self.max_grad_norm > 0) and self.sums == NULL
        if clips:
            total = self.total_of_squares
            if self.exchange is not None:
                total = self.exchanged
            if self.max_grad_norm > 0:
                self.grad_norm[0] = sqrt(total) / self.divisor
        for k in range(self.table.n_active):
            index = self.table.active[k].segment
            segment = &self.table.segments[index]
            if clips:
                clip_coefficient = self.clip_coefficient(&self.table.groups[segment.group], index, total)
            if (segment.group != group or self.steps[index] != count or not uniform
                    or (self.n_carried and not self.carry_alike(index, last))):
                group, count, last = segment.group, self.steps[index], index
                values[STEP] = <double>(count + 1)
                values[LR] = self.table.groups[group].lr * self.lr_scale[index]
                values[WEIGHT_DECAY] = self.weight_decay[index]
                values[CLIP_COEFFICIENT] = clip_coefficient
                self.compute_shared(&self.table.groups[group], values, index, n_shared)
                n_shared += 1
            segment.lr = values[LR]
            self.table.active[k].coefficients = n_shared - 1

    cdef bint carry_alike(self, Py_ssize_t first, Py_ssize_t second) noexcept:
        """Whether the carried numbers of two segments are the same."""
        cdef int k
        for k in range(self.n_carried):
            if self.carried[first * self.n_carried + k] != self.carried[second * self.n_carried + k]:
                return False
        return True

    cdef void compute_shared(
        self, Group *group, const double *values, Py_ssize_t segment, Py_ssize_t index
    ) noexcept:
        cdef const double *carried = &self.carried[segment * self.n_carried]
        cdef double results[MAX_STAGES * MAX_RESULTS]
        cdef Program *program = &group.programs[self.table.program]
        cdef Coefficients *coefficients = &self.table.coefficients[index]
        cdef Stage *stage
        cdef double kept
        cdef int k, each, decay
        for k in range(group.n_stages):
            stage = &group.stages[k]
            if stage.positions[STEP] >= 0:
                stage.arguments[stage.positions[STEP]] = values[STEP]
            if stage.positions[LR] >= 0:
                stage.arguments[stage.positions[LR]] = values[LR]
            if stage.positions[CLIP_COEFFICIENT] >= 0:
                stage.arguments[stage.positions[CLIP_COEFFICIENT]] = values[CLIP_COEFFICIENT]
            for each in range(self.n_carried):
                if stage.carried[each] >= 0:
                    stage.arguments[stage.carried[each]] = carried[each]
            for each in range(self.n_common):
                if stage.common[each] >= 0:
                    stage.arguments[stage.common[each]] = self.common[each]
            if self.sums != NULL:
                for each in range(group.n_sums):
                    if stage.sums[each] >= 0:
                        stage.arguments[stage.sums[each]] = self.sums[segment * MAX_SUMS + each]
                if stage.numel >= 0:
                    stage.arguments[stage.numel] = <double>self.table.segments[segment].numel
            decay = stage.positions[WEIGHT_DECAY]
            if decay >= 0 and not isnan(values[WEIGHT_DECAY]):  # in place of the group's
                kept = stage.arguments[decay]
                stage.arguments[decay] = values[WEIGHT_DECAY]
                stage.function(stage.arguments, &results[k * MAX_RESULTS])
                stage.arguments[decay] = kept
            else:
                stage.function(stage.arguments, &results[k * MAX_RESULTS])
        for each in range(self.n_carried):
            self.next_carried[index * self.n_carried + each] = results[group.carried[each]]
        for each in range(self.n_common):  # the same for all segments: they depend on sums over all alone
            self.next_common[each] = results[group.common[each]]
        for k in range(program.n_coefficients):
            if self.itemsize == 4:
                coefficients.single[k] = <float>results[program.pick[k]]
            else:
                coefficients.full[k] = results[program.pick[k]]

    cdef void run(self, int n_threads) noexcept:
        self.table.n_threads = n_threads
        if self.table.keys != NULL and not self.table.adding:
            self.set_keys()
        self.shared = not self.keeps_gil and (n_threads > 1 or self.work > NANOSECONDS_TO_RELEASE)
        if self.shared:
            with nogil:
                run_table(self.table)
        else:
            run_table(self.table)

    cdef void count(self, bint final) noexcept:
        """Count, after the last write: the steps of updated segments, and the segments with pending gradients."""
        cdef Py_ssize_t k, index, shared
        cdef int each
        for k in range(self.table.n_active):
            index = self.table.active[k].segment
            self.steps[index] += final
            if final:
                shared = self.table.active[k].coefficients
                for each in range(self.n_carried):
                    self.carried[index * self.n_carried + each] = self.next_carried[shared * self.n_carried + each]
            if self.accumulate_steps > 1:
                self.pending[index] = not final
        if final and self.table.n_active:
            for each in range(self.n_common):
                self.common[each] = self.next_common[each]
        self.accumulated[0] = 0 if final else self.accumulated[0] + 1
        self.iterations[0] += final
        self.calls[0] += 1
