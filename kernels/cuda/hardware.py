"""Memory, streams, and instructions that Numba lacks, on a GPU; `simulated` has the simulator's versions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cuda
from numba.cuda import cgutils, libdevice, types
from numba.cuda.core.errors import NumbaPerformanceWarning
from numba.cuda.cudadrv import driver
from numba.cuda.cudadrv.driver import Stream
from numba.cuda.extending import intrinsic

from .streams import stream_handle

VECTOR_BYTES = 16
"""Bytes that one load or store of several elements moves: 128 bits."""
CODE_BITS, CODE_LANES = 16, 4
"""Of codes of parameters, gradients and states; and how many of them one load or store moves: one for each float32
number of a vector."""

# --- memory -----------------------------------------------------------------------------------------------------------


def allocate(size: int, dtype: np.dtype, alignment: int) -> Any:
    """A one-dimensional device array; CUDA's allocator aligns to 256 bytes."""
    return cuda.device_array(size, dtype)


def array_address(array: Any) -> int:
    """The address at which an array's memory starts."""
    return int(array.device_ctypes_pointer.value or 0)


def clear(array: Any) -> None:
    """Zero all bytes of a contiguous array."""
    driver.device_memset(array, 0, array.nbytes)


def device_of(array: Any) -> int:
    """The number of the device that an array is on; the current device for an array without elements."""
    return device_at(array_address(array)) if array.size else int(cuda.get_current_device().id)


def device_at(address: int) -> int:
    """The number of the device that an address is on."""
    attribute = driver.binding.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    return int(driver.driver.cuPointerGetAttribute(attribute, driver.binding.CUdeviceptr(address)))


def view_of_interface(interface: dict[str, Any], owner: Any) -> Any:
    """The device array that `owner.__cuda_array_interface__` describes; does not wait for the interface's stream."""
    return cuda.from_cuda_array_interface(interface, owner=owner, sync=False)


def upload(target: Any, source: np.ndarray, stream: Any) -> None:
    """Copy a small host array into a device array of the same shape and dtype, in the order of a stream.

    The driver copies at most 64 KiB of pageable memory without waiting, so longer arrays are copied in pieces.
    """
    if source.nbytes <= UPLOAD_BYTES:
        target.copy_to_device(source, stream=stream)
        return
    elements = UPLOAD_BYTES // target.dtype.itemsize
    for start in range(0, target.size, elements):
        target[start : start + elements].copy_to_device(source[start : start + elements], stream=stream)


UPLOAD_BYTES = 1 << 16


# --- streams and launches ---------------------------------------------------------------------------------------------


def as_stream(stream: Any) -> Any:
    """Numba's stream for a handle, an object with `__cuda_stream__`, or a Numba stream."""
    if isinstance(stream, Stream):
        return stream
    handle = stream_handle(stream)
    return cuda.external_stream(handle) if handle else cuda.default_stream()


def handle_of(stream: Any) -> int:
    """CUDA's handle of one of Numba's streams."""
    return stream_handle(stream)


def synchronize(stream: Any) -> None:
    """Wait for all work that was given to a stream."""
    stream.synchronize()


def multiprocessors() -> int:
    """The number of multiprocessors of the current device."""
    return int(cuda.get_current_device().MULTIPROCESSOR_COUNT)


def compiled_kernel(function: Any) -> Any:
    """A kernel made from a Python function of one int64, compiled for the current device."""
    # Numba optimizes at link time; otherwise, divisions would be calls that need twice the registers.
    return cuda.jit("void(int64)")(function)


def configured(kernel: Any, blocks: int, threads: int, stream: Any) -> Callable[[int], None]:
    """A function that launches a kernel with this launch configuration."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumbaPerformanceWarning)  # it warns about a small number of blocks
        launch: Callable[[int], None] = kernel[blocks, threads, stream]
    return launch


def device_function(function: Any) -> Any:
    """A device function, which kernels can call, made from a Python function."""
    return cuda.jit(device=True)(function)


# --- instructions -----------------------------------------------------------------------------------------------------

_IR = {types.float32: ir.FloatType(), types.float64: ir.DoubleType(), types.int64: ir.IntType(64)}
_GLOBAL = 1
"""The address space of global memory: it makes loads and stores `ld.global` and `st.global`."""


def _pointer(builder: Any, arguments: Any, element: Any, nbytes: int) -> Any:
    """LLVM's pointer to element `index` from `address`; an intrinsic's first two arguments are `address, index`."""
    address, index = arguments[:2]
    offset = builder.mul(index, ir.Constant(ir.IntType(64), nbytes))
    return builder.inttoptr(builder.add(address, offset), element.as_pointer(_GLOBAL))


def _load_of(element: Any) -> Any:
    """The intrinsic `load(address, index)`."""

    @intrinsic
    def load(typing_context, address, index):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            nbytes = element.bitwidth // 8
            return builder.load(_pointer(builder, arguments, _IR[element], nbytes), align=nbytes)

        return element(types.int64, types.int64), generate

    return load


def _store_of(element: Any) -> Any:
    """The intrinsic `store(address, index, value)`."""

    @intrinsic
    def store(typing_context, address, index, value):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            nbytes = element.bitwidth // 8
            builder.store(arguments[2], _pointer(builder, arguments, _IR[element], nbytes), align=nbytes)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, element), generate

    return store


def _load_vector_of(element: Any) -> Any:
    """The intrinsic `load_vector(address, index)`: it loads 16 bytes of elements, which must start at a multiple of
    16 bytes; `index` counts vectors."""
    lanes = VECTOR_BYTES * 8 // element.bitwidth

    @intrinsic
    def load_vector(typing_context, address, index):  # type: ignore[no-untyped-def]
        result = types.UniTuple(element, lanes)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            vector = ir.VectorType(_IR[element], lanes)
            value = builder.load(_pointer(builder, arguments, vector, VECTOR_BYTES), align=VECTOR_BYTES)
            parts = [builder.extract_element(value, ir.Constant(ir.IntType(32), lane)) for lane in range(lanes)]
            return context.make_tuple(builder, result, parts)

        return result(types.int64, types.int64), generate

    return load_vector


def _store_vector_of(element: Any) -> Any:
    """The intrinsic `store_vector(address, index, values)`."""
    lanes = VECTOR_BYTES * 8 // element.bitwidth

    @intrinsic
    def store_vector(typing_context, address, index, values):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            vector = ir.VectorType(_IR[element], lanes)
            value = ir.Constant(vector, ir.Undefined)
            for lane in range(lanes):
                part = builder.extract_value(arguments[2], lane)
                value = builder.insert_element(value, part, ir.Constant(ir.IntType(32), lane))
            pointer = _pointer(builder, arguments, vector, VECTOR_BYTES)
            builder.store(value, pointer, align=VECTOR_BYTES)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.UniTuple(element, lanes)), generate

    return store_vector


@intrinsic
def multiply(typing_context, left, right):  # type: ignore[no-untyped-def]
    """A product that is rounded separately: the compiler does not fuse it with an addition that follows."""
    if left not in _IR or right != left:
        raise TypeError(f"multiply takes two numbers of one precision, got {left} and {right}")

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        real = _IR[left]
        name = "llvm.nvvm.mul.rn.f" if left == types.float32 else "llvm.nvvm.mul.rn.d"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(real, [real, real]), name)
        return builder.call(function, arguments)

    return left(left, right), generate


@intrinsic
def bits_of(typing_context, x):  # type: ignore[no-untyped-def]
    """The bits of a float32 number, as a word."""
    return types.uint32(types.float32), _bitcast(ir.IntType(32))


@intrinsic
def real_of(typing_context, word):  # type: ignore[no-untyped-def]
    """The float32 number that has these bits."""
    return types.float32(types.uint32), _bitcast(ir.FloatType())


def _bitcast(to: Any) -> Any:
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], to)

    return generate


@device_function
def as_word(x):  # type: ignore[no-untyped-def]
    return np.uint32(x)


@device_function
def whole(x):  # type: ignore[no-untyped-def]
    return bits_of(np.float32(x))


@device_function
def larger(a, b):  # type: ignore[no-untyped-def]
    return a if np.int32(a) > np.int32(b) else b


@device_function
def smaller(a, b):  # type: ignore[no-untyped-def]
    return a if np.int32(a) < np.int32(b) else b


@device_function
def shifted(x, by):  # type: ignore[no-untyped-def]
    return np.uint32(np.int32(x) >> np.int32(by))


@device_function
def is_nan(x):  # type: ignore[no-untyped-def]
    return np.uint32(1) if (x & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000) else np.uint32(0)


@intrinsic
def varying(typing_context, x):  # type: ignore[no-untyped-def]
    """The number itself, which the compiler must take for another one in each turn of a loop.

    Where a coefficient decides, it would make two loops of one, of which one may load fewer vectors at a time. What
    assembles the code sees an ordinary move, and leaves it out.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        real, kind, letter = _IR[x], "f32" if x == types.float32 else "f64", "f" if x == types.float32 else "d"
        move = ir.InlineAsm(
            ir.FunctionType(real, [real]), f"mov.{kind} $0, $1;", f"={letter},{letter}", side_effect=True
        )
        return builder.call(move, arguments)

    return x(x), generate


@device_function
def square_root(x):  # type: ignore[no-untyped-def]
    return math.sqrt(x)


@device_function
def floor(x):  # type: ignore[no-untyped-def]
    return libdevice.floor(x)


@device_function
def log(x):  # type: ignore[no-untyped-def]
    return math.log(x)


@device_function
def power(base, exponent):  # type: ignore[no-untyped-def]
    return base**exponent


@device_function
def is_finite(x):  # type: ignore[no-untyped-def]
    return math.isfinite(x)


def _load_codes_of(lanes: int) -> Any:
    """The intrinsic `load(address, index)`: `lanes` codes of 16 bits, as a tuple of words, which `index` counts."""

    @intrinsic
    def load(typing_context, address, index):  # type: ignore[no-untyped-def]
        result = types.UniTuple(types.uint32, lanes)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            vector = ir.VectorType(ir.IntType(CODE_BITS), lanes)
            nbytes = lanes * CODE_BITS // 8
            value = builder.load(_pointer(builder, arguments, vector, nbytes), align=nbytes)
            parts = [
                builder.zext(builder.extract_element(value, ir.Constant(ir.IntType(32), lane)), ir.IntType(32))
                for lane in range(lanes)
            ]
            return context.make_tuple(builder, result, parts)

        return result(types.int64, types.int64), generate

    return load


def _store_codes_of(lanes: int) -> Any:
    """The intrinsic `store(address, index, words)`."""

    @intrinsic
    def store(typing_context, address, index, words):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            vector = ir.VectorType(ir.IntType(CODE_BITS), lanes)
            nbytes = lanes * CODE_BITS // 8
            value = ir.Constant(vector, ir.Undefined)
            for lane in range(lanes):
                part = builder.trunc(builder.extract_value(arguments[2], lane), ir.IntType(CODE_BITS))
                value = builder.insert_element(value, part, ir.Constant(ir.IntType(32), lane))
            builder.store(value, _pointer(builder, arguments, vector, nbytes), align=nbytes)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.UniTuple(types.uint32, lanes)), generate

    return store


CODE_LOADS = {lanes: _load_codes_of(lanes) for lanes in (1, CODE_LANES)}
CODE_STORES = {lanes: _store_codes_of(lanes) for lanes in (1, CODE_LANES)}
LOADS = {each.name: _load_of(each) for each in _IR}
STORES = {each.name: _store_of(each) for each in _IR}
VECTOR_LOADS = {each.name: _load_vector_of(each) for each in (types.float32, types.float64)}
VECTOR_STORES = {each.name: _store_vector_of(each) for each in (types.float32, types.float64)}
