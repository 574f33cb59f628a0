"""Arrays on the device: what others made, and what we allocate."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from engines import on_device

from fastopt.kernels.cuda import memory
from fastopt.kernels.cuda.availability import is_simulated, require_cuda
from fastopt.kernels.cuda.streams import stream_handle


class Foreign:
    """Somebody else's array."""

    def __init__(self, array: Any, **changes: Any) -> None:
        self.array = array
        if is_simulated() and isinstance(array, np.ndarray):
            interface = {**array.__array_interface__}
        else:
            interface = memory.interface_of(array)  # type: ignore[assignment]
        self.__cuda_array_interface__ = {"version": 3, **interface, **changes}


def test_what_is_allocated() -> None:
    array = memory.empty(10, np.float32)
    assert (array.shape, array.size, array.ndim, array.nbytes) == ((10,), 10, 1, 40)
    assert array.dtype == np.float32
    assert memory.address(array) % memory.ALIGNMENT == 0
    memory.fill(array, 2.5)
    assert memory.to_host(array).tolist() == [2.5] * 10
    part = array[2:8].reshape((2, 3))
    assert memory.address(part) == memory.address(array) + 8
    memory.copy(part, np.arange(6, dtype=np.float32).reshape(2, 3))
    assert memory.to_host(array).tolist() == [2.5, 2.5, 0, 1, 2, 3, 4, 5, 2.5, 2.5]
    other = memory.empty(6, np.float32).reshape((2, 3))
    memory.copy(other, part)
    assert memory.to_host(other).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert memory.is_contiguous(other)
    assert memory.is_writable(other)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1, 1)], ids=str)
def test_odd_shapes(shape: tuple[int, ...]) -> None:
    array = on_device(np.zeros(shape, np.float64))
    memory.fill(array, 3)
    assert memory.to_host(array).tolist() == np.full(shape, 3.0).tolist()


def test_arrays_of_others_are_not_copied() -> None:
    inner = on_device(np.zeros((2, 3)))
    foreign = Foreign(inner)
    array = memory.as_array(foreign)
    assert array is not None
    memory.fill(array, 4)
    assert memory.to_host(inner).tolist() == [[4] * 3] * 2
    assert memory.as_array(inner) is inner
    assert memory.is_writable(array)
    assert not memory.is_writable(memory.as_array(Foreign(inner, data=(memory.address(inner), True))))


def test_what_an_array_came_from_lives_as_long() -> None:
    foreign = Foreign(on_device(np.zeros(3)))
    gone = weakref.ref(foreign)
    array = memory.as_array(foreign)
    assert array is not None
    part = array[1:]
    del foreign, array
    gc.collect()
    assert gone() is not None
    del part
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("value", [None, 1.0, [1.0], np.zeros(3)], ids=repr)
def test_what_is_no_device_array(value: Any) -> None:
    assert memory.as_array(value) is None
    assert memory.interface_of(value) is None


@pytest.mark.parametrize(
    ("shape", "strides", "expected"),
    [
        ((2, 3), None, True),
        ((2, 3), (12, 4), True),
        ((2, 3), (4, 8), False),
        ((1, 3), (999, 4), True),
        ((0, 3), (4, 4), True),
        ((3,), (8,), False),
        ((), (), True),
    ],
    ids=str,
)
def test_contiguity(shape: Any, strides: Any, expected: bool) -> None:
    interface = {"shape": shape, "strides": strides, "typestr": "<f4", "data": (0, False)}
    assert memory.is_contiguous_interface(interface) == expected


def test_copies_check_their_source() -> None:
    array = memory.empty(3, np.float32)
    with pytest.raises(TypeError, match="target's dtype float32, got float64"):
        memory.copy(array, np.zeros(3))
    with pytest.raises(ValueError, match=r"target's shape \(3,\), got \(4,\)"):
        memory.copy(array, np.zeros(4, np.float32))


def test_streams() -> None:
    class WithProtocol:
        def __cuda_stream__(self) -> tuple[int, int]:
            return 0, 17

    class OfTorch:
        cuda_stream = 18

    class OfCupy:
        ptr = 19

    assert [stream_handle(each) for each in (16, WithProtocol(), OfTorch(), OfCupy())] == [16, 17, 18, 19]
    require_cuda()
