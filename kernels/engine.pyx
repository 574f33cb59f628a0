# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: binding=True, embedsignature=True
"""The native step: one call over a table of segments, split over OpenMP threads by elements.

The engine knows addresses, sizes and scalars. A loop (see `render`) is an address, compiled by the C compiler or by
Numba, it does not matter; so is a coefficient function. Everything is checked and computed before the first element is
written, and nothing can fail after that.
"""

from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport calloc, free

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
    int forked
    void watch_forks()
    int call_from_new_thread(void *(*function)(void *) noexcept nogil, void *argument) noexcept nogil
    int supports_v3()
    int supports_v4()
    int is_intel()
    int is_x86_64()
    double nanoseconds() noexcept nogil

from cython.parallel cimport parallel

from .plan import BUSY, resized_message, with_owners

watch_forks()

cdef enum:
    MAX_STREAMS = 8
    MAX_COEFFICIENTS = 24
    MAX_ARGUMENTS = 16
    MAX_STAGES = 4
    BOUNDARY = 64  # Threads meet at multiples of this many elements of a segment: never in one cache line.

ctypedef void (*loop_function)(void **, Py_ssize_t, const void *, Py_ssize_t) noexcept nogil
ctypedef void (*coefficient_function)(const double *, double *) noexcept nogil

cdef struct Stage:
    coefficient_function function
    double arguments[MAX_ARGUMENTS]
    int step_argument           # where the step count goes, or -1

cdef struct Group:
    loop_function loop
    double cost                 # nanoseconds an element, one thread, in cache: what it takes to pay for a thread
    int n_streams
    int n_stages
    int n_coefficients
    int pick[MAX_COEFFICIENTS]  # what the loop takes, in its order, out of all stages' results
    Stage stages[MAX_STAGES]

cdef struct Segment:
    char *streams[MAX_STREAMS]  # the parameter, its gradient (NULL: none this step), each state
    Py_ssize_t size
    int group

cdef struct Guard:
    cnp.PyArrayObject *array
    void *data
    Py_ssize_t nbytes

cdef struct Active:
    Py_ssize_t segment
    Py_ssize_t offset           # elements in all active segments before this one
    Py_ssize_t row              # which coefficients

cdef union Row:
    float single[MAX_COEFFICIENTS]
    double full[MAX_COEFFICIENTS]

cdef struct Table:
    Group *groups
    Segment *segments
    Active *active
    Row *rows
    Py_ssize_t n_active
    Py_ssize_t total
    Py_ssize_t itemsize
    Py_ssize_t prefetch
    int flush
    int n_threads


cdef void run_elements(Table *table, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """Elements [start, stop) of all active segments laid end to end, `start` and `stop` moved to a boundary."""
    cdef Py_ssize_t low = 0, high = table.n_active, middle, k, first, last, stream
    cdef Active *active
    cdef Segment *segment
    cdef Group *group
    cdef void *streams[MAX_STREAMS]
    while high - low > 1:
        middle = (low + high) // 2
        if table.active[middle].offset <= start:
            low = middle
        else:
            high = middle
    for k in range(low, table.n_active):
        active = &table.active[k]
        if active.offset >= stop:
            break
        segment = &table.segments[active.segment]
        first = 0
        if start > active.offset:
            first = (start - active.offset) // BOUNDARY * BOUNDARY
        last = segment.size
        if stop < active.offset + segment.size:
            last = (stop - active.offset) // BOUNDARY * BOUNDARY
        if first >= last:
            continue
        group = &table.groups[segment.group]
        for stream in range(group.n_streams):
            streams[stream] = segment.streams[stream] + first * table.itemsize
        group.loop(streams, last - first, &table.rows[active.row], table.prefetch)


cdef void run_part(Table *table, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    cdef Py_ssize_t start = <Py_ssize_t>(<double>table.total * part / parts)
    cdef Py_ssize_t stop = <Py_ssize_t>(<double>table.total * (part + 1) / parts)
    if part + 1 == parts:
        stop = table.total
    cdef floating_point_mode caller = enter_mode(table.flush)
    run_elements(table, start, stop)
    set_mode(caller)


cdef void *run_threads(void *argument) noexcept nogil:
    cdef Table *table = <Table *>argument
    with parallel(num_threads=table.n_threads):
        # The runtime may give fewer threads than it was asked for.
        run_part(table, omp_get_thread_num(), omp_get_num_threads())
    return NULL


include "threads.pxi"


def set_forked():
    """Say that this process was forked before the engine was loaded."""
    global forked
    forked = 1


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
    reject: callable(segment index, gradient)
        Raises the error that says what is wrong with a gradient.
    """

    cdef Table table
    cdef readonly Py_ssize_t n_segments
    cdef Py_ssize_t n_groups
    cdef Guard *guards
    cdef Py_ssize_t n_guards
    cdef char **intervals       # begin, end, begin, end... of all memory that a step writes, sorted
    cdef Py_ssize_t n_intervals
    cdef char **accepted        # addresses of the gradients of the step under way
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
    cdef object reject
    cdef public int n_threads   # at most; 0: the default
    cdef ThreadChoice choice
    cdef double nanoseconds_per_thread
    cdef bint adaptive

    def __cinit__(self, dtype, list plans, list segments, cnp.ndarray steps, reject, bint flush_denormals, int n_threads):
        cdef Py_ssize_t index, k
        self.n_segments = len(segments)
        self.n_groups = len(plans)
        self.type_number = dtype.num
        self.is_float32 = dtype.itemsize == 4
        self.table.itemsize = dtype.itemsize
        self.table.flush = flush_denormals
        self.n_threads = n_threads
        self.steps = steps
        self.counts = <int64_t *>cnp.PyArray_DATA(steps)
        self.reject = reject
        self.choice = ThreadChoice()
        self.nanoseconds_per_thread = NANOSECONDS_PER_THREAD
        self.adaptive = adaptive
        self.params = [segment.param for segment in segments]
        self.alive = segments
        self.table.groups = <Group *>calloc(max(self.n_groups, 1), sizeof(Group))
        self.table.segments = <Segment *>calloc(max(self.n_segments, 1), sizeof(Segment))
        self.table.active = <Active *>calloc(max(self.n_segments, 1), sizeof(Active))
        self.table.rows = <Row *>calloc(max(self.n_segments, 1), sizeof(Row))
        self.accepted = <char **>calloc(max(self.n_segments, 1), sizeof(char *))
        if not (self.table.groups and self.table.segments and self.table.active and self.table.rows and self.accepted):
            raise MemoryError("no memory for the table of segments")
        for index in range(self.n_groups):
            self.set_group(index, plans[index])
        for index in range(self.n_segments):
            self.table.segments[index].group = segments[index].group
            self.table.segments[index].size = segments[index].param.size
            self.table.segments[index].streams[0] = self.address(segments[index].param)
            for k, state in enumerate(segments[index].states):
                self.table.segments[index].streams[2 + k] = self.address(state)
        self.set_guards()
        self.set_intervals(segments)

    def __dealloc__(self):
        free(self.table.groups)
        free(self.table.segments)
        free(self.table.active)
        free(self.table.rows)
        free(self.accepted)
        free(self.guards)
        free(self.intervals)

    cdef char *address(self, cnp.ndarray array):
        return <char *>cnp.PyArray_DATA(array)

    cdef int set_group(self, Py_ssize_t index, plan) except -1:
        cdef Group *group = &self.table.groups[index]
        cdef Py_ssize_t k
        if len(plan.stages) > MAX_STAGES or len(plan.pick) > MAX_COEFFICIENTS or 2 + plan.n_states > MAX_STREAMS:
            raise ValueError(f"the rule is too large for the engine: {plan}")
        group.loop = <loop_function><uintptr_t>plan.loop
        group.cost = plan.cost
        group.n_streams = 2 + plan.n_states
        group.n_stages = len(plan.stages)
        group.n_coefficients = len(plan.pick)
        for k, (stage, position) in enumerate(plan.pick):
            if not (0 <= stage < MAX_STAGES and 0 <= position < MAX_COEFFICIENTS):
                raise ValueError(f"the rule is too large for the engine: {plan}")
            group.pick[k] = stage * MAX_COEFFICIENTS + position
        for k, stage in enumerate(plan.stages):
            group.stages[k].function = <coefficient_function><uintptr_t>stage.function
            group.stages[k].step_argument = stage.step_argument
        self.set_hyperparameters(index, plan)
        return 0

    def set_hyperparameters(self, Py_ssize_t index, plan):
        """Take new values of a group's hyperparameters; they count from the next step."""
        cdef Group *group = &self.table.groups[index]
        cdef Py_ssize_t k, position
        for k, stage in enumerate(plan.stages):
            if len(stage.arguments) > MAX_ARGUMENTS:
                raise ValueError(f"too many hyperparameters for the engine: {stage}")
            for position, value in enumerate(stage.arguments):
                group.stages[k].arguments[position] = value

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
        self.intervals = <char **>calloc(max(2 * self.n_intervals, 1), sizeof(char *))
        if not self.intervals:
            raise MemoryError("no memory for the table of segments")
        cdef Py_ssize_t index
        for index in range(self.n_intervals):
            self.intervals[2 * index] = <char *><uintptr_t>merged[index][0]
            self.intervals[2 * index + 1] = <char *><uintptr_t>merged[index][1]
        return 0

    cdef bint is_written(self, char *begin, char *end) noexcept:
        """Whether [begin, end) shares memory with a parameter or a state."""
        cdef Py_ssize_t low = 0, high = self.n_intervals, middle
        while low < high:  # the first interval that ends after `begin`
            middle = (low + high) // 2
            if self.intervals[2 * middle + 1] > begin:
                high = middle
            else:
                low = middle + 1
        return low < self.n_intervals and self.intervals[2 * low] < end

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
                    and cnp.PyArray_ISCARRAY_RO(gradient)
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

    cdef int claim(self) except -1:
        if self.busy:  # Only ever read and set with the GIL held.
            raise RuntimeError(BUSY)
        self.busy = True
        return 0

    def alone(self, function):
        """The result of `function()`, with other threads' steps kept out; an error when one is under way.

        No signal's handler runs between compiled instructions: nothing comes between the claim and the `try`.
        """
        self.claim()
        try:
            return function()
        finally:
            self.busy = False

    def step(self, list gradients=None):
        """One step of every segment that has a gradient. All or nothing: errors come before the first write."""
        self.claim()
        try:
            self.check_guards()
            if gradients is not None:
                self.accept(gradients)
                self.commit_gradients()
            self.prepare()
            self.run()
        finally:
            self.busy = False

    cdef void prepare(self) noexcept:
        """List the active segments and compute their coefficients."""
        cdef Py_ssize_t index, n_active = 0, n_rows = 0, total = 0
        cdef Segment *segment
        cdef int group = -1
        cdef int64_t step = -1
        for index in range(self.n_segments):
            segment = &self.table.segments[index]
            if segment.streams[1] == NULL:
                continue
            if segment.group != group or self.counts[index] + 1 != step:
                group = segment.group
                step = self.counts[index] + 1
                self.fill_row(&self.table.groups[group], step, &self.table.rows[n_rows])
                n_rows += 1
            self.table.active[n_active].segment = index
            self.table.active[n_active].offset = total
            self.table.active[n_active].row = n_rows - 1
            total += segment.size
            n_active += 1
        self.table.n_active = n_active
        self.table.total = total

    cdef void fill_row(self, Group *group, int64_t step, Row *row) noexcept:
        cdef double results[MAX_STAGES * MAX_COEFFICIENTS]
        cdef int k
        for k in range(group.n_stages):
            if group.stages[k].step_argument >= 0:
                group.stages[k].arguments[group.stages[k].step_argument] = <double>step
            group.stages[k].function(group.stages[k].arguments, &results[k * MAX_COEFFICIENTS])
        for k in range(group.n_coefficients):
            if self.is_float32:
                row.single[k] = <float>results[group.pick[k]]
            else:
                row.full[k] = results[group.pick[k]]

    cdef void run(self) noexcept:
        cdef Py_ssize_t index, k
        cdef double work = 0.0, nbytes = 0.0
        cdef Segment *segment
        cdef Group *group
        cdef int n_threads, affordable
        cdef double start = 0.0
        cdef bint learning
        cdef Table *table = &self.table
        for k in range(table.n_active):
            index = table.active[k].segment
            group = &table.groups[table.segments[index].group]
            work += table.segments[index].size * group.cost
            nbytes += <double>table.segments[index].size * group.n_streams * table.itemsize
            self.counts[index] += 1
        table.prefetch = prefetch_distance if nbytes > PREFETCH_BYTES else 0
        affordable = affordable_threads(work, self.nanoseconds_per_thread, self.n_threads)
        n_threads = affordable
        learning = self.adaptive and affordable > 1
        if learning:
            n_threads = self.choice.choose(affordable)
            start = nanoseconds()
        if n_threads > 1:
            table.n_threads = n_threads
            with nogil:
                if not forked:
                    run_threads(table)
                elif not call_from_new_thread(run_threads, table):
                    run_part(table, 0, 1)
        elif work > NANOSECONDS_TO_RELEASE:
            with nogil:
                run_part(table, 0, 1)
        else:
            run_part(table, 0, 1)
        if learning:
            self.choice.learn(n_threads, affordable, (nanoseconds() - start) / work)
