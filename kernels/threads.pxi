# How many threads a step uses; part of engine.pyx. The bits do not depend on any of this, only the time does.

cdef int requested_threads = 0   # set_num_threads
cdef int available_threads = 0   # affinity and quota, where OMP_NUM_THREADS does not say otherwise
cdef double NANOSECONDS_PER_THREAD = 1100.0  # the least work that it pays to wake a thread for
cdef double NANOSECONDS_TO_RELEASE = 5000.0  # the least work that it pays to release the GIL for
cdef bint adaptive = True


def set_requested_threads(int n_threads):
    """What optimizers without `n_threads` use; 0 for as many as OpenMP and the process may use."""
    global requested_threads
    requested_threads = n_threads


def set_available_threads(int n_threads):
    global available_threads
    available_threads = n_threads


def set_thread_policy(double nanoseconds_per_thread, bint is_adaptive):
    """Set how much work (by `Group.cost`) a thread must have, and whether to learn; returns what it was."""
    global NANOSECONDS_PER_THREAD, adaptive
    before = NANOSECONDS_PER_THREAD, adaptive
    NANOSECONDS_PER_THREAD, adaptive = nanoseconds_per_thread, is_adaptive
    return before


cdef int default_threads() noexcept nogil:
    if requested_threads > 0:
        return requested_threads
    cdef int limit = omp_get_max_threads()
    return available_threads if 0 < available_threads < limit else limit


def get_default_threads():
    return default_threads()


cdef int affordable_threads(double work, int limit) noexcept nogil:
    """How many threads have enough to do, by the table of costs; `work` is in nanoseconds."""
    if work < 2 * NANOSECONDS_PER_THREAD or not FASTOPT_OPENMP or forked_after_threads:
        return 1
    if limit <= 0:
        limit = default_threads()
    return limit if work >= limit * NANOSECONDS_PER_THREAD else <int>(work / NANOSECONDS_PER_THREAD)


cdef enum:
    WARM_STEPS = 2      # first steps, not learnt from: memory is touched for the first time
    SERIAL_STEPS = 2    # then so many on one thread, to know what that takes
    SLOW_STEPS = 2      # so many slow steps in a row make a pause
    SHORTEST_PAUSE = 16
    LONGEST_PAUSE = 1024

cdef double SLOW = 1.1


@cython.final
cdef class ThreadChoice:
    """Learns whether several threads are faster than one where this optimizer runs.

    They are in a program that does nothing else. They are not while other programs, or the spinning threads of a BLAS,
    hold the processors: then a step waits for its last thread, which waits for a processor. So a step on one thread is
    timed early, and after two steps in a row that were slower than that on several threads, the next 16 (later 32, 64...
    1,024) use one. Times are per unit of work, because a step need not update every parameter.
    """

    cdef double serial          # a unit of work on one thread
    cdef int seen, slow, pause, pause_length

    cpdef int choose(self, int n_threads) noexcept:
        """How many of these threads to use now."""
        if WARM_STEPS <= self.seen < WARM_STEPS + SERIAL_STEPS or self.pause > 0:
            return 1
        return n_threads

    cpdef void learn(self, int n_threads, double time) noexcept:
        """What a unit of work took on so many threads."""
        if self.seen < WARM_STEPS + SERIAL_STEPS:
            self.seen += 1
            if self.seen > WARM_STEPS and (self.serial == 0 or time < self.serial):
                self.serial = time
        elif n_threads == 1:
            self.pause -= 1
            self.serial += (time - self.serial) / 8
        elif time <= SLOW * self.serial:
            self.slow = 0
            self.pause_length //= 2
        else:
            self.slow += 1
            if self.slow >= SLOW_STEPS:
                self.pause_length = min(max(2 * self.pause_length, SHORTEST_PAUSE), LONGEST_PAUSE)
                self.pause = self.pause_length
