"""Replaces `hardware` in Numba's simulator, where device memory is the host's memory."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda.cudadrv.devicearray import FakeCUDAArray
from numba.cuda.simulator.api import stream as SimulatedStream

from .streams import stream_handle

VECTOR_BYTES = 16
CODE_BITS, CODE_LANES = 16, 4

# --- memory -----------------------------------------------------------------------------------------------------------


def allocate(size: int, dtype: np.dtype, alignment: int) -> Any:
    """A one-dimensional array with the alignment of a device array."""
    memory = np.empty(size * dtype.itemsize + alignment, np.uint8)
    offset = -memory.ctypes.data % alignment
    return FakeCUDAArray(memory[offset : offset + size * dtype.itemsize].view(dtype))


def array_address(array: Any) -> int:
    """The address at which an array's memory starts."""
    return int(array._ary.ctypes.data) if array.size else 0


def clear(array: Any) -> None:
    """Zero all bytes of a contiguous array."""
    array._ary[...] = 0


def device_of(array: Any) -> int:
    """The number of the device that an array is on; there is only one."""
    return device_at(array_address(array))


def device_at(address: int) -> int:
    """The number of the device that an address is on."""
    return 0


def view_of_interface(interface: dict[str, Any], owner: Any) -> Any:
    """The array that `owner.__cuda_array_interface__` describes."""
    dtype, shape, strides = np.dtype(interface["typestr"]), tuple(interface["shape"]), interface.get("strides")
    if not math.prod(shape):
        return FakeCUDAArray(np.empty(shape, dtype))
    if strides is None:
        strides = tuple(dtype.itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    reach = sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True)) + dtype.itemsize
    memory = (ctypes.c_char * reach).from_address(interface["data"][0])
    memory.owner = owner  # views of the array keep it alive
    return FakeCUDAArray(np.ndarray(shape, dtype, memory, strides=strides))


def upload(target: Any, source: np.ndarray, stream: Any) -> None:
    """Copy a host array into an array of the same shape and dtype."""
    target._ary[...] = source


# --- streams and launches ---------------------------------------------------------------------------------------------


def as_stream(stream: Any) -> Any:
    """The stream itself, after a check; the simulator does everything in order."""
    if not isinstance(stream, SimulatedStream):
        stream_handle(stream)
    return stream


def handle_of(stream: Any) -> int:
    """0 for every stream: the simulator treats all streams as one."""
    return 0


def synchronize(stream: Any) -> None:
    """Return at once: the simulator has already done everything."""


def multiprocessors() -> int:
    """A small number, so that each block walks over several chunks."""
    return 2


_GUARDED = """\
def guarded(header):
    with errstate(all="ignore"):
        kernel(header)
"""


def compiled_kernel(function: Any) -> Any:
    """A kernel made from a Python function of one integer."""
    # The guard must share the function's globals, because the simulator replaces the module `cuda` in them. The guard
    # sets NumPy's error state inside the kernel, because each thread has its own.
    namespace = function.__globals__
    namespace |= {"errstate": np.errstate, "kernel": function}
    exec(_GUARDED, namespace)
    return cuda.jit(namespace["guarded"])


def configured(kernel: Any, blocks: int, threads: int, stream: Any) -> Callable[[int], None]:
    """A function that runs a kernel with this launch configuration."""

    def launch(header: int) -> None:
        kernel[blocks, threads](header)

    return launch


def device_function(function: Any) -> Any:
    """The function itself."""
    return function


# --- instructions -----------------------------------------------------------------------------------------------------

_C_TYPES: dict[str, Any] = {"float32": ctypes.c_float, "float64": ctypes.c_double, "int64": ctypes.c_int64}
_NUMBERS: dict[str, Any] = {"float32": np.float32, "float64": np.float64, "int64": int}


def _load_of(name: str) -> Any:
    element, number = _C_TYPES[name], _NUMBERS[name]
    nbytes = ctypes.sizeof(element)

    def load(address: int, index: int) -> Any:
        return number(element.from_address(address + index * nbytes).value)

    return load


def _store_of(name: str) -> Any:
    element, number = _C_TYPES[name], _NUMBERS[name]
    nbytes = ctypes.sizeof(element)

    def store(address: int, index: int, value: Any) -> None:
        if number is not int and type(value) is not number:
            raise TypeError(f"stored {type(value)} as {name}")
        element.from_address(address + index * nbytes).value = value

    return store


def _load_vector_of(name: str) -> Any:
    load, lanes = LOADS[name], VECTOR_BYTES // ctypes.sizeof(_C_TYPES[name])

    def load_vector(address: int, index: int) -> tuple[Any, ...]:
        if address % VECTOR_BYTES:
            raise ValueError(f"misaligned address {address:#x}")  # a fault on a device
        return tuple(load(address, index * lanes + lane) for lane in range(lanes))

    return load_vector


def _store_vector_of(name: str) -> Any:
    store, lanes = STORES[name], VECTOR_BYTES // ctypes.sizeof(_C_TYPES[name])

    def store_vector(address: int, index: int, values: tuple[Any, ...]) -> None:
        if address % VECTOR_BYTES:
            raise ValueError(f"misaligned address {address:#x}")
        for lane, value in enumerate(values):
            store(address, index * lanes + lane, value)

    return store_vector


def multiply(left: Any, right: Any) -> Any:
    if type(left) is not type(right):
        raise TypeError(f"multiply takes two numbers of one precision, got {type(left)} and {type(right)}")
    return left * right


def bits_of(x: Any) -> int:
    if type(x) is not np.float32:
        raise TypeError(f"a word was made of {type(x)}")
    return int(x.view(np.uint32))


def real_of(word: int) -> Any:
    return np.uint32(word).view(np.float32)


def as_word(x: Any) -> int:
    return int(x) & 0xFFFFFFFF


def whole(x: int) -> int:
    return bits_of(np.float32(x))


def _signed(word: int) -> int:
    return word - ((word & 0x80000000) << 1)


def larger(a: int, b: int) -> int:
    return max(a, b, key=_signed)


def smaller(a: int, b: int) -> int:
    return min(a, b, key=_signed)


def shifted(word: int, by: int) -> int:
    return as_word(_signed(word) >> by)


def is_nan(word: int) -> int:
    return int((word & 0x7FFFFFFF) > 0x7F800000)


def varying(x: Any) -> Any:
    return x


def square_root(x: Any) -> Any:
    return np.sqrt(x)


def floor(x: Any) -> Any:
    return np.floor(x)


def log(x: Any) -> Any:
    return np.log(x)


def power(base: Any, exponent: Any) -> Any:
    return base**exponent


def is_finite(x: Any) -> bool:
    return bool(np.isfinite(x))


def _load_codes_of(lanes: int) -> Any:
    def load(address: int, index: int) -> tuple[int, ...]:
        if address % (lanes * CODE_BITS // 8):
            raise ValueError(f"misaligned address {address:#x}")
        first = address + index * lanes * CODE_BITS // 8
        return tuple((ctypes.c_uint16 * lanes).from_address(first))

    return load


def _store_codes_of(lanes: int) -> Any:
    def store(address: int, index: int, words: tuple[int, ...]) -> None:
        if address % (lanes * CODE_BITS // 8):
            raise ValueError(f"misaligned address {address:#x}")
        first = address + index * lanes * CODE_BITS // 8
        (ctypes.c_uint16 * lanes).from_address(first)[:] = [each & 0xFFFF for each in words]

    return store


CODE_LOADS = {lanes: _load_codes_of(lanes) for lanes in (1, CODE_LANES)}
CODE_STORES = {lanes: _store_codes_of(lanes) for lanes in (1, CODE_LANES)}
LOADS = {name: _load_of(name) for name in _C_TYPES}
STORES = {name: _store_of(name) for name in _C_TYPES}
VECTOR_LOADS = {name: _load_vector_of(name) for name in ("float32", "float64")}
VECTOR_STORES = {name: _store_vector_of(name) for name in ("float32", "float64")}
