# The classes of engine.pyx, for other extension modules that step an engine by the addresses of gradients.
#
# The calling module claims the engine, writes the address of each segment's gradient (NULL: none) to `arrays.accepted`,
# and calls `take_gradients` and `advance`; then it releases the engine.

from libc.stdint cimport int64_t, uint32_t

cimport numpy as cnp

ctypedef void (*loop_function)(void **, Py_ssize_t, const void *, Py_ssize_t) noexcept nogil
ctypedef void (*bfloat16_loop_function)(void **, Py_ssize_t, const void *, const uint32_t *, uint32_t) noexcept nogil
ctypedef void (*coefficient_function)(const double *, double *) noexcept nogil
ctypedef void (*sum_function)(const void *, Py_ssize_t, double, double *) noexcept nogil
ctypedef void (*decode_function)(const void *, const void *, Py_ssize_t, void *) noexcept nogil
ctypedef void (*encode_function)(const void *, Py_ssize_t, void *, void *, uint32_t, uint32_t) noexcept nogil

cdef struct Layout
cdef struct Table
cdef struct Group
cdef struct Guard
cdef struct Span
cdef struct GradientForm

cdef enum Outcome:
    DONE
    DECLINED                    # the gradients are unusable
    MOVED                       # an array is not where it was


cdef class ThreadChoice:
    cdef double serial          # the time of a unit of work on one thread; 0 until known
    cdef double probed          # the same time in the probe under way
    cdef int until_probe, probes, slow, pause, pause_length
    cdef int settling           # steps on several threads left before SLOW is their limit

    cpdef int choose(self, int n_threads) noexcept
    cpdef void learn(self, int n_threads, int could_use, double time) noexcept
    cdef void judge(self, double time) noexcept


cdef class WatchedArrays:
    cdef Py_ssize_t n_params
    cdef list params
    cdef list kept              # the parameters, the arrays that own their memory, and those that own that of the states
    cdef list watched           # the arrays that the guards point to
    cdef Guard *guards
    cdef Py_ssize_t n_guards
    cdef Span *intervals        # all memory that a step writes, sorted
    cdef Py_ssize_t n_intervals
    cdef char **accepted        # addresses of the gradients of the step under way
    cdef char *direct           # whether each is of the dtype that loops compute in; read for parameters that are coded
    cdef Span *spans            # the memory of the same gradients, to be sorted
    cdef GradientForm *forms
    cdef readonly bint zeroed
    cdef object reject

    cdef int watch(self, gradients) except -1
    cdef Guard *moved(self) noexcept
    cdef int check(self) except -1
    cdef int set_intervals(self, list segments) except -1
    cdef bint is_written(self, char *begin, char *end) noexcept
    cdef int accept(self, list gradients) except -1
    cdef int take(self, Py_ssize_t index, item) except -1
    cdef int check_apart(self) except -1


cdef class Lock:
    cdef bint busy


cdef class Engine:
    cdef Table *table
    cdef readonly Lock lock
    cdef public bint replaced   # another engine steps the optimizer now
    cdef readonly Py_ssize_t n_segments
    cdef Py_ssize_t itemsize    # of the elements that loops compute with
    cdef Py_ssize_t n_groups
    cdef Layout *layouts        # of segments with codecs
    cdef int n_layouts
    cdef unsigned long long seed
    cdef WatchedArrays arrays
    cdef list alive             # the arrays whose addresses the engine holds
    cdef readonly bint bound
    cdef public int n_threads   # at most; 0: the default
    cdef bint keeps_gil         # during a step, so that no other Python thread interferes
    # contract.SegmentSettings
    cdef readonly object settings
    cdef double *lr_scale
    cdef double *weight_decay
    cdef bint uniform           # all segments have the rate and weight decay of their group
    cdef char *frozen
    # contract.SegmentRecords
    cdef readonly object records
    cdef int64_t *steps
    cdef char *pending
    cdef int n_carried
    cdef double *carried        # n_carried for each segment
    cdef double *next_carried   # their values after this step, n_carried for each of the table's coefficients
    cdef double *sums           # of the rule of each segment, MAX_SUMS each; NULL: no rule has sums
    # contract.Progress
    cdef int64_t *accumulated
    cdef int64_t *calls
    cdef char *swapped
    cdef double *grad_norm
    cdef int64_t *iterations
    cdef int n_common
    cdef double *common
    cdef double *next_common    # their values after this step
    # plan.StepPlan
    cdef bint sums_over_all     # a rule has some
    cdef bint adds              # gradients are added up before the update
    cdef bint clips
    cdef bint checks
    cdef bint clears
    cdef int accumulate_steps
    cdef double max_grad_norm
    cdef double divisor
    cdef sum_function unusable
    cdef coefficient_function clipping
    cdef object report
    cdef object exchange
    cdef object exchange_sums
    cdef bint together          # there is one of these two
    cdef double exchanged       # the sum over the gradients of all processes, where there is an exchange
    # the step under way
    cdef ThreadChoice choice
    cdef double nanoseconds_per_thread
    cdef bint adaptive
    cdef double total_of_squares  # of all gradients, if they are added up
    cdef double work            # in nanoseconds
    cdef double reading         # the part of `work` that adds up gradients
    cdef bint shared            # the last run let other Python threads run
    cdef list given             # the gradients that it was called with, or None

    cdef char *address(self, cnp.ndarray array)
    cdef int set_partials(self) except -1
    cdef int set_layouts(self, list plans, list segments) except -1
    cdef void set_keys(self) noexcept
    cdef int set_step_plan(self, plan) except -1
    cdef int claim(self) except -1
    cdef void release(self) noexcept
    cdef int check_can_step(self) except -1
    cdef unsigned long long enter(self) noexcept
    cdef void leave(self, unsigned long long caller) noexcept
    cdef double cost(self, Py_ssize_t segment) noexcept
    cdef bint has_gradient(self, Py_ssize_t segment) noexcept
    cdef bint carry_alike(self, Py_ssize_t first, Py_ssize_t second) noexcept
    cdef int take_gradients(self) except -1
    cdef void commit_gradients(self) noexcept
    cdef int advance(self) except -1
    cdef int advance_together(self) except -1
    cdef Outcome advance_in_mode(self) noexcept
    cdef void list_active(self, int program) noexcept
    cdef void add_up_gradients(self, int n_threads) noexcept
    cdef int set_sums(self) except -1
    cdef bint update_by_sums(self, int n_threads) noexcept
    cdef bint fits(self, Py_ssize_t index) noexcept
    cdef void add_up_terms(self, int n_threads) noexcept
    cdef bint add_up_terms_together(self) except -1
    cdef bint all_usable(self) noexcept
    cdef int decline(self) except -1
    cdef double clip_coefficient(self, Group *group, Py_ssize_t segment, double total) noexcept
    cdef void compute_coefficients(self, bint added) noexcept
    cdef void compute_shared(
        self, Group *group, const double *values, Py_ssize_t segment, Py_ssize_t index
    ) noexcept
    cdef void run(self, int n_threads) noexcept
    cdef void count(self, bint final) noexcept


cdef class Pieces:
    cdef Table *table
    cdef Layout *layout         # of pieces in a format; NULL: loops read them directly
    cdef Py_ssize_t capacity
    cdef Py_ssize_t n_partials

    cdef int append(self, char *address, Py_ssize_t size) except -1
    cdef void run(self, int n_threads) noexcept
