# The table that a step works on, and the walk over it; part of engine.pyx. Nothing here can fail or needs the GIL.

cdef struct Stage:
    coefficient_function function
    double arguments[MAX_ARGUMENTS]
    int positions[N_ENGINE_ARGUMENTS]  # of the arguments that each step sets; -1: not an argument
    int carried[MAX_CARRIED]    # positions of the carried numbers; -1: not an argument
    int common[MAX_COMMON]      # positions of the common numbers; -1: not an argument
    int sums[MAX_SUMS]          # positions of the rule's sums; -1: not an argument
    int numel                   # position of the number of elements; -1: not an argument

cdef struct Operation:
    loop_function loop
    int n_operands
    int operands[MAX_LOOP_OPERANDS]
    int first_coefficient
    int written                 # the operands that it writes, a bit for each

cdef struct Program:
    int n_operations
    bint plain                  # a single operation, over the segment's own operands in their order
    Operation operations[MAX_OPERATIONS]
    int n_coefficients
    int pick[MAX_COEFFICIENTS]  # the results of stages that the operations take, in their order
    bfloat16_loop_function over_bfloat16[2]  # of a plain program, if all operands are bfloat16: to nearest, stochastically

cdef struct RowOperation:
    sum_function sum
    coefficient_function function
    double argument
    loop_function loop
    double start
    bint iterates

cdef struct OperandForm:        # the memory format of an operand: plan.OperandForm
    decode_function decode      # NULL: loops read it directly
    encode_function encode
    Py_ssize_t itemsize
    bint stochastic
    bint has_base
    int rest                    # the operand with the rest of each element, or -1

cdef struct Layout:             # the forms of all operands of a segment
    int n_operands
    OperandForm forms[MAX_OPERANDS]
    double element_bytes        # of all operands together
    double cost                 # nanoseconds to decode and encode an element
    Py_ssize_t block            # elements that no two threads share
    int all_bfloat16            # whether all operands are bfloat16: 1 + the index in Program.over_bfloat16, or 0

cdef struct Group:
    double cost                 # nanoseconds per element on one thread, in cache; decides the number of threads
    double lr
    int n_operands
    double element_bytes        # of all operands together, where loops read them directly
    int n_stages
    Stage stages[MAX_STAGES]
    Program programs[N_PROGRAMS]
    int n_row_operations
    int rows_after              # how many operations of an update come before the row operations
    RowOperation row_operations[MAX_ROW_OPERATIONS]
    sum_function sum            # of the gradient, before the update; or NULL
    bint sum_of_squares
    double limit
    double clip_norm
    int accumulator
    int carried[MAX_CARRIED]    # for each carried number, the result of a stage that is its next value
    int common[MAX_COMMON]      # the same for each common number
    int n_sums                  # of the rule, over terms that the program TERMS computes
    bint over_all[MAX_SUMS]     # whether each is over all segments

cdef struct Segment:
    char *operands[MAX_OPERANDS]  # the parameter, its gradient (NULL: none this step), each state
    Py_ssize_t size
    Py_ssize_t numel            # of the whole parameter, if it is a part of one
    Py_ssize_t row              # elements that stay together, or 0
    Py_ssize_t first_partial    # the index of its first partial sum
    double total                # the sum over its gradient
    double lr                   # of this step
    int group
    bint pending                # holds gradients accumulated in earlier calls
    const Layout *layout        # NULL: loops read all operands directly
    bint direct_gradient        # whether loops read this step's gradient directly, whatever the layout says
    uint32_t *keys              # for the random bits of each operand, or NULL
    Py_ssize_t number           # which parameter of the optimizer it is
    uint32_t offset             # the number of its first element, for random bits
    Py_ssize_t boundary         # threads split it at multiples of this many elements

cdef struct Active:
    Py_ssize_t segment
    Py_ssize_t offset           # elements in all active segments before this one
    Py_ssize_t coefficients     # an index into the table's coefficients

cdef union Coefficients:        # a program's coefficients, shared by segments with equal ones
    float single[MAX_COEFFICIENTS]
    double full[MAX_COEFFICIENTS]

cdef struct Table:
    Group *groups
    Segment *segments
    Active *active
    Coefficients *coefficients
    double *partials
    sum_function counting       # replaces the groups' own sums, unless NULL
    Py_ssize_t n_active
    Py_ssize_t total
    Py_ssize_t itemsize         # of the elements that loops compute with, of coefficients, and of a thread's own blocks
    Py_ssize_t prefetch
    uint32_t *keys              # MAX_OPERANDS for each segment, if any is rounded stochastically; or NULL
    char *scratch               # SCRATCH_BYTES for each of n_scratch threads, for the thread's own blocks
    char *scratch_memory        # the allocation that it is in
    int n_scratch
    int flush
    int n_threads
    int finished                # the number of threads that have done their part
    int program
    bint backwards              # goes through the elements from the last to the first, block by block
    bint adding                 # adds up the gradients, and writes only partial sums
    bint beyond_cache           # its operands are more than the processor's caches hold
    double *term_partials       # MAX_SUMS for each BLOCK of terms, if a rule has sums
    Py_ssize_t *first_term      # for each segment, the index of its first BLOCK among all


cdef enum:
    TERMS_OFFSET = (MAX_OPERANDS + 2) * BLOCK * 4  # after decoded operands
    TERM_BYTES = LANES * 8  # of partial sums of one term
    SCRATCH_BYTES = TERMS_OFFSET + SUM_BLOCK * 8  # for sums; MAX_SUMS * TERM_BYTES are not more
    # Not on the stack, which can be as small as 16 kB for a thread of OpenMP's.


cdef bint reserve_scratch(Table *table, int n_threads) noexcept nogil:
    """Allocate memory for the threads' own blocks, unless there is enough; whether there is enough now."""
    if n_threads <= table.n_scratch:
        return True
    cdef char *memory = <char *>malloc(<size_t>n_threads * SCRATCH_BYTES + CACHE_LINE)
    if memory == NULL:
        return False
    free(table.scratch_memory)
    table.scratch_memory = memory
    table.scratch = memory + (CACHE_LINE - <uintptr_t>memory % CACHE_LINE)
    table.n_scratch = n_threads
    return True


cdef inline char *operand_at(const Table *table, const Segment *segment, int operand, Py_ssize_t element) noexcept nogil:
    """The address of an element of an operand, or of its code."""
    if element == 0:  # true for most segments: they are done in one piece
        return segment.operands[operand]
    if segment.layout != NULL and not (operand == GRAD and segment.direct_gradient):
        return segment.operands[operand] + element * segment.layout.forms[operand].itemsize
    return segment.operands[operand] + element * table.itemsize


cdef inline void run_operations(
    Table *table, Segment *segment, const Coefficients *coefficients, const Program *program, int begin, int end,
    Py_ssize_t first, Py_ssize_t size, char *prepared, char *clipped, char *terms
) noexcept nogil:
    """Run operations [begin, end) of a program on elements [first, first + size).

    Skips operations on the gradient if it is missing.
    """
    cdef void *operands[MAX_LOOP_OPERANDS]
    cdef const Operation *operation
    cdef int k, each, operand
    cdef bint missing
    for k in range(begin, end):
        operation = &program.operations[k]
        missing = False
        for each in range(operation.n_operands):
            operand = operation.operands[each]
            if operand == PREPARED:
                operands[each] = prepared
            elif operand == CLIPPED:
                operands[each] = clipped
            elif operand < 0:
                operands[each] = terms + (FIRST_TERM - operand) * TERM_BYTES
            else:
                missing = missing or segment.operands[operand] == NULL
                operands[each] = operand_at(table, segment, operand, first)
        if not missing:
            operation.loop(
                operands, size, <const char *>coefficients + operation.first_coefficient * table.itemsize, table.prefetch
            )


cdef inline char *gathered(const Table *table, const Group *group, Segment *segment, Py_ssize_t first, char *prepared) noexcept nogil:
    """The address of the gathered gradient: the accumulator itself if this call has no gradient, else `prepared`."""
    if segment.operands[GRAD] == NULL and segment.pending:
        return operand_at(table, segment, group.accumulator, first)
    return prepared


cdef void run_row_operation(Table *table, const RowOperation *operation, Segment *segment, Py_ssize_t first,
                            char *scratch, uint32_t again) noexcept nogil:
    """An operation on the row that begins at an element, SUM_BLOCK elements at a time.

    If the parameter is coded, the row is read as it is stored, and rounded once more; see `encode` for `again`.
    """
    cdef double arguments[4]
    cdef double block[2]
    cdef double coefficient = operation.start, count = segment.row + 1
    cdef float single
    cdef void *operands[1]
    cdef const void *passed = &coefficient
    cdef Py_ssize_t start, size, last = first + segment.row
    cdef bint coded = segment.layout != NULL and is_coded(segment, PARAM)
    arguments[2] = operation.argument
    arguments[3] = segment.lr
    while True:
        arguments[0] = arguments[1] = block[1] = 0
        start = first
        while start < last:
            size = min(<Py_ssize_t>SUM_BLOCK, last - start)
            if coded:
                decode(table, segment, PARAM, start, size, scratch)
            operation.sum(scratch if coded else operand_at(table, segment, PARAM, start), size, coefficient, block)
            arguments[0] += block[0]
            arguments[1] += block[1]
            start += SUM_BLOCK
        operation.function(arguments, &coefficient)
        if not operation.iterates or arguments[1] >= count or arguments[1] == 0:
            break
        count = arguments[1]
    if table.itemsize == 4:
        single = <float>coefficient
        passed = &single
    start = first
    while start < last:
        size = min(<Py_ssize_t>SUM_BLOCK, last - start)
        operands[0] = scratch if coded else operand_at(table, segment, PARAM, start)
        if coded:
            decode(table, segment, PARAM, start, size, scratch)
        operation.loop(operands, size, passed, 0)
        if coded:
            encode(table, segment, PARAM, start, size, scratch, again)
        start += SUM_BLOCK


cdef void run_blocks(Table *table, Segment *segment, const Coefficients *coefficients, Py_ssize_t first, Py_ssize_t last,
                     char *scratch) noexcept nogil:
    """Run a program of several operations, block by block; row operations follow each block of whole rows."""
    cdef char *prepared = scratch
    cdef char *clipped = scratch + BLOCK * 8
    cdef Group *group = &table.groups[segment.group]
    cdef Program *program = &group.programs[table.program]
    cdef Py_ssize_t step = BLOCK, begin = first, end, start, size
    cdef bint with_rows = segment.row > 0 and table.program == UPDATE
    cdef int k, before_rows = program.n_operations
    if with_rows:
        before_rows = group.rows_after
        step = segment.row if segment.row >= BLOCK else BLOCK // segment.row * segment.row
    while begin < last:
        end = min(begin + step, last)
        start = begin
        while start < end:
            size = min(<Py_ssize_t>BLOCK, end - start)
            run_operations(table, segment, coefficients, program, 0, before_rows, start, size,
                           gathered(table, group, segment, start, prepared), clipped, NULL)
            start += BLOCK
        if with_rows:
            start = begin
            while start < end:
                for k in range(group.n_row_operations):
                    run_row_operation(table, &group.row_operations[k], segment, start, NULL, 0)
                start += segment.row
            run_operations(table, segment, coefficients, program, before_rows, program.n_operations, begin, end - begin,
                           NULL, NULL, NULL)
        begin = end


include "coded.pxi"


cdef void add_up_gradient(Table *table, Segment *segment, const Coefficients *coefficients, Py_ssize_t first,
                          Py_ssize_t last, char *prepared) noexcept nogil:
    """Compute partial sums over the gradient, or over the accumulated gradient; writes only partial sums."""
    cdef double results[2]
    cdef Group *group = &table.groups[segment.group]
    cdef sum_function sum = table.counting if table.counting != NULL else group.sum
    cdef char *elements
    cdef Py_ssize_t start = first, size
    if sum == NULL:
        return
    while start < last:
        size = min(<Py_ssize_t>SUM_BLOCK, last - start)
        if segment.layout != NULL:
            elements = coded_gradient(table, segment, coefficients, start, size, prepared)
        elif group.accumulator < 0:
            elements = operand_at(table, segment, GRAD, start)
        else:  # The first operation gathers.
            elements = gathered(table, group, segment, start, prepared)
            run_operations(
                table, segment, coefficients, &group.programs[table.program], 0, 1, start, size, prepared, NULL, NULL
            )
        sum(elements, size, group.limit, results)
        table.partials[segment.first_partial + start // SUM_BLOCK] = results[0]
        start += SUM_BLOCK


cdef void add_up_terms(Table *table, Segment *segment, const Coefficients *coefficients, Py_ssize_t first,
                       Py_ssize_t last, char *scratch) noexcept nogil:
    """Compute partial sums over the terms of the rule's sums; writes only partial sums."""
    cdef Group *group = &table.groups[segment.group]
    cdef Program *program = &group.programs[TERMS]
    cdef char *terms = scratch + TERMS_OFFSET
    cdef double *partials
    cdef double *lanes
    cdef Py_ssize_t size, lane, half
    cdef int k
    if group.n_sums == 0:
        return
    while first < last:
        size = min(<Py_ssize_t>BLOCK, last - first)
        memset(terms, 0, group.n_sums * TERM_BYTES)
        if segment.layout != NULL:
            coded_terms(table, segment, coefficients, program, first, size, scratch, terms)
        else:
            run_operations(
                table, segment, coefficients, program, 0, program.n_operations, first, size,
                gathered(table, group, segment, first, scratch), scratch + BLOCK * 8, terms
            )
        partials = table.term_partials + (table.first_term[segment - table.segments] + first // BLOCK) * MAX_SUMS
        for k in range(group.n_sums):
            lanes = <double *>(terms + k * TERM_BYTES)
            half = LANES // 2
            while half > 0:
                for lane in range(half):
                    lanes[lane] += lanes[lane + half]
                half = half // 2
            partials[k] = lanes[0]
        first += BLOCK


cdef void run_segment(Table *table, Active *active, Py_ssize_t first, Py_ssize_t last, char *scratch) noexcept nogil:
    cdef Segment *segment = &table.segments[active.segment]
    cdef Group *group = &table.groups[segment.group]
    cdef Program *program = &group.programs[table.program]
    cdef const Coefficients *coefficients = &table.coefficients[active.coefficients]
    if table.adding and table.program == TERMS:
        add_up_terms(table, segment, coefficients, first, last, scratch)
    elif table.adding:
        add_up_gradient(table, segment, coefficients, first, last, scratch)
    elif segment.layout != NULL:
        run_coded(table, segment, coefficients, first, last, scratch)
    elif program.plain and segment.row == 0:
        run_operations(table, segment, coefficients, program, 0, 1, first, last - first, NULL, NULL, NULL)
    else:
        run_blocks(table, segment, coefficients, first, last, scratch)


cdef void run_elements(Table *table, Py_ssize_t start, Py_ssize_t stop, char *scratch) noexcept nogil:
    """Work on elements [start, stop) of all active segments laid end to end; both ends are moved to a boundary."""
    cdef Py_ssize_t low = 0, high = table.n_active, middle, k, first, last, boundary
    cdef Active *active
    cdef Segment *segment
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
        boundary = SUM_BLOCK if table.adding else segment.boundary
        first = 0
        if start > active.offset:
            first = (start - active.offset) // boundary * boundary
        last = segment.size
        if stop < active.offset + segment.size:
            last = (stop - active.offset) // boundary * boundary
        if first < last:
            run_segment(table, active, first, last, scratch)


cdef void run_part(Table *table, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    """Work on a part of the table, in the floating-point mode of the caller."""
    cdef Py_ssize_t start = <Py_ssize_t>(<double>table.total * part / parts)
    cdef Py_ssize_t stop = <Py_ssize_t>(<double>table.total * (part + 1) / parts)
    cdef Py_ssize_t low
    cdef char *scratch = table.scratch + part * SCRATCH_BYTES
    if part + 1 == parts:
        stop = table.total
    if table.backwards:
        while stop > start:
            low = max(start, stop - BACKWARDS_BLOCK)
            run_elements(table, low, stop, scratch)
            stop = low
    else:
        run_elements(table, start, stop, scratch)


cdef void run_part_in_mode(Table *table, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    """The same in the mode of a step: for threads of OpenMP's, which have modes of their own."""
    cdef floating_point_mode caller = enter_mode(table.flush)
    run_part(table, part, parts)
    leave_mode(caller)


cdef void *run_threads(void *argument) noexcept nogil:
    cdef Table *table = <Table *>argument
    cdef int n_threads = possible_threads(table.n_threads)
    if n_threads <= 1:
        run_part_in_mode(table, 0, 1)
        return NULL
    table.finished = 0
    with parallel(num_threads=n_threads):
        # The runtime may provide fewer threads than requested.
        run_part_in_mode(table, omp_get_thread_num(), omp_get_num_threads())
        note_finished(&table.finished)
        if omp_get_thread_num() == 0:
            note_team(omp_get_num_threads())
            await_finished(&table.finished, omp_get_num_threads())
    return NULL


cdef void run_table(Table *table) noexcept nogil:
    """Work on the whole table, on the table's number of threads; the caller has entered the mode of the step."""
    if table.n_threads > 1 and not reserve_scratch(table, table.n_threads):
        table.n_threads = 1
    if table.n_threads <= 1:
        run_part(table, 0, 1)
    elif not forked:
        run_threads(table)
    elif not call_from_new_thread(run_threads, table):
        run_part(table, 0, 1)
