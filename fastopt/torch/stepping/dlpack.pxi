# Reads the address and layout of a tensor's memory; part of native_walk.pyx.
#
# It uses DLPack's C exchange interface (https://dmlc.github.io/dlpack/latest/c_api.html), which takes some nanoseconds
# per tensor and allocates nothing.

from cpython.exc cimport PyErr_Clear
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t

from .found import LOW_ADDRESS as _LOW_ADDRESS

cdef uint64_t LOW_ADDRESS = _LOW_ADDRESS

cdef enum:
    DLPACK_MAJOR = 1
    DLPACK_CPU = 1
    DLPACK_FLOAT = 2
    DLPACK_BFLOAT = 4
    SINGLE_BITS = 32
    HALF_BITS = 16

cdef struct DLTensor:
    char *data
    int32_t device_type
    int32_t device_id
    int32_t ndim
    uint8_t code
    uint8_t bits
    uint16_t lanes
    int64_t *shape
    int64_t *strides
    uint64_t byte_offset

cdef struct ExchangeInterface:
    uint32_t major
    uint32_t minor
    void *previous
    void *allocate
    void *managed_from
    void *managed_to
    int (*describe)(PyObject *tensor, DLTensor *description) noexcept
    void *stream

cdef ExchangeInterface *exchange_interface(capsule) except NULL:
    cdef ExchangeInterface *interface = <ExchangeInterface *>PyCapsule_GetPointer(capsule, b"dlpack_exchange_api")
    if interface.major != DLPACK_MAJOR or interface.describe == NULL:
        raise ImportError(
            f"DLPack's C exchange interface is of version {interface.major}.{interface.minor} here, "
            f"or does not describe tensors; expected version {DLPACK_MAJOR}"
        )
    return interface


cdef inline bint describe_tensor(ExchangeInterface *interface, PyObject *tensor, DLTensor *description) noexcept:
    """Describe a tensor's memory; returns whether DLPack can describe it."""
    if interface.describe(tensor, description) != 0:
        PyErr_Clear()
        return False
    description.data += description.byte_offset
    return True


cdef bint holds_numbers(const DLTensor *description, uint8_t code, uint8_t bits) noexcept:
    """Whether a tensor holds numbers of this type, in main memory."""
    return (
        description.device_type == DLPACK_CPU
        and description.code == code
        and description.bits == bits
        and description.lanes == 1
    )


cdef bint is_contiguous(const DLTensor *description) noexcept:
    cdef int64_t expected = 1, size = 1
    cdef int axis
    for axis in range(description.ndim):
        size *= description.shape[axis]
    for axis in reversed(range(description.ndim)):
        if description.shape[axis] != 1 and size and description.strides[axis] != expected:
            return False
        expected *= description.shape[axis]
    return True


cdef inline int64_t n_elements(const DLTensor *description) noexcept:
    cdef int64_t size = 1
    cdef int axis
    for axis in range(description.ndim):
        size *= description.shape[axis]
    return size


cdef inline bint has_memory(PyObject *tensor, const DLTensor *description) noexcept:
    """Whether a tensor's storage has memory. A storage without has the address NULL, to which a view adds its offset."""
    if <uint64_t><uintptr_t>description.data >= LOW_ADDRESS or not n_elements(description):
        return True
    return description.data != NULL and storage_has_memory(<object>tensor)


cdef bint storage_has_memory(tensor) noexcept:
    try:
        return tensor.untyped_storage().nbytes() > 0
    except Exception:
        return False
