# What is asked of tensors outside of a step; part of native_walk.pyx.

def pieces_of_tensors(plain, list tensors, Py_ssize_t itemsize):
    """`Pieces` of tensors of this itemsize, and a list of the tensors that are not contiguous floats in main memory.

    The list also has every tensor of another type than `plain`: a subclass may not have its elements in memory.
    """
    cdef ExchangeInterface *interface = exchange_interface(plain.__dlpack_c_exchange_api__)
    cdef Pieces pieces = Pieces(len(tensors), itemsize)
    cdef DLTensor description
    cdef list others = []
    for tensor in tensors:
        if (
            type(tensor) is not plain
            or not describe_tensor(interface, <PyObject *>tensor, &description)
            or not holds_floats(&description, itemsize)
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
