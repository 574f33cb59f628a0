# Checks of the arrays that a step works on, because other code can change them; part of engine.pyx.

cdef struct Guard:
    cnp.PyArrayObject *array
    void *data
    Py_ssize_t nbytes

cdef struct GradientForm:
    int type_number
    Py_ssize_t itemsize
    int direct_type_number      # the same for a gradient that loops read directly
    Py_ssize_t direct_itemsize

cdef struct Span:
    char *begin
    char *end


cdef int by_begin(const void *a, const void *b) noexcept nogil:
    cdef char *first = (<const Span *>a).begin
    cdef char *second = (<const Span *>b).begin
    return (first > second) - (first < second)


@cython.final
cdef class WatchedArrays:
    """Checks that arrays stay at their addresses, and checks gradients before they are read.

    Each gradient is of its own dtype in `gradient_dtypes`, or of `direct_dtype`, in which loops compute. `zeroed` says
    that gradients are also written; `reject(index, gradient)` raises the error that says what is wrong,
    or returns the array that stands for a scalar.
    """

    def __cinit__(self, list segments, list gradient_dtypes, direct_dtype, bint zeroed, reject):
        cdef Py_ssize_t index
        self.n_params = len(segments)
        self.params = [segment.param for segment in segments]
        self.kept = with_owners(self.params) + owners([state for segment in segments for state in segment.states])
        self.zeroed = zeroed
        self.reject = reject
        self.accepted = <char **>calloc(max(self.n_params, 1), sizeof(char *))
        self.direct = <char *>calloc(max(self.n_params, 1), sizeof(char))
        self.spans = <Span *>calloc(max(self.n_params, 1), sizeof(Span))
        self.forms = <GradientForm *>calloc(max(self.n_params, 1), sizeof(GradientForm))
        if not (self.accepted and self.direct and self.spans and self.forms):
            raise MemoryError("no memory for the table of segments")
        for index, dtype in enumerate(gradient_dtypes):
            self.forms[index].type_number = dtype.num
            self.forms[index].itemsize = dtype.itemsize
            self.forms[index].direct_type_number = direct_dtype.num
            self.forms[index].direct_itemsize = direct_dtype.itemsize
        self.watch(())
        self.set_intervals(segments)

    def __dealloc__(self):
        free(self.guards)
        free(self.intervals)
        free(self.accepted)
        free(self.direct)
        free(self.spans)
        free(self.forms)

    cdef int watch(self, gradients) except -1:
        """Watch these gradients, all that the engine keeps, and the arrays that own their memory: none may move now."""
        watched = self.kept + with_owners(gradients)
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

    cdef Guard *moved(self) noexcept:
        """A watched array that has moved or changed its size, or NULL."""
        cdef Py_ssize_t index
        cdef Guard *guard = self.guards
        for index in range(self.n_guards):
            if cnp.PyArray_DATA(<object>guard.array) != guard.data:
                return guard
            if cnp.PyArray_NBYTES(<object>guard.array) != guard.nbytes:
                return guard
            guard += 1
        return NULL

    cdef int check(self) except -1:
        """Raise if a watched array has moved or changed its size."""
        cdef Guard *guard = self.moved()
        if guard != NULL:
            raise RuntimeError(resized_message(<object>guard.array))
        return 0

    cdef int set_intervals(self, list segments) except -1:
        spans = []
        cdef cnp.ndarray array
        for segment in segments:
            for array in (segment.param, *segment.states):
                begin = <uintptr_t>cnp.PyArray_DATA(array)
                if cnp.PyArray_NBYTES(array):
                    spans.append((begin, begin + cnp.PyArray_NBYTES(array)))
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
        """Check each gradient and note its address; a gradient that fails a check goes to `reject`.

        What `reject` returns takes the gradient's place in the list, which keeps it alive.
        """
        cdef Py_ssize_t index
        if len(gradients) != self.n_params:
            raise ValueError(f"expected {self.n_params} gradients, got {len(gradients)}")
        for index in range(self.n_params):
            item = gradients[index]
            if item is None:
                self.accepted[index] = NULL
            elif not self.take(index, item):
                gradients[index] = self.reject(index, item)
                if not self.take(index, gradients[index]):
                    raise RuntimeError(f"gradient {index} is not usable")
        if self.zeroed:
            self.check_apart()
        return 0

    cdef int take(self, Py_ssize_t index, item) except -1:
        """Note the address of a gradient and return 1, or return 0 if the gradient fails a check."""
        cdef Py_ssize_t axis
        cdef cnp.ndarray gradient, param
        cdef char *begin
        if not isinstance(item, cnp.ndarray):
            return 0
        if not cnp.PyArray_CheckExact(item) and is_masked(item):
            return 0
        gradient = item
        param = self.params[index]
        self.direct[index] = cnp.PyArray_TYPE(gradient) == self.forms[index].direct_type_number
        if not (
            (self.direct[index] or cnp.PyArray_TYPE(gradient) == self.forms[index].type_number)
            and (cnp.PyArray_ISCARRAY(gradient) if self.zeroed else cnp.PyArray_ISCARRAY_RO(gradient))
            and cnp.PyArray_NDIM(gradient) == cnp.PyArray_NDIM(param)
        ):
            return 0
        for axis in range(cnp.PyArray_NDIM(param)):
            if cnp.PyArray_DIM(gradient, axis) != cnp.PyArray_DIM(param, axis):
                return 0
        begin = <char *>cnp.PyArray_DATA(gradient)
        self.accepted[index] = begin
        return not self.is_written(begin, begin + cnp.PyArray_NBYTES(gradient))

    cdef int check_apart(self) except -1:
        """Raise if gradients share memory when a step zeroes them: one would be zeroed before another is read."""
        cdef Py_ssize_t index, n_spans = 0
        cdef cnp.ndarray param
        cdef bint sorted_already = True
        for index in range(self.n_params):
            param = self.params[index]
            if self.accepted[index] == NULL or cnp.PyArray_SIZE(param) == 0:
                continue
            self.spans[n_spans].begin = self.accepted[index]
            self.spans[n_spans].end = (
                self.accepted[index]
                + cnp.PyArray_SIZE(param)
                * (self.forms[index].direct_itemsize if self.direct[index] else self.forms[index].itemsize)
            )
            if n_spans and self.spans[n_spans].begin < self.spans[n_spans - 1].begin:
                sorted_already = False
            n_spans += 1
        if not sorted_already:
            qsort(self.spans, n_spans, sizeof(Span), by_begin)
        for index in range(1, n_spans):
            if self.spans[index].begin < self.spans[index - 1].end:
                raise ValueError(SHARED)
        return 0
