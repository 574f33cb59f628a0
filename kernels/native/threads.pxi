# How many threads a step uses; part of engine.pyx. The bits do not depend on any of this, only the time does.

cdef int requested_threads = 0   # set_num_threads
cdef int available_threads = 0   # affinity and quota, where OMP_NUM_THREADS does not say otherwise
cdef double NANOSECONDS_PER_THREAD = 1100.0  # the least work that it pays to wake a thread for
cdef double FORKED = 100.0  # times as much in a forked child, where each step starts its threads anew
cdef double NANOSECONDS_TO_RELEASE = 5000.0  # the least work that it pays to release the GIL for
cdef double NANOSECONDS_TO_ADD = 0.1  # an element to a sum, in cache
cdef bint adaptive = True


def set_requested_threads(int n_threads):
    """What optimizers without `n_threads` use; 0 for as many as OpenMP and the process may use."""
    global requested_threads
    requested_threads = n_threads


def set_available_threads(int n_threads):
    global available_threads
    available_threads = n_threads


def set_thread_policy(double nanoseconds_per_thread, bint is_adaptive):
    """Set how much work (by `Group.cost`) a thread must have, and whether engines learn; returns what it was.

    Engines that are made from then on go by it.
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
    """How many threads have enough to do, by the table of costs; times are in nanoseconds."""
    if forked:
        per_thread *= FORKED
    if work < 2 * per_thread or not FASTOPT_OPENMP:
        return 1
    if limit <= 0:
        limit = default_threads()
    return limit if work >= limit * per_thread else <int>(work / per_thread)


cdef enum:
    WARM_STEPS = 2      # first steps, not learnt from: memory is touched for the first time
    PROBE_STEPS = 2     # so many steps on one thread show what that takes; the first finds the caches shared out
    PROBE_EVERY = 128   # times the number of threads: what probing costs is less than one step in a hundred
    SLOW_STEPS = 2      # so many slow steps in a row make a pause
    SETTLING_STEPS = 8  # steps after one thread alone: sleeping threads wake, caches are shared out again
    SHORTEST_PAUSE = 16
    LONGEST_PAUSE = 1024

cdef double SLOW = 1.0  # a thread more has to be worth it
cdef double VERY_SLOW = 4.0  # while threads are settling


@cython.final
cdef class ThreadChoice:
    """Learns whether several threads are faster than one where this optimizer runs.

    They are in a program that does nothing else. They are not while other programs, or the spinning threads of a BLAS,
    hold the processors: then a step waits for its last thread, which waits for a processor. So now and then a step on
    one thread is timed, and after two steps in a row that were slower than that on several threads, the next 16 (later
    32, 64... 1,024) use one. The first step on several threads after one alone is not judged, since they may have gone
    to sleep, and the next few only by a higher limit: each finds more of its data in its own cache. Times are per unit of
    work, because a step need not update every parameter.
    """

    def __cinit__(self):
        self.until_probe = WARM_STEPS

    cpdef int choose(self, int n_threads) noexcept:
        """How many of these threads to use now."""
        return 1 if self.pause > 0 or self.until_probe <= 0 else n_threads

    cpdef void learn(self, int n_threads, int could_use, double time) noexcept:
        """What a unit of work took on so many threads, of those that it could have used."""
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
        """Whether a step on several threads was worth it; nothing is known before the first probe."""
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
