# The number of threads of a step; part of engine.pyx. It changes the time of a step, never the bits of the results.

cdef int requested_threads = 0   # set by set_num_threads
cdef int available_threads = 0   # by affinity and quota, unless OMP_NUM_THREADS is set
cdef double NANOSECONDS_PER_THREAD = 1100.0  # the least work for which waking a thread makes a step faster
cdef double FORKED = 100.0  # the factor on it in a forked child, where each step starts new threads
cdef double NANOSECONDS_TO_RELEASE = 5000.0  # the least work for which releasing the GIL is worth its cost
cdef double NANOSECONDS_TO_ADD = 0.1  # the time to add one element to a sum, in cache
cdef double NANOSECONDS_TO_CODE = 0.15  # the time to decode and encode one element of an operand, in cache
cdef bint adaptive = True


def set_requested_threads(int n_threads):
    """Set the number of threads of optimizers without `n_threads`; 0: all that OpenMP and the process may use."""
    global requested_threads
    requested_threads = n_threads


def set_available_threads(int n_threads):
    global available_threads
    available_threads = n_threads


def set_stack_bytes(size_t nbytes):
    """Say how large the stack of each of OpenMP's threads is; 0: as large as that of other threads."""
    set_thread_stack(nbytes)


def set_thread_policy(double nanoseconds_per_thread, bint is_adaptive):
    """Set how much work (by `Group.cost`) a thread must have, and whether engines learn; returns the old policy.

    The policy applies to engines that are made afterwards.
    """
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


cdef int affordable_threads(double work, double per_thread, int limit) noexcept nogil:
    """The number of threads that have enough work, by the table of costs; times are in nanoseconds."""
    if forked:
        per_thread *= FORKED
    if work < 2 * per_thread or not FASTOPT_OPENMP:
        return 1
    if limit <= 0:
        limit = default_threads()
    return limit if work >= limit * per_thread else <int>(work / per_thread)


cdef enum:
    WARM_STEPS = 2      # the first steps, ignored for learning: they touch memory for the first time
    PROBE_STEPS = 2     # steps on one thread that measure its time; the first finds the data spread over several caches
    PROBE_EVERY = 128   # steps per thread between probes: probing costs less than one step in a hundred
    SLOW_STEPS = 2      # the number of slow steps in a row that starts a pause
    SETTLING_STEPS = 8  # steps after a step on one thread: threads wake up, data spreads over their caches again
    SHORTEST_PAUSE = 16
    LONGEST_PAUSE = 1024

cdef double SLOW = 1.0  # the largest accepted ratio to the time on one thread
cdef double VERY_SLOW = 4.0  # the same, while threads are settling


@cython.final
cdef class ThreadChoice:
    """Learns whether several threads are faster than one thread for this optimizer on this machine.

    Several threads are faster in a program that does nothing else. They are slower while other programs, or the
    spinning threads of a BLAS, hold the processors: then a step waits for its last thread, which waits for a processor.
    So the engine sometimes times a step on one thread. After two steps in a row on several threads that were slower
    than this, the next 16 steps (later 32, 64... 1,024) use one thread. The first step on several threads after a step
    on one thread is not judged, because the threads may have gone to sleep. The next few steps are judged by a higher
    limit, because each thread finds more and more of its data in its own cache. Times are per unit of work, because a
    step need not update every parameter.
    """

    def __cinit__(self):
        self.until_probe = WARM_STEPS

    cpdef int choose(self, int n_threads) noexcept:
        """The number of threads to use now, at most `n_threads`."""
        return 1 if self.pause > 0 or self.until_probe <= 0 else n_threads

    cpdef void learn(self, int n_threads, int could_use, double time) noexcept:
        """Learn the time of a unit of work on `n_threads` threads, of the `could_use` threads that were possible."""
        if n_threads == 1:
            self.settling = SETTLING_STEPS
        if self.pause > 0:
            self.pause -= 1
            self.serial += (time - self.serial) / 8
        elif n_threads == 1:
            self.probed = time if self.probes == 0 else min(time, self.probed)
            self.probes += 1
            if self.probes == PROBE_STEPS:
                self.serial = self.probed
                self.probes = 0
                self.until_probe = PROBE_EVERY * could_use
        else:
            self.until_probe -= 1
            self.judge(time)

    cdef void judge(self, double time) noexcept:
        """Judge whether a step on several threads was faster than one thread; before the first probe, do nothing."""
        cdef bint waking = self.settling == SETTLING_STEPS, settled = self.settling == 0
        cdef double limit = self.serial * (SLOW if settled else VERY_SLOW)
        self.settling = max(self.settling - 1, 0)
        if self.serial == 0 or waking:
            return
        if time <= limit:
            self.slow = 0
            if settled:
                self.pause_length //= 2
            return
        self.slow += 1
        if self.slow >= SLOW_STEPS:
            self.slow = 0
            self.pause_length = min(max(2 * self.pause_length, SHORTEST_PAUSE), LONGEST_PAUSE)
            self.pause = self.pause_length
