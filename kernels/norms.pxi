# The sum over arrays that belong to no optimizer; part of engine.pyx.

cdef ThreadChoice norms_choice = ThreadChoice()


def add_up_arrays(list arrays, size_t address, int n_threads):
    """The sum over all elements of C-contiguous arrays of one dtype, in the order that engines add: array by array.

    `address` is of a sum that takes no coefficient. On at most so many threads (0: the default); the bits do not depend
    on it.
    """
    cdef Py_ssize_t n = len(arrays), k, block, n_partials = 0
    cdef double total = 0.0, own, work, start = 0.0
    cdef int affordable
    cdef bint learning
    cdef Table table
    cdef Group group
    cdef cnp.ndarray array
    memset(&table, 0, sizeof(Table))
    memset(&group, 0, sizeof(Group))
    group.sum = <sum_function>address
    group.accumulator = -1
    table.groups = &group
    table.adding = True
    table.segments = <Segment *>calloc(max(n, 1), sizeof(Segment))
    table.active = <Active *>calloc(max(n, 1), sizeof(Active))
    table.rows = <Row *>calloc(1, sizeof(Row))
    try:
        if not (table.segments and table.active and table.rows):
            raise MemoryError("no memory for the table of arrays")
        for k in range(n):
            array = arrays[k]
            table.itemsize = cnp.PyArray_ITEMSIZE(array)
            table.segments[k].streams[GRAD] = <char *>cnp.PyArray_DATA(array)
            table.segments[k].size = cnp.PyArray_SIZE(array)
            table.segments[k].first_partial = n_partials
            table.active[k].segment = k
            table.active[k].offset = table.total
            table.total += table.segments[k].size
            n_partials += (table.segments[k].size + SUM_BLOCK - 1) // SUM_BLOCK
        table.n_active = n
        table.partials = <double *>calloc(max(n_partials, 1), sizeof(double))
        if not table.partials:
            raise MemoryError("no memory for partial sums")
        work = table.total * NANOSECONDS_TO_ADD
        affordable = affordable_threads(work, NANOSECONDS_PER_THREAD, n_threads)
        table.n_threads = affordable
        learning = adaptive and affordable > 1
        if learning:
            table.n_threads = norms_choice.choose(affordable)
            start = nanoseconds()
        with nogil:
            run_table(&table)
        if learning:
            norms_choice.learn(table.n_threads, affordable, (nanoseconds() - start) / work)
        for k in range(n):
            own = 0.0
            for block in range((table.segments[k].size + SUM_BLOCK - 1) // SUM_BLOCK):
                own += table.partials[table.segments[k].first_partial + block]
            total += own
        return total
    finally:
        free(table.segments)
        free(table.active)
        free(table.rows)
        free(table.partials)
