# Reads and writes the numbers in torch's state, of any dtype that they can have; part of native_walk.pyx.

cdef enum NumberType:
    FLOAT32, FLOAT64, INT32, INT64

cdef struct Number:              # a number in torch's state
    char *address
    NumberType type


cdef Number number_in(cnp.ndarray array):
    """The number in an array of one element."""
    cdef Number number
    cdef bint is_long = cnp.PyArray_ITEMSIZE(array) == 8
    number.address = <char *>cnp.PyArray_DATA(array)
    if cnp.PyArray_ISFLOAT(array):
        number.type = FLOAT64 if is_long else FLOAT32
    else:
        number.type = INT64 if is_long else INT32
    return number


cdef inline double read_number(const Number *number) noexcept:
    if number.type == FLOAT32:
        return (<float *>number.address)[0]
    if number.type == FLOAT64:
        return (<double *>number.address)[0]
    return <double>((<int64_t *>number.address)[0] if number.type == INT64 else (<int32_t *>number.address)[0])


cdef inline void write_number(const Number *number, double value) noexcept:
    if number.type == FLOAT32:
        (<float *>number.address)[0] = <float>value
    elif number.type == FLOAT64:
        (<double *>number.address)[0] = value
    elif number.type == INT64:
        (<int64_t *>number.address)[0] = <int64_t>value
    else:
        (<int32_t *>number.address)[0] = <int32_t>value
