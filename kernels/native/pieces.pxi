# Sums and changes of memory outside of any optimizer, piece by piece; part of engine.pyx.

cdef ThreadChoice pieces_choice = ThreadChoice()


@cython.final
cdef class Pieces:
    """Contiguous pieces of memory, all of one dtype, or of one format: `codec` is a `plan.Codec`.

    Sums are computed in the order in which engines add: piece by piece. `n_threads` is the largest number of threads,
    0 for the default; the bits of a result do not depend on it. The caller keeps the memory of its pieces alive.
    """

    def __cinit__(self, Py_ssize_t capacity, Py_ssize_t itemsize, codec=None):
        self.capacity = capacity
        self.layout = NULL
        self.table = <Table *>calloc(1, sizeof(Table))
        if not self.table:
            raise MemoryError("no memory for the table of pieces")
        self.table.itemsize = itemsize
        self.table.groups = <Group *>calloc(1, sizeof(Group))
        self.table.segments = <Segment *>calloc(max(capacity, 1), sizeof(Segment))
        self.table.active = <Active *>calloc(max(capacity, 1), sizeof(Active))
        self.table.coefficients = <Coefficients *>calloc(1, sizeof(Coefficients))
        if not (self.table.groups and self.table.segments and self.table.active and self.table.coefficients):
            raise MemoryError("no memory for the table of pieces")
        self.table.groups[0].accumulator = -1
        if codec is not None:
            self.table.itemsize = sizeof(float)
            self.layout = <Layout *>calloc(1, sizeof(Layout))
            if not self.layout or not reserve_scratch(self.table, 1):
                raise MemoryError("no memory for the table of pieces")
            form = PlannedForm("piece", np_dtype(f"u{itemsize}"), codec)
            read_layout(self.layout, (form, form))

    def __dealloc__(self):
        if self.table:
            free(self.table.groups)
            free(self.table.segments)
            free(self.table.active)
            free(self.table.coefficients)
            free(self.table.partials)
            free(self.table.scratch_memory)
        free(self.table)
        free(self.layout)

    cdef int append(self, char *address, Py_ssize_t size) except -1:
        cdef Py_ssize_t k = self.table.n_active
        if k == self.capacity:
            raise IndexError(f"there is only room for {self.capacity} pieces")
        self.table.segments[k].operands[PARAM] = self.table.segments[k].operands[GRAD] = address
        self.table.segments[k].size = size
        self.table.segments[k].layout = self.layout
        self.table.segments[k].boundary = BOUNDARY
        self.table.segments[k].first_partial = self.n_partials
        self.table.active[k].segment = k
        self.table.active[k].offset = self.table.total
        self.table.total += size
        self.n_partials += (size + SUM_BLOCK - 1) // SUM_BLOCK
        self.table.n_active += 1
        return 0

    def append_array(self, cnp.ndarray array):
        """Add a C-contiguous array."""
        self.append(<char *>cnp.PyArray_DATA(array), cnp.PyArray_SIZE(array))

    def add_up(self, size_t address, int n_threads):
        """The sum over all elements; `address` is the address of a sum that takes no coefficient."""
        cdef Py_ssize_t k, block
        cdef double total = 0.0, own
        cdef floating_point_mode caller
        self.table.partials = <double *>calloc(max(self.n_partials, 1), sizeof(double))
        if not self.table.partials:
            raise MemoryError("no memory for partial sums")
        self.table.groups[0].sum = <sum_function>address
        self.table.adding = True
        caller = enter_mode(False)
        self.run(n_threads)
        for k in range(self.table.n_active):
            own = 0.0
            for block in range((self.table.segments[k].size + SUM_BLOCK - 1) // SUM_BLOCK):
                own += self.table.partials[self.table.segments[k].first_partial + block]
            total += own
        leave_mode(caller)
        free(self.table.partials)
        self.table.partials = NULL
        return total

    def change(self, size_t address, tuple coefficients, int n_threads):
        """Call a loop with one operand on each piece; `address` is the address of the loop."""
        cdef Program *program = &self.table.groups[0].programs[0]
        program.n_operations = 1
        program.plain = True
        program.operations[0].loop = <loop_function>address
        program.operations[0].n_operands = 1
        program.operations[0].operands[0] = PARAM
        program.operations[0].written = 1 << PARAM
        cdef Py_ssize_t n_coefficients = len(coefficients)
        cdef double given[MAX_COEFFICIENTS]
        if n_coefficients > MAX_COEFFICIENTS:
            raise ValueError(f"too many coefficients: {n_coefficients}")
        for k, value in enumerate(coefficients):
            given[k] = value
        cdef floating_point_mode caller = enter_mode(False)
        for k in range(n_coefficients):
            if self.table.itemsize == 4:
                self.table.coefficients[0].single[k] = <float>given[k]
            else:
                self.table.coefficients[0].full[k] = given[k]
        self.table.adding = False
        self.table.backwards = True  # The elements that were added up last may still be in a cache.
        self.run(n_threads)
        self.table.backwards = False
        leave_mode(caller)

    cdef void run(self, int n_threads) noexcept:
        cdef double work = self.table.total * NANOSECONDS_TO_ADD
        cdef int affordable = affordable_threads(work, NANOSECONDS_PER_THREAD, n_threads)
        cdef bint learning = adaptive and affordable > 1
        cdef double start = nanoseconds()
        self.table.n_threads = pieces_choice.choose(affordable) if learning else affordable
        with nogil:
            run_table(self.table)
        if learning:
            pieces_choice.learn(self.table.n_threads, affordable, (nanoseconds() - start) / work)


def add_up_arrays(list arrays, size_t address, int n_threads):
    """The sum over all elements of C-contiguous arrays of one dtype; see `Pieces.add_up`."""
    cdef Pieces pieces = Pieces(len(arrays), arrays[0].itemsize if arrays else 8)
    for array in arrays:
        pieces.append_array(array)
    return pieces.add_up(address, n_threads)


def change_arrays(list arrays, size_t address, tuple coefficients, int n_threads):
    """Call a loop with one operand, `(operand, *coefficients)`, on each of these arrays; see `Pieces.change`."""
    cdef Pieces pieces = Pieces(len(arrays), arrays[0].itemsize if arrays else 8)
    for array in arrays:
        pieces.append_array(array)
    pieces.change(address, coefficients, n_threads)
