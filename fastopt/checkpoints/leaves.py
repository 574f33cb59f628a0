"""Arrays as files hold them: their bytes in C order, with a dtype and a shape."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels.engine import host_memory

DTYPES = {
    "bool": "BOOL",
    "int8": "I8",
    "uint8": "U8",
    "int16": "I16",
    "uint16": "U16",
    "int32": "I32",
    "uint32": "U32",
    "int64": "I64",
    "uint64": "U64",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
"""The dtypes that a file can hold: their names in NumPy and PyTorch, and in a file. The last three are PyTorch's."""

NAMES = {code: name for name, code in DTYPES.items()}


class Leaf:
    """An array of any library, as its bytes in C order.

    Attributes
    ----------
    dtype: its name, a key of DTYPES.
    shape: a tuple of int.
    data: a NumPy array of the same bytes, contiguous; of another dtype where NumPy does not have it.
    """

    __slots__ = ("data", "dtype", "shape")

    def __init__(self, dtype: str, shape: tuple[int, ...], data: np.ndarray) -> None:
        self.dtype, self.shape, self.data = dtype, shape, data

    def __repr__(self) -> str:
        return f"{self.dtype} of shape {self.shape}"

    @property
    def array(self) -> np.ndarray:
        """The data as a NumPy array, without a copy.

        Raises
        ------
        ValueError
            NumPy does not have the dtype, and ml_dtypes, which has it, is not installed.
        """
        return self.array_of(numpy_dtype(self.dtype))

    def array_of(self, dtype: np.dtype[Any]) -> np.ndarray:
        """The data as an array of a dtype that has the name of the leaf's, without a copy."""
        found: np.ndarray = self.data if self.data.dtype == dtype else self.data.reshape(-1).view(dtype)
        return found.reshape(self.shape)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The dtype of this name; those that NumPy does not have are ml_dtypes'."""
    if hasattr(np, name):
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError as error:
        raise ValueError(f"NumPy has no dtype {name}; ml_dtypes has it: pip install ml_dtypes") from error
    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return found


def is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray)


def is_tensor(value: Any) -> bool:
    """Whether it is PyTorch's tensor; does not load PyTorch."""
    return any(f"{each.__module__}.{each.__qualname__}" == "torch.Tensor" for each in type(value).__mro__)


def array_leaf(label: str, array: np.ndarray) -> Leaf:
    """A NumPy array as a leaf; it is copied only if it is not contiguous.

    Raises
    ------
    TypeError
        A file cannot hold it.
    """
    if host_memory.is_masked(array):
        raise TypeError(f"{label} is a masked array; save its data and its mask")
    if array.dtype.name not in DTYPES or not array.dtype.isnative:
        raise TypeError(
            f"{label} is of dtype {array.dtype.str!r}, which a file cannot hold; it can hold {known_dtypes()}"
        )
    data = np.ascontiguousarray(array).view(np.ndarray)
    return Leaf(array.dtype.name, array.shape, data.reshape(array.shape))


def known_dtypes() -> str:
    return ", ".join(name for name in DTYPES if hasattr(np, name) or name == "bool")
