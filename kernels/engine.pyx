# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: binding=True, embedsignature=True
"""The native step: one call over a table of segments, split over OpenMP threads by elements.

The engine knows addresses, sizes and scalars. A loop (see `render`) is an address, compiled by the C compiler or by
Numba, it does not matter; so is a coefficient function. Everything is checked and computed before the first element is
written, and nothing can fail after that.
"""

from libc.math cimport isfinite, isnan, sqrt
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport calloc, free, qsort

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
    void set_mode(floating_point_mode mode) noexcept nogil
    int forked_after_threads, threads_were_used
    void watch_forks()
    int supports_v3()
    int supports_v4()
    int is_intel()
    int is_x86_64()
    double nanoseconds() noexcept nogil

from cython.parallel cimport parallel

from .plan import BUSY, PROGRAMS, resized_message, with_owners

watch_forks()

include "table.pxi"
include "threads.pxi"


def describe():
    """What was compiled in and what the processor can do."""
    return {
        "openmp": FASTOPT_OPENMP,
        "can_flush_denormals": FLUSH_BITS != 0,
        "x86_64": bool(is_x86_64()),
        "x86_64_v3": bool(supports_v3()),
        "x86_64_v4": bool(supports_v4()),
        "intel": bool(is_intel()),
    }


cdef Py_ssize_t prefetch_distance = 0
cdef Py_ssize_t PREFETCH_BYTES = 64 << 20  # Only what cannot be in a cache is worth a prefetch.


def set_prefetch_distance(Py_ssize_t elements):
    global prefetch_distance
    prefetch_distance = elements


cdef struct Guard:
    cnp.PyArrayObject *array
    void *data
    Py_ssize_t nbytes

cdef struct Span:
    char *begin
    char *end


cdef int by_begin(const void *a, const void *b) noexcept nogil:
    cdef char *first = (<const Span *>a).begin
    cdef char *second = (<const Span *>b).begin
    return (first > second) - (first < second)


cdef inline bint same_values(const double *a, const double *b) noexcept nogil:
    cdef int k
    for k in range(N_ENGINE_ARGUMENTS):
        if a[k] != b[k] and not (isnan(a[k]) and isnan(b[k])):
            return False
    return True


# --- The engine -----------------------------------------------------------------------------------------------------

@cython.final
cdef class Engine:
    """Parameters, gradients and states as addresses, stepped together.

    Parameters
    ----------
    dtype: numpy.dtype
        float32 or float64, of everything.
    plans: list of `plan.GroupPlan`
    segments: list of `plan.Segment`
    steps: int64 array, one count a segment; counted up by `step`.
    settings: `plan.SegmentSettings`
    plan: `plan.StepPlan`
    reject: callable(segment index, gradient)
        Raises the error that says what is wrong with a gradient.
    report: `plan.Report`
        Called when a step is not done because of gradients that cannot be used.
    """

    cdef Table table
    cdef readonly Py_ssize_t n_segments
    cdef Py_ssize_t n_groups
    cdef Guard *guards
    cdef Py_ssize_t n_guards
    cdef Span *intervals        # all memory that a step writes, sorted
    cdef Py_ssize_t n_intervals
    cdef char **accepted        # addresses of the gradients of the step under way
    cdef Span *spans            # the same, to be sorted
    cdef int64_t *counts
    cdef int type_number
    cdef bint is_float32
    cdef bint busy              # in the middle of a step, or claimed
    cdef readonly bint bound
    cdef list params
    cdef list alive             # the arrays that the table points into
    cdef list watched           # the arrays that the guards point to
    cdef object gradients
    cdef readonly object steps
    cdef object settings
    cdef double *lr_scale
    cdef double *weight_decay
    cdef char *frozen
    cdef char *pending          # which segments hold gradients of calls before
    cdef object reject
    cdef object report
    cdef public int n_threads   # at most; 0: the default
    cdef ThreadChoice choice
    cdef double nanoseconds_per_thread
    cdef bint adaptive
    cdef double work            # of the step under way
    cdef bint adds              # gradients are added up before the update
    cdef bint clips
    cdef bint checks
    cdef bint clears
    cdef int accumulate_steps
    cdef public int accumulated  # calls since the last update
    cdef public int64_t calls   # that were not declined
    cdef double max_grad_norm
    cdef double divisor
    cdef sum_function unusable
    cdef coefficient_function clipping
    cdef public double grad_norm  # of the last update that took it; NaN before

    def __cinit__(self, dtype, list plans, list segments, cnp.ndarray steps, settings, plan, reject, report):
        cdef Py_ssize_t index, k
        self.n_segments = len(segments)
        self.n_groups = len(plans)
        self.type_number = dtype.num
        self.is_float32 = dtype.itemsize == 4
        self.table.itemsize = dtype.itemsize
        self.steps = steps
        self.counts = <int64_t *>cnp.PyArray_DATA(steps)
        self.settings = settings
        self.lr_scale = <double *>self.address(settings.lr_scale)
        self.weight_decay = <double *>self.address(settings.weight_decay)
        self.frozen = self.address(settings.frozen)
        self.pending = self.address(settings.pending)
        self.reject = reject
        self.report = report
        self.choice = ThreadChoice()
        self.nanoseconds_per_thread = NANOSECONDS_PER_THREAD
        self.adaptive = adaptive
        self.grad_norm = float("nan")
        self.params = [segment.param for segment in segments]
        self.alive = segments
        self.table.groups = <Group *>calloc(max(self.n_groups, 1), sizeof(Group))
        self.table.segments = <Segment *>calloc(max(self.n_segments, 1), sizeof(Segment))
        self.table.active = <Active *>calloc(max(self.n_segments, 1), sizeof(Active))
        self.table.rows = <Row *>calloc(max(self.n_segments, 1), sizeof(Row))
        self.accepted = <char **>calloc(max(self.n_segments, 1), sizeof(char *))
        self.spans = <Span *>calloc(max(self.n_segments, 1), sizeof(Span))
        if not (self.table.groups and self.table.segments and self.table.active and self.table.rows and self.accepted
                and self.spans):
            raise MemoryError("no memory for the table of segments")
        self.set_step_plan(plan)
        for index in range(self.n_groups):
            self.set_group(index, plans[index])
        for index in range(self.n_segments):
            self.table.segments[index].group = segments[index].group
            self.table.segments[index].size = segments[index].param.size
            self.table.segments[index].row = segments[index].row
            self.table.segments[index].streams[0] = self.address(segments[index].param)
            if 2 + len(segments[index].states) > MAX_SEGMENT_STREAMS:
                raise ValueError(f"too many states for the engine: {len(segments[index].states)}")
            for k, state in enumerate(segments[index].states):
                self.table.segments[index].streams[2 + k] = self.address(state)
        self.set_partials()
        self.set_guards()
        self.set_intervals(segments)

    def __dealloc__(self):
        free(self.table.groups)
        free(self.table.segments)
        free(self.table.active)
        free(self.table.rows)
        free(self.table.partials)
        free(self.accepted)
        free(self.spans)
        free(self.guards)
        free(self.intervals)

    cdef char *address(self, cnp.ndarray array):
        return <char *>cnp.PyArray_DATA(array)

    cdef int set_partials(self) except -1:
        """Room for the partial sums of every segment, where gradients are added up."""
        cdef Py_ssize_t index, n_partials = 0
        for index in range(self.n_segments):
            self.table.segments[index].first_partial = n_partials
            n_partials += (self.table.segments[index].size + SUM_BLOCK - 1) // SUM_BLOCK
        if self.adds:
            self.table.partials = <double *>calloc(max(n_partials, 1), sizeof(double))
            if not self.table.partials:
                raise MemoryError("no memory for partial sums")
        return 0

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
        return 0

    cdef int set_group(self, Py_ssize_t index, plan) except -1:
        cdef Group *group = &self.table.groups[index]
        cdef RowOperation *row_operation
        cdef Py_ssize_t k
        if len(plan.stages) > MAX_STAGES or len(plan.rows) > MAX_ROW_OPERATIONS or plan.n_streams > MAX_SEGMENT_STREAMS:
            raise ValueError(f"the update is too large for the engine: {plan}")
        group.cost = plan.cost
        group.n_streams = plan.n_streams
        group.n_stages = len(plan.stages)
        group.sum = <sum_function><uintptr_t>(plan.sum or 0)
        group.sum_of_squares = plan.sum_of_squares
        group.accumulator = plan.accumulator
        self.adds = self.adds or plan.sum is not None
        for k, stage in enumerate(plan.stages):
            group.stages[k].function = <coefficient_function><uintptr_t>stage.function
            for position in range(N_ENGINE_ARGUMENTS):
                group.stages[k].positions[position] = stage.positions[position]
        for k, name in enumerate(PROGRAMS):
            self.set_program(&group.programs[k], plan.programs.get(name, ()))
        group.n_row_operations = len(plan.rows)
        group.rows_after = plan.rows_after
        for k, row in enumerate(plan.rows):
            row_operation = &group.row_operations[k]
            row_operation.sum = <sum_function><uintptr_t>row.sum
            row_operation.function = <coefficient_function><uintptr_t>row.function
            row_operation.loop = <loop_function><uintptr_t>row.loop
            row_operation.argument = row.argument
            row_operation.start = row.start
            row_operation.iterates = row.iterates
        self.set_hyperparameters(index, plan)
        return 0

    cdef int set_program(self, Program *program, tuple operations) except -1:
        cdef Py_ssize_t k, each
        if len(operations) > MAX_OPERATIONS:
            raise ValueError(f"too many operations for the engine: {len(operations)}")
        program.n_operations = len(operations)
        program.n_coefficients = 0
        for k, operation in enumerate(operations):
            if len(operation.streams) > MAX_STREAMS or program.n_coefficients + len(operation.pick) > MAX_COEFFICIENTS:
                raise ValueError(f"the operation is too large for the engine: {operation}")
            program.operations[k].loop = <loop_function><uintptr_t>operation.loop
            program.operations[k].n_streams = len(operation.streams)
            program.operations[k].first_coefficient = program.n_coefficients
            for each, stream in enumerate(operation.streams):
                program.operations[k].streams[each] = stream
            for stage, position in operation.pick:
                if not (0 <= stage < MAX_STAGES and 0 <= position < MAX_RESULTS):
                    raise ValueError(f"the operation is too large for the engine: {operation}")
                program.pick[program.n_coefficients] = stage * MAX_RESULTS + position
                program.n_coefficients += 1
        program.plain = len(operations) == 1 and operations[0].streams == tuple(range(len(operations[0].streams)))
        return 0

    def set_hyperparameters(self, Py_ssize_t index, plan):
        """Take new values of a group's hyperparameters; they count from the next step."""
        cdef Group *group = &self.table.groups[index]
        cdef Py_ssize_t k, position
        group.lr = plan.lr
        group.limit = plan.limit
        group.clip_norm = plan.clip_norm
        self.clips = self.clips or plan.clip_norm > 0
        for k, row in enumerate(plan.rows):
            group.row_operations[k].argument = row.argument
        for k, stage in enumerate(plan.stages):
            if len(stage.arguments) > MAX_ARGUMENTS:
                raise ValueError(f"too many hyperparameters for the engine: {stage}")
            for position, value in enumerate(stage.arguments):
                group.stages[k].arguments[position] = value

    def set_scale(self, plan):
        """Take a new divisor and largest norm; they count from the next step."""
        self.max_grad_norm = plan.max_grad_norm
        self.divisor = plan.divisor

    # Memory that was given to us and may not go away or move: a parameter, and whatever array owns its memory.
    cdef int set_guards(self) except -1:
        watched = with_owners([*self.params, *(self.gradients or ())])
        cdef Guard *guards = <Guard *>calloc(max(len(watched), 1), sizeof(Guard))
        if not guards:
            raise MemoryError("no memory for the table of segments")
        cdef Py_ssize_t index
        for index, array in enumerate(watched):
            guards[index].array = <cnp.PyArrayObject *>array
            guards[index].data = cnp.PyArray_DATA(array)
            guards[index].nbytes = cnp.PyArray_NBYTES(array)
        free(self.guards)
        self.guards = guards
        self.n_guards = len(watched)
        self.watched = watched
        return 0

    cdef int check_guards(self) except -1:
        cdef Py_ssize_t index
        cdef Guard *guard
        for index in range(self.n_guards):
            guard = &self.guards[index]
            array = <object>guard.array
            if cnp.PyArray_DATA(array) != guard.data or cnp.PyArray_NBYTES(array) != guard.nbytes:
                raise RuntimeError(resized_message(array))
        return 0

    cdef int set_intervals(self, list segments) except -1:
        spans = []
        cdef cnp.ndarray array
        for segment in segments:
            for array in (segment.param, *segment.states):
                begin = <uintptr_t>cnp.PyArray_DATA(array)
                if array.nbytes:
                    spans.append((begin, begin + array.nbytes))
        merged = []
        span = None
        for begin, end in sorted(spans):
            if span is not None and span[1] == begin:
                span[1] = end
            else:
                span = [begin, end]
                merged.append(span)
        self.n_intervals = len(merged)
        self.intervals = <Span *>calloc(max(self.n_intervals, 1), sizeof(Span))
        if not self.intervals:
            raise MemoryError("no memory for the table of segments")
        cdef Py_ssize_t index
        for index in range(self.n_intervals):
            self.intervals[index].begin = <char *><uintptr_t>merged[index][0]
            self.intervals[index].end = <char *><uintptr_t>merged[index][1]
        return 0

    cdef bint is_written(self, char *begin, char *end) noexcept:
        """Whether [begin, end) shares memory with a parameter or a state."""
        cdef Py_ssize_t low = 0, high = self.n_intervals, middle
        while low < high:  # the first interval that ends after `begin`
            middle = (low + high) // 2
            if self.intervals[middle].end > begin:
                high = middle
            else:
                low = middle + 1
        return low < self.n_intervals and self.intervals[low].begin < end

    cdef int accept(self, list gradients) except -1:
        """Check each gradient and note its address; what is not plainly right goes to `reject`."""
        cdef Py_ssize_t index, axis
        cdef cnp.ndarray gradient, param
        cdef char *begin
        cdef bint good
        for index in range(self.n_segments):
            item = gradients[index]
            if item is None:
                self.accepted[index] = NULL
                continue
            good = False
            if isinstance(item, cnp.ndarray):
                gradient = item
                param = self.params[index]
                good = (
                    cnp.PyArray_TYPE(gradient) == self.type_number
                    and (cnp.PyArray_ISCARRAY(gradient) if self.clears else cnp.PyArray_ISCARRAY_RO(gradient))
                    and cnp.PyArray_NDIM(gradient) == cnp.PyArray_NDIM(param)
                )
                if good:
                    for axis in range(cnp.PyArray_NDIM(param)):
                        good = good and cnp.PyArray_DIM(gradient, axis) == cnp.PyArray_DIM(param, axis)
            if good:
                begin = <char *>cnp.PyArray_DATA(gradient)
                self.accepted[index] = begin
                good = not self.is_written(begin, begin + cnp.PyArray_NBYTES(gradient))
            if not good:
                self.reject(index, item)
                raise RuntimeError(f"gradient {index} is not usable")  # `reject` always raises
        if self.clears:
            self.check_apart(gradients)
        return 0

    cdef int check_apart(self, list gradients) except -1:
        """Gradients that a step zeroes may not share memory: one would be zeroed before another is read."""
        cdef Py_ssize_t index, n_spans = 0
        cdef bint sorted_already = True
        for index in range(self.n_segments):
            if self.accepted[index] == NULL or self.table.segments[index].size == 0:
                continue
            self.spans[n_spans].begin = self.accepted[index]
            self.spans[n_spans].end = self.accepted[index] + self.table.segments[index].size * self.table.itemsize
            if n_spans and self.spans[n_spans].begin < self.spans[n_spans - 1].begin:
                sorted_already = False
            n_spans += 1
        if not sorted_already:
            qsort(self.spans, n_spans, sizeof(Span), by_begin)
        for index in range(1, n_spans):
            if self.spans[index].begin < self.spans[index - 1].end:
                raise ValueError("gradients that zero_grads=True is to zero share memory; each needs its own")
        return 0

    cdef void commit_gradients(self) noexcept:
        cdef Py_ssize_t index
        for index in range(self.n_segments):
            self.table.segments[index].streams[1] = self.accepted[index]

    def bind(self, list gradients):
        """Check gradients once and use them in every step that is not given others."""
        self.accept(gradients)
        self.gradients = [gradient for gradient in gradients if gradient is not None]
        self.set_guards()
        self.commit_gradients()
        self.bound = True

    cpdef claim(self):
        """Keep other threads' steps out until `release`; an error when one is under way."""
        if self.busy:  # Only ever read and set with the GIL held.
            raise RuntimeError(BUSY)
        self.busy = True

    cpdef release(self):
        self.busy = False

    def step(self, list gradients=None):
        """One step of every segment that has a gradient. All or nothing: errors come before the first write."""
        self.claim()
        try:
            self.check_guards()
            if gradients is not None:
                self.accept(gradients)
                self.commit_gradients()
            self.advance()
        finally:
            self.busy = False

    def swap(self):
        """Exchange every parameter with its average."""
        self.check_guards()
        self.list_active(SWAP)
        self.fill_rows(False)
        self.run(affordable_threads(self.work, self.nanoseconds_per_thread, self.n_threads))

    cdef int advance(self) except -1:
        cdef int affordable, n_threads
        cdef double start = 0.0
        cdef bint learning, final = self.accumulated + 1 >= self.accumulate_steps
        self.list_active(UPDATE if final else GATHER)
        affordable = affordable_threads(self.work, self.nanoseconds_per_thread, self.n_threads)
        n_threads = affordable
        learning = self.adaptive and affordable > 1
        if learning:
            n_threads = self.choice.choose(affordable)
            start = nanoseconds()
        if self.adds and (final or self.checks):
            if self.accumulate_steps > 1:
                self.fill_rows(False)
            self.add_up_gradients(n_threads)
            if self.checks and not self.all_usable():
                self.decline(n_threads)
                return 0
        self.fill_rows(final)
        self.run(n_threads)
        if learning:
            self.choice.learn(n_threads, affordable, (nanoseconds() - start) / self.work)
        self.count(final)
        return 0

    cdef void list_active(self, int program) noexcept:
        """Which segments this call is about, and how much work they are."""
        cdef Py_ssize_t index, n_active = 0, total = 0
        cdef double work = 0.0, nbytes = 0.0, reading
        cdef Segment *segment
        cdef Group *group
        self.table.program = program
        for index in range(self.n_segments):
            segment = &self.table.segments[index]
            if program != SWAP:
                if self.frozen[index]:
                    continue
                if segment.streams[GRAD] == NULL and not (self.pending[index] and program == UPDATE):
                    continue
            segment.pending = self.pending[index]
            group = &self.table.groups[segment.group]
            self.table.active[n_active].segment = index
            self.table.active[n_active].offset = total
            total += segment.size
            reading = NANOSECONDS_TO_ADD if group.sum != NULL else 0.0
            work += segment.size * (group.cost + reading)
            nbytes += <double>segment.size * group.n_streams * self.table.itemsize
            n_active += 1
        self.table.n_active = n_active
        self.table.total = total
        self.table.prefetch = prefetch_distance if nbytes > PREFETCH_BYTES else 0
        self.work = work

    cdef void add_up_gradients(self, int n_threads) noexcept:
        """The sum of each active segment, from partial sums in a fixed order."""
        cdef Py_ssize_t k, block, n_blocks
        cdef Segment *segment
        cdef double total
        self.table.adding = True
        self.run(n_threads)
        self.table.adding = False
        for k in range(self.table.n_active):
            segment = &self.table.segments[self.table.active[k].segment]
            n_blocks = (segment.size + SUM_BLOCK - 1) // SUM_BLOCK
            total = 0.0
            for block in range(n_blocks):
                total += self.table.partials[segment.first_partial + block]
            segment.total = total

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

    cdef int decline(self, int n_threads) except -1:
        """Say which gradients cannot be used (which may raise), and leave everything but gradients as it is."""
        cdef Py_ssize_t k, index
        self.table.counting = self.unusable
        self.add_up_gradients(n_threads)
        self.table.counting = NULL
        counts = []
        for k in range(self.table.n_active):
            index = self.table.active[k].segment
            if self.table.segments[index].total > 0:
                counts.append((index, int(self.table.segments[index].total)))
        self.report(counts, self.calls)
        if self.clears:
            self.table.program = CLEAR
            self.fill_rows(False)
            self.run(n_threads)
        return 0

    cdef double clip_coefficient(self, Group *group, Segment *segment, double total) noexcept:
        """Of a segment's gradient; `total` is the sum of squares of all of them."""
        cdef double arguments[3]
        cdef double result[1]
        if self.max_grad_norm > 0:
            arguments[0] = total
            arguments[2] = self.max_grad_norm
        elif group.clip_norm > 0:
            arguments[0] = segment.total
            arguments[2] = group.clip_norm
        else:
            return 1.0
        arguments[1] = self.divisor
        self.clipping(arguments, result)
        return result[0]

    cdef void fill_rows(self, bint added) noexcept:
        """The coefficients of all active segments; those that have the same share a row.

        `added` is whether gradients were added up for this update; only then there is something to clip by.
        """
        cdef Py_ssize_t index, k, n_rows = 0
        cdef Segment *segment
        cdef int group = -1
        cdef double values[N_ENGINE_ARGUMENTS]
        cdef double before[N_ENGINE_ARGUMENTS]
        cdef double total = 0.0, clip_coefficient = 1.0
        cdef bint same, clips = self.clips and added
        if clips:
            for k in range(self.table.n_active):
                total += self.table.segments[self.table.active[k].segment].total
            if self.max_grad_norm > 0:
                self.grad_norm = sqrt(total) / self.divisor
        for k in range(self.table.n_active):
            index = self.table.active[k].segment
            segment = &self.table.segments[index]
            if clips:
                clip_coefficient = self.clip_coefficient(&self.table.groups[segment.group], segment, total)
            values[STEP] = <double>(self.counts[index] + 1)
            values[RATE] = self.table.groups[segment.group].lr * self.lr_scale[index]
            values[WEIGHT_DECAY] = self.weight_decay[index]
            values[CLIP_COEFFICIENT] = clip_coefficient
            segment.lr = values[RATE]
            same = segment.group == group and same_values(values, before)
            if not same:
                group = segment.group
                before = values
                self.fill_row(&self.table.groups[group], values, &self.table.rows[n_rows])
                n_rows += 1
            self.table.active[k].row = n_rows - 1

    cdef void fill_row(self, Group *group, const double *values, Row *row) noexcept:
        cdef double results[MAX_STAGES * MAX_RESULTS]
        cdef Program *program = &group.programs[self.table.program]
        cdef Stage *stage
        cdef double kept
        cdef int k, each, decay
        for k in range(group.n_stages):
            stage = &group.stages[k]
            if stage.positions[STEP] >= 0:
                stage.arguments[stage.positions[STEP]] = values[STEP]
            if stage.positions[RATE] >= 0:
                stage.arguments[stage.positions[RATE]] = values[RATE]
            if stage.positions[CLIP_COEFFICIENT] >= 0:
                stage.arguments[stage.positions[CLIP_COEFFICIENT]] = values[CLIP_COEFFICIENT]
            decay = stage.positions[WEIGHT_DECAY]
            if decay >= 0 and not isnan(values[WEIGHT_DECAY]):  # in place of the group's
                kept = stage.arguments[decay]
                stage.arguments[decay] = values[WEIGHT_DECAY]
                stage.function(stage.arguments, &results[k * MAX_RESULTS])
                stage.arguments[decay] = kept
            else:
                stage.function(stage.arguments, &results[k * MAX_RESULTS])
        for k in range(program.n_coefficients):
            if self.is_float32:
                row.single[k] = <float>results[program.pick[k]]
            else:
                row.full[k] = results[program.pick[k]]

    cdef void run(self, int n_threads) noexcept:
        global threads_were_used
        if n_threads > 1:
            threads_were_used = 1
            with nogil:
                run_threads(&self.table, n_threads)
        elif self.work > NANOSECONDS_TO_RELEASE:
            with nogil:
                run_part(&self.table, 0, 1)
        else:
            run_part(&self.table, 0, 1)

    cdef void count(self, bint final) noexcept:
        """After the last write: the steps of what was updated, and which segments hold gradients for the next call."""
        cdef Py_ssize_t k, index
        for k in range(self.table.n_active):
            index = self.table.active[k].segment
            self.counts[index] += final
            self.pending[index] = not final
        self.accumulated = 0 if final else self.accumulated + 1
        self.calls += 1
