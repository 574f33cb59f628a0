# What is asked of tensors outside of a step; part of native_walk.pyx.

def pieces_of_tensors(plain, list tensors, Py_ssize_t itemsize, codec=None):
    """`Pieces` of tensors of one dtype, and a list of the tensors that are not contiguous numbers in main memory.

    The dtype is a float of this itemsize, or the one that `codec` decodes. The list also has every tensor of another
    type than `plain`: a subclass may not have its elements in memory.
    """
    cdef ExchangeInterface *interface = exchange_interface(plain.__dlpack_c_exchange_api__)
    cdef uint8_t code = DLPACK_BFLOAT if codec is not None and codec.name == "bfloat16" else DLPACK_FLOAT
    cdef Pieces pieces = Pieces(len(tensors), itemsize, codec)
    cdef DLTensor description
    cdef list others = []
    for tensor in tensors:
        if (
            type(tensor) is not plain
            or not describe_tensor(interface, <PyObject *>tensor, &description)
            or not holds_numbers(&description, code, 8 * itemsize)
            or not is_contiguous(&description)
            or tensor.is_neg()
            or not has_memory(<PyObject *>tensor, &description)
        ):
            others.append(tensor)
            continue
        pieces.append(description.data, n_elements(&description))
    return pieces, others


def storage_references(tensor, count_uses):
    """The numbers of references to a tensor's storage in Python, and in torch as `count_uses` says; some are torch's own.
    """
    storage = tensor.untyped_storage()
    return Py_REFCNT(<PyObject *>storage), count_uses(storage._cdata)
