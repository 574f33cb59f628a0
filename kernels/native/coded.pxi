# Segments whose operands are stored in other formats than loops compute in; part of engine.pyx.
#
# A block of each operand is decoded into the thread's own memory when the first operation needs it, and encoded after
# the last one. Such segments compute in float32.

cdef enum:
    SLOT_BYTES = CODED_BLOCK * 4  # of decoded elements; CODED_BLOCK is a multiple of CODEC_BLOCK


cdef inline bint is_coded(const Segment *segment, int operand) noexcept nogil:
    return segment.layout.forms[operand].decode != NULL and not (operand == GRAD and segment.direct_gradient)


cdef inline char *what_else(const Segment *segment, int operand, Py_ssize_t element) noexcept nogil:
    """Where the rest of an element is, or the base of its block; NULL for formats without."""
    cdef const OperandForm *form = &segment.layout.forms[operand]
    if form.rest >= 0:
        return segment.operands[form.rest] + element * form.itemsize
    if form.has_base:
        return (
            segment.operands[operand]
            + (segment.size + CODEC_BLOCK - 1) // CODEC_BLOCK * CODEC_BLOCK * form.itemsize
            + element // CODEC_BLOCK
        )
    return NULL


cdef inline void decode(Table *table, const Segment *segment, int operand, Py_ssize_t first, Py_ssize_t size,
                        char *elements) noexcept nogil:
    segment.layout.forms[operand].decode(
        operand_at(table, segment, operand, first), what_else(segment, operand, first), size, elements
    )


cdef inline void encode(Table *table, const Segment *segment, int operand, Py_ssize_t first, Py_ssize_t size,
                        const char *elements, uint32_t again) noexcept nogil:
    """Encode elements; `again` is 0 for the first time in a step, and then 1, 2...: other random bits."""
    cdef uint32_t key = segment.keys[operand] if segment.keys != NULL else 0
    segment.layout.forms[operand].encode(
        elements, size, operand_at(table, segment, operand, first), what_else(segment, operand, first),
        combined_key_word(key, again) if again else key, segment.offset + <uint32_t>first
    )


cdef inline int prefetch_codes(const Table *table, const Segment *segment, int operand, Py_ssize_t first,
                               Py_ssize_t size) noexcept nogil:
    """Ask for the codes of elements [first, first + size) of an operand; which operand is next.

    Processors find out by themselves what loops read directly.
    """
    cdef const char *address
    cdef const char *end
    if operand < segment.layout.n_operands and segment.operands[operand] != NULL and is_coded(segment, operand):
        address = operand_at(table, segment, operand, first)
        end = operand_at(table, segment, operand, first + size)
        while address < end:
            prefetch_line(address)
            address += CACHE_LINE
    return operand + 1


cdef void run_coded_operations(
    Table *table, Segment *segment, const Coefficients *coefficients, const Program *program, int begin, int end,
    Py_ssize_t first, Py_ssize_t size, char *prepared, char *clipped, char *slots, Py_ssize_t ahead, char *terms
) noexcept nogil:
    """Run operations [begin, end) of a program on elements [first, first + size), at most CODED_BLOCK of them.

    Meanwhile the memory system fetches `ahead` elements that follow: of one operand before each operation and each
    encoding, since it stalls when asked for much at once.
    """
    cdef int next_operand = 0
    cdef uint32_t again = 0 if begin == 0 else MAX_ROW_OPERATIONS + 1  # after operations on rows
    cdef void *operands[MAX_LOOP_OPERANDS]
    cdef const Operation *operation
    cdef int k, each, operand, decoded = 0, written = 0
    cdef bint missing
    for k in range(begin, end):
        operation = &program.operations[k]
        missing = False
        for each in range(operation.n_operands):
            operand = operation.operands[each]
            missing = missing or (operand >= 0 and segment.operands[operand] == NULL)
        if missing:
            continue
        for each in range(operation.n_operands):
            operand = operation.operands[each]
            if operand == PREPARED:
                operands[each] = prepared
            elif operand == CLIPPED:
                operands[each] = clipped
            elif operand < 0:
                operands[each] = terms + (FIRST_TERM - operand) * TERM_BYTES
            elif is_coded(segment, operand):
                operands[each] = slots + operand * SLOT_BYTES
                if not decoded >> operand & 1:
                    decode(table, segment, operand, first, size, slots + operand * SLOT_BYTES)
                    decoded |= 1 << operand
            else:
                operands[each] = operand_at(table, segment, operand, first)
        if ahead > 0:
            next_operand = prefetch_codes(table, segment, next_operand, first + size, ahead)
        operation.loop(operands, size, <const char *>coefficients + operation.first_coefficient * table.itemsize, 0)
        written |= operation.written
    for operand in range(segment.layout.n_operands):
        if decoded >> operand & 1 and written >> operand & 1:
            if ahead > 0:
                next_operand = prefetch_codes(table, segment, next_operand, first + size, ahead)
            encode(table, segment, operand, first, size, slots + operand * SLOT_BYTES, again)
    if ahead > 0:
        while next_operand < segment.layout.n_operands:
            next_operand = prefetch_codes(table, segment, next_operand, first + size, ahead)


cdef void run_coded_blocks(
    Table *table, Segment *segment, const Coefficients *coefficients, const Program *program, int begin, int end,
    Py_ssize_t first, Py_ssize_t last, char *scratch
) noexcept nogil:
    cdef char *prepared = scratch + MAX_OPERANDS * SLOT_BYTES
    cdef Group *group = &table.groups[segment.group]
    while first < last:
        run_coded_operations(
            table, segment, coefficients, program, begin, end, first, min(<Py_ssize_t>CODED_BLOCK, last - first),
            gathered(table, group, segment, first, prepared), prepared + SLOT_BYTES, scratch,
            min(<Py_ssize_t>CODED_BLOCK, last - first - CODED_BLOCK) if table.beyond_cache else 0, NULL
        )
        first += CODED_BLOCK


cdef inline bint runs_over_bfloat16(const Segment *segment, const Program *program) noexcept nogil:
    """Whether the one loop of a program can decode and encode by itself."""
    cdef int kind = segment.layout.all_bfloat16
    return (
        kind and program.over_bfloat16[kind - 1] != NULL
        and segment.row == 0 and not segment.direct_gradient and segment.operands[GRAD] != NULL
    )


cdef void run_over_bfloat16(Table *table, Segment *segment, const Coefficients *coefficients, const Program *program,
                            Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    cdef void *operands[MAX_LOOP_OPERANDS]
    cdef const Operation *operation = &program.operations[0]
    cdef int each
    for each in range(operation.n_operands):
        operands[each] = operand_at(table, segment, each, first)
    program.over_bfloat16[segment.layout.all_bfloat16 - 1](
        operands, last - first, <const char *>coefficients + operation.first_coefficient * table.itemsize,
        segment.keys, segment.offset + <uint32_t>first
    )


cdef void run_coded(Table *table, Segment *segment, const Coefficients *coefficients, Py_ssize_t first, Py_ssize_t last,
                    char *scratch) noexcept nogil:
    """Run a program; row operations follow when all rows have been updated."""
    cdef Group *group = &table.groups[segment.group]
    cdef Program *program = &group.programs[table.program]
    cdef bint with_rows = segment.row > 0 and table.program == UPDATE
    cdef int k, before_rows = group.rows_after if with_rows else program.n_operations
    cdef Py_ssize_t start = first
    if runs_over_bfloat16(segment, program):
        run_over_bfloat16(table, segment, coefficients, program, first, last)
        return
    run_coded_blocks(table, segment, coefficients, program, 0, before_rows, first, last, scratch)
    if not with_rows:
        return
    while start < last:
        for k in range(group.n_row_operations):
            run_row_operation(table, &group.row_operations[k], segment, start, scratch, <uint32_t>(k + 1))
        start += segment.row
    run_coded_blocks(table, segment, coefficients, program, before_rows, program.n_operations, first, last, scratch)


cdef void coded_terms(Table *table, Segment *segment, const Coefficients *coefficients, const Program *program,
                      Py_ssize_t first, Py_ssize_t size, char *scratch, char *terms) noexcept nogil:
    """Add at most BLOCK terms of each of the rule's sums to their partial sums."""
    cdef char *prepared = scratch + MAX_OPERANDS * SLOT_BYTES
    cdef Group *group = &table.groups[segment.group]
    cdef Py_ssize_t start = 0
    while start < size:
        run_coded_operations(
            table, segment, coefficients, program, 0, program.n_operations, first + start,
            min(<Py_ssize_t>CODED_BLOCK, size - start), gathered(table, group, segment, first + start, prepared),
            prepared + SLOT_BYTES, scratch, 0, terms
        )
        start += CODED_BLOCK


cdef char *coded_gradient(Table *table, Segment *segment, const Coefficients *coefficients, Py_ssize_t first,
                          Py_ssize_t size, char *scratch) noexcept nogil:
    """At most SUM_BLOCK elements of the gradient, or of the accumulated gradient, as loops read them."""
    cdef Group *group = &table.groups[segment.group]
    cdef char *elements = scratch + SCRATCH_BYTES - SUM_BLOCK * 4
    cdef Py_ssize_t start
    if group.accumulator >= 0:
        if segment.operands[GRAD] == NULL and segment.pending:
            return operand_at(table, segment, group.accumulator, first)
        start = 0
        while start < size:  # The first operation gathers.
            run_coded_operations(
                table, segment, coefficients, &group.programs[table.program], 0, 1, first + start,
                min(<Py_ssize_t>CODED_BLOCK, size - start), elements + start * 4, NULL, scratch, 0, NULL
            )
            start += CODED_BLOCK
        return elements
    if not is_coded(segment, GRAD):
        return operand_at(table, segment, GRAD, first)
    decode(table, segment, GRAD, first, size, elements)
    return elements
