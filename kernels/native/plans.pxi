# Converts plan.py's dataclasses to the table's structs; part of engine.pyx.

cdef int read_group(Group *group, plan) except -1:
    """Read a `plan.GroupPlan`."""
    cdef RowOperation *row_operation
    cdef Py_ssize_t k
    if len(plan.stages) > MAX_STAGES or len(plan.rows) > MAX_ROW_OPERATIONS or len(plan.operands) > MAX_OPERANDS:
        raise ValueError(f"the update is too large for the engine: {plan}")
    group.cost = plan.cost
    group.n_operands = len(plan.operands)
    group.element_bytes = sum([form.dtype.itemsize for form in plan.operands])
    group.n_stages = len(plan.stages)
    group.sum = <sum_function><uintptr_t>(plan.sum or 0)
    group.sum_of_squares = plan.sum_of_squares
    group.accumulator = plan.accumulator
    for k, stage in enumerate(plan.stages):
        group.stages[k].function = <coefficient_function><uintptr_t>stage.function
        for position in range(N_ENGINE_ARGUMENTS):
            group.stages[k].positions[position] = stage.positions[position]
        if len(stage.carried) > MAX_CARRIED:
            raise ValueError(f"too many carried numbers for the engine: {len(stage.carried)}")
        for position in range(MAX_CARRIED):
            group.stages[k].carried[position] = stage.carried[position] if position < len(stage.carried) else -1
        if len(stage.common) > MAX_COMMON:
            raise ValueError(f"too many common numbers for the engine: {len(stage.common)}")
        for position in range(MAX_COMMON):
            group.stages[k].common[position] = stage.common[position] if position < len(stage.common) else -1
        for position in range(MAX_SUMS):
            group.stages[k].sums[position] = stage.sums[position] if position < len(plan.sums) else -1
        group.stages[k].numel = stage.sums[len(plan.sums)] if stage.sums else -1
    for k, name in enumerate(PROGRAM_NAMES):
        read_program(&group.programs[k], plan.programs.get(name, ()))
    group.n_row_operations = len(plan.rows)
    group.rows_after = plan.rows_after
    for k, row in enumerate(plan.rows):
        row_operation = &group.row_operations[k]
        row_operation.sum = <sum_function><uintptr_t>row.sum
        row_operation.function = <coefficient_function><uintptr_t>row.function
        row_operation.loop = <loop_function><uintptr_t>row.loop
        row_operation.argument = row.argument
        row_operation.start = row.start
        row_operation.iterates = row.iterates
    if len(plan.sums) > MAX_SUMS:
        raise ValueError(f"too many sums for the engine: {plan}")
    group.n_sums = len(plan.sums)
    for k, each in enumerate(plan.sums):
        group.over_all[k] = each.over_all
    if len(plan.carried) > MAX_CARRIED:
        raise ValueError(f"too many carried numbers for the engine: {len(plan.carried)}")
    for k, (stage_index, position) in enumerate(plan.carried):
        group.carried[k] = stage_index * MAX_RESULTS + position
    for k, (stage_index, position) in enumerate(plan.common):
        group.common[k] = stage_index * MAX_RESULTS + position
    return read_hyperparameters(group, plan)


cdef int read_program(Program *program, tuple operations) except -1:
    cdef Py_ssize_t k, each
    if len(operations) > MAX_OPERATIONS:
        raise ValueError(f"too many operations for the engine: {len(operations)}")
    program.n_operations = len(operations)
    program.n_coefficients = 0
    for k, operation in enumerate(operations):
        if len(operation.operands) > MAX_LOOP_OPERANDS or program.n_coefficients + len(operation.pick) > MAX_COEFFICIENTS:
            raise ValueError(f"the operation is too large for the engine: {operation}")
        program.operations[k].loop = <loop_function><uintptr_t>operation.loop
        program.operations[k].n_operands = len(operation.operands)
        program.operations[k].first_coefficient = program.n_coefficients
        for each, operand in enumerate(operation.operands):
            program.operations[k].operands[each] = operand
        program.operations[k].written = 0
        for operand in operation.writes:
            if operand >= 0:
                program.operations[k].written |= 1 << <int>operand
        for stage, position in operation.pick:
            if not (0 <= stage < MAX_STAGES and 0 <= position < MAX_RESULTS):
                raise ValueError(f"the operation is too large for the engine: {operation}")
            program.pick[program.n_coefficients] = stage * MAX_RESULTS + position
            program.n_coefficients += 1
    program.plain = len(operations) == 1 and operations[0].operands == tuple(range(len(operations[0].operands)))
    over_bfloat16 = operations[0].over_bfloat16 if program.plain else None
    for k in range(2):
        program.over_bfloat16[k] = <bfloat16_loop_function><uintptr_t>(over_bfloat16[k] if over_bfloat16 else 0)
    return 0


cdef int read_hyperparameters(Group *group, plan) except -1:
    """Read the numbers that can change without a new engine."""
    cdef Py_ssize_t k, position
    group.lr = plan.lr
    group.limit = plan.limit
    group.clip_norm = plan.clip_norm
    for k, row in enumerate(plan.rows):
        group.row_operations[k].argument = row.argument
    for k, stage in enumerate(plan.stages):
        if len(stage.arguments) > MAX_ARGUMENTS:
            raise ValueError(f"too many hyperparameters for the engine: {stage}")
        for position, value in enumerate(stage.arguments):
            group.stages[k].arguments[position] = value
    return 0


cdef bint works_in_place(const Group *group) noexcept:
    """Whether no program of a group works on blocks of a thread's own."""
    cdef int k
    for k in range(N_PROGRAMS):
        if group.programs[k].n_operations and not group.programs[k].plain:
            return False
    return group.accumulator < 0 and group.n_row_operations == 0


cdef int read_layout(Layout *layout, tuple forms) except -1:
    """Read the forms of a segment's operands."""
    cdef Py_ssize_t k
    cdef OperandForm *form
    if len(forms) > MAX_OPERANDS:
        raise ValueError(f"too many operands for the engine: {len(forms)}")
    layout.n_operands = len(forms)
    layout.element_bytes = layout.cost = 0
    layout.block = 1
    for k, each in enumerate(forms):
        form = &layout.forms[k]
        form.itemsize = each.dtype.itemsize
        form.rest = each.rest
        layout.element_bytes += form.itemsize
        if each.codec is None:
            form.decode = NULL
            form.encode = NULL
            continue
        form.decode = <decode_function><uintptr_t>each.codec.decode
        form.encode = <encode_function><uintptr_t>each.codec.encode
        form.stochastic = each.codec.stochastic
        form.has_base = FORMATS[each.codec.name].has_base
        layout.cost += NANOSECONDS_TO_CODE
        if form.has_base:
            layout.block = CODEC_BLOCK
    codecs = [each.codec for each in forms]
    roundings = {codec.stochastic for k, codec in enumerate(codecs) if codec is not None and k != GRAD}
    if all([codec is not None and codec.name == "bfloat16" for codec in codecs]) and len(roundings) == 1:
        layout.all_bfloat16 = 1 + <int>roundings.pop()
    return 0
